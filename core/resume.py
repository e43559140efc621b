"""States of runs that go on: with more epochs than before, or as copies of other runs."""

from __future__ import annotations

from typing import Any

RESTORED = "weights of epoch {} restored"  # a reason, or the end of one: early stopping put the best weights back


def ran_out_of_epochs(reason: str | None) -> bool:
    """Return True for the reason of a run that finished at `max_epochs`, False where early stopping ended it."""
    return reason is None or reason.startswith(RESTORED.partition("{")[0])


def copied_state(state: dict[str, Any], epoch: int) -> dict[str, Any]:
    """Return the state of another run for a run that has trained `epoch` epochs itself.

    Weights, moments and generators are the other run's. Epochs are counted by the run's own, so its streak and its best
    epoch begin anew.
    """
    last = [{**entry, "epoch": epoch} for entry in state["history"][-1:]]  # metrics that are not due are carried on
    return {**state, "epoch": epoch, "streak": 0, "outcome": None, "reason": None, "best": None, "history": last}
