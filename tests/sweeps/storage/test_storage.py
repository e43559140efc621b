"""Machines that share no disk: checkpoints, figures and the record's copy in a folder or on a real S3 interface."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from moto.server import ThreadedMotoServer
from pyarrow import fs

from gatesweep.core import checkpoint
from gatesweep.sweeps.commands.load import load
from gatesweep.sweeps.commands.resume import configure, restore_sweep
from gatesweep.sweeps.commands.run import run_sweep
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.records.layout import trial_folders
from gatesweep.sweeps.storage.mirror import Mirror
from gatesweep.sweeps.storage.store import Store
from gatesweep.sweeps.storage.uploads import TrialStorage
from tests.conftest import trivial
from tests.sweeps.commands.test_sweep import recorded, run


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The URI of a bucket, on a server of this machine."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    uri = f"s3://key:secret@sweeps/here?scheme=http&region=us-east-1&endpoint_override={host}:{port}"
    fs.FileSystem.from_uri(f"{uri}&allow_bucket_creation=true")[0].create_dir("sweeps")
    yield uri
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "storage")
    uri = request.getfixturevalue("s3")
    return uri.replace("/here?", f"/{tmp_path.name}?")


def below(storage: str, name: str) -> str:
    """The URI of something in `storage`."""
    path, mark, query = storage.partition("?")
    return f"{path}/{name}{mark}{query}"


@pytest.fixture(scope="module")
def whole(ray_here: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of four trials that nothing interrupts."""
    return run(trivial(tmp_path_factory.mktemp("whole"), None, "num_samples=4"))[1]


def test_a_sweep_goes_on_when_the_machine_of_its_trial_and_then_its_head_are_gone(
    s3: str, whole: Path, tmp_path: Path
) -> None:
    """With nothing but what is in storage, it ends as one that had never been interrupted.

    Storage is S3 here; test_warm_start.py has a sweep whose storage is a folder.
    """
    marker = tmp_path / "alive"
    marker.touch()
    killed = {"misbehave": "kill", "at_epoch": 2, "marker": str(marker)}
    _, folder, first = run(trivial(tmp_path / "first", None, "num_samples=2", f"storage='{s3}'", **killed))
    assert not marker.exists() and first["failed"] == 0
    assert not list(folder.glob("*/checkpoints"))
    assert recorded(folder) == recorded(whole)[:2]
    shutil.rmtree(tmp_path / "first")

    resume = f"resume='{below(s3, folder.name)}'"
    run_sweep(configure([f"results={tmp_path / 'second'}", "num_samples=4", resume]))
    folder = tmp_path / "second" / folder.name
    assert recorded(folder) == recorded(whole)

    for ours, theirs in zip(trial_folders(folder), trial_folders(whole), strict=True):
        (trainable, _), (whole_trainable, _) = load(ours), load(theirs)
        assert all(
            torch.equal(value, whole_trainable.state_dict()[key]) for key, value in trainable.state_dict().items()
        )
    kept = {name for name in Store(s3, folder.name).listed() if name.endswith("state.pt")}
    assert kept == {str(path.relative_to(whole)) for path in whole.rglob("state.pt")}  # pruned alike


def test_half_a_checkpoint_in_storage_is_none(storage: str, tmp_path: Path) -> None:
    trial = tmp_path / "sweep" / "trial_0000"
    place = TrialStorage(storage, trial)
    for epoch in (1, 2):
        checkpoint.save(place.folder / "checkpoints" / f"epoch_{epoch:04d}", {"epoch": epoch}, {"epoch": epoch})
    place.push()
    place.wait_uploaded()
    place.close()
    assert not place.folder.exists() and not trial.exists()
    Store(storage, "sweep", "trial_0000").delete("checkpoints/epoch_0002/meta.json")  # it is sent last
    second = TrialStorage(storage, trial)
    with pytest.warns(UserWarning, match="passing over it"):
        newest = checkpoint.newest(second.folder / "checkpoints")
    assert newest and newest[0].epoch == 1
    again = {"epoch": 2, "seconds": 0.5}  # the same epoch, and not the same bytes: they hold clocks
    checkpoint.save(second.folder / "checkpoints" / "epoch_0002", again, {"epoch": 2})
    second.push()
    second.wait_uploaded()
    second.close()
    last = TrialStorage(storage, trial)
    newest = checkpoint.newest(last.folder / "checkpoints")
    assert newest and newest[1] == again
    last.close()


def test_a_study_is_never_ahead_of_its_trials(tmp_path: Path) -> None:
    """A trial that the copied study has not heard of goes, and its checkpoints: another will have its name."""
    storage, folder = tmp_path / "storage", tmp_path / "figures" / "one"  # whatever the folders above are called
    for name in ("trial_0000", "trial_0001"):
        (folder / name).mkdir(parents=True)
        (folder / name / "events.jsonl").write_text("")
        Store(str(storage), "one", name).put("checkpoints/epoch_0001/state.pt", b"")
    (folder / "config.yaml").write_text("")
    from gatesweep.sweeps.search.study import open_study

    open_study(folder).ask()
    mirror = Mirror(str(storage), folder)
    with (folder / "study.journal").open("a") as stream:
        stream.write('{"half a line')
    assert mirror.close()
    back = restore_sweep(str(storage / "one"), tmp_path / "back")
    assert [path.name for path in trial_folders(back)] == ["trial_0000"]
    assert [name for name in Store(str(storage), "one").listed() if "trial_0001" in name] == []
    assert len(open_study(back).trials) == 1


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("/proc/nowhere", "storage: got '/proc/nowhere', which cannot be written"),
        ("nosuch://bucket", "storage: got 'nosuch://bucket', expected a folder or a URI like s3://bucket/sweeps"),
    ],
)
def test_storage_that_cannot_be_used(storage: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        run_sweep(compose_config([*trivial(tmp_path / "results"), f"storage='{storage}'"]))
    assert message in str(caught.value)
    assert not (tmp_path / "results").exists()


def test_storage_is_not_the_results_themselves(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="which is `results` itself: storage=null"):
        run_sweep(compose_config([*trivial(tmp_path), f"storage={tmp_path}"]))


def test_what_cannot_be_resumed_from_storage(tmp_path: Path) -> None:
    (tmp_path / "storage" / "one").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"resume: got .*expected the copy of a sweep"):
        restore_sweep(str(tmp_path / "storage" / "one"), tmp_path / "results")
    (tmp_path / "storage" / "one" / "config.yaml").write_text("")
    (tmp_path / "results" / "one").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"is in .*results/one' already: resume="):
        restore_sweep(str(tmp_path / "storage" / "one"), tmp_path / "results")
