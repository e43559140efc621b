"""The source of a sweep's own classes: the modules of the user's that define them, copied into the sweep's folder."""

from __future__ import annotations

import ast
import io
import sys
import sysconfig
import zipfile
from collections.abc import Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from gatesweep.core.files import write_atomically
from gatesweep.sweeps.config.secrets import redact_source
from gatesweep.sweeps.records.layout import SOURCE

MAX_MODULES, MAX_FILE_BYTES, MAX_BYTES = 500, 1_000_000, 5_000_000  # of all copies, of one, of all together
STANDARD = tuple({str(Path(sysconfig.get_path(name)).resolve()) for name in ("stdlib", "platstdlib")})
INSTALLED = {"site-packages", "dist-packages"}  # folders of an environment
PACKAGE = "gatesweep"


class Module(NamedTuple):
    """An imported module: its full name, and its file."""

    name: str
    path: Path

    @property
    def is_own(self) -> bool:
        """True for a module of gatesweep itself."""
        return self.name.partition(".")[0] == PACKAGE

    @property
    def is_installed(self) -> bool:
        """True for a module of the environment, whose version says what it is."""
        return bool(INSTALLED & set(self.path.parts)) or any(self.path.is_relative_to(folder) for folder in STANDARD)


def modules_of(values: Any) -> list[Module]:
    """Return the imported modules that define the classes which `_target_` names anywhere in nested values.

    A module without a file, and one of an installed library that is not gatesweep's, are left out.
    """
    modules: dict[str, Module] = {}
    for target in _targets(values):
        name, _, attribute = target.rpartition(".")
        found = _contents_of(sys.modules.get(name)).get(attribute)
        defined_in = str(getattr(found, "__module__", name))  # a package may only pass the class on
        for module in (_module(defined_in), _module(name)):
            if module and (module.is_own or not module.is_installed):
                modules[module.name] = module
    return list(modules.values())


def sources_of(modules: list[Module]) -> list[Module]:
    """Return modules with all of the user's own that they need: what they import, and what is loaded beside them.

    Modules of gatesweep are not followed, and installed ones are left out.
    """
    found = dict.fromkeys([*modules, *_companions(modules)])
    waiting = [module for module in modules if not module.is_own]
    while waiting and len(found) <= MAX_MODULES:
        for name in _imports(waiting.pop()):
            for module in _locate(name):
                if module not in found and not (module.is_own or module.is_installed):
                    found[module] = None
                    waiting.append(module)
    return list(found)


def own_modules() -> list[Module]:
    """Return the modules of gatesweep that are loaded."""
    loaded = [module for name in list(sys.modules) if (module := _module(name))]
    return [module for module in loaded if module.is_own]


def keep_source(sweep: Path, sources: list[Module]) -> tuple[str | None, list[str]]:
    """Copy modules into an archive in the folder `sweep`.

    Returns its name, and the names of the modules that it lacks: what cannot be read, and what is too large. The name
    is `source.zip`, or `source_2.zip` and so on for a sweep that goes on with other code; None where nothing could be
    written. Passwords and tokens in the sources are `***` in the archive.
    """
    content, missing = _archive(sources)
    stem, _, ending = SOURCE.partition(".")
    try:
        for number in range(1, 1000):
            path = sweep / (SOURCE if number == 1 else f"{stem}_{number}.{ending}")
            if not path.exists():
                write_atomically(path, content)
            if path.read_bytes() == content:
                return path.name, missing
    except OSError:  # a full disk, say: the record of the sweep itself will tell
        pass
    return None, [module.name for module in sources]


def _targets(values: Any) -> Iterator[str]:
    """Yield every `_target_` in nested values, the outermost first."""
    if isinstance(values, Mapping):
        if isinstance(target := values.get("_target_"), str):
            yield target
        values = list(values.values())
    for value in values if isinstance(values, list | tuple) else ():
        yield from _targets(value)


def _contents_of(module: Any) -> Mapping[str, Any]:
    """Return a module's names. They are not asked for as attributes: a lazy module would begin to import."""
    return getattr(module, "__dict__", {})


def _module(name: str) -> Module | None:
    file = _contents_of(sys.modules.get(name)).get("__file__")
    return Module(name, Path(file).resolve()) if isinstance(file, str) else None


def _companions(modules: list[Module]) -> Iterator[Module]:
    """Yield the imported modules of the same package as one of `modules`, or without a package of the same folder."""
    users = [module for module in modules if not module.is_own]
    loaded = [module for name in list(sys.modules) if users and (module := _module(name))]
    for module in users:
        package = module.name.partition(".")[0]
        in_folder = package == module.name and module.path.name != "__init__.py"
        for other in loaded:
            same_package = other.name == package or other.name.startswith(f"{package}.")
            near = same_package or (in_folder and other.path.is_relative_to(module.path.parent))
            if near and not (other.is_own or other.is_installed):
                yield other


def _imports(module: Module) -> Iterator[str]:
    """Yield the full names that a module imports, within functions too, and the modules of what it holds by now."""
    try:
        tree: ast.AST = ast.parse(module.path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):  # a compiled one has no source
        tree = ast.Module([], [])
    package = module.name if module.path.stem == "__init__" else module.name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}".removeprefix(".") for alias in node.names)
    for value in list(_contents_of(sys.modules.get(module.name)).values()):
        if isinstance(value, FunctionType | type):
            yield str(value.__module__)
        elif type(value) is ModuleType:
            yield str(vars(value).get("__name__"))


def _locate(name: str) -> Iterator[Module]:
    """Yield the modules that a full name leads through, also those not loaded yet; nothing is imported."""
    parts, path = name.split("."), None
    for length in range(1, len(parts) + 1):
        known = ".".join(parts[:length])
        if contents := _contents_of(sys.modules.get(known)):
            path = contents.get("__path__")
            if module := _module(known):
                yield module
        elif (length == 1 or path) and (spec := PathFinder.find_spec(known, path)):
            path = spec.submodule_search_locations
            if spec.has_location and spec.origin:
                yield Module(known, Path(spec.origin).resolve())
        else:
            return


def _archive(modules: list[Module]) -> tuple[bytes, list[str]]:
    """Return a zip file of the modules' sources, the same bytes for the same sources, and what it lacks."""
    archive, missing, size = io.BytesIO(), [], 0
    with zipfile.ZipFile(archive, "w") as stream:
        for module in modules:
            try:
                if module.path.suffix != ".py" or module.path.stat().st_size > MAX_FILE_BYTES:
                    raise ValueError(f"{module.path} is no source of a common size")
                source = redact_source(module.path.read_bytes().decode())
            except (OSError, ValueError):
                missing.append(module.name)
                continue
            size += len(source)
            if size > MAX_BYTES or len(stream.filelist) == MAX_MODULES:
                missing.append(module.name)
                continue
            name = module.name.replace(".", "/") + ("/__init__.py" if module.path.stem == "__init__" else ".py")
            stream.writestr(zipfile.ZipInfo(name), source, zipfile.ZIP_DEFLATED)
    return archive.getvalue(), missing
