"""Sweeps side by side: ended or not, with one gate or several, as text and as a page."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gatesweep.sweeps.commands.compare import main
from gatesweep.sweeps.records.reader import read_sweep
from gatesweep.sweeps.reports.comparison import best_so_far, comparison_row
from tests.support import browser
from tests.support.browser import visit
from tests.support.pretended import Epochs, Pretended, many, pretend

ROOT = Path(__file__).parents[3]
chromium = browser.chromium
CLOSE: Epochs = [(-0.5, {"val/closeness": 0.45}), (-0.2, {"val/closeness": 0.72})]
PASSING: Epochs = [(-0.1, {"val/closeness": 0.81}), (1.4, {"val/closeness": 0.95})]

STRICT = {"thresholds": {"val/closeness": "> 0.95"}, "objective": "val/loss", "mode": "min"}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "sweeps" / "compare.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of results: sweeps, a link to one of them, a run, MLflow's file."""
    folder = tmp_path_factory.mktemp("results")
    pretend(folder / "first", many(20, 20))
    (folder / "first" / "report.html").write_text("there")
    pretend(folder / "second", [Pretended({}, CLOSE), Pretended({}, PASSING, "passed")], end="interrupted")
    pretend(folder / "third", [Pretended({}, CLOSE, None)], end=None, gate=STRICT)
    pretend(folder / "empty", [])
    (folder / "latest").symlink_to("first")
    (folder / "run").mkdir()
    for name in ("run/config.yaml", "run/scalars.csv", "mlflow.db"):
        (folder / name).write_text("{}")
    yield folder


def test_a_folder_of_results_is_compared_each_sweep_once(results: Path) -> None:
    done = run(*sorted(results.iterdir()), "--html", results / "compare.html")
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in lines[1:5]] == ["empty", "first", "second", "third"]
    assert "no sweeps, left out: " in done.stderr and "run" in done.stderr and "mlflow.db" in done.stderr
    assert "The gates differ, so scores do not compare:" in lines
    assert "  val/closeness > 0.95: third" in lines and "  val/closeness > 0.9: empty, first, second" in lines
    (results / "compare.html").unlink()


def test_a_row_agrees_with_the_sweep(results: Path) -> None:
    row = comparison_row(read_sweep(results / "second"))
    assert (row["sweep"], row["family"], row["state"]) == ("second", "Line", "interrupted")
    assert (row["trials"], row["passed"], row["rate"], row["best score"]) == ("2", "1", "50%", "1.4")
    assert row["to first pass"] == "4 s, 4 epochs" and row["in all"] == "4 s, 4 epochs"
    assert row["metrics of the best"] == "closeness 0.95, loss 0.1" and row["importances"] == ""
    first, third = (comparison_row(read_sweep(results / name)) for name in ("first", "third"))
    assert first["importances"].startswith("lr ") and "width" in first["importances"]
    assert (third["state"], third["to first pass"], third["best score"]) == ("not ended", "", "-0.2")


def test_the_best_so_far_counts_the_epochs_of_all_trials(results: Path) -> None:
    # the two trials take turns: -0.5, -0.1 (the second), -0.2, 1.4 (the second)
    line = best_so_far(read_sweep(results / "second"))
    assert line == [(1, -0.5, False), (2, -0.1, False), (4, 1.4, True)]


def test_the_page_draws_in_a_browser(results: Path, chromium: Any, tmp_path: Path) -> None:
    page = results / "compare.html"
    done = run(*(results / name for name in ("first", "second", "third", "empty")), "--html", page)
    assert done.returncode == 0 and done.stdout.endswith(f"page {page}\n"), done.stderr
    for width in (1280, 390):
        with visit(chromium, page.as_uri(), width, color_scheme="dark") as seen:
            lines = "[...document.querySelectorAll('.js-plotly-plot')].map(plot => plot.data.map(line => line.name))"
            assert seen.page.evaluate(lines) == [["first", "second"], ["third"]]
            assert seen.page.locator(".sortable tbody tr").count() == 4
            assert seen.page.get_by_role("link", name="first").get_attribute("href") == "first/report.html"
            assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
            assert seen.errors == [] and seen.requests == [page.as_uri()]


@pytest.mark.parametrize(
    "arguments", [["nowhere"], ["run"], ["first", "nowhere"], ["first", "--html", "no/where.html"]]
)
def test_bad_input_is_refused_in_one_line(
    results: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command_line = [item if item.startswith("--") else str(results / item) for item in arguments]
    monkeypatch.setattr(sys, "argv", ["compare.py", *command_line])
    assert main() == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and err.startswith("error: ") and str(results) in err and out == ""
