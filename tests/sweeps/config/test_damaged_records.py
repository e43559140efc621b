"""A damaged file of a record is named, in one line, by every command that reads it, and nothing is left behind."""

from __future__ import annotations

import gzip
import json
import pkgutil
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gatesweep.sweeps.commands.cli import BAD_INPUT, run_command
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.records.reader import read_trials
from gatesweep.sweeps.search.changes import check_trial_configs
from tests.sweeps.config.test_old_records import RECORDS


def second_line(text: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        lines = path.read_text().splitlines()
        path.write_text("\n".join([lines[0], text, *lines[2:]]) + "\n")

    return damage


def whole(text: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_text(text)

    return damage


def events(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Path], None]:
    """Change the events of a file; the one that is last is "end", the first "start", and epochs are between."""

    def damage(path: Path) -> None:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        changed = change(lines)
        path.write_text("".join(json.dumps(line) + "\n" for line in (lines if changed is None else changed)))

    return damage


def result(**changes: Any) -> Callable[[Path], None]:
    """Change keys of a result."""

    def damage(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}, indent=1))

    return damage


TRIAL, RESULT = "trial_0002/events.jsonl", "trial_0002/result.json"  # three epochs, then stopped

DAMAGE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "an event that is no JSON": ("trial_0001/events.jsonl", second_line('{"a": "b')),
    "a score that is no number": (
        "trial_0001/events.jsonl",
        second_line('{"event": "epoch", "epoch": 1, "metrics": {}, "losses": [], "score": "x", "time": 1}'),
    ),
    "an event of the sweep": ("events.jsonl", whole("[1,2]\n")),
    "a key twice": ("config.yaml", lambda path: path.write_text(path.read_text() + "num_samples: 99\n")),
    "a result": ("trial_0001/result.json", whole("{")),
    "the configuration": ("config.yaml", whole("a: [")),
    "an outcome that was not": (RESULT, result(outcome="passed")),
    "an outcome and a pass that were not": (RESULT, result(outcome="passed", gate_passed=True, reason=None)),
    "a pass that was not": (RESULT, result(gate_passed=True)),
    "a metric that was not": (RESULT, result(metrics={"val/r2": 0.99})),
    "epochs that were not": (RESULT, result(epochs=99)),
    "misses that are no text": (RESULT, result(missed=[5])),
    "misses of a trial that passed": ("trial_0000/result.json", result(missed=["val/r2 = 0, needs > 0.9"])),
    **{
        f"an epoch {value!r}": (TRIAL, events(lambda lines, value=value: lines[2].update(epoch=value)))
        for value in (-1, 0, 99, 1.5, True, None, "2", 1)
    },
    **{
        f"a time {value!r}": (TRIAL, events(lambda lines, value=value: lines[1].update(elapsed=value)))
        for value in (None, -1, "soon", True)
    },
    **{
        f"values {value!r}": (TRIAL, events(lambda lines, value=value: lines[0].update(values=value)))
        for value in ([1], None, "lr")
    },
    "a score true": (TRIAL, events(lambda lines: lines[2].update(score=True))),
    "an outcome no sweep has": (TRIAL, events(lambda lines: lines[3].update(outcome="won"))),
    "an event no sweep has": (TRIAL, events(lambda lines: lines[2].update(event="epochs"))),
    "a reason that is no text": (TRIAL, events(lambda lines: lines[-1].update(reason=5))),
    "events reversed": (TRIAL, events(lambda lines: lines[::-1])),
    "an epoch twice": (TRIAL, events(lambda lines: [*lines[:2], *lines[1:]])),
    "a lost epoch": (TRIAL, events(lambda lines: [*lines[:2], *lines[3:]])),
    "no start": (TRIAL, events(lambda lines: lines[1:])),
    "two ends": (TRIAL, events(lambda lines: [*lines, lines[-1]])),
    "an end and a start": (TRIAL, events(lambda lines: [*lines, lines[0]])),
    "an end that no epoch had": (TRIAL, events(lambda lines: lines[-1].update(outcome="passed"))),
    "an epoch after one that passed": (TRIAL, events(lambda lines: lines[2].update(outcome="passed"))),
    "an end without an outcome": (TRIAL, events(lambda lines: lines[-1].pop("outcome") and None)),
    "no epoch in a trial that was stopped": (TRIAL, events(lambda lines: [lines[0], lines[-1]])),
    "a trial of another name": (TRIAL, events(lambda lines: lines[0].update(trial="trial_0001"))),
    "a time of the sweep": ("events.jsonl", events(lambda lines: lines[-1].update(elapsed=None))),
    "two ends of the sweep": ("events.jsonl", events(lambda lines: [*lines, lines[-1]])),
    "code that is no module": ("events.jsonl", events(lambda lines: lines[0].update(code=[1]))),
    "an epoch in the sweep's events": (
        "events.jsonl",
        events(
            lambda lines: lines.insert(
                1, {"event": "epoch", "time": 1.0, "epoch": 1, "metrics": {}, "losses": [], "score": 0.0}
            )
        ),
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_named(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line by each command, and nothing is written. The events are the record: a result must say the same."""
    monkeypatch.chdir(tmp_path)
    sweep = tmp_path / "results" / "sweep"
    shutil.copytree(RECORDS[0], sweep)
    name, damage = DAMAGE[kind]
    damage(sweep / name)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for command in ("report", "compare", "publish", "run"):
        argument = f"resume={sweep}" if command == "run" else str(sweep)
        assert run_command(command, [argument]) == BAD_INPUT
        output = capsys.readouterr()
        assert output.err.count("\n") == 1 and f"{sweep.name}/{name}" in output.err, output.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def edited(name: str, *keys: str, value: Any) -> Callable[[Path], None]:
    """Change a key of a YAML file."""

    def change(sweep: Path) -> None:
        values = yaml.safe_load((sweep / name).read_text())
        node = values
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value
        (sweep / name).write_text(yaml.safe_dump(values))

    return change


def replaced(sweep: Path) -> None:
    shutil.rmtree(sweep / "trial_0001")
    shutil.copytree(sweep / "trial_0000", sweep / "trial_0001")


def exchanged(sweep: Path) -> None:
    (sweep / "trial_0001").rename(sweep / "aside")
    (sweep / "trial_0002").rename(sweep / "trial_0001")
    (sweep / "aside").rename(sweep / "trial_0002")


STRANGE: dict[str, Callable[[Path], Any]] = {
    "a trial that was renamed": lambda sweep: (sweep / "trial_0001").rename(sweep / "trial_0009"),
    "a trial twice": replaced,
    "two trials exchanged": exchanged,
    "a copy beside a trial": lambda sweep: shutil.copytree(sweep / "trial_0001", sweep / "trial_0001 (copy)"),
    "another gate": edited("config.yaml", "gate", "thresholds", value={"val/r2": "> 0.1"}),
    "another seed": edited("config.yaml", "seed", value=77),
    "another model": edited("config.yaml", "trainable", "width", value=17),
    "another model of a trial": edited("trial_0002/config.yaml", "trainable", "width", value=17),
    "another gate of a trial": edited("trial_0000/config.yaml", "gate", "thresholds", value={"val/r2": "> 0.1"}),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_a_trial_that_is_not_the_sweeps_own_is_named_and_nothing_is_written(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its seed is that of the sweep and its number, and all but its values is the sweep's."""
    monkeypatch.chdir(tmp_path)
    sweep = tmp_path / "results" / "sweep"
    shutil.copytree(RECORDS[0], sweep)
    check_trial_configs(read_config(sweep / "config.yaml"), read_trials(sweep), sweep)
    STRANGE[kind](sweep)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert run_command("run", [f"resume={sweep}", "num_samples=6"]) == BAD_INPUT
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "/trial_00" in error, error
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_result_that_was_lost_is_made_of_the_events_again(tmp_path: Path) -> None:
    """A crash may come between the two files of a trial, in either order."""
    sweep = shutil.copytree(RECORDS[0], tmp_path / "sweep")
    before = read_trials(sweep)
    for path in sweep.glob("*/result.json"):
        path.unlink()
    assert read_trials(sweep) == before
    shutil.copyfile(RECORDS[0] / "trial_0000" / "result.json", sweep / "trial_0003" / "result.json")
    assert read_trials(sweep) == before  # the trial that has no end


def test_damaged_curves_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(RECORDS[0], tmp_path / "sweep")
    path = tmp_path / "sweep" / "curves.json.gz"
    for content in (b"x\n", gzip.compress(b"[]"), gzip.compress(b"{")):
        path.write_bytes(content)
        assert run_command("replay", [str(tmp_path / "sweep")]) == BAD_INPUT
        assert str(path) in capsys.readouterr().err


def test_a_logged_model_names_a_function_that_exists(tmp_path: Path) -> None:
    from gatesweep.core import checkpoint
    from gatesweep.sweeps.tracking.models import pack_model

    trial = next(path for path in sorted(RECORDS[0].glob("trial_*")) if checkpoint.best(path / "checkpoints"))
    best = checkpoint.best(trial / "checkpoints")
    assert best
    pack_model(trial, best, tmp_path)
    flavour = yaml.safe_load((tmp_path / "MLmodel").read_text())["flavors"]["gatesweep"]
    assert pkgutil.resolve_name(flavour["load"]) is pkgutil.resolve_name("gatesweep.sweeps.commands.load:load")
