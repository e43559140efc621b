"""Imports point one way, `sweeps -> core <- trainables`: seen in fresh processes, and in the source."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FAMILIES = sorted(path.parent.name for path in (ROOT / "trainables").glob("*/__init__.py"))
ABOVE = {"ray", "mlflow", "hydra", "optuna", "omegaconf", "pydantic", "gatesweep.sweeps", "tests"}

# Imports every module of each package named, and prints what that loaded; packages forget one another in between.
FRESH = """
import importlib, json, pkgutil, sys
sys.path.insert(0, "")
loaded = {}
for name in sys.argv[1:]:
    for other in sys.argv[1:]:
        for module in [one for one in sys.modules if one == other or one.startswith(other + ".")]:
            del sys.modules[module]
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        importlib.import_module(module.name)
    loaded[name] = sorted(sys.modules)
print(json.dumps(loaded))
"""


def loaded(root: Path, *packages: str) -> dict[str, set[str]]:
    """The modules in memory after importing all of a package, for each of `packages`, in one fresh process."""
    found = subprocess.run([sys.executable, "-c", FRESH, *packages], cwd=root, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return {name: set(modules) for name, modules in json.loads(found.stdout.splitlines()[-1]).items()}


def intruders(modules: set[str], forbidden: set[str]) -> set[str]:
    """Those of `modules` that are, or lie in, one of the packages `forbidden`."""
    return {module for module in modules if any(f"{module}.".startswith(f"{name}.") for name in forbidden)}


def imported(file: Path) -> Iterator[str]:
    """What a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{one.name}" for one in node.names)
        elif isinstance(node, ast.Constant) and str(node.value).startswith("gatesweep.trainables."):
            yield node.value  # a dotted name that something is to import


def test_the_core_knows_nothing_of_what_is_built_on_it() -> None:
    modules = loaded(ROOT, "gatesweep.core")["gatesweep.core"]
    assert {"gatesweep.core.loop", "gatesweep.core.checkpoint", "gatesweep.core.gate"} <= modules
    assert intruders(modules, {*ABOVE, "gatesweep.trainables"}) == set()


def test_a_family_knows_the_core_and_no_other_family() -> None:
    packages = {family: f"gatesweep.trainables.{family}" for family in FAMILIES}
    found = loaded(ROOT, *packages.values())
    for family, package in packages.items():
        others = {other for other in packages.values() if other != package}
        assert package in found[package] and "gatesweep.core.trainable" in found[package], family
        assert intruders(found[package], ABOVE | others) == set(), family


@pytest.mark.parametrize("file", sorted((ROOT / "sweeps").glob("**/*.py")), ids=lambda file: file.name)
def test_sweeps_reach_a_family_only_by_its_yaml(file: Path) -> None:
    assert [name for name in imported(file) if name.startswith("gatesweep.trainables")] == []


@pytest.mark.parametrize("file", sorted((ROOT / "trainables").glob("**/*.py")), ids=lambda file: file.name)
def test_no_family_imports_what_is_above_it_even_late(file: Path) -> None:
    assert intruders(set(imported(file)), ABOVE) == set()


def test_the_fresh_process_notices_an_offender(tmp_path: Path) -> None:
    for name, text in {
        "mlflow.py": "",
        "first/__init__.py": "",
        "first/inner/__init__.py": "",
        "first/inner/model.py": "import mlflow\n",
        "second/__init__.py": "",
        "second/model.py": "from first.inner import model\n",
        "third/__init__.py": "import json\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = loaded(tmp_path, "first", "second")
    assert intruders(found["first"], {*ABOVE, "second"}) == {"mlflow"}
    assert intruders(found["second"], {"first"}) == {"first", "first.inner", "first.inner.model"}
    assert intruders(loaded(tmp_path, "third")["third"], {*ABOVE, "first", "second"}) == set()


def test_the_source_check_notices_an_offender(tmp_path: Path) -> None:
    file = tmp_path / "offender.py"
    file.write_text(
        "import gatesweep.trainables.walks\n"
        "def late():\n    from gatesweep.trainables.walks import model\n    from gatesweep.trainables import walks\n"
        "    return resolve('gatesweep.trainables.walks.Walks')\n"
    )
    assert [name.startswith("gatesweep.trainables.") for name in imported(file)] == [True] * 4
    file.write_text("import gatesweep.trainablesque\nfrom gatesweep.core import gate\nname = 'the trainables'\n")
    assert not any(name.startswith("gatesweep.trainables.") for name in imported(file))
