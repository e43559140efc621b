"""A damaged file of a record is named, in one line, by every command that reads it, and nothing is left behind."""

from __future__ import annotations

import gzip
import pkgutil
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from gatesweep.sweeps.commands.cli import BAD_INPUT, run_command
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
}


@pytest.mark.parametrize("command", ["report", "compare", "publish", "run"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_named(
    kind: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = tmp_path / "results" / "sweep"
    shutil.copytree(RECORDS[0], sweep)
    name, damage = DAMAGE[kind]
    damage(sweep / name)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    argument = f"resume={sweep}" if command == "run" else str(sweep)
    assert run_command(command, [argument]) == BAD_INPUT
    output = capsys.readouterr()
    assert output.err.count("\n") == 1 and f"{sweep.name}/{name}" in output.err, output.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


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
