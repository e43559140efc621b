"""The source of the project as syntax trees: its modules, and the imports between them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
Graph = Mapping[str, set[str]]  # the modules that each module imports


@dataclass(frozen=True)
class Module:
    """One file: its dotted name below `gatesweep`, its path below the root, its text and its syntax tree."""

    name: str
    path: str
    text: str
    tree: ast.Module


def read_modules(root: Path, *folders: str) -> dict[str, Module]:
    """Parse every Python file below the folders of `root`; return the modules by name."""
    modules = {}
    for folder in folders:
        for file in sorted((root / folder).glob("**/*.py")):
            path = file.relative_to(root)
            parts = path.with_suffix("").parts
            name = ".".join(("gatesweep", *(parts[:-1] if parts[-1] == "__init__" else parts)))
            text = file.read_text()
            modules[name] = Module(name, str(path), text, ast.parse(text))
    return modules


def imported_names(module: Module) -> Iterator[str]:
    """Yield the dotted name of every import anywhere in a module: at its top, in functions, for type checkers only.

    `from a import b` gives a.b. A literal name in a call of `import_module` counts as an import.
    """
    package = module.name.split(".") if module.path.endswith("__init__.py") else module.name.split(".")[:-1]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{prefix}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (argument.value for argument in node.args[:1] if isinstance(argument, ast.Constant))


def import_graph(modules: Mapping[str, Module]) -> dict[str, set[str]]:
    """Return, for each module, the modules of `modules` that it imports."""
    graph = {}
    for module in modules.values():
        targets = {name if name in modules else name.rpartition(".")[0] for name in imported_names(module)}
        graph[module.name] = (targets & modules.keys()) - {module.name}
    return graph


def import_rings(graph: Graph) -> list[list[str]]:
    """Return one shortest ring of imports for each strongly connected component with several modules."""
    reachable = {name: _reachable(graph, name) for name in graph}
    components = {frozenset(name for name in reachable[start] if start in reachable[name]) for start in graph}
    return [_shortest_ring(graph, min(component)) for component in sorted(components, key=sorted) if len(component) > 1]


def _reachable(graph: Graph, start: str) -> set[str]:
    """The modules that an import of `start` loads in the end; `start` itself only if it lies on a ring."""
    reached: set[str] = set()
    new = set(graph[start])
    while new:
        reached |= new
        new = {target for name in new for target in graph[name]} - reached
    return reached


def _shortest_ring(graph: Graph, start: str) -> list[str]:
    paths = [[start]]
    while paths:
        path = paths.pop(0)
        for target in sorted(graph[path[-1]]):
            if target == start:
                return [*path, start]
            if target not in path:
                paths.append([*path, target])
    return []
