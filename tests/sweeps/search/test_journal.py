"""The journal of a study: what Optuna's own backend reads is what was written, and on disk when it was said to be."""

from __future__ import annotations

import os
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from gatesweep.core.errors import InputError
from gatesweep.sweeps.search.journal import StudyJournal
from gatesweep.sweeps.search.study import open_study
from tests.sweeps.search.test_search import asked, search


def facts(trials: list[FrozenTrial]) -> list[tuple]:
    return [
        (trial.number, trial.state, trial.params, trial.value, trial.user_attrs, trial.constraints) for trial in trials
    ]


def test_optunas_own_backend_reads_what_the_sweep_holds(tmp_path: Path) -> None:
    first = search(tmp_path / "a", "num_samples=6")
    asked(first, 4)
    first.suggest("")
    assert facts(open_study(tmp_path / "a").trials) == facts(first.study.trials)
    again = search(tmp_path / "a", "num_samples=6")
    assert facts(again.study.trials) == facts(first.study.trials)


def test_a_question_and_an_answer_are_on_disk_before_anyone_acts_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is synced twice: one sync each."""
    path = tmp_path / "a" / "study.journal"
    of, synced = search(tmp_path / "a", "num_samples=6"), []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(path.stat().st_size))
    trial = of.suggest("")
    assert synced == [path.stat().st_size]
    of.tell(trial["trial"], "finished", 6, {"val/closeness": 0.5, "val/loss": 0.1})
    assert len(synced) == 2 and synced[-1] == path.stat().st_size
    assert open_study(tmp_path / "a").trials[0].state == TrialState.COMPLETE


def test_a_line_that_a_crash_cut_short_does_not_count(tmp_path: Path) -> None:
    asked(search(tmp_path / "a", "num_samples=6"), 2)
    path = tmp_path / "a" / "study.journal"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":4,"worker')
    again = search(tmp_path / "a", "num_samples=6")
    assert path.read_bytes() == whole
    asked(again, 2)
    assert len(open_study(tmp_path / "a").trials) == 4


def test_a_whole_last_line_that_is_damaged_is_refused_before_anything_is_written_behind_it(tmp_path: Path) -> None:
    asked(search(tmp_path / "a", "num_samples=6"), 1)
    path = tmp_path / "a" / "study.journal"
    damaged = path.read_bytes() + b'{"op_code":4,"wor\n'
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"study\.journal, line \d+: got .*expected a line of Optuna's journal"):
        search(tmp_path / "a", "num_samples=6")
    assert path.read_bytes() == damaged


def test_who_reads_a_study_writes_nothing(tmp_path: Path) -> None:
    asked(search(tmp_path / "a", "num_samples=6"), 1)
    path = tmp_path / "a" / "study.journal"
    before = path.read_bytes()
    open_study(tmp_path / "a")
    assert path.read_bytes() == before


def test_optuna_writes_on_in_a_journal_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    study = optuna.create_study(storage=optuna.storages.JournalStorage(StudyJournal(path)), study_name="one")
    study.ask()
    open_study(tmp_path).ask()
    assert len(open_study(tmp_path).trials) == 2
