"""Data made once on a machine: the same batches whoever made them, and runs that go on whatever becomes of the file."""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from gatesweep.core.cache import CPU, MAX_FILES, cache_scope, machine_cache
from gatesweep.sweeps.commands.contract import same_batch
from gatesweep.sweeps.commands.run import run_sweep
from gatesweep.sweeps.config.build import _cached_data
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.groups import CONFIGS
from gatesweep.sweeps.config.targets import locate
from gatesweep.trainables.autoencoders.events import simulate
from gatesweep.trainables.autoencoders.files import write_hdf5
from tests.conftest import trivial
from tests.support.trivial import Points
from tests.trainables.operators.test_bearing_files import write as write_recordings

KINDS = sorted(path.stem for path in (CONFIGS / "data").glob("*.yaml"))
FEW = {  # of whatever there may be fewer of
    "batch_size": 4,
    "columns": 16,
    "context": 64,
    "held_out": 32,
    "n_events": 200,
    "n_labelled": 4,
    "n_test": 12,
    "n_train": 60,
    "n_unlabelled": 8,
    "n_val": 12,
    "n_walks": 64,
    "per_class": 64,
    "rows": 9,
    "test_bearings": 1,
    "train_bearings": 1,
    "val_bearings": 1,
    "windows": 64,
}


@dataclass(frozen=True)
class Recipe:
    """How `numbers` are made, each time with a line in `log`."""

    log: str
    seconds: float = 0.0
    fault: str | None = None


@machine_cache
def numbers(recipe: Recipe, device: torch.device) -> dict[str, Any]:
    with Path(recipe.log).open("a") as log:
        log.write(f"{os.getpid()}\n")
    time.sleep(60 if recipe.fault == "slow at first" and len(makers(Path(recipe.log))) == 1 else recipe.seconds)
    if recipe.fault == "error":
        raise ValueError("data.fault: got 'error', expected none")
    extra: Any = (lambda: 0) if recipe.fault == "cannot be pickled" else None
    return {"x": torch.arange(100_000.0).to(device), "extra": extra}


class LoggedPoints(Points):
    """Points whose making leaves a line, the process's number, in `log`."""

    def __init__(self, *, device: torch.device, seed: int, log: str, batch_size: int = 16) -> None:
        super().__init__(device=device, seed=seed, batch_size=batch_size)
        assert numbers(Recipe(log), torch.device(device))["x"].sum() > 0


def makers(log: Path) -> list[int]:
    return [int(line) for line in log.read_text().split()] if log.exists() else []


