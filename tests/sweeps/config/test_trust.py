"""Nothing that comes in a folder is executed: a `_target_` is checked by name, then by kind, before any call."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from gatesweep.core.errors import InputError
from gatesweep.sweeps.commands.cli import run_command
from gatesweep.sweeps.commands.load import load
from gatesweep.sweeps.commands.resume import configure, restore_sweep
from gatesweep.sweeps.config import trust
from gatesweep.sweeps.config.compose import compose_config, config_variants, load_file
from gatesweep.sweeps.config.recorded import read_config
from gatesweep.sweeps.config.targets import locate
from gatesweep.sweeps.config.values import to_yaml
from gatesweep.sweeps.schedulers.factory import make_scheduler
from gatesweep.sweeps.search.sampler import make_sampler
from gatesweep.sweeps.search.study import open_study, refuse_pickles
from gatesweep.sweeps.storage.store import Store
from gatesweep.sweeps.storage.uploads import remember_storage
from tests.conftest import tiny

ROOT = Path(__file__).parents[3]
PLACES = ("trainable", "data", "search.sampler", "scheduler")
FOREIGN = ["shutil.rmtree", "pathlib.Path", "os.system", "torch.hub.load", "builtins.eval", "stray.Net", "optuna.Study"]
FOREIGN += [
    "optuna.artifacts.FileSystemArtifactStore",
    "ray.tune.Tuner",
    "gatesweepx.Net",
    "tests.support.trivial.Points",
]
OURS_BUT_WRONG = [  # names in our modules that lead elsewhere, or to something of another kind
    *("gatesweep.core.files.shutil.rmtree", "gatesweep.core.files.Path", "gatesweep.core.loop.fit"),
    *("gatesweep.core.trainable.Trainable", "gatesweep.core.trainable.Data", "gatesweep.load"),
    *("gatesweep.sweeps.config.schema.Config.of", "gatesweep..core.loop.fit", "ray.tune.schedulers.create_scheduler"),
    *("optuna.samplers._tpe.sampler.os.system", "optuna.samplers._cmaes.pickle.loads"),
]
STRAY = """
from pathlib import Path
Path(__file__).with_name("imported").touch()
from tests.support.trivial import Line, Points
class Net(Line): pass
class Data(Points): pass
"""


@pytest.fixture(autouse=True)
def no_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine on which nothing is trusted, with a module beside whoever reads a folder."""
    monkeypatch.setattr(trust, "_trust", trust.Trust())
    monkeypatch.delenv("GATESWEEP_TRUST")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "stray.py").write_text(STRAY)
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.syspath_prepend(tmp_path / "work")
    yield
    sys.modules.pop("stray", None)


def was_imported() -> bool:
    return Path("imported").exists()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("target", FOREIGN + OURS_BUT_WRONG)
def test_a_name_that_leads_elsewhere_is_refused_at_every_place(place: str, target: str) -> None:
    with pytest.raises(InputError, match=rf"^{place}\._target_: (got|cannot import) "):
        locate(place, {"_target_": target})
    assert not was_imported()


def record(folder: Path, **sections: dict[str, Any]) -> Path:
    """The folder of a sweep, and of a run, with other sections than were composed."""
    values = yaml.safe_load(to_yaml(tiny("mlp", "tracking=none")))
    values["search"] |= sections.pop("search", {})
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({**values, **sections}))
    (folder / "trial_0000").mkdir()
    return folder


READERS: dict[str, Callable[[Path], object]] = {
    "load": load,
    "train --config": lambda folder: load_file(folder / "config.yaml", []),
    "train --resume": lambda folder: run("train", "--resume", str(folder)),
    "resume": lambda folder: configure([f"resume={folder}"]),
    "resume of a copy": lambda folder: configure([f"resume={as_copy(folder)}", f"results={folder.parent / 'new'}"]),
    "replay": lambda folder: config_variants(read_config(folder / "config.yaml"), ["grace_period=2"]),
}


def run(*words: str) -> None:
    """Run a command; its bad input is an InputError here too."""
    from gatesweep.sweeps.commands import arguments, train

    train.train_command(arguments.parse(words[0], words[1:]))


