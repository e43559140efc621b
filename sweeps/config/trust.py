"""Trust: the modules whose classes a `_target_` may name, beside those of gatesweep, Optuna and Ray's schedulers.

A name is trusted because of this machine and its user, never because a sweep's folder holds it:

    what was typed       the names in the overrides of a command, or in the values of a new sweep
    --trust MODULE       of a command; `load(folder, trust=["module"])`
    GATESWEEP_TRUST      an environment variable: modules with commas between
    gatesweep.toml       `trust = ["module"]`, in the working folder or a folder above it, or in ~/.config/gatesweep
    entry points         of the group `gatesweep.trainables`, of distributions that are installed

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
from gatesweep.sweeps.config.groups import MAIN

OWN = ("gatesweep", "optuna.samplers", "ray.tune.schedulers")  # modules that a `_target_` may always name
OWN_SOURCES = (*OWN, "optuna", "ray.tune")  # modules in which such a class may be defined
VARIABLE, FILE, ENTRY_POINTS = "GATESWEEP_TRUST", "gatesweep.toml", f"{OWN[0]}.trainables"
COMPOSED = f"{MAIN}.yaml"  # in the folder of every record; a folder that has one may have come from somebody else


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
    """Trust modules that the user has named. Raises InputError for anything else than dotted names."""
    _add(Trust(modules=frozenset(_checked(modules, "--trust"))))


def trust_typed(values: Any) -> None:
    """Trust the classes that nested `values`, which the user has typed, name in a `_target_`."""
    _add(Trust(names=frozenset(_target_names(values))))


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
    ignored = next(iter(_toml_files(inside_records=True)), None)
    note = f"; {ignored} is not read: it lies in the folder of a {COMPOSED}" if ignored else ""
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


def _named_modules() -> frozenset[str]:
    return _trust.modules


def _environment_modules() -> frozenset[str]:
    return frozenset(_checked(os.environ.get(VARIABLE, "").split(","), VARIABLE))


def _file_modules() -> frozenset[str]:
    """Return the modules that the user's gatesweep.toml name. Raises InputError for a damaged one."""
    modules: set[str] = set()
    for path in _toml_files():
        try:
            names = tomllib.loads(read_utf8(path)).get("trust", [])
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"{path}: expected TOML ({error})") from error
        if not isinstance(names, list):
            raise InputError(f'{path}: trust: got {names!r}, expected modules: trust = ["module"]')
        modules |= set(_checked(names, f"{path}: trust"))
    return frozenset(modules)


def _toml_files(inside_records: bool = False) -> list[Path]:
    """List the gatesweep.toml of the user: in the working folder and above it, and in the user's own configuration.

    A file of another user is left out, and so is one in the folder of a record, or below it: it came with the record.
    With `inside_records` the list holds those that are left out for that.
    """
    here = Path.cwd()
    folders = [here, *here.parents]
    records = [number for number, folder in enumerate(folders) if (folder / COMPOSED).is_file()]
    first_outside = records[-1] + 1 if records else 0
    chosen = folders[:first_outside] if inside_records else folders[first_outside:]
    if not inside_records:
        own = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
        chosen.append(Path(own) / "gatesweep")
    return [folder / FILE for folder in chosen if _is_own(folder / FILE)]


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
