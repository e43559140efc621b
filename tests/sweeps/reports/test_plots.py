"""Plots of the report: rungs and cut-offs, the axis of scores, thinned curves, names of parameters."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gatesweep.sweeps.records.reader import read_sweep
from gatesweep.sweeps.reports.parameters import parameter_importances, score_study, short_names
from gatesweep.sweeps.reports.plots import rung_cutoffs, thin_epochs
from gatesweep.sweeps.reports.score_axis import ScoreAxis, score_axis
from gatesweep.sweeps.reports.sections import parameter_section
from tests.support.pretended import Pretended, many, pretend


def test_rungs_and_cut_offs_are_those_of_the_scheduler(tmp_path: Path) -> None:
    scores = [-0.9, -0.8, -0.7, -0.6, -0.5, -0.4, -0.3, -0.2, -0.1]
    trials = [Pretended({}, [(score, {}), (score, {}), (score / 2, {})], "stopped") for score in scores]
    folder = pretend(tmp_path / "sweep", trials, "scheduler=asha", "grace_period=1", "training.max_epochs=27")
    first, second = rung_cutoffs(read_sweep(folder))
    assert first[0] == 1 and first[2] == 9 and math.isclose(first[1], np.percentile(scores, 100 * 2 / 3))
    assert second[0] == 3 and math.isclose(second[1], np.percentile([score / 2 for score in scores], 100 * 2 / 3))


@given(st.lists(st.floats(-1e6, -1e-6) | st.floats(1, 2) | st.just(-1e9) | st.just(0.0), min_size=2, unique=True))
def test_a_better_score_is_never_drawn_lower(scores: list[float]) -> None:
    axis = ScoreAxis(scores)
    heights = [axis(score) for score in sorted(scores)]
    assert heights == sorted(heights) and axis.bottom <= heights[0] and heights[-1] <= axis.top
    assert all((height > 0) == (score >= 1) for height, score in zip(heights, sorted(scores), strict=True))
    ticks = [at for at, _ in axis.ticks()]
    assert ticks == sorted(set(ticks)) and len(ticks) <= 16


@given(st.lists(st.none() | st.floats(-9, 2), min_size=1, max_size=400), st.integers(10, 60))
def test_a_thinned_curve_keeps_its_first_best_and_last_epoch(scores: list[float | None], limit: int) -> None:
    epochs = [{"epoch": epoch, "score": score} for epoch, score in enumerate(scores, 1)]
    kept = thin_epochs(epochs, limit)
    assert kept[0] == epochs[0] and kept[-1] == epochs[-1] and len(kept) <= limit
    best = max((score for score in scores if score is not None), default=None)
    assert [event["epoch"] for event in kept] == sorted({event["epoch"] for event in kept})
    assert best is None or best in [event["score"] for event in kept]


def test_short_names_still_tell_parameters_apart() -> None:
    names = short_names(["trainable.lr", "trainable.encoder.width", "trainable.decoder.width", "seed"])
    assert list(names.values()) == ["lr", "encoder.width", "decoder.width", "seed"]


def test_importances_find_the_parameter_that_matters_and_say_how_many_trials_they_use(tmp_path: Path) -> None:
    sweep = read_sweep(pretend(tmp_path / "sweep", many(100, 10)))
    axis = score_axis(sweep)
    shares = parameter_importances(score_study(sweep, axis))
    assert list(shares) == ["lr", "width"] and shares["lr"] > 0.8 and math.isclose(sum(shares.values()), 1)
    assert "the scores of 100 trials" in parameter_section(sweep, axis)[-1]["note"]