def as_copy(folder: Path) -> Path:
    """The folder as a sweep's copy in storage."""
    copy = folder.parent / "storage" / folder.name
    shutil.copytree(folder, copy)
    values = yaml.safe_load((copy / "config.yaml").read_text())
    (copy / "config.yaml").write_text(yaml.safe_dump({**values, "storage": str(copy.parent)}))
    return copy


@pytest.mark.parametrize("reader", READERS)
def test_a_folder_alone_has_nothing_imported_and_a_trusted_module_is_used(reader: str, tmp_path: Path) -> None:
    folder = record(tmp_path / "shared", trainable={"_target_": "stray.Net"}, data={"_target_": "stray.Data"})
    with pytest.raises(InputError, match=r"--trust stray, .*trust = \[\"stray\"\] in gatesweep.toml"):
        READERS[reader](folder)
    assert not was_imported() and not (tmp_path / "new").exists()
    trust.trust_modules(["stray"])
    try:
        READERS[reader](folder if "copy" not in reader else record(tmp_path / "again", **read(folder)))
    except InputError as error:
        assert "_target_" not in str(error)  # it has no checkpoint, or no trials
    assert was_imported()


def read(folder: Path) -> dict[str, Any]:
    values = yaml.safe_load((folder / "config.yaml").read_text())
    return {name: values[name] for name in ("trainable", "data")}


def test_samplers_and_schedulers_and_values_of_a_space_are_checked_too(tmp_path: Path) -> None:
    stray = {"_target_": "stray.Net"}
    config = configure([f"resume={record(tmp_path / 'a', scheduler=stray, search={'sampler': stray})}"])
    for make in (lambda: make_sampler(config.search.sampler, 0), lambda: make_scheduler(config.scheduler, 3, {})):
        with pytest.raises(InputError, match="--trust stray"):
            make()
    from gatesweep.sweeps.search.space import read_space

    space = {"trainable": {"_target_": {"type": "categorical", "choices": ["stray.Net", "stray.Other"]}}}
    with pytest.raises(InputError, match="no hyperparameter"):
        read_space(configure([f"resume={record(tmp_path / 'b', search={'space': space})}"]))
    assert not was_imported()


def test_typed_names_are_trusted_in_a_new_sweep_and_their_kind_is_checked() -> None:
    config = compose_config(["trainable={_target_:stray.Net}", "data={_target_:stray.Data}"])
    assert config.trainable["_target_"] == "stray.Net" and was_imported()
    with pytest.raises(InputError, match="expected a class with the methods of"):
        compose_config(["data._target_=pathlib.Path"])
    with pytest.raises(InputError, match="expected a subclass with the methods of"):
        compose_config(["trainable._target_=stray.Data"])
    with pytest.raises(InputError, match="--trust stray"):
        locate("trainable", {"_target_": "stray.Line"})  # another name of the same module


def toml(folder: Path, text: str = 'trust = ["stray"]\n') -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gatesweep.toml").write_text(text)
    return folder / "gatesweep.toml"


def test_modules_are_named_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trusted() -> bool:
        return trust.is_trusted("stray.Net")

    assert not trusted()
    path = toml(tmp_path / "config" / "gatesweep")
    assert trusted() and not trust.is_trusted("strayed.Net")
    path.chmod(0o666)  # anybody may have written it
    assert not trusted()
    path.unlink()
    monkeypatch.setenv("GATESWEEP_TRUST", "other, stray")
    assert trusted()
    monkeypatch.delenv("GATESWEEP_TRUST")
    for text in ("trust = 5", 'trust = ["a b"]', "trust = ["):
        path = toml(tmp_path / "config" / "gatesweep", text)
        with pytest.raises(InputError, match=f"^{path}: "):
            trusted()
        with pytest.raises(InputError, match=f"^{path}: "):
            trust.trust_modules([str(path)])
        path.unlink()
    for wrong, words in (("a b", "expected the name of a module"), ("nowhere/gatesweep.toml", "which is no file")):
        with pytest.raises(InputError, match=f"^--trust: got '{wrong}', {words}"):
            trust.trust_modules([wrong])


