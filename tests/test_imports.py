"""Imports point one way: `sweeps -> core <- trainables, integrations`, rooms of sweeps downwards, and never in a ring.

Fresh processes show what an import loads. The source shows imports inside functions and for type checkers as well.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.source import ROOT, Module, import_graph, import_rings, imported_names, read_modules

ROOMS = (  # from the top: a room imports only from itself and from the rooms after it
    *("commands", "simulation", "reports", "tracking", "execution"),
    *("schedulers", "search", "storage", "records", "config"),
)
FAMILIES = sorted(path.parent.name for path in (ROOT / "trainables").glob("*/__init__.py"))
DOORS = {"lightning", "pytorch_lightning", "transformers", "gatesweep.lightning", "gatesweep.huggingface"}
ABOVE = {"ray", "mlflow", "hydra", "optuna", "omegaconf", "pydantic", "gatesweep.sweeps", "tests"}
MODULES = read_modules(ROOT, "core", "sweeps", "trainables", "integrations")

# Import every module of each package in `argv`, and print the modules in memory; earlier packages are removed first.
FRESH = """
import importlib, json, pkgutil, sys
sys.path.insert(0, "")
loaded = {}
for name in sys.argv[1:]:
    for package in sys.argv[1:]:
        for module in [module for module in sys.modules if f"{module}.".startswith(f"{package}.")]:
            del sys.modules[module]
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        importlib.import_module(module.name)
    loaded[name] = sorted(sys.modules)
