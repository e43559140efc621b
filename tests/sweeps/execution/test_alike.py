"""Failures of one cause in a row end a sweep; chance, and faults of single points, do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from gatesweep.sweeps.execution.alike import AlikeFailures, FailedAlike, failure_cause

FILE = Path("trial") / "error.txt"


def traceback(line: int) -> str:
    return f'Traceback:\n  File "core.py", line 1, in fit\n  File "model.py", line {line}, in f\n'


def sweep(story: str, limit: int | None = 3) -> str | None:
    """The message after a story of trials, in turn: `a` and `b` fail by two causes, `.` ends well, `r` runs on."""
    alike = AlikeFailures(limit)
    for number, end in enumerate(story):
        alike.begin(name := f"trial_{number}", 0)
        if end in "ab":
            alike.fail(name, f"KeyError: {number}", traceback("ab".index(end)), FILE)
        elif end == ".":
            alike.end(name)
    return alike.ended_by


@pytest.mark.parametrize("story", ["aaa", "b" + "a" * 15, ".....aaaaaaaaaaaaaaa"])
def test_a_row_of_equal_failures_ends_the_sweep(story: str) -> None:
    message = sweep(story)
    assert message and "failed alike: KeyError" in message and str(FILE) in message


@pytest.mark.parametrize("story", ["aa", "aba", "raaa", ".aaa", "a.aa", ".aaaaaaaaaaaaaa", ("." * 97 + "aaa") * 3])
def test_other_failures_do_not(story: str) -> None:
    assert sweep(story) is None


def test_a_trial_that_has_come_further_speaks_for_the_others() -> None:
    alike = AlikeFailures(2)
    for name in ("x", "y", "z"):
        alike.begin(name, 0)
    alike.report("z", 1)
    for name in ("x", "y"):
        alike.fail(name, "KeyError: 1", traceback(1), FILE)
    alike.check()
    alike.report("x", 1)
    alike.fail("y", "KeyError: 1", traceback(1), FILE)
    with pytest.raises(FailedAlike, match="the first 2 trials"):
        alike.check()


def test_null_turns_it_off_and_numbers_do_not_matter() -> None:
    assert sweep("a" * 50, None) is None
    assert failure_cause("silent for 61 s", None) == failure_cause("silent for 73.5 s", None)
    assert failure_cause("KeyError: 'a'", traceback(1)) == failure_cause("KeyError: 'b'", traceback(1))
    assert failure_cause("KeyError: 'a'", traceback(1)) != failure_cause("KeyError: 'a'", traceback(2))
