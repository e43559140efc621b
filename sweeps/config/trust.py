"""Trust: the modules whose classes a `_target_` may name, beside those of gatesweep, Optuna and Ray's schedulers.

A name is trusted because of this machine and its user, never because a sweep's folder holds it:

    what was typed       the names in the overrides of a command, or in the values of a new sweep
    --trust MODULE       of a command; `load(folder, trust=["module"])`
    GATESWEEP_TRUST      an environment variable: modules with commas between
    gatesweep.toml       `trust = ["module"]`, in ~/.config/gatesweep; also in the working folder or a folder above it,
                         once `--trust gatesweep.toml` has confirmed this file with this content on this machine
    entry points         of the group `gatesweep.trainables`, of distributions that are installed
    a record             its own names, in the folder where this machine has made it

A module is trusted with all modules below it. A function must be named itself, as `own.train`: it could be any function
of its module, called with any arguments, where a class must be of a kind. Trust lasts until the process ends.
"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from gatesweep.core.errors import InputError
from gatesweep.core.files import read_utf8
from gatesweep.sweeps.config.confirmed import confirm, is_confirmed

OWN = ("gatesweep", "optuna.samplers", "ray.tune.schedulers")  # modules that a `_target_` may always name
OWN_SOURCES = (*OWN, "optuna", "ray.tune")  # modules in which such a class may be defined
VARIABLE, FILE, ENTRY_POINTS = "GATESWEEP_TRUST", "gatesweep.toml", f"{OWN[0]}.trainables"


class Trust(NamedTuple):
    """Modules that are trusted, and full names that were typed. Trials get it from their sweep.

    `objects` holds functions and classes by name that no other process could import, because they are of a script or of
    a notebook. `folders` are those of `sys.path`, in which the trials find the modules of the sweep's process.
    """

    modules: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    objects: Mapping[str, Any] = {}
    folders: tuple[str, ...] = ()


_trust = Trust()


def trust_modules(modules: Iterable[str]) -> None:
    """Trust modules that the user has named; a gatesweep.toml stands for those in it, and is confirmed.

    Raises InputError for anything else.
    """
    names: list[Any] = []
    for module in modules:
        if not isinstance(module, str) or Path(module).name != FILE:
            names.append(module)
            continue
        path = Path(module).resolve()
        if not path.is_file():
            raise InputError(f"--trust: got {module!r}, which is no file")
        names += _read_modules(path)
        confirm(FILE, str(path), read_utf8(path))
    _add(Trust(modules=frozenset(_checked(names, "--trust"))))


def trust_typed(values: Any) -> None:
    """Trust the classes that nested `values`, which the user has typed, name in a `_target_`."""
    _add(Trust(names=frozenset(_target_names(values))))


def remember_record(folder: Path, values: Mapping[str, Any]) -> None:
    """Remember that this machine makes the record in `folder`, with the names in its `values`."""
    for name in _foreign_names(values):
        confirm("name", str(folder.resolve()), name)


def recall_record(folder: Path, values: Mapping[str, Any]) -> None:
    """Trust the names in the `values` of a record that this machine has made in `folder`."""
    known = {name for name in _foreign_names(values) if is_confirmed("name", str(folder.resolve()), name)}
    _add(Trust(names=frozenset(known)))


def trust_object(name: str, handed_over: Any) -> None:
    """Trust a function or class that the user has handed over, under a name by which it cannot be imported."""
    _add(Trust(objects={name: handed_over}))


def trusted_object(name: str) -> Any:
    """Return what `trust_object` was given under this name; None where there is nothing."""
    return _trust.objects.get(name)


def adopt_trust(trust: Trust) -> None:
    """Trust what the sweep of this trial's process trusted, and find its modules."""
    _add(trust)
    sys.path[:0] = [folder for folder in trust.folders if folder not in sys.path]


def current_trust() -> Trust:
    """Return what this process trusts, for the processes of its trials."""
    folders = tuple(dict.fromkeys(os.path.abspath(folder) for folder in sys.path))
    return Trust(frozenset().union(*(modules() for modules in _SOURCES)), _trust.names, _trust.objects, folders)


def is_trusted(target: str) -> bool:
    """Return True if a `_target_` of this name may be imported. Raises InputError for a damaged gatesweep.toml."""
    if target in _trust.names or _lies_in(target, OWN):
        return True
    return any(_lies_in(target, modules()) for modules in _SOURCES)


def is_trusted_source(target: str, module: str) -> bool:
    """Return True if the class that a trusted `target` names may be defined in `module`: no import leads elsewhere."""
    return target in _trust.names or _lies_in(module, OWN_SOURCES) or is_trusted(module)


def is_trusted_function(target: str) -> bool:
    """Return True if the function of this name may be called: it was typed, or is listed itself."""
    return target in _trust.names or any(target in modules() for modules in _SOURCES)


