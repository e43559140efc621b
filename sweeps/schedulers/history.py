"""Recorded scores in the order of their arrival, from which schedulers are rebuilt."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from gatesweep.core.record import read_events
from gatesweep.sweeps.records.layout import EVENTS, trial_folders

EpochScore = tuple[str, int, float]  # trial, absolute epoch, score


def recorded_scores(sweep: Path) -> list[list[EpochScore]]:
    """Return the score of every recorded epoch in the order of arrival; epochs of a stack form one group.

    Raises DamagedRecord for a record that cannot be read.
    """
    timed_scores = [
        (event["elapsed"], (folder.name, event["epoch"], event["score"]))
        for folder in trial_folders(sweep)
        for event in read_events(folder / EVENTS)
        if event["event"] == "epoch"
    ]
    return group_by_arrival(timed_scores)


def group_by_arrival(timed_scores: Iterable[tuple[float, EpochScore]]) -> list[list[EpochScore]]:
    """Group epochs by the moment (s) of their arrival. Epochs of a stack arrive at the same moment."""
    return [[score for _, score in group] for _, group in groupby(sorted(timed_scores), key=itemgetter(0))]
