"""Recorded scores in the order of their arrival, from which schedulers are rebuilt."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from gatesweep.core.record import read_events
from gatesweep.sweeps.records.layout import trial_folders


def recorded_scores(sweep: Path) -> list[list[EpochScore]]:
    """Every recorded epoch's score, in the order in which the sweep heard of them, those of a stack together."""
    seen = [
        (event["elapsed"], (folder.name, event["epoch"], event["score"]))
        for folder in trial_folders(sweep)
        for event in read_events(folder / "events.jsonl")
        if event["event"] == "epoch"
    ]
    return group_by_arrival(seen)


EpochScore = tuple[str, int, float]  # trial, absolute epoch, score


def group_by_arrival(heard: Iterable[tuple[float, EpochScore]]) -> list[list[EpochScore]]:
    """Epochs by when a sweep heard of them, those of a stack, which come at one moment, together."""
    return [[one for _, one in together] for _, together in groupby(sorted(heard), key=lambda one: one[0])]
