"""A sweep goes on from the folders of its trials, whatever became of its journal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from gatesweep.core.record import Record, read_events
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.config.schema import make_gate
from gatesweep.sweeps.config.values import set_values
from gatesweep.sweeps.search.rebuild import restore_study
from gatesweep.sweeps.search.reopen import reopen_trials
from gatesweep.sweeps.search.searcher import Search
from gatesweep.sweeps.search.space import read_space
from gatesweep.sweeps.search.study import open_study
from tests.conftest import trivial

LR = {"type": "float", "low": 1e-4, "high": 1.0, "log": True}
SPACE = {
    "lr": LR,
    "at_epoch": {"type": "int", "low": 1, "high": 9},
    "dropout": {"type": "float", "low": 0.0, "high": 0.5, "when": {"trainable.misbehave": "kill"}},
    "misbehave": {"type": "categorical", "choices": [None, "kill"]},
    "split": {"type": "composition", "total": 9, "parts": {"a": 1, "b": 1, "c": 1}},
}
GRID = {
    "misbehave": {"type": "categorical", "choices": [None, "kill"]},
    "split": {"type": "composition", "total": 4, "parts": {"a": 1, "b": 1}},
}
EARLY = "no better val/loss for 5 epochs"
CASES: dict[str, tuple[dict[str, Any], list[str], int | None]] = {
    "conditions and compositions": (SPACE, [], None),
    "a cost": (SPACE, ["search.cost=epochs"], None),
    "stacks": ({"lr": LR, "split": GRID["split"]}, ["num_samples=20"], 3),
    "a grid": (GRID, ["search=grid", "num_samples=null"], None),
    "an earlier sweep": (SPACE, ["warm_start=EARLIER"], None),
}


def search(folder: Path, space: dict[str, Any], options: list[str], stack: int | None = None) -> tuple[Search, list]:
    """Go on as a resumed sweep does; returns the search and the lines of a rebuild."""
    folder.mkdir(parents=True, exist_ok=True)
    earlier = next((parent / "earlier" for parent in folder.parents if (parent / "earlier").is_dir()), "")
    typed = [option.replace("EARLIER", str(earlier)) for option in options]
    config = compose_config(trivial(folder.parent, space, *typed))
    (folder / "config.yaml").write_text(json.dumps(config.to_dict()))
    leaves = read_space(config)
    lines = [*reopen_trials(folder, config), *restore_study(folder, config, leaves)]
    return Search(config, leaves, make_gate(config.gate), folder, stack), lines


def members(proposal: Any) -> list[dict[str, Any]]:
    return proposal.get("members", [proposal]) if isinstance(proposal, dict) else []


def begin(folder: Path, proposal: dict[str, Any]) -> Record:
    (folder / proposal["trial"]).mkdir(exist_ok=True)
    config = set_values(json.loads((folder / "config.yaml").read_text()), proposal["values"])
    (folder / proposal["trial"] / "config.yaml").write_text(json.dumps(config))
    return Record(folder / proposal["trial"], values=proposal["values"], elapsed=0.0)


def train(folder: Path, of: Search, count: int) -> list[dict[str, Any]]:
    """Let `count` trials end, each as its number says."""
    proposals: list[dict[str, Any]] = []
    while len(proposals) < count and (group := members(of.suggest(""))):
        for proposal in group:
            number = proposal["number"]
            outcome = ("passed", "stopped", "diverged", "failed", "finished")[number % 5]
            record, closeness = begin(folder, proposal), 0.95 if outcome == "passed" else 0.5 + number / 100
            metrics = {"val/closeness": closeness, "val/loss": 1 / (1 + number)}
            for epoch in range(1, 2 + number % 3):
                last = outcome if epoch == 1 + number % 3 and outcome != "stopped" else None
                record.epoch(epoch, metrics, [], score=0.0, outcome=last, reason=None, elapsed=number)
            record.end(outcome, EARLY if outcome == "finished" else None, of.gate)
            of.tell(proposal["trial"], outcome, 1 + number % 3, metrics)
            proposals.append(proposal)
    return proposals


def facts(sweep: Path) -> list[Any]:
    """What samplers read of a study. A composition's fractions stand for sizes, so other fractions may stand there."""
    return [
        (
            trial.number,
            trial.state.name,
            {key: value for key, value in trial.params.items() if "split" not in key},
            trial.values,
            trial.constraints,
            trial.intermediate_values,
            trial.user_attrs.get("outcome"),
        )
        for trial in open_study(sweep).trials
    ]