def trust_option(values: Mapping[str, Any]) -> str:
    """Return ` --trust MODULE` for each module in the `_target_` of `values` that another process would not trust.

    `values` are those of a configuration; its trainable is a function where it has no data.
    """
    lasting = frozenset().union(*(modules() for modules in _SOURCES if modules is not _named_modules))
    function = values["trainable"].get("_target_") if values.get("data") == {} else None
    options: dict[str, None] = {}
    for name in _target_names(values):
        if name == function and name not in lasting:
            options[name] = None
        elif name != function and not _lies_in(name, {*OWN, *lasting}):
            options[name.partition(".")[0]] = None
    return "".join(f" --trust {option}" for option in options)


def how_to_trust(target: str, is_function: bool = False) -> str:
    """Return the words of a message about a name that is not trusted: what to type."""
    module = target if is_function else target.partition(".")[0]
    ignored = next((path for path in _project_files() if not _is_confirmed(path)), None)
    note = f"; {ignored} is not read until you confirm it: --trust {ignored}" if ignored else ""
    return (
        f"if you trust the code of {module!r}: --trust {module}, {VARIABLE}={module}, "
        f'load(..., trust=["{module}"]), or trust = ["{module}"] in {FILE}{note}'
    )


def _add(more: Trust) -> None:
    global _trust
    _trust = Trust(_trust.modules | more.modules, _trust.names | more.names, {**_trust.objects, **more.objects})


def _lies_in(name: str, modules: Iterable[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _target_names(values: Any, is_target: bool = False) -> Iterator[str]:
    """Yield the strings at and below every `_target_`; below, they are choices of a search space."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _target_names(value, is_target or str(key).rpartition(".")[2] == "_target_")
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _target_names(value, is_target)
    elif is_target and isinstance(values, str):
        yield values


def _foreign_names(values: Mapping[str, Any]) -> set[str]:
    """Return the names in the `_target_` of `values` that are not of gatesweep, Optuna or Ray."""
    return {name for name in _target_names(values) if not _lies_in(name, OWN)}


def _named_modules() -> frozenset[str]:
    return _trust.modules


def _environment_modules() -> frozenset[str]:
    return frozenset(_checked(os.environ.get(VARIABLE, "").split(","), VARIABLE))


def _file_modules() -> frozenset[str]:
    """Return the modules that the user's gatesweep.toml name. Raises InputError for a damaged one."""
    own = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "gatesweep" / FILE
    paths = [path for path in _project_files() if _is_confirmed(path)]
    return frozenset(name for path in (*paths, *([own] if _is_own(own) else ())) for name in _read_modules(path))


def _read_modules(path: Path) -> Sequence[str]:
    """Return the modules in a gatesweep.toml. Raises InputError for a damaged one."""
    try:
        names = tomllib.loads(read_utf8(path)).get("trust", [])
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: expected TOML ({error})") from error
    if not isinstance(names, list):
        raise InputError(f'{path}: trust: got {names!r}, expected modules: trust = ["module"]')
    return _checked(names, f"{path}: trust")


def _project_files() -> list[Path]:
    """List the gatesweep.toml in the working folder and above it. A folder that was sent may be among those."""
    here = Path.cwd().resolve()
    return [path for folder in (here, *here.parents) if (path := folder / FILE).is_file()]


def _is_confirmed(path: Path) -> bool:
    """Return True for a gatesweep.toml whose content this user has confirmed; a changed one is not."""
    try:
        return is_confirmed(FILE, str(path.resolve()), read_utf8(path))
    except (OSError, InputError):
        return False


def _is_own(path: Path) -> bool:
    """Return True for a file that this user or root wrote, and that not everybody may write."""
    try:
        entry = path.stat()
    except OSError:
        return False
    return path.is_file() and entry.st_uid in (os.getuid(), 0) and not entry.st_mode & 0o002


@cache
def _installed_modules() -> frozenset[str]:
    """Return the modules of installed entry points. Metadata in the working folder, which Python finds too, is not."""
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    if site.ENABLE_USER_SITE:
        folders.add(site.getusersitepackages())
    points = (
        point
        for distribution in metadata.distributions(path=sorted(folders))
        for point in distribution.entry_points
        if point.group == ENTRY_POINTS
    )
    return frozenset(point.module.partition(".")[0] for point in points)


def _checked(modules: Iterable[Any], source: str) -> Sequence[str]:
    """Return the names without spaces and empty ones. Raises InputError for anything else than a dotted name."""
    names = [module.strip() if isinstance(module, str) else module for module in modules]
    for name in names:
        if not isinstance(name, str) or (name and not all(part.isidentifier() for part in name.split("."))):
            raise InputError(f"{source}: got {name!r}, expected the name of a module")
    return [name for name in names if name]


_SOURCES = (_named_modules, _environment_modules, _file_modules, _installed_modules)  # the cheapest first
