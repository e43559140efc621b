"""Rules of the house that a program can check. Each rule has a test of the project and an offender that it catches."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from gatesweep.core import record
from gatesweep.sweeps.config.schema import Config
from gatesweep.sweeps.records import layout
from tests.support.source import ROOT, Module, read_modules

LONGEST_FUNCTION, LONGEST_FILE = 60, 300  # lines
OPENINGS = ("What", "Whether", "Those", "Who", "Of", "How")  # a docstring opens with a verb or a noun instead
VAGUE_NAMES, VAGUE_SHARE = {"one", "found", "told", "made", "given"}, 0.002  # of all bindings
PRIVATE_NAMES = (r"\._rungs\b", r"_schedule_trial_task", r"study\._storage", r"ray\._private")  # of Ray and Optuna
RECORD_FILES = {layout.CONFIG, record.EVENTS, record.RESULT, layout.SUMMARY}
NAMES_FILES = ("core/record.py", "sweeps/records/layout.py")  # they may spell the names of record files
MODULES = read_modules(ROOT, "core", "sweeps", "trainables", "integrations")


def repeated_names(modules: Mapping[str, Module]) -> list[str]:
    """Public names that core and sweeps define at the top of several files; only `main` may repeat."""
    places: dict[str, list[str]] = defaultdict(list)
    for module in modules.values():
        if not module.path.startswith(("trainables/", "integrations/")):
            for name in dict.fromkeys(_public_names(module.tree)):
                places[name].append(module.path)
    return [f"{name}: {', '.join(paths)}" for name, paths in places.items() if len(paths) > 1 and name != "main"]


def long_parts(modules: Mapping[str, Module]) -> list[str]:
    """Files and functions over the limits."""
    offences = []
    for module in modules.values():
        lines = len(module.text.splitlines())
        if lines > LONGEST_FILE:
            offences.append(f"{module.path}: {lines} lines")
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    offences.append(f"{module.path}:{node.lineno}: {node.name} has {lines} lines")
    return offences


def inverted_docstrings(modules: Mapping[str, Module]) -> list[str]:
    """Docstrings that open with a relative or interrogative word."""
    opening = re.compile(rf"\W*({'|'.join(OPENINGS)})\b")
    return [
        f"{module.path}:{constant.lineno}: {str(constant.value).splitlines()[0]}"
        for module in modules.values()
        for constant in _docstrings(module.tree)
        if opening.match(str(constant.value))
    ]


def untyped_configurations(modules: Mapping[str, Module]) -> list[str]:
    """Places outside config/ that read a section of a configuration as the item of a dictionary."""
    offences = []
    for module in modules.values():
        if not module.path.startswith("sweeps/") or module.path.startswith("sweeps/config/"):
            continue
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                holder = ast.unparse(node.value).rpartition(".")[2]
                if holder == "config" and node.slice.value in Config.model_fields:
                    offences.append(f"{module.path}:{node.lineno}: {ast.unparse(node)}")
    return offences


def vague_bindings(modules: Mapping[str, Module]) -> tuple[list[str], int]:
    """Bindings with a name that says nothing, and the number of all bindings: variables and parameters."""
    vague, count = [], 0
    for module in modules.values():
        for node in ast.walk(module.tree):
            name = None
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                name = node.id
            elif isinstance(node, ast.arg):
                name = node.arg
            count += name is not None
            if name in VAGUE_NAMES:
                vague.append(f"{module.path}:{getattr(node, 'lineno', 0)}: {name}")
    return vague, count


def foreign_private_names(modules: Mapping[str, Module]) -> list[str]:
    """Private names of other libraries outside the files that collect them."""
    return [
        f"{module.path}:{number}: {line.strip()}"
        for module in modules.values()
        if not module.path.endswith("_private.py")
        for number, line in enumerate(module.text.splitlines(), 1)
        if any(re.search(pattern, line) for pattern in PRIVATE_NAMES)
    ]


def spelled_record_files(modules: Mapping[str, Module]) -> list[str]:
    """Literals that spell the name of a record's file, alone or at the end of a path, except in docstrings."""
    offences = []
    for module in modules.values():
        if module.path in NAMES_FILES:
            continue
        docstrings = set(map(id, _docstrings(module.tree)))
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in docstrings:
                continue
            if node.value.rpartition("/")[2] in RECORD_FILES:
                offences.append(f"{module.path}:{node.lineno}: {node.value!r}")
    return offences


