"""No decision of a sweep reads test: not the code, not the records that it reads, not a key of the configuration."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from gatesweep.core.errors import InputError
from gatesweep.core.gate import Gate
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.records.last_word import LastWord, judge_split, last_word_lines, summarise_words, write_last_word
from gatesweep.sweeps.records.reader import rank_trials, read_trials
from gatesweep.sweeps.schedulers.history import recorded_scores
from gatesweep.sweeps.search.confirmation import Confirmation
from gatesweep.sweeps.search.rebuild import restore_study
from gatesweep.sweeps.search.space import read_space
from tests.conftest import trivial
from tests.support.pretended import Pretended, pretend

ROOT = Path(__file__).parents[3]
DECIDES = (
    "core",
    "trainables",
    *(f"sweeps/{room}" for room in ("config", "search", "schedulers", "simulation", "execution")),
)
PASSES = [
    Pretended({"trainable.lr": 0.01 * n}, [(1.1 + 0.1 * n, {"val/closeness": 0.95})], "passed") for n in (1, 2, 3)
]


def readers(folders: tuple[str, ...]) -> list[str]:
    """Return the files below some folders that import what is known of test."""
    found = []
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        names = [
            f"{node.module}.{alias.name}"
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        ]
        if any("last_word" in name or name.endswith("records.layout.TEST") for name in names):
            found.append(path.name)
    return found


def test_what_decides_does_not_import_what_reads_test() -> None:
    assert readers(DECIDES) == []
    assert {"summary.py", "publisher.py", "leaderboard_table.py"} <= set(readers(("sweeps",)))


def decided(folder: Path) -> list[object]:
    """Return what scheduler, sampler and confirmation read from a record."""
    config = read_config(folder / "config.yaml")
    restore_study(folder, config, read_space(config))
    ranked = [(trial.name, trial.metrics) for trial in rank_trials(read_trials(folder))]
    return [ranked, recorded_scores(folder), Confirmation(folder, 1, 2).unfinished]


def test_no_value_on_test_changes_a_decision(tmp_path: Path) -> None:
    plain, poisoned, other = (pretend(tmp_path / name / "sweep", PASSES) for name in ("plain", "poisoned", "other"))
    for number, value in enumerate((9.0, float("nan"), -9.0)):  # the reverse of the order on val
        write_last_word(poisoned / f"trial_{number:04d}", LastWord(1, {"test/closeness": value, "test/loss": -value}))
    assert decided(poisoned) == decided(plain)
    events = other / "trial_0000" / "events.jsonl"
    events.write_text(events.read_text().replace('"score": 1.2', '"score": 1.9').replace("0.95", "0.99"))
    (other / "trial_0000" / "result.json").unlink()  # it would contradict them
    assert decided(other) != decided(plain)  # so it would show


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("gate.thresholds={test/closeness: '> 0.9'}", "gate"),
        ("gate.objective=test/loss", "gate"),
        ("+training.patience={metric: test/loss, epochs: 2}", r"training\.patience\.metric"),
        ("search.cost=test/loss", r"search\.cost"),
    ],
)
def test_a_decision_that_asks_for_test_is_refused(override: str, key: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{key}: got 'test/\w+', expected val/\w+: no decision reads test"):
        compose_config(trivial(tmp_path, None, override.removeprefix("+")))


def test_each_verdict_is_a_line() -> None:
    gate = Gate(thresholds={"val/mse": "<= 0.1", "train/loss": "< 1"}, objective="val/mse", mode="min")
    assert judge_split(gate, "test", {"test/mse": 0.1}) == (True, [])  # what is asked of train is no matter of test
    assert judge_split(gate, "test", {}) == (None, ["test/mse is not reported"])
    assert judge_split(Gate(thresholds={}, objective="val/mse", mode="min"), "test", {"test/mse": 1.0}) == (None, [])
    words = {
        "trial_0001": LastWord(3, {"test/mse": 0.09}),
        "trial_0004": LastWord(3, {"test/mse": 0.1075}),
        "trial_0005": LastWord(3, {"test/mse": float("nan")}),
        "trial_0006": LastWord(3, {}, "no split"),
        "trial_0007": LastWord(3, {}, "no split"),
    }
    assert last_word_lines(summarise_words(gate, words), gate.thresholds) == [
        "trial_0001 passed, and clears the gate on test: test/mse 0.09",
        "trial_0004 passed, but misses on test: test/mse = 0.1075, needs <= 0.1",
        "trial_0005 passed, but misses on test: test/mse = nan, needs <= 0.1",
        "trial_0006, trial_0007 not evaluated on test: no split",
    ]