def lines(sweep: Path) -> list[str]:
    return (sweep / "study.journal").read_text().splitlines(keepends=True)


def keep(part: Callable[[list[str]], list[str]]) -> Callable[[Path], object]:
    return lambda sweep: (sweep / "study.journal").write_text("".join(part(lines(sweep))))


def of_another_sweep(sweep: Path) -> None:
    """Exchange the journal with that of a sweep of other values."""
    logs = [json.loads(line) for line in lines(sweep)]
    for log in logs:
        if "param_value_internal" in log and isinstance(log["param_value_internal"], float):
            log["param_value_internal"] = 0.5
    (sweep / "study.journal").write_text("".join(f"{json.dumps(log)}\n" for log in logs[: len(logs) // 2]))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "deleted": lambda sweep: (sweep / "study.journal").unlink(),
    "empty": lambda sweep: (sweep / "study.journal").write_text(""),
    "headless": keep(lambda lines: lines[1:]),
    "cut to a third": keep(lambda lines: lines[: len(lines) // 3]),
    "cut in the middle of a line": keep(lambda lines: [*lines[: len(lines) // 2], lines[len(lines) // 2][:20]]),
    "garbled": keep(lambda lines: [*lines[:9], "{not JSON\n", *lines[10:]]),
    "no text": lambda sweep: (sweep / "study.journal").write_bytes(b"\xff\xfe\n" * 9),
    "of another sweep": of_another_sweep,
}


@pytest.mark.parametrize("case", CASES)
def test_a_damaged_journal_is_made_anew_from_the_folders(case: str, tmp_path: Path) -> None:
    """Of ended, interrupted and not yet begun trials, without an end lost, and with the same trials after it."""
    space, options, stack = CASES[case]
    train(tmp_path / "earlier", search(tmp_path / "earlier", space, [])[0], 5 if "EARLIER" in str(options) else 0)
    sweep = tmp_path / "cut"
    of, _ = search(sweep, space, options, stack)
    train(sweep, of, 4)
    running = members(of.suggest(""))
    for proposal in running:
        begin(sweep, proposal).append("interrupted")
    of.suggest("")  # asked for, and never begun
    before = {path: path.read_bytes() for path in sweep.glob("*/events.jsonl")}
    started = len(before) + len(of.warm_start)
    whole = facts(sweep)[:started]
    for kind, damage in DAMAGE.items():
        copy = tmp_path / "copies" / kind.replace(" ", "_")
        shutil.copytree(sweep, copy)
        damage(copy)
        again, said = search(copy, space, options, stack)
        assert facts(copy)[:started] == whole, kind
        assert said and all("\n" not in line for line in said), kind
        unfinished = [again.suggestion(trial) for trial in again.unfinished]
        assert [trial for trial in unfinished if (copy / trial["trial"]).exists()] == running, kind
        assert {copy / path.relative_to(sweep): text for path, text in before.items()} == {
            path: path.read_bytes() for path in copy.glob("*/events.jsonl")
        }, kind
        later = [trial["number"] for trial in train(copy, again, 4)]
        assert later[: len(running)] == [trial["number"] for trial in running] and len(set(later)) == len(later), kind
        assert search(copy, space, options, stack)[1] == [], kind


def test_a_journal_that_agrees_is_left_alone(tmp_path: Path) -> None:
    of, said = search(tmp_path / "a", SPACE, [])
    train(tmp_path / "a", of, 6)
    begin(tmp_path / "a", of.suggest(""))  # type: ignore[arg-type]
    before = lines(tmp_path / "a")
    assert said == search(tmp_path / "a", SPACE, [])[1] == [] and lines(tmp_path / "a") == before


def test_the_journal_of_an_older_version_agrees_or_is_made_anew(tmp_path: Path) -> None:
    old = next(Path(__file__).parents[2].glob("records/*/*"))
    for damage in (None, *DAMAGE.values()):
        sweep = tmp_path / str(damage and list(DAMAGE.values()).index(damage)) / old.name
        shutil.copytree(old, sweep)
        if damage:
            damage(sweep)
        config = read_config(sweep / "config.yaml")
        said = [*reopen_trials(sweep, config), *restore_study(sweep, config, read_space(config))]
        again = Search(config, read_space(config), make_gate(config.gate), sweep)
        assert bool(said) == bool(damage)
        assert [again.suggestion(trial)["trial"] for trial in again.unfinished] == ["trial_0003"]
        states = [trial.state.name for trial in open_study(sweep).trials][:4]
        assert states == [trial.state.name for trial in open_study(old).trials][:4]


def test_a_folder_between_others_that_is_gone_is_asked_again_under_its_number(tmp_path: Path) -> None:
    of, _ = search(tmp_path / "a", SPACE, [])
    proposals = train(tmp_path / "a", of, 6)
    shutil.rmtree(tmp_path / "a" / "trial_0001")
    again, said = search(tmp_path / "a", SPACE, [])
    assert "trial 1 had ended there" in said[0]
    assert again.suggest("") == proposals[1]  # the second draw of a sampler that starts at random
    assert train(tmp_path / "a", again, 1)[0]["number"] == 6


SMALL = {"lr": LR, "misbehave": {"type": "categorical", "choices": [None, "kill"]}}
CHANGES: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], bool]]] = {
    "fewer choices": (
        {**SMALL, "misbehave": {"type": "categorical", "choices": ["kill"]}},
        lambda values: values["trainable.misbehave"] == "kill",
    ),
    "more choices": (
        {**SMALL, "misbehave": {"type": "categorical", "choices": ["kill", "late", None]}},
        lambda _: True,
    ),
    "no log": (
        {**SMALL, "lr": {"type": "float", "low": 0.01, "high": 1.0}},
        lambda values: values["trainable.lr"] >= 0.01,
    ),
    "another type": ({**SMALL, "lr": {"type": "categorical", "choices": [0.1, 0.2]}}, lambda _: False),
    "one key less": ({"lr": LR}, lambda values: values["trainable.misbehave"] is None),
    "one key more": ({**SMALL, "dropout": {"type": "float", "low": 0.0, "high": 0.5}}, lambda _: True),
    "no key": ({}, lambda _: False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_trials_in_the_new_space_move_into_a_new_study_and_the_others_keep_their_names(
    change: str, tmp_path: Path
) -> None:
    space, belongs = CHANGES[change]
    options = ["num_samples=20", "trainable={_target_:tests.support.trivial.Line,dropout:0.1}"]
    of, _ = search(tmp_path / "a", SMALL, options)
    ended = train(tmp_path / "a", of, 8)
    running = [of.suggest("") for _ in range(3)]
    for proposal in running:
        begin(tmp_path / "a", proposal)  # type: ignore[arg-type]
    again, said = search(tmp_path / "a", space, options)
    study = open_study(tmp_path / "a").trials
    inside = [trial.number for trial in study if trial.state not in (TrialState.WAITING, TrialState.RUNNING)]
    assert inside == [trial["number"] for trial in ended if belongs(trial["values"])]
    assert ("outside" in "".join(said)) == (not all(belongs(trial["values"]) for trial in [*ended, *running]))  # type: ignore[index]
    assert [again.suggest("") for _ in running] == running  # with the values that they have
    for proposal in running:
        assert isinstance(proposal, dict)
        record, metrics = begin(tmp_path / "a", proposal), {"val/closeness": 0.4, "val/loss": 1.0}
        for epoch in (1, 2):
            record.epoch(epoch, metrics, [], score=0.0, outcome=None, reason=None, elapsed=0.0)
        record.end("stopped", None, of.gate)
        again.tell(proposal["trial"], "stopped", 2, metrics)
    later = train(tmp_path / "a", again, 4)
    assert [trial["number"] for trial in later] == [11, 12, 13, 14]
    assert all(set(trial["values"]) == {f"trainable.{key}" for key in space} for trial in later)
    assert search(tmp_path / "a", space, options)[1] == []
    _, back = search(tmp_path / "a", SMALL, options)  # and they come back with the space
    states = [trial.state for trial in open_study(tmp_path / "a").trials]
    assert back and all(state != TrialState.WAITING for state in states[:11])


@pytest.mark.parametrize("choices", [[[8], [8, 8]], [[8, 8], [4]]])
def test_a_grid_whose_choices_change_visits_each_point_that_is_left_once(choices: list[Any], tmp_path: Path) -> None:
    """With choices that are lists."""
    first = {
        "misbehave": {"type": "categorical", "choices": [None, "a"]},
        "widths": {"type": "categorical", "choices": [[8], [4]]},
    }
    options = ["search=grid", "num_samples=null", "trainable={_target_:tests.sweeps.search.test_list_choices.Wide}"]
    of, _ = search(tmp_path / "a", first, options)
    done = train(tmp_path / "a", of, 3)
    space = {**first, "widths": {"type": "categorical", "choices": choices}}
    again, _ = search(tmp_path / "a", space, options)
    later = [json.dumps(trial["values"]) for trial in train(tmp_path / "a", again, 99)]
    inside = [json.dumps(trial["values"]) for trial in done if trial["values"]["trainable.widths"] in choices]
    assert len({*later, *inside}) == len(later) + len(inside) == 4


def test_an_interrupted_copy_of_population_based_training_goes_on_with_the_values_that_it_has(tmp_path: Path) -> None:
    of, _ = search(tmp_path / "a", SMALL, [])
    proposal = of.suggest("")
    assert isinstance(proposal, dict)
    record, copied = begin(tmp_path / "a", proposal), {**proposal["values"], "trainable.lr": 0.3}
    record.append("values", values=copied, donor={"trial": "trial_0001", "epoch": 2}, epochs=2)
    again, said = search(tmp_path / "a", SMALL, [])
    assert again.suggest("") == {**proposal, "values": copied} and said == []
    (tmp_path / "a" / "study.journal").unlink()
    assert search(tmp_path / "a", SMALL, [])[0].suggest("") == {**proposal, "values": copied}


def test_trials_are_reopened_with_more_epochs_or_to_try_again(tmp_path: Path) -> None:
    of, _ = search(tmp_path / "a", SMALL, ["training.max_epochs=3", "num_samples=10"])
    train(tmp_path / "a", of, 10)
    last = {"val/closeness": 0.4, "val/loss": 1.0}
    events = tmp_path / "a" / "trial_0004" / "events.jsonl"  # trial_0009 was ended early
    events.write_text(events.read_text().replace(json.dumps(EARLY), "null"))
    (tmp_path / "a" / "trial_0004" / "checkpoints" / "epoch_0002").mkdir(parents=True)
    failed = tmp_path / "a" / "trial_0003"
    assert read_events(failed / "events.jsonl")[-1]["outcome"] == "failed"
    (failed / "error.txt").write_text("a traceback")
    again, said = search(tmp_path / "a", SMALL, ["training.max_epochs=6", "num_samples=10"])
    assert [trial["trial"] for trial in map(again.suggestion, again.unfinished)] == ["trial_0004"]
    assert said[0] == "1 finished trials train on, to 6 epochs"
    assert not (tmp_path / "a" / "trial_0004" / "result.json").exists()
    again, said = search(tmp_path / "a", SMALL, ["training.max_epochs=6", "num_samples=10", "retry=failed"])
    names = [trial["trial"] for trial in map(again.suggestion, again.unfinished)]
    assert names == ["trial_0003", "trial_0004", "trial_0008"] and said[0] == "2 failed trials are tried again"
    assert not (failed / "error.txt").exists() and "a traceback" in (failed / "events.jsonl").read_text()
    record = Record(failed, values={}, elapsed=0.0)
    assert record.epoch(record.epochs + 1, last, [], score=0.0, outcome="passed", reason=None, elapsed=0.0)
    record.end("passed", None, of.gate)
    assert [event["outcome"] for event in read_events(failed / "events.jsonl") if event["event"] == "end"] == ["passed"]
