"""Objective against cost: which trials none beats in both, and where that is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gatesweep.sweeps.commands.resume import configure
from gatesweep.sweeps.commands.run import run_sweep
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.records.pareto import pareto_lines
from gatesweep.sweeps.records.summary import leaderboard, write_summary
from gatesweep.sweeps.reports.page import write_page
from tests.conftest import trivial
from tests.support.pretended import Pretended, pretend


def passing(epochs: int, loss: float) -> Pretended:
    metrics = {"val/closeness": 0.95, "val/loss": loss, "val/size": 100 / epochs}
    return Pretended({}, [(-0.5, {"val/closeness": 0.5})] * (epochs - 1) + [(1.5, metrics)], "passed")


@pytest.mark.parametrize(
    ("cost", "front"),
    [
        ("epochs", {"trial_0002": 1.0, "trial_0001": 2.0, "trial_0000": 4.0}),
        ("seconds", {"trial_0002": 0.5, "trial_0001": 1.0, "trial_0000": 2.0}),  # half a second each
        ("val/size", {"trial_0003": 20.0, "trial_0000": 25.0}),
    ],
)
def test_the_front_is_what_no_trial_that_passed_beats_in_both(
    cost: str, front: dict[str, float], tmp_path: Path
) -> None:
    missed = Pretended({}, [(-0.5, {"val/closeness": 0.5, "val/loss": 0.01, "val/size": 1.0})], "stopped")
    trials = [passing(4, 0.1), passing(2, 0.2), passing(1, 0.4), passing(5, 0.3), missed]
    folder = pretend(tmp_path / "sweep", trials, f"search.cost={cost}")
    summary = write_summary(folder, 1.0, {})
    assert {row["trial"]: row[cost] for row in summary["front"]} == front
    assert [row["val/loss"] for row in summary["front"]] == sorted(row["val/loss"] for row in summary["front"])[::-1]
    assert pareto_lines(summary["front"])[-1].startswith("front: trial_0000, val/loss 0.1, ")
    assert (cost in leaderboard(folder)[0]) and leaderboard(folder)[0]["epochs"] > 0
    html = write_page(folder).read_text()
    table = html[html.index("the Pareto front of objective and cost") :].partition("</table>")[0]
    assert table.count("<tr><td>") == len(front) and f'href="{next(iter(front))}/"' in table


def test_a_cost_needs_an_objective_and_something_that_is_reported(tmp_path: Path) -> None:
    faults = {
        "search.cost=val/size": "search.cost: got 'val/size', expected epochs, seconds or one of .*val/closeness",
        "gate.objective=null": "search.cost: got 'epochs', but the gate has no objective beside it",
    }
    for option, message in faults.items():
        with pytest.raises(ValueError, match=message):
            run_sweep(compose_config(trivial(tmp_path / "results", None, "search.cost=epochs", option)))
    assert not (tmp_path / "results").exists()


@pytest.mark.usefixtures("ray_here")
def test_a_sweep_of_two_objectives_stops_trials_and_says_its_front(tmp_path: Path) -> None:
    options = ["search.cost=epochs", "scheduler.grace_period=1", "search.sampler.n_startup_trials=3"]
    run_sweep(compose_config(trivial(tmp_path, None, *options)))
    folder = (tmp_path / "latest").resolve()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["stopped"] and summary["passed"] and summary["trials"] == 8 and summary["front"]
    with pytest.raises(ValueError, match=r"search\.cost: got None, expected 'epochs', as when the sweep began"):
        run_sweep(configure([f"resume={folder}", "search.cost=null"]))
