"""The pages in docs/: their sweeps compose, and their links lead somewhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from gatesweep.sweeps.config import trust
from gatesweep.sweeps.config.own import compose_own, read_own_file
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.search.space import read_space

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def sweeps_of(page: Path) -> list[str]:
    return [text for text in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL) if "\nfunction:" in text]


def composed(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(trust, "_trust", trust.Trust())
    monkeypatch.delitem(sys.modules, "train", raising=False)
    (folder / "train.py").write_text("def train(config):\n    return {'val/accuracy': 1.0}\n")
    (folder / "sweep.yaml").write_text(text)
    return compose_own(read_own_file(folder / "sweep.yaml"))


def test_sweeps_of_the_pages_compose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [text for page in PAGES for text in sweeps_of(page)]
    assert len(texts) >= 2
    for text in texts:
        assert read_space(composed(text, tmp_path, monkeypatch))


def test_the_sweep_of_the_page_for_users_of_wandb_is_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = composed(sweeps_of(ROOT / "docs" / "wandb.md")[0], tmp_path, monkeypatch)
    space = {key: leaf.model_dump(exclude={"when"}) for key, leaf in read_space(config).items()}
    assert space["trainable.lr"] == {"type": "float", "low": 1e-4, "high": 0.1, "log": True, "step": None}
    assert space["trainable.optimizer.momentum"]["step"] == 0.1 and space["trainable.width"]["choices"] == [16, 32, 64]
    assert (config.num_samples, config.stop_after_passes, config.grace_period) == (40, 1, 3)
    assert config.training.max_epochs == 30 and config.gate.thresholds == {"val/accuracy": "> 0.95"}


def headings(page: Path) -> set[str]:
    """Anchors as GitHub makes them."""
    lines = [line.lstrip("# ") for line in page.read_text().splitlines() if line.startswith("#")]
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link
