"""`gatesweep` and its help: complete, wrapped, and shown before anything heavy is imported."""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import gatesweep
from gatesweep.__main__ import main
from gatesweep.core.errors import InputError
from gatesweep.sweeps.commands.arguments import COMMANDS, make_parser
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.groups import CONFIGS, default_choices, default_keys, group_choices, typed_choices
from gatesweep.sweeps.config.values import flatten

ROOT = Path(__file__).parents[3]
HEAVY = {"torch", "ray", "mlflow", "hydra", "omegaconf", "optuna", "pydantic", "numpy", "pyarrow", "pandas", "plotly"}
PROBE = """
import atexit, json, sys
atexit.register(lambda: print(json.dumps(sorted(sys.modules)), file=sys.stderr))
from gatesweep.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
PROCESSOR_SECONDS = 0.7


def help_of(command: str, columns: int = 80) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        return make_parser(command).format_help()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["rnu"], *([name, "--help"] for name in COMMANDS)])
def test_help_imports_nothing_heavy_and_takes_no_time(arguments: list[str]) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", PROBE, *arguments], cwd=ROOT, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == (2 if arguments == ["rnu"] else 0), done.stderr
    loaded = {name.partition(".")[0] for name in json.loads(done.stderr.splitlines()[-1])}
    assert "gatesweep" in loaded and loaded & HEAVY == set()
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < PROCESSOR_SECONDS


def test_scripts_are_the_commands() -> None:
    for name in (name for name in COMMANDS if name not in ("ui", "init", "check")):
        script = ROOT / "sweeps" / f"{name}.py"
        environment = {**os.environ, "COLUMNS": "80"}
        by_file = subprocess.run([sys.executable, script, "--help"], env=environment, capture_output=True, text=True)
        by_module = subprocess.run(
            [sys.executable, "-m", "gatesweep", name, "--help"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert by_file.returncode == 0 and by_file.stdout == by_module.stdout != ""


def test_the_keys_of_the_help_are_those_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """The YAML files are merged without Hydra there: key by key, and value by value."""
    for name in ("GATESWEEP_RESULTS", "GATESWEEP_STORAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    for words in ([], ["experiment=autoencoder_digits"], ["trainable=mlp"], ["experiment=born_joint", "search=random"]):
        shown = {key.name: key.value for key in default_keys(typed_choices(words)) if key.value != {}}
        assert shown == flatten(compose_config(words).to_dict()), words


@pytest.mark.parametrize("command", ["run", "train"])
def test_the_help_shows_every_key_and_every_choice(command: str) -> None:
    lines = help_of(command).splitlines()
    shown = {match[1]: match[2] for line in lines if (match := re.match(r" {4}([\w./]+)=(\S+)", line))}
    keys = flatten(compose_config([]).to_dict())
    assert set(keys) <= set(shown)
    assert (shown["training.max_epochs"], shown["data.seed"], shown["tracking.uri"]) == ("20", "0", "null")
    text = " ".join(" ".join(lines).split())
    files = "\n".join(path.read_text() for path in CONFIGS.glob("training/*.yaml"))
    [line] = [line for line in files.splitlines() if line.strip().startswith("clip_norm: 1.0 ")]
    assert f"training.clip_norm=1.0 {line.partition('#')[2].strip()}" in text and line.count("#") == 1
    for path in CONFIGS.glob("*/**/*.yaml"):
        if "cluster" not in path.parts:
            assert re.search(rf"[ *]{path.stem}\b", text), path
    groups = text.partition("marks the default):")[2].partition("keys, KEY=VALUE")[0]
    starred = [word.strip("*,") for word in groups.split() if word.startswith("*")]
    assert sorted(starred) == sorted(default_choices().values())  # one a group


def test_the_defaults_are_those_that_are_composed() -> None:
    choices = group_choices()
    assert "cluster" not in choices and choices["search"] == ["gp", "grid", "random", "tpe"]
    assert all(choice in choices[group] for group, choice in default_choices().items())


@pytest.mark.parametrize("columns", [80, 100, 132])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_wrapped_to_the_terminal(command: str, columns: int) -> None:
    lines = help_of(command, columns).splitlines()
    long = [line for line in lines if len(line) > columns]
    assert long == []
    if command == "run":
        assert max(map(len, lines)) > columns - 12  # and uses it


def test_gatesweep_lists_its_commands_in_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    bare = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == bare
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.summary)}$", bare, re.MULTILINE)
    assert max(map(len, bare.splitlines())) <= 80
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"gatesweep {gatesweep.__version__}\n"


WRONG = [("rnu", "did you mean run?"), ("repaly", "did you mean replay?"), ("x", "expected one of run, train")]


@pytest.mark.parametrize(("word", "hint"), WRONG)
def test_an_unknown_command_is_answered_with_the_nearest(
    word: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([word]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {word}: unknown command, ") and hint in error and error.count("\n") == 1


@pytest.mark.parametrize(("arguments", "message"), [
    (["run", "--no-such-flag"], "unrecognized arguments: --no-such-flag; gatesweep run --help shows what is expected"),
    (["report"], "the following arguments are required: FOLDER; gatesweep report --help"),
    (["ui", "--port", "70000"], "argument --port: got '70000', expected a port, 1 to 65535"),
])  # fmt: skip
def test_bad_arguments_are_told_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_ui_wants_a_database_and_a_free_port(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ui", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"error: ui: got '{tmp_path}', expected a results folder (it has no mlflow.db)\n"
    (tmp_path / "mlflow.db").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["ui", str(tmp_path), "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert (
        error.startswith(f"error: --port: got {port}, expected a free port of 127.0.0.1 (") and error.count("\n") == 1
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_parser_raises_input_errors(command: str) -> None:
    with pytest.raises(InputError, match=f"gatesweep {command} --help"):
        make_parser(command).parse_intermixed_args(["--no-such-flag"])


def test_no_name_of_the_program_is_in_a_help_text() -> None:
    for command in COMMANDS:
        assert not re.search(r"[A-Z]+_HELP", help_of(command)), command
