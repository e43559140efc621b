"""Figures are drawn when they are asked for, and training does not notice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gatesweep.core.gate import Gate
from gatesweep.core.loop import Epoch
from gatesweep.core.trainable import Data, Split
from gatesweep.sweeps.config.build import build_run
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.schema import FiguresConfig
from gatesweep.sweeps.execution.figures import check_figures, draw_losses
from gatesweep.sweeps.execution.training import train_epochs
from tests.conftest import trivial
from tests.support.trivial import Line


class Drawn(Line):
    """Draws with random numbers, in evaluation mode, and one figure that it cannot draw."""

    def figures(self, data: Data, split: Split = "val") -> dict[str, Callable[[], Any]]:
        return {"noise": self.noise, "broken": self.broken}

    def noise(self) -> Any:
        from matplotlib.figure import Figure

        assert not self.training and not torch.is_grad_enabled()
        figure = Figure()
        figure.subplots().plot(torch.rand(8))
        return figure

    def broken(self) -> Any:
        raise ZeroDivisionError("nothing to draw")


def train(folder: Path, *overrides: str) -> list[Epoch]:
    config = compose_config(
        trivial(
            folder,
            None,
            "trainable._target_=tests.sweeps.execution.test_figures.Drawn",
            "device=cpu",
            *overrides,
            dropout=0.5,
        )
    )
    folder.mkdir()
    return list(train_epochs(config, folder))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "figures").glob("*"))


def test_training_goes_on_as_if_nothing_had_been_drawn(tmp_path: Path) -> None:
    plain = train(tmp_path / "none", "figures=none")
    drawn = train(tmp_path / "full", "figures=full", "figures.every=1")
    assert [epoch.losses for epoch in drawn] == [epoch.losses for epoch in plain]
    assert not (tmp_path / "none" / "figures").exists()
    assert len(names(tmp_path / "full")) == 3 * 6


def test_presets_and_kinds(tmp_path: Path) -> None:
    train(tmp_path / "standard", "figures=standard", "figures.kinds=[losses,noise]")
    assert names(tmp_path / "standard") == ["losses-e0006.png", "noise-e0006.png"]
    train(tmp_path / "full", "figures=full", "figures.kinds=[losses]")
    assert names(tmp_path / "full") == ["losses-e0001.png", "losses-e0006.png"]
    train(
        tmp_path / "passing", "figures=standard", "figures.kinds=[losses]", "trainable.lr=0.2", "trainable.dropout=0.0"
    )
    assert names(tmp_path / "passing") == ["losses-e0004.png"]


def test_a_run_that_diverges_has_none(tmp_path: Path) -> None:
    assert train(tmp_path / "run", "figures=standard", "trainable.misbehave='nan'")[-1].outcome == "diverged"
    assert not (tmp_path / "run" / "figures").exists()


def test_a_figure_that_cannot_be_drawn_says_why_and_costs_no_trial(tmp_path: Path) -> None:
    assert train(tmp_path / "run", "figures=standard")[-1].outcome == "finished"
    assert names(tmp_path / "run") == ["broken-e0006.txt", "losses-e0006.png", "noise-e0006.png"]
    assert "nothing to draw" in (tmp_path / "run" / "figures" / "broken-e0006.txt").read_text()
    assert train(tmp_path / "alone", "figures=standard", "figures.kinds=[broken]")[-1].outcome == "finished"
    assert names(tmp_path / "alone") == ["broken-e0006.txt"]


def test_an_unknown_kind_is_named_with_those_there_are() -> None:
    trainable, data = build_run(compose_config(trivial(Path("results"))))
    with pytest.raises(ValueError, match=r"figures\.kinds: got 'reconstruct', expected some of losses"):
        check_figures(FiguresConfig(kinds=["losses", "reconstruct"], every=None), trainable, data)


def test_each_gated_metric_is_shown_with_its_threshold() -> None:
    history = {"epoch": [1, 2], "train/step_loss": [1.0, 0.5, 0.4, 0.3], "val/auc": [0.5, 0.8], "val/error": [0.4, 0.1]}
    figure = draw_losses(history, Gate({"val/auc": "> 0.9", "val/error": "< 0.2"}))
    loss, auc, error = figure.axes
    assert loss.lines[0].get_xdata().tolist() == [0.5, 1.0, 1.5, 2.0]
    assert auc.lines[0].get_ydata().tolist() == [0.5, 0.8] and auc.lines[1].get_ydata()[0] == 0.9
    assert auc.get_ylim()[1] > 0.9 and auc.patches[0].get_bbox().y1 == 0.9  # shaded up to the threshold
    assert error.patches[0].get_bbox().y0 == 0.2 and error.get_title() == "val/error < 0.2"


def test_every_term_of_a_loss_has_its_curve() -> None:
    steps = {"epoch": [1, 2], "train/step_loss": [3.0, 2.0], "train/loss": [3.0, 2.0], "train/grad_norm/w": [1.0, 1.0]}
    terms = {"train/data": [2.0, 1.0], "train/physics": [100.0, 1.0]}
    _, axis = draw_losses(steps | terms, Gate()).axes
    assert [(line.get_label(), line.get_ydata().tolist()) for line in axis.lines] == [
        ("data", [2.0, 1.0]), ("physics", [100.0, 1.0]),
    ]  # fmt: skip
    assert axis.get_yscale() == "log"
    assert len(draw_losses(steps, Gate()).axes) == 1