def test_a_file_of_trust_in_a_folder_counts_once_it_is_confirmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have come with the record that it would let run: within it, beside it, above it or elsewhere."""
    shared = record(tmp_path / "shared" / "sweep", trainable={"_target_": "stray.Net"}, data={"_target_": "stray.Data"})
    for place in (shared, shared / "trial_0000", shared.parent, tmp_path):
        path = toml(place)
        for here in (place, shared / "trial_0000"):
            monkeypatch.chdir(here)
            with pytest.raises(InputError, match=f"{path} is not read until you confirm it: --trust {path}"):
                READERS["resume"](shared)
        path.unlink()
    path = toml(tmp_path)
    monkeypatch.chdir(shared)
    trust.trust_modules(["../../gatesweep.toml"])
    monkeypatch.setattr(trust, "_trust", trust.Trust())  # another process
    READERS["resume"](shared)
    path.write_text('trust = ["stray", "other"]')
    assert not trust.is_trusted("stray.Net") and not trust.is_trusted("other.Net")


def test_a_record_is_trusted_where_this_machine_has_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainable, data = {"_target_": "stray.Net"}, {"_target_": "stray.Data"}
    mine = record(tmp_path / "results" / "mine", trainable=trainable, data=data)
    trust.remember_record(mine, read(mine))
    shutil.copytree(mine, tmp_path / "copy")
    assert run_command("run", [f"resume={mine}", "--cfg"]) == 0
    shutil.copy(mine / "config.yaml", mine / "trial_0000")
    for folder, is_own in ((mine, True), (mine / "trial_0000", True), (tmp_path / "copy", False)):
        monkeypatch.setattr(trust, "_trust", trust.Trust())  # another process
        read_config(folder / "config.yaml")
        assert trust.is_trusted("stray.Net") == is_own
    monkeypatch.setattr(trust, "_trust", trust.Trust())
    changed = {**yaml.safe_load((mine / "config.yaml").read_text()), "trainable": {"_target_": "stray.Other"}}
    (mine / "config.yaml").write_text(yaml.safe_dump(changed))
    assert run_command("run", [f"resume={mine}", "--cfg"]) == 2  # a name that it did not have when it was made


def test_an_entry_point_in_the_working_folder_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = record(tmp_path / "shared", trainable={"_target_": "stray.Net"})
    information = shared / "stray-1.dist-info"  # Python finds it where the working folder is on its path
    information.mkdir()
    (information / "entry_points.txt").write_text("[gatesweep.trainables]\nnet = stray:Net\n")
    (information / "METADATA").write_text("Name: stray\nVersion: 1\n")
    monkeypatch.syspath_prepend(shared)
    trust._installed_modules.cache_clear()
    assert not trust.is_trusted("stray.Net")


def test_an_installed_distribution_may_name_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    information = tmp_path / "site" / "stray-1.dist-info"
    information.mkdir(parents=True)
    (information / "entry_points.txt").write_text("[gatesweep.trainables]\nnet = stray.net:Net\n")
    (information / "METADATA").write_text("Name: stray\nVersion: 1\n")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "site"))
    trust._installed_modules.cache_clear()
    assert trust.is_trusted("stray.Net")
    trust._installed_modules.cache_clear()


def test_the_option_of_a_command_trusts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = record(tmp_path / "shared", trainable={"_target_": "stray.Net"}, data={"_target_": "stray.Data"})
    assert run_command("run", [f"resume={folder}", "--cfg"]) == 2
    assert "--trust stray" in capsys.readouterr().err
    assert run_command("run", [f"resume={folder}", "--cfg", "--trust", "stray"]) == 0
    assert trust.trust_option({"trainable": {"_target_": "stray.Net"}}) == " --trust stray"  # what to type next time


def test_a_record_reads_no_variable_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it could send one to a server that it names."""
    monkeypatch.setenv("CANARY", "sung")
    folder = record(tmp_path / "shared", name="a${oc.env:CANARY}\\${oc.env:CANARY}")  # type: ignore[arg-type]
    config = configure([f"resume={folder}"])
    assert config.name == "a${oc.env:CANARY}\\${oc.env:CANARY}"