def _public_names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        names: list[str] = []
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [leaf.id for target in node.targets for leaf in ast.walk(target) if isinstance(leaf, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        yield from (name for name in names if not name.startswith("_"))


def _docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr):
            constant = node.body[0].value
            if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                yield constant


RULES = (
    repeated_names,
    long_parts,
    inverted_docstrings,
    untyped_configurations,
    foreign_private_names,
    spelled_record_files,
)


@pytest.mark.parametrize("rule", RULES)
def test_the_project_keeps_the_rule(rule) -> None:
    offences = rule(MODULES)
    assert not offences, "\n".join(offences)


def test_few_bindings_have_vague_names() -> None:
    vague, count = vague_bindings(MODULES)
    assert count > 5000
    assert len(vague) <= VAGUE_SHARE * count, f"{len(vague)} of {count}:\n" + "\n".join(vague)


OFFENDERS = [
    (repeated_names, "sweeps/records/other.py", "class Record:\n    pass\n"),
    (repeated_names, "sweeps/records/other.py", "def read_events():\n    pass\n"),
    (repeated_names, "sweeps/records/other.py", "EVENTS: str = 'a'\n"),
    (long_parts, "core/long.py", "a = 1\n" * 301),
    (long_parts, "core/long.py", "def work():\n" + "    a = 1\n" * 60),
    (long_parts, "core/long.py", "class Work:\n    async def work(self):\n" + "        a = 1\n" * 60),
    *((inverted_docstrings, "trainables/a.py", f'"""{word} it is."""\n') for word in OPENINGS),
    (inverted_docstrings, "trainables/a.py", 'def work():\n    r"""`Whether` it works."""\n'),
    (
        inverted_docstrings,
        "trainables/a.py",
        'class Work:\n    async def work(self):\n        """\n        Of two."""\n',
    ),
    (untyped_configurations, "sweeps/search/a.py", "def work(config):\n    return config['search']\n"),
    (untyped_configurations, "sweeps/search/a.py", "def work(sweep):\n    return sweep.config['training']['epochs']\n"),
    (foreign_private_names, "sweeps/search/a.py", "rungs = bracket._rungs\n"),
    (foreign_private_names, "sweeps/search/a.py", "controller._schedule_trial_task(trial)\n"),
    (foreign_private_names, "sweeps/search/a.py", "self.study._storage.set_trial_param()\n"),
    (foreign_private_names, "sweeps/search/a.py", "from ray._private import worker\n"),
    (spelled_record_files, "sweeps/search/a.py", "path = folder / 'config.yaml'\n"),
    (spelled_record_files, "sweeps/search/a.py", "path = f'{folder}/events.jsonl'\n"),
    (spelled_record_files, "core/a.py", "path = folder / 'result.json'\n"),
    (spelled_record_files, "trainables/a.py", "def work():\n    return ['summary.json']\n"),
]
INNOCENTS = {
    "core/record.py": "EVENTS = 'events.jsonl'\n\nclass Record:\n    pass\n\ndef read_events():\n    pass\n",
    "core/loop.py": '"""Offers."""\n\ndef main():\n    """events.jsonl"""\n    print("see events.jsonl too")\n',
    "sweeps/run.py": "def main():\n    pass\n\ndef _work():\n    return trial.config['trial'], config['number']\n",
    "sweeps/config/compose.py": "def _work(config):\n    return config['training']\n",
    "sweeps/records/layout.py": "from core.record import EVENTS as EVENTS\n\nCONFIG = 'config.yaml'\n",
    "sweeps/schedulers/ray_private.py": "rungs = bracket._rungs\n",
    "trainables/a/b.py": "class Record:\n    pass\n" + "a = 1\n" * 298,
}


def write_tree(root: Path, files: Mapping[str, str]) -> dict[str, Module]:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return read_modules(root, "core", "sweeps", "trainables")


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_accepts_a_tree_that_keeps_it(rule, tmp_path: Path) -> None:
    assert rule(write_tree(tmp_path, INNOCENTS)) == []


@pytest.mark.parametrize(("rule", "file", "text"), OFFENDERS)
def test_a_rule_catches_an_offender(rule, file: str, text: str, tmp_path: Path) -> None:
    (offence,) = rule(write_tree(tmp_path, {**INNOCENTS, file: text}))
    assert file in offence


def test_vague_names_are_counted_wherever_they_are_bound(tmp_path: Path) -> None:
    text = (
        "for one in ():\n    pass\n[found for found in ()]\ndef work(told, *, given=1):\n    (made := 1)\n"
        "with a as one:\n    pass\nlambda one: one\nfound, b = 1, 2\nprint(one, made)\nnone, ones = 1, 2\n"
    )
    vague, count = vague_bindings(write_tree(tmp_path, {"core/a.py": text}))
    assert [entry.rpartition(" ")[2] for entry in sorted(vague, key=lambda entry: int(entry.split(":")[1]))] == [
        *("one", "found", "told", "given", "made", "one", "one", "found")
    ]
    assert count == 8 + 3 and vague[0].startswith("core/a.py:")
