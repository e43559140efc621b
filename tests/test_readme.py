"""The README keeps its promises: its commands compose, its files exist, its Python runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from gatesweep.core.settings import Settings
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.schema import CHECKPOINT_KEYS
from gatesweep.sweeps.search.space import AnyLeaf

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.partition("#")[0].strip() for language, text in BLOCKS if language == "bash" for line in text.splitlines()
]
RUNS = [line for line in COMMANDS if line.startswith("python sweeps/")]


@pytest.mark.parametrize("command", RUNS)
def test_commands_compose(command: str) -> None:
    _, script, *arguments = shlex.split(command)
    assert (ROOT / script).is_file()
    if script not in ("sweeps/run.py", "sweeps/train.py"):
        return
    overrides = [one for one in arguments if not one.startswith(("-", "resume="))]
    compose_config(overrides)


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {line.split()[1] for line in COMMANDS if line.startswith("make ")}
    assert named and named <= targets


def test_the_map_of_the_house_names_files_and_rooms_that_exist() -> None:
    house = README.partition("## The house")[2].partition("```")[2].partition("```")[0]
    folder, named = ROOT, set()
    for line in house.splitlines():
        if match := re.match(r"(\w+)/ ", line):
            folder = ROOT / match[1]
        entries = re.findall(r"\b(\w+\.py)\b", line) + re.findall(r"^  (\w+)/ ", line)
        named |= {folder / name for name in entries}
    assert [str(path) for path in named if not path.exists()] == []
    for package in ("core", "sweeps", "trainables", "integrations"):
        modules = [path for path in (ROOT / package).glob("*.py") if path.name != "__init__.py"]
        rooms = [path.parent for path in (ROOT / package).glob("*/__init__.py")]
        assert {*modules, *rooms} <= named, f"not on the map: {sorted(map(str, {*modules, *rooms} - named))}"


def test_the_search_space_of_the_readme_is_one() -> None:
    leaves = yaml.safe_load(next(text for language, text in BLOCKS if language == "yaml"))
    for leaf in leaves.values():
        AnyLeaf.validate_python(leaf)


def test_the_default_configuration_is_that_of_the_core() -> None:
    """What `Settings()` leaves out, the YAML leaves out too."""
    config = compose_config([]).training.to_dict()
    assert set(config) - set(CHECKPOINT_KEYS) == {name for name in Settings.__dataclass_fields__ if name != "gate"}
