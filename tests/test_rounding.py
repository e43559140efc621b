"""What `python -m tests.rounding` runs: the variants that it says, and a failure of one is a failure."""

from __future__ import annotations

import os

import pytest
import torch

from tests import rounding
from tests.conftest import THREADS


@pytest.mark.rounding
def test_a_variant_computes_as_it_says() -> None:
    assert torch.get_num_threads() == THREADS
    if capability := os.environ.get("ATEN_CPU_CAPABILITY"):
        assert torch.backends.cpu.get_cpu_capability().lower() == capability


def test_marked_tests_are_found() -> None:
    names = {path.rpartition("/")[2] for path in rounding.marked_files()}
    assert {"test_trainables.py", "test_attacks.py", "test_rounding.py"} <= names


def test_the_variant_of_an_ordinary_run_is_left_out(monkeypatch) -> None:
    ran: list[tuple[str, int]] = []
    monkeypatch.setattr(rounding, "run_variant", lambda *variant: not ran.append(variant[:2]))
    monkeypatch.setattr(rounding, "usable_capabilities", lambda: ("default", "avx2"))
    assert rounding.main([]) == 0 and set(ran) == {("default", 1), ("default", 2), ("avx2", 2)}


def test_a_variant_that_fails_fails_all_and_shows_why(tmp_path, monkeypatch, capfd) -> None:
    file = tmp_path / "test_capability.py"
    file.write_text(
        "import os\n\n\ndef test_it():\n    assert os.environ['ATEN_CPU_CAPABILITY'] != 'default', 'not the default'\n"
    )
    monkeypatch.setattr(rounding, "THREADS", (1,))
    monkeypatch.setattr(rounding, "usable_capabilities", lambda: ("default", "avx2"))
    assert rounding.main([str(file)]) == 1
    shown = capfd.readouterr().out
    assert "avx512   skipped: this processor lacks it" in shown
    assert "default  1 thread  FAILED" in shown and "not the default" in shown
    assert "avx2     1 thread  passed" in shown
    monkeypatch.setattr(rounding, "usable_capabilities", lambda: ("avx2",))
    assert rounding.main([str(file)]) == 0