LINKS = ("trial_0000", "trial_0000/checkpoints", "events.jsonl", "trial_0000/error.txt")


@pytest.mark.parametrize("name", LINKS)
def test_a_link_out_of_a_record_is_refused(name: str, tmp_path: Path) -> None:
    """Else a resume would prune the checkpoints of some other folder, and a publisher send its files."""
    folder, precious = record(tmp_path / "shared"), tmp_path / "precious"
    (precious / ".hidden").mkdir(parents=True)
    path = folder / name
    if path.is_dir():
        path.rmdir()
    path.symlink_to(precious)
    for command in (["run", f"resume={folder}"], ["report", str(folder)], ["publish", str(folder)]):
        assert run_command(command[0], command[1:]) == 2
    assert run_command("train", ["--resume", str(folder)]) == 2
    with pytest.raises(InputError, match="a link out of the folder"):
        load(folder)
    assert (precious / ".hidden").is_dir() and list(precious.iterdir()) == [precious / ".hidden"]


def test_load_fetches_nothing_from_a_storage_that_only_the_record_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a record could bring files that the reader alone can read into its folder, or the reader to a server."""
    folder = record(tmp_path / "shared")
    values = yaml.safe_load((folder / "config.yaml").read_text())
    storage, trial = str(tmp_path / "private"), folder / "trial_0000"
    (trial / "config.yaml").write_text(yaml.safe_dump({**values, "storage": storage}))
    precious = tmp_path / "private" / "shared" / "trial_0000" / "checkpoints" / "private.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("precious")
    for known, ways in (
        (False, {}),
        (False, {"GATESWEEP_STORAGE": str(tmp_path)}),
        (True, {"GATESWEEP_STORAGE": storage}),
        (True, {}),
    ):
        for name in ways:
            monkeypatch.setenv(name, ways[name])
        with pytest.raises(InputError, match=r"has no checkpoint; .*load\(\.\.\., storage="):
            load(trial, storage=storage if known and not ways else None)
        assert (trial / "checkpoints" / "private.txt").exists() == known
        shutil.rmtree(trial / "checkpoints", ignore_errors=True)
        monkeypatch.delenv("GATESWEEP_STORAGE", raising=False)
    remember_storage(folder, storage)
    with pytest.raises(InputError, match="has no checkpoint"):
        load(trial)
    assert (trial / "checkpoints" / "private.txt").exists()


def test_a_copy_in_storage_stays_in_its_folder(tmp_path: Path) -> None:
    """Names with `..`, as an object store may hold them, and links."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    copy = tmp_path / "storage" / "one"
    copy.mkdir(parents=True)
    (copy / "config.yaml").touch()
    (copy / "trial_0007").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="leads out of"):
        restore_sweep(str(copy), tmp_path / "results")
    store = Store(str(tmp_path / "storage"), "one")
    for work in (
        lambda: store.get("../../precious/file", tmp_path / "got"),
        lambda: store.put("trial_0007/file", b"gone"),
        lambda: store.delete("../../precious/file"),
    ):
        with pytest.raises(InputError, match="leads out of"):
            work()
    assert (tmp_path / "precious" / "file").read_bytes() == b"" and not (tmp_path / "results").exists()


def test_a_study_with_pickles_is_refused(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    trial = study.ask()
    refuse_pickles(study)
    study._storage.set_trial_system_attr(trial._trial_id, "cma:optimizer:0", "80049")
    with pytest.raises(InputError, match="pickles of CmaEsSampler"):
        refuse_pickles(open_study(tmp_path))
    assert "cma:" in Path(optuna.samplers._cmaes.__file__).read_text()  # the name of those attributes


def test_a_shared_folder_on_a_fresh_process(tmp_path: Path) -> None:
    """The current folder is on Python's path there, as in a notebook."""
    folder = record(tmp_path / "shared", trainable={"_target_": "stray.Net"}, data={"_target_": "stray.Data"})
    code = f"import gatesweep; gatesweep.load({str(folder)!r})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert "InputError" in done.stderr and not was_imported()
