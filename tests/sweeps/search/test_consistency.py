"""A sweep goes on only if its study knows the trials as their folders have them, and if its space suits the study."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from gatesweep.core.errors import InputError
from gatesweep.sweeps.commands.preflight import check_sweep
from gatesweep.sweeps.commands.resume import configure
from gatesweep.sweeps.search.space import read_space

RECORD = next(Path(__file__).parents[2].glob("records/*/*"))
LR = "search.space.trainable.lr"


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


def lines(sweep: Path) -> list[str]:
    return (sweep / "study.journal").read_text().splitlines(keepends=True)


def without_lines(keep: Callable[[list[str]], list[str]]) -> Callable[[Path], object]:
    return lambda sweep: (sweep / "study.journal").write_text("".join(keep(lines(sweep))))


def exchange_values(sweep: Path) -> None:
    """Change the first value that the study has, as in the journal of another sweep."""
    logs = [json.loads(line) for line in lines(sweep)]
    next(log for log in logs if "param_value_internal" in log)["param_value_internal"] *= 1.01
    (sweep / "study.journal").write_text("".join(f"{json.dumps(log)}\n" for log in logs))


DAMAGE = {
    "deleted": lambda sweep: (sweep / "study.journal").unlink(),
    "empty": lambda sweep: (sweep / "study.journal").write_text(""),
    "headless": without_lines(lambda lines: lines[1:]),
    "cut to a third": without_lines(lambda lines: lines[: len(lines) // 3]),
    "cut in mid-line": without_lines(lambda lines: [*lines[: len(lines) // 3], lines[-1][:20]]),
    "of other values": exchange_values,
    "newer than a folder": lambda sweep: (sweep / "trial_0000" / "events.jsonl").write_text(
        "".join((sweep / "trial_0000" / "events.jsonl").read_text().splitlines(keepends=True)[:-1])
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_study_that_disagrees_with_the_folders_is_refused_and_nothing_is_written(damage: str, sweep: Path) -> None:
    DAMAGE[damage](sweep)
    before = contents(sweep)
    with pytest.raises(InputError, match=r"study\.journal") as refusal:
        resume(sweep)
    assert "\n" not in str(refusal.value)
    assert contents(sweep) == before


def test_a_study_that_agrees_is_accepted(sweep: Path) -> None:
    before = contents(sweep)
    resume(sweep)
    assert contents(sweep) == before


@pytest.mark.parametrize(
    "leaf, message",
    [
        ("{type: categorical, choices: [0.001, 0.01]}", "type: got 'categorical', expected 'float'"),
        ("{type: float, low: 0.0001, high: 0.1}", "log: got False, expected True"),
    ],
)
def test_a_leaf_that_the_study_cannot_take_is_refused_and_nothing_is_written(
    leaf: str, message: str, sweep: Path
) -> None:
    before = contents(sweep)
    with pytest.raises(InputError, match=rf"^search.space.trainable.lr\.{message}.*warm_start="):
        resume(sweep, f"{LR}={leaf}")
    assert contents(sweep) == before


def test_other_bounds_are_accepted(sweep: Path) -> None:
    resume(sweep, f"{LR}.high=0.05")