print(json.dumps(loaded))
"""


def loaded_modules(root: Path, *packages: str) -> dict[str, set[str]]:
    """The modules in memory after an import of all of a package, for each of `packages`, in one fresh process."""
    process = subprocess.run([sys.executable, "-c", FRESH, *packages], cwd=root, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return {name: set(modules) for name, modules in json.loads(process.stdout.splitlines()[-1]).items()}


def forbidden_modules(modules: set[str], packages: set[str]) -> set[str]:
    """The modules that are one of `packages`, or lie in one of them."""
    return {module for module in modules if any(f"{module}.".startswith(f"{package}.") for package in packages)}


def upward_imports(modules: Mapping[str, Module]) -> list[str]:
    """Imports of a room of sweeps from a room above it, or from no room at all."""
    offences = []
    for module in modules.values():
        _, folder, *rest = module.name.split(".")
        if folder != "sweeps" or not rest or (len(rest) == 1 and not module.path.endswith("__init__.py")):
            continue  # the package itself, and its scripts
        if rest[0] not in ROOMS:
            offences.append(f"{module.path}: {rest[0]} is not a room")
            continue
        below = ROOMS[ROOMS.index(rest[0]) :]
        for name in sorted(set(imported_names(module))):
            parts = name.split(".")
            if parts[:2] == ["gatesweep", "sweeps"] and len(parts) > 2 and parts[2] not in below:
                offences.append(f"{module.path}: imports {name}")
    return offences


def script_imports(modules: Mapping[str, Module]) -> list[str]:
    """Imports of the scripts in sweeps/ from any part of gatesweep but its commands."""
    commands = {"gatesweep.sweeps.commands", "gatesweep.__main__"}
    scripts = [module for module in modules.values() if Path(module.path).parent == Path("sweeps")]
    return [
        f"{module.path}: imports {name}"
        for module in scripts
        for name in imported_names(module)
        if name.startswith("gatesweep") and not forbidden_modules({name}, commands)
    ]


def late_imports(module: Module, packages: set[str]) -> set[str]:
    """The imports of a module, anywhere in it, that lie in one of `packages`."""
    return forbidden_modules(set(imported_names(module)), packages)


def names_of_families(module: Module) -> list[str]:
    """The families that a module imports or names in a string, as a dotted path."""
    strings = [node.value for node in ast.walk(module.tree) if isinstance(node, ast.Constant)]
    names = [*imported_names(module), *(value for value in strings if isinstance(value, str))]
    return [name for name in names if name == "gatesweep.trainables" or name.startswith("gatesweep.trainables.")]


def test_the_core_loads_nothing_that_is_built_on_it() -> None:
    modules = loaded_modules(ROOT, "gatesweep.core")["gatesweep.core"]
    assert {"gatesweep.core.loop", "gatesweep.core.checkpoint", "gatesweep.core.gate"} <= modules
    assert forbidden_modules(modules, {*ABOVE, "gatesweep.trainables"}) == set()


def test_a_family_loads_the_core_and_no_other_family() -> None:
    packages = {family: f"gatesweep.trainables.{family}" for family in FAMILIES}
    loaded = loaded_modules(ROOT, *packages.values())
    for family, package in packages.items():
        others = set(packages.values()) - {package}
        assert package in loaded[package] and "gatesweep.core.trainable" in loaded[package], family
        assert forbidden_modules(loaded[package], ABOVE | others) == set(), family


@pytest.mark.parametrize("folder", ["core", "sweeps", "trainables", "integrations"])
def test_no_import_in_the_source_reaches_what_lies_above_even_late(folder: str) -> None:
    beside = {"core": {"gatesweep.trainables", *DOORS}, "sweeps": {"tests", *DOORS}, "trainables": DOORS}
    packages = beside.get(folder, {"gatesweep.trainables"}) | (ABOVE if folder != "sweeps" else set())
    modules = [module for module in MODULES.values() if module.path.startswith(f"{folder}/")]
    assert len(modules) > 2
    assert {module.path: names for module in modules if (names := late_imports(module, packages))} == {}


def test_sweeps_reach_a_family_only_by_its_yaml() -> None:
    sweeps = [module for module in MODULES.values() if module.path.startswith("sweeps/")]
    assert {module.path: names for module in sweeps if (names := names_of_families(module))} == {}


def test_a_room_imports_only_from_the_rooms_below_it() -> None:
    assert {path.parent.name for path in (ROOT / "sweeps").glob("*/__init__.py")} == set(ROOMS)
    assert upward_imports(MODULES) == []


def test_the_scripts_import_only_commands() -> None:
    assert script_imports(MODULES) == []


def test_no_modules_import_each_other_in_a_ring() -> None:
    rings = import_rings(import_graph(MODULES))
    assert not rings, "\n".join(" -> ".join(ring) for ring in rings)


def write_tree(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_the_fresh_process_notices_an_offender(tmp_path: Path) -> None:
    files = {
        "mlflow.py": "",
        "first/__init__.py": "",
        "first/inner/__init__.py": "",
        "first/inner/model.py": "import mlflow\n",
        "second/__init__.py": "",
        "second/model.py": "from first.inner import model\n",
        "third/__init__.py": "import json\n",
    }
    write_tree(tmp_path, files)
    loaded = loaded_modules(tmp_path, "first", "second")
    assert forbidden_modules(loaded["first"], {*ABOVE, "second"}) == {"mlflow"}
    assert forbidden_modules(loaded["second"], {"first"}) == {"first", "first.inner", "first.inner.model"}
    assert forbidden_modules(loaded_modules(tmp_path, "third")["third"], {*ABOVE, "first", "second"}) == set()


def test_the_source_check_notices_a_family_and_a_late_import(tmp_path: Path) -> None:
    files = {
        "sweeps/offender.py": "import gatesweep.trainables.walks\n"
        "def late():\n    from gatesweep.trainables.walks import model\n    from gatesweep.trainables import walks\n"
        "    return resolve('gatesweep.trainables.walks.Walks')\n",
        "sweeps/innocent.py": "import gatesweep.trainablesque\nfrom gatesweep.core import gate\nname = 'trainables'\n",
        "core/offender.py": "def late():\n    import ray.tune\n    from gatesweep import sweeps\n",
    }
    modules = read_modules(write_tree(tmp_path, files), "core", "sweeps")
    assert len(names_of_families(modules["gatesweep.sweeps.offender"])) == 4
    assert names_of_families(modules["gatesweep.sweeps.innocent"]) == []
    assert late_imports(modules["gatesweep.core.offender"], ABOVE) == {"ray.tune", "gatesweep.sweeps"}
    assert script_imports(modules)[:1] == ["sweeps/innocent.py: imports gatesweep.trainablesque"]
    assert len(script_imports(modules)) == 5


@pytest.mark.parametrize(
    "text",
    [
        "from gatesweep.sweeps.reports.page import write_page\n",
        "import gatesweep.sweeps.reports.page\n",
        "from gatesweep.sweeps import reports\n",
        "from ..reports import page\n",
        "def late():\n    from gatesweep.sweeps.reports.page import write_page\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from gatesweep.sweeps.reports import page\n",
        "import importlib\ndef late():\n    return importlib.import_module('gatesweep.sweeps.reports.page')\n",
        "from gatesweep.sweeps.attic import old\n",
    ],
)
def test_the_room_check_notices_an_upward_import(text: str, tmp_path: Path) -> None:
    files = {
        "sweeps/__init__.py": "",
        "sweeps/records/reader.py": text,
        "sweeps/records/layout.py": "from gatesweep.sweeps.config import schema\nfrom gatesweep.core import record\n",
    }
    offences = upward_imports(read_modules(write_tree(tmp_path, files), "sweeps"))
    assert len(offences) == 1 and offences[0].startswith("sweeps/records/reader.py: imports gatesweep.sweeps.")


def test_the_room_check_notices_a_folder_that_is_not_a_room(tmp_path: Path) -> None:
    modules = read_modules(write_tree(tmp_path, {"sweeps/attic/__init__.py": "", "sweeps/run.py": ""}), "sweeps")
    assert upward_imports(modules) == ["sweeps/attic/__init__.py: attic is not a room"]


def test_the_ring_check_names_a_ring_of_early_and_late_imports(tmp_path: Path) -> None:
    files = {
        "core/gate.py": "from gatesweep.core.loop import fit\n",
        "core/loop.py": "from gatesweep.core import record\n",
        "core/record.py": "def late():\n    from gatesweep.core.gate import Gate\n",
        "core/outside.py": "from gatesweep.core.gate import Gate\nfrom gatesweep.core.outside import itself\n",
    }
    (ring,) = import_rings(import_graph(read_modules(write_tree(tmp_path, files), "core")))
    assert ring == ["gatesweep.core.gate", "gatesweep.core.loop", "gatesweep.core.record", "gatesweep.core.gate"]
    (tmp_path / "core" / "record.py").write_text("")
    assert import_rings(import_graph(read_modules(tmp_path, "core"))) == []
