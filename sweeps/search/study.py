"""Open the Optuna study of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.study import StudyDirection

from gatesweep.sweeps.records.layout import JOURNAL
from gatesweep.sweeps.search.journal import StudyStorage


def open_study(
    sweep: Path | None,
    directions: Sequence[StudyDirection] = (StudyDirection.MAXIMIZE,),
    backend: BaseJournalBackend | None = None,
) -> optuna.Study:
    """The study of a sweep, `study.journal` in its folder (`optuna-dashboard <sweep>/study.journal` shows it, too).

    One that is there keeps the directions that it was made with; one without a folder is in memory. `backend` is for
    the sweep itself, its one writer.
    """
    if sweep is None:
        return optuna.create_study(directions=directions)
    storage = StudyStorage(backend or JournalFileBackend(str(sweep / JOURNAL)))
    for name in optuna.get_all_study_names(storage):  # the folder may have had another name
        return optuna.load_study(storage=storage, study_name=name)
    return optuna.create_study(storage=storage, study_name=sweep.name, directions=directions)
