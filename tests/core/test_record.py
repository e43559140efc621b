"""The record of a run: appended before anything else, mended after a crash, everything else derived from it."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatesweep.core.errors import InputError
from gatesweep.core.files import write_atomically
from gatesweep.core.gate import WORST_SCORE, Gate
from gatesweep.core.record import DamagedRecord, Record, append_event, curves, read_events

GATE = Gate({"val/a": "> 0.9"})


def scalars(folder: Path) -> list[dict[str, str]]:
    with (folder / "scalars.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def epochs(folder: Path) -> list[dict[str, Any]]:
    return [event for event in read_events(folder / "events.jsonl") if event["event"] == "epoch"]


def recorded(folder: Path, *values: float, outcome: str | None = None) -> Record:
    """A run whose `val/a` took `values`, two steps an epoch."""
    record = Record(folder)
    for index, value in enumerate(values, 1):
        facts = {"score": GATE.score({"val/a": value}), "outcome": outcome if index == len(values) else None}
        record.epoch(index, {"val/a": value, "system/seconds": 0.5}, [2.0 / index, 1.0 / index], **facts)
    return record


def test_every_event_is_there_in_order_with_its_facts(tmp_path: Path) -> None:
    record = Record(tmp_path / "new" / "run", values={"lr": 0.1})
    record.epoch(1, {"val/a": 0.5}, [1.0, 0.5], score=-0.4)
    record.append("interrupted", elapsed=3.0)
    events = read_events(record.path)
    assert [event["event"] for event in events] == ["start", "epoch", "interrupted"]
    assert events[0]["values"] == {"lr": 0.1} and events[2]["elapsed"] == 3.0
    assert events[1]["metrics"] == {"val/a": 0.5} and events[1]["losses"] == [1.0, 0.5]
    assert events[0]["time"] <= events[1]["time"] <= events[2]["time"]


def test_an_event_is_one_line_of_json(tmp_path: Path) -> None:
    recorded(tmp_path, 0.1, 0.2)
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["start", "epoch", "epoch"]


def test_a_run_that_never_began_has_no_events(tmp_path: Path) -> None:
    assert read_events(tmp_path / "events.jsonl") == []


@given(cut=st.integers(1, 200))
@settings(max_examples=40, deadline=None)
def test_a_line_that_a_crash_cut_short_does_not_count_and_is_mended(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("run")
    recorded(folder, 0.1, 0.2)
    path = folder / "events.jsonl"
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    path.write_bytes(whole[: len(whole) - min(cut, len(last))])

    assert [event["epoch"] for event in epochs(folder)] == [1]  # a reader leaves the file as it is
    assert len(path.read_bytes()) == len(whole) - min(cut, len(last))
    record = Record(folder)
    assert record.epochs == 1
    assert record.epoch(2, {"val/a": 0.3}, [0.5], score=-0.6)
    assert [(event["epoch"], event["metrics"]["val/a"]) for event in epochs(folder)] == [(1, 0.1), (2, 0.3)]
    assert [row["val/a"] for row in scalars(folder)] == ["0.1", "0.3"]


def test_a_first_line_cut_short_is_mended_too(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"event": "sta')
    Record(tmp_path)
    assert [event["event"] for event in read_events(tmp_path / "events.jsonl")] == ["start"]


def test_an_event_appended_after_a_torn_line_replaces_it(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    append_event(path, "start")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"event": "end", "ti')
    append_event(path, "interrupted")
    assert path.read_bytes().startswith(whole)
    assert [event["event"] for event in read_events(path)] == ["start", "interrupted"]


DAMAGES = [b'{"event": "epoch", "ep', b"", b"\x00\x00\xff", b"[1, 2]", b"7", b'{"time": 1.0}', b'{"event": "epoch"}']


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_line_is_named_by_file_and_number(damage: bytes, tmp_path: Path) -> None:
    recorded(tmp_path, 0.1, 0.2)
    path = tmp_path / "events.jsonl"
    first, _, *rest = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([first, damage, *rest, b""]))
    start = repr(damage.decode(errors="replace"))
    message = rf"^{re.escape(f'{path}, line 2: got {start}, expected an event as JSON')}( \(\w+: .*\))?$"
    for read in (read_events, lambda path: Record(path.parent)):
        with pytest.raises(DamagedRecord, match=message) as caught:
            read(path)
        assert isinstance(caught.value, InputError) and "\n" not in str(caught.value)


def test_an_epoch_is_recorded_once(tmp_path: Path) -> None:
    recorded(tmp_path, 0.1, 0.2)
    record = Record(tmp_path)
    assert record.epochs == 2 and record.last and record.last["metrics"]["val/a"] == 0.2
    assert not record.epoch(1, {"val/a": 0.9}, [0.0], score=0.0)
    assert not record.epoch(2, {"val/a": 0.9}, [0.0], score=0.0)
    assert record.epoch(3, {"val/a": 0.3}, [0.0], score=-0.6)
    assert [event["metrics"]["val/a"] for event in epochs(tmp_path)] == [0.1, 0.2, 0.3]
    assert [row["epoch"] for row in scalars(tmp_path)] == ["1", "2", "3"]


def strict(text: str) -> Any:
    """JSON by the letter, which knows no NaN."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_what_json_cannot_hold_is_null_and_reads_back_as_nan(tmp_path: Path) -> None:
    record = Record(tmp_path, values={"nested": [math.nan, (1.0, -math.inf)]})
    record.epoch(1, {"val/a": math.nan, "val/b": math.inf, "val/c": 1.0}, [math.inf, 0.5], score=WORST_SCORE)
    raw = [strict(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert raw[0]["values"] == {"nested": [None, [1.0, None]]}
    assert raw[1]["metrics"] == {"val/a": None, "val/b": None, "val/c": 1.0} and raw[1]["losses"] == [None, 0.5]
    (event,) = epochs(tmp_path)
    assert math.isnan(event["metrics"]["val/a"]) and math.isnan(event["metrics"]["val/b"])
    assert math.isnan(event["losses"][0]) and event["losses"][1] == 0.5 and event["score"] == WORST_SCORE
    record.end("finished", None, GATE)
    result = strict((tmp_path / "result.json").read_text())
    assert result["metrics"] == {"val/a": None, "val/b": None, "val/c": 1.0}
    assert result["missed"] == ["val/a = nan, needs > 0.9"]


def test_the_table_has_one_row_an_epoch_and_grows_columns(tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.epoch(1, {"val/a": 0.1}, [], score=-0.9)
    record.epoch(2, {"val/a": 0.2, "val/late": 7.0}, [], score=-0.8)
    record.epoch(3, {"val/late": math.nan}, [], score=WORST_SCORE)
    record.epoch(4, {"val/late": 9.0, "val/a": 0.4}, [], score=-0.6)
    assert scalars(tmp_path) == [
        {"epoch": "1", "score": "-0.9", "val/a": "0.1", "val/late": ""},
        {"epoch": "2", "score": "-0.8", "val/a": "0.2", "val/late": "7.0"},
        {"epoch": "3", "score": str(WORST_SCORE), "val/a": "", "val/late": "nan"},
        {"epoch": "4", "score": "-0.6", "val/a": "0.4", "val/late": "9.0"},
    ]


def test_a_table_that_a_crash_tore_is_written_again(tmp_path: Path) -> None:
    recorded(tmp_path, 0.1, 0.2)
    text = (tmp_path / "scalars.csv").read_text()
    (tmp_path / "scalars.csv").write_text(text[:-6])
    Record(tmp_path).epoch(3, {"val/a": 0.3, "system/seconds": 0.5}, [], score=-0.6)
    assert [row["val/a"] for row in scalars(tmp_path)] == ["0.1", "0.2", "0.3"]


def test_a_run_killed_between_its_last_epoch_and_the_table_still_gets_its_row(tmp_path: Path) -> None:
    recorded(tmp_path, 0.1)
    append_event(tmp_path / "events.jsonl", "epoch", epoch=2, metrics={"val/a": 0.95}, losses=[], score=1.0)
    Record(tmp_path).end("passed", None, GATE)
    assert [row["val/a"] for row in scalars(tmp_path)] == ["0.1", "0.95"]


def test_curves_are_aligned_with_their_epochs() -> None:
    found = curves(
        [
            {"epoch": 1, "metrics": {"train/loss": 2.0}, "losses": [3.0, 1.0]},
            {"epoch": 2, "metrics": {"train/loss": 1.0, "val/late": 0.5}, "losses": [1.0, 1.0, 1.0]},
            {"epoch": 3, "metrics": {"val/late": 0.25}, "losses": []},
        ]
    )
    assert found == {
        "epoch": [1, 2, 3],
        "train/loss": [2.0, 1.0, None],
        "val/late": [None, 0.5, 0.25],
        "train/step_loss": [3.0, 1.0, 1.0, 1.0, 1.0],
    }


def test_the_result_of_a_run_that_passed(tmp_path: Path) -> None:
    record = recorded(tmp_path, 0.45, 0.95, outcome="passed")
    returned = record.end("passed", None, GATE)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result == returned == {
        "outcome": "passed",
        "reason": None,
        "gate_passed": True,
        "missed": [],
        "epochs": 2,
        "seconds": 1.0,
        "score": 1.0,
        "metrics": {"val/a": 0.95, "system/seconds": 0.5},
        "best": {"epoch": 2, "score": 1.0, "metrics": {"val/a": 0.95, "system/seconds": 0.5}},
        "curves": {
            "epoch": [1, 2],
            "val/a": [0.45, 0.95],
            "system/seconds": [0.5, 0.5],
            "train/step_loss": [2.0, 1.0, 1.0, 0.5],
        },
    }  # fmt: skip
    last = read_events(record.path)[-1]
    assert (last["event"], last["outcome"], last["reason"]) == ("end", "passed", None)


def test_the_result_of_a_run_that_finished_says_what_it_missed_and_its_best_epoch(tmp_path: Path) -> None:
    recorded(tmp_path, 0.45, 0.81, 0.63).end("finished", "no better val/a for 1 epochs", GATE)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["gate_passed"] is False and result["missed"] == ["val/a = 0.63, needs > 0.9"]
    assert result["reason"] == "no better val/a for 1 epochs"
    assert result["best"]["epoch"] == 2 and result["best"]["score"] == pytest.approx(-0.1)
    assert result["score"] == pytest.approx(-0.3) and result["metrics"]["val/a"] == 0.63


@pytest.mark.parametrize("outcome", ["diverged", "failed"])
def test_the_result_of_a_run_cut_short_keeps_what_came_before(tmp_path: Path, outcome: str) -> None:
    record = recorded(tmp_path, 0.45)
    record.epoch(2, {"system/seconds": 0.5}, [0.5, math.nan], score=WORST_SCORE)  # no gated metric there
    record.end(outcome, "why", GATE)
    result = strict((tmp_path / "result.json").read_text())
    assert result["outcome"] == outcome and result["reason"] == "why" and not result["gate_passed"]
    assert result["missed"] == [] and result["score"] == WORST_SCORE and result["best"]["epoch"] == 1
    assert result["curves"]["val/a"] == [0.45, None]
    assert result["curves"]["train/step_loss"] == [2.0, 1.0, 0.5, None]


def test_the_result_of_a_run_without_an_epoch(tmp_path: Path) -> None:
    Record(tmp_path).end("failed", "RuntimeError: boom", GATE)
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["epochs"], result["score"], result["best"], result["metrics"]) == (0, None, None, {})
    assert result["curves"] == {"epoch": [], "train/step_loss": []}


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new, up to here \ud800")
    assert path.read_text() == "old"
    write_atomically(path, "new")
    assert path.read_text() == "new" and [one.name for one in tmp_path.iterdir()] == ["result.json"]


def test_a_reader_of_the_old_file_is_not_disturbed(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_atomically(path, "old")
    with path.open() as reader:
        write_atomically(path, "new")
        assert reader.read() == "old"
