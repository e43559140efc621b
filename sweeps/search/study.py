"""Open the Optuna study of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from gatesweep.core.errors import InputError
from gatesweep.sweeps.records.layout import JOURNAL
from gatesweep.sweeps.search.journal import StudyStorage, journal_damage

OUTSIDE = "outside"  # a user attribute: of a trial that is no point of the space. It is WAITING: no sampler sees it


def open_study(
    sweep: Path | None,
    directions: Sequence[StudyDirection] = (StudyDirection.MAXIMIZE,),
    backend: BaseJournalBackend | None = None,
) -> optuna.Study:
    """Open or create the study of a sweep: `study.journal` in its folder, or in memory where `sweep` is None.

    A study that exists keeps its directions. `backend` is for the one writer, the sweep itself. `optuna-dashboard
    <sweep>/study.journal` shows the study too. Raises InputError, with file and line, for a damaged journal, and
    OSError.
    """
    if sweep is None:
        return optuna.create_study(directions=directions)
    storage = _open_storage(sweep / JOURNAL, backend)
    return _first_study(storage) or optuna.create_study(storage=storage, study_name=sweep.name, directions=directions)


def read_study(sweep: Path) -> optuna.Study | None:
    """Return the study of a sweep, or None where there is none. Nothing is written. Raises as `open_study` does."""
    path = sweep / JOURNAL
    return _first_study(_open_storage(path)) if path.exists() else None


def has_ended(trial: FrozenTrial) -> bool:
    """Return True for a trial that the study knows to have ended, also where that trial is outside of the space."""
    return trial.state.is_finished() or (OUTSIDE in trial.user_attrs and "outcome" in trial.user_attrs)


def is_left(trial: FrozenTrial) -> bool:
    """Return True for a trial of this sweep that the study has begun, and not ended."""
    return trial.state == TrialState.RUNNING or (OUTSIDE in trial.user_attrs and not has_ended(trial))


def _open_storage(path: Path, backend: BaseJournalBackend | None = None) -> StudyStorage:
    try:
        return StudyStorage(backend or JournalFileBackend(str(path)))
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:  # a line that is no log
        raise journal_damage(path, error) from error


def _first_study(storage: StudyStorage) -> optuna.Study | None:
    """Return the one study of a journal. It is not found by the folder's name: the folder may have been renamed."""
    for name in optuna.get_all_study_names(storage):
        return optuna.load_study(storage=storage, study_name=name)
    return None


def refuse_pickles(study: optuna.Study) -> None:
    """Raise InputError for a study in which Optuna's CmaEsSampler left its state: pickles, which run code when read."""
    if any("cma" in key for trial in study.get_trials(deepcopy=False) for key in trial.system_attrs):
        raise InputError(
            f"{JOURNAL}: got the pickles of CmaEsSampler, which run code, expected a sweep of another sampler: "
            "start a new one with warm_start=<this folder>"
        )