def forked(act: Callable[[], Any]) -> int:
    """The number of a process that does something and exits, with 0 if that was true."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(30)
            code = 0 if act() else 1
        finally:
            os._exit(code)
    return child


def exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def files() -> list[Path]:
    return sorted(Path(tempfile.gettempdir()).glob("gatesweep-*/*/*.pt"))


def forget() -> None:
    """What this process has made."""
    _cached_data.cache_clear()
    for module in [one for name, one in sys.modules.items() if name.startswith(("gatesweep.trainables.", __name__))]:
        for value in vars(module).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    forget()


def node(kind: str, folder: Path) -> dict[str, Any]:
    """A file of configs/data with few samples, and with a file of data where it wants one."""
    found = yaml.safe_load((CONFIGS / "data" / f"{kind}.yaml").read_text())
    few = {key: min(value, FEW[key]) for key, value in found.items() if key in FEW and value is not None}
    if kind == "events_file":
        write_hdf5(folder / "events.h5", simulate(200, 18, 0))
        few["path"] = str(folder / "events.h5")
    elif kind == "bearings_files":
        few["path"] = str(write_recordings(folder))
    elif kind == "series_file":
        lines = [f"{index % 2}\t" + "\t".join(str((index * k) % 7) for k in range(1, 9)) for index in range(40)]
        (folder / "series.tsv").write_text("\n".join(lines) + "\n")
        few["path"] = str(folder / "series.tsv")
    return found | few


@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_the_same_whoever_made_them(kind: str, tmp_path: Path) -> None:
    fields = node(kind, tmp_path)
    make = locate("data", {"_target_": fields.pop("_target_")})

    def batches() -> list[Any]:
        data = make(device="cpu", seed=0, **fields)
        return [*data.train(0), *data.train(1), *data.val()]

    alone = batches()
    with cache_scope():
        forget()
        first = batches()
        made = files()
        assert len(made) == 1 and made[0].stat().st_size > 0
        forget()
        made_at = made[0].stat().st_mtime_ns
        mapped = batches()
        assert made[0].stat().st_mtime_ns == made_at
    assert same_batch(alone, first) and same_batch(alone, mapped)


def test_of_processes_that_start_together_one_makes_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with cache_scope():
        children = [forked(lambda: numbers(Recipe(str(log), 0.3), CPU)["x"].sum() > 0) for _ in range(4)]
        assert [exit_code(child) for child in children] == [0] * 4
        assert len(makers(log)) == 1
        assert numbers(Recipe(str(log), 0.3), CPU)["x"][-1] == 99_999 and len(makers(log)) == 1
        assert numbers(Recipe(str(log), 0.2), CPU)["x"][-1] == 99_999 and len(makers(log)) == 2  # another recipe
    assert files() == []


def test_its_pages_are_shared_until_they_are_written_to(tmp_path: Path) -> None:
    with cache_scope():
        mine = numbers(Recipe(str(tmp_path / "log")), CPU)["x"]
        maps = Path("/proc/self/smaps")
        if maps.exists():
            assert f"{files()[0]}" in maps.read_text()
        mine[0] = -1.0
        assert exit_code(forked(lambda: not forget() and numbers(Recipe(str(tmp_path / "log")), CPU)["x"][0] == 0)) == 0
    assert mine[0] == -1 and mine[-1] == 99_999  # and the file is gone


def test_on_another_device_it_is_a_copy(tmp_path: Path) -> None:
    with cache_scope():
        assert numbers(Recipe(str(tmp_path / "log")), torch.device("meta"))["x"].device.type == "meta"
        assert numbers(Recipe(str(tmp_path / "log")), CPU)["x"][-1] == 99_999
    assert len(makers(tmp_path / "log")) == 1


def test_who_is_killed_while_making_it_holds_nobody_up(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with cache_scope():
        recipe = Recipe(str(log), fault="slow at first")
        child = forked(lambda: numbers(recipe, CPU))
        while not makers(log):
            time.sleep(0.01)
        lock = next(Path(tempfile.gettempdir()).glob("gatesweep-*/*/*.lock"))
        lock.with_name(f".{lock.stem}.pt.{child}").write_bytes(b"half of it")
        waiting = forked(lambda: numbers(recipe, CPU)["x"][-1] == 99_999)
        os.kill(child, signal.SIGKILL)
        assert (exit_code(child), exit_code(waiting)) == (-signal.SIGKILL, 0)
        assert numbers(recipe, CPU)["x"][-1] == 99_999 and makers(log) == [child, waiting]


def test_what_cannot_be_shared_is_made_by_each(tmp_path: Path) -> None:
    def on_a_full_disk() -> bool:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        return bool(numbers(Recipe(str(tmp_path / "full")), CPU)["x"][-1] == 99_999)

    with cache_scope():
        strange = Recipe(str(tmp_path / "strange"), fault="cannot be pickled")
        assert numbers(strange, CPU)["x"][-1] == 99_999
        assert exit_code(forked(lambda: not forget() and numbers(strange, CPU)["extra"]() == 0)) == 0
        assert exit_code(forked(on_a_full_disk)) == 0
        assert exit_code(forked(lambda: numbers(Recipe(str(tmp_path / "full")), CPU)["x"][-1] == 99_999)) == 0
        with pytest.raises(ValueError, match=r"^data.fault: got 'error', expected none$"):
            numbers(Recipe(str(tmp_path / "error"), fault="error"), CPU)
    assert len(makers(tmp_path / "error")) == 1


@pytest.mark.parametrize("flaw", ["a link", "open to others", "a file"])
def test_a_folder_that_others_could_write_in_is_not_used(flaw: str, tmp_path: Path) -> None:
    home, elsewhere = tmp_path / f"gatesweep-{os.getuid()}", tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    if flaw == "a link":
        home.symlink_to(elsewhere)
    elif flaw == "open to others":
        home.mkdir()
        home.chmod(0o777)
    else:
        home.touch()
    with cache_scope():
        assert numbers(Recipe(str(tmp_path / "log")), CPU)["x"][-1] == 99_999
    assert not list(elsewhere.iterdir()) and files() == []


def test_what_a_killed_sweep_left_is_removed_by_the_next(tmp_path: Path) -> None:
    def killed() -> None:
        with cache_scope():
            numbers(Recipe(str(tmp_path / "log")), CPU)
            os._exit(0)

    exit_code(forked(killed))
    assert len(files()) == 1
    with cache_scope():
        assert files() == []
        numbers(Recipe(str(tmp_path / "log")), CPU)
        assert exit_code(forked(killed_with_another_name)) == 0  # what is in use stays
        assert len(files()) == 1


def killed_with_another_name() -> bool:
    with cache_scope():
        return True


def test_a_search_over_data_keeps_few_files(tmp_path: Path) -> None:
    with cache_scope():
        for index in range(MAX_FILES + 3):
            numbers(Recipe(str(tmp_path / f"log{index}")), CPU)
        assert len(files()) == MAX_FILES


@pytest.mark.usefixtures("ray_here")
def test_a_sweep_makes_its_data_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)  # where the trials' processes look, too
    log = tmp_path / "log"
    data = f"data={{_target_:'tests.core.test_cache.LoggedPoints',log:'{log}'}}"
    overrides = trivial(tmp_path / "results", None, "num_samples=2", "scheduler=none")
    run_sweep(compose_config([one for one in overrides if not one.startswith("data=")] + [data]))
    assert makers(log) == [os.getpid()]
    assert "shared:" not in (tmp_path / "results" / "latest" / "trial_0000" / "config.yaml").read_text()
