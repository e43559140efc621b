"""The reader of records: damage is named with file and line, and a folder that is no sweep is refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from gatesweep.core.errors import InputError
from gatesweep.sweeps.commands.compare import find_sweeps
from gatesweep.sweeps.config.recorded import read_config, read_values
from gatesweep.sweeps.config.values import set_values
from gatesweep.sweeps.records.layout import CONFIG, EVENTS, JOURNAL, RESULT, SCALARS, SUMMARY, require_sweep
from gatesweep.sweeps.records.reader import read_json, read_result, read_sweep
from gatesweep.sweeps.search.study import open_study
from tests.support.pretended import Pretended, pretend


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep with one trial, which passed."""
    passed = [(1.4, {"val/closeness": 0.95})]
    return pretend(tmp_path / "sweep", [Pretended({"trainable.lr": 0.1}, passed, "passed")])


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (
            b'{\n "outcome": "passed",\n "reason": nothing\n}\n',
            "line 3: got ' \"reason\": nothing', expected an object",
        ),
        (b'{\n "outcome": "pass', 'line 2: got \' "outcome": "pass\', expected an object as JSON'),
        (b'{\n "outcome": "\xff"\n}\n', "line 2: got "),
        (b"[1, 2]\n", "line 1: got '[1, 2]', expected an object as JSON (it is a list)"),
        (b"", "line 1: got '', expected an object as JSON"),
        (b"\0\0\0\0\0\0\0\0", "line 1: got "),
        (b'{"outcome": "passed", "reason": null}\n', "missed: missing, expected the result of a trial"),
        (
            b'{"outcome": "passed", "reason": null, "missed": null}\n',
            "missed: got None, expected the result of a trial",
        ),
        (b'{"outcome": "won", "reason": null, "missed": []}\n', "outcome: got 'won', expected one of passed, stopped"),
        (b"[" * 20_000, "it is nested too deeply"),
    ],
)
def test_a_damaged_result_is_named_with_its_line(sweep: Path, content: bytes, fault: str) -> None:
    path = sweep / "trial_0000" / RESULT
    path.write_bytes(content)
    for read in (lambda: read_result(path.parent), lambda: read_sweep(sweep)):
        with pytest.raises(InputError) as caught:
            read()
        assert str(path) in str(caught.value) and fault in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("line", [b'{"event": "epoch", "elapsed": "soon"}', b'{"event": ' + b"[" * 20_000])
def test_an_event_that_no_sweep_writes_is_named_with_its_line(sweep: Path, line: bytes) -> None:
    with (sweep / "trial_0000" / EVENTS).open("ab") as stream:
        stream.write(line + b"\n")
    with pytest.raises(InputError, match=r"events\.jsonl, line \d+: got .*, expected an event as JSON"):
        read_sweep(sweep)


@pytest.mark.parametrize("name", [EVENTS, RESULT])
def test_a_folder_in_the_place_of_a_file_is_named(sweep: Path, name: str) -> None:
    (sweep / "trial_0000" / name).unlink()
    (sweep / "trial_0000" / name).mkdir()
    with pytest.raises(InputError, match=rf"{name}: got a folder, expected a file"):
        read_sweep(sweep)


def test_a_pipe_which_a_reader_would_wait_for_is_refused(sweep: Path) -> None:
    os.mkfifo(sweep / "mlflow.json")
    with pytest.raises(InputError, match=r"sweep: got .*mlflow.json', expected a file or a folder"):
        require_sweep(sweep)
    with pytest.raises(InputError, match=r"sweep: got .*mlflow.json', expected a file or a folder"):
        find_sweeps([sweep])


def test_a_damaged_summary_is_named_with_its_line(sweep: Path) -> None:
    (sweep / SUMMARY).write_text('{\n "trials": 1\n "passed": 1\n}\n')
    with pytest.raises(InputError, match=r"summary\.json, line 3: got .*expected an object as JSON"):
        read_json(sweep / SUMMARY)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"name: a\nseed: [1, 2\ngate: {}\n", "line 3: got 'gate: {}', expected YAML"),
        (b"name: a\nseed: \xff\n", "line 2: got "),
        (b"name: a\nseed: 1\nnote: \x01\n", "line 3: got "),
        (b"name: a\nwhen: 2024-13-45\n", "expected YAML (month must be in 1..12"),
        (b"- name\n", "got list, expected a configuration"),
        (b"", "got NoneType, expected a configuration"),
        (b"name: a\ntraining: 5\n", "training: got 5, expected keys"),
    ],
)
def test_a_damaged_configuration_is_named_with_its_line(tmp_path: Path, content: bytes, fault: str) -> None:
    (tmp_path / CONFIG).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_values(tmp_path / CONFIG)
    assert str(tmp_path / CONFIG) in str(caught.value) and fault in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"training": {"precision": "fp32"}}, "training.max_epochs: missing"),
        ({"training.pace": 2}, "training.pace: unknown key, expected one of max_epochs, "),
        ({"training.schedule": "cosine"}, "training.schedule: got 'cosine', expected keys: shape, "),
        ({"gate": None}, "gate: got None, expected keys: thresholds, "),
    ],
)
def test_a_configuration_with_wrong_keys_is_named_with_the_key(
    sweep: Path, changes: dict[str, Any], fault: str
) -> None:
    path = sweep / CONFIG
    path.write_text(yaml.safe_dump(set_values(read_values(path), changes)))
    with pytest.raises(InputError) as caught:
        read_config(path)
    assert str(caught.value).startswith(f"{path}: ") and fault in str(caught.value)


def test_a_damaged_journal_is_named_with_its_line(sweep: Path) -> None:
    study = open_study(sweep)
    for _ in range(3):
        study.ask()
    path = sweep / JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b'{"op_code": 4, "wor\n', *lines[2:]]))
    with pytest.raises(InputError, match=r"study\.journal, line 3: got '\{\"op_code\": 4, \"wor', expected a line"):
        open_study(sweep)
    path.write_bytes(b"".join([*lines[:2], b'{"op": 4}\n', *lines[2:]]))
    with pytest.raises(InputError, match=r"study\.journal: expected a journal of Optuna \(KeyError"):
        open_study(sweep)


def test_a_folder_that_is_no_sweep_is_refused_by_its_key(sweep: Path) -> None:
    assert require_sweep(sweep) == sweep
    with pytest.raises(InputError, match=r"sweep: got .*nowhere', expected the folder of a sweep \(it is not there"):
        require_sweep(sweep / "nowhere")
    (sweep / SCALARS).write_text("")
    with pytest.raises(InputError, match=r"resume: got .*expected the folder of a sweep \(it has scalars\.csv"):
        require_sweep(sweep, "resume")
