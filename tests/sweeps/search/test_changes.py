"""Changes of a sweep that goes on: those that would mix two kinds of trials are refused, and nothing is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gatesweep.core.errors import InputError
from gatesweep.sweeps.commands.preflight import check_sweep
from gatesweep.sweeps.commands.resume import configure
from gatesweep.sweeps.search.space import read_space

RECORD = next(Path(__file__).parents[2].glob("records/*/*"))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep whose trials passed, were stopped and were interrupted."""
    return shutil.copytree(RECORD, tmp_path / RECORD.name)


def contents(sweep: Path) -> dict[str, bytes]:
    return {str(path.relative_to(sweep)): path.read_bytes() for path in sweep.glob("**/*") if path.is_file()}


def resume(sweep: Path, *overrides: str) -> None:
    """Do what `gatesweep run resume=` does before it writes."""
    config = configure([f"resume={sweep}", *overrides])
    check_sweep(sweep, config, read_space(config))


@pytest.mark.parametrize(
    "change, message",
    [
        ("training.max_epochs=1", "training.max_epochs: got 1, expected at least "),
        ("training.clip_norm=9", "training.clip_norm: got 9, expected "),
        ("seed=77", "seed: got 77, expected "),
        ("gate.thresholds={val/r2: '>= 0.1'}", "gate.thresholds.val/r2: got '>= 0.1', expected "),
        ("data.n_samples=333", "data.n_samples: got 333, expected "),
        ("trainable=walk_transformer", "trainable"),
    ],
)
def test_what_would_mix_two_kinds_of_trials_is_refused(change: str, message: str, sweep: Path) -> None:
    before = contents(sweep)
    with pytest.raises(InputError) as refusal:
        resume(sweep, change)
    line = str(refusal.value)
    assert line.startswith(message) and "\n" not in line
    assert "warm_start=" in line or change.startswith("trainable")
    assert contents(sweep) == before


@pytest.mark.parametrize(
    "change",
    [
        ["training.max_epochs=50"],
        ["num_samples=50", "time_budget=9", "stop_after_passes=3", "confirm.seeds=2"],
        ["training.keep_checkpoints=1", "figures.kinds=[]", "tracking.enabled=false", "resources.max_failures=0"],
        ["search.space.trainable.lr={type: categorical, choices: [0.001, 0.01]}"],
        ["search.space.trainable.lr={type: float, low: 0.0001, high: 0.1}"],
        ["~search.space.trainable.lr", "trainable.lr=0.005"],
        ["retry=failed"],
    ],
)
def test_the_rest_may_change_and_the_checks_write_nothing(change: list[str], sweep: Path) -> None:
    before = contents(sweep)
    resume(sweep, *change)
    assert contents(sweep) == before


def test_retry_is_for_a_sweep_that_goes_on() -> None:
    with pytest.raises(InputError, match=r"retry: got 'failed', expected null without resume="):
        configure(["experiment=mlp", "retry=failed"])
