"""Checkpoints: whole or not at all, damage refused by name, no code run, every generator restored."""

from __future__ import annotations

import builtins
import json
import os
import pickle
import random
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gatesweep.core import checkpoint, rng
from gatesweep.core.checkpoint import DamagedCheckpoint


def write(folder: Path, epoch: int, **meta: Any) -> checkpoint.Checkpoint:
    return checkpoint.save(
        folder / f"epoch_{epoch:04d}", {"weight": torch.full((3,), float(epoch))}, {"epoch": epoch, **meta}
    )


def kept(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("epoch_")) for path in folder.glob("epoch_*"))


def flip_a_byte(path: Path) -> None:
    data = bytearray((path / "state.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (path / "state.pt").write_bytes(data)


def truncate(path: Path) -> None:
    os.truncate(path / "state.pt", (path / "state.pt").stat().st_size // 2)


def delete_the_state(path: Path) -> None:
    (path / "state.pt").unlink()


def delete_the_meta(path: Path) -> None:
    (path / "meta.json").unlink()


def empty_the_meta(path: Path) -> None:
    (path / "meta.json").write_text("")


def cut_the_meta(path: Path) -> None:
    os.truncate(path / "meta.json", 10)


def scramble_the_meta(path: Path) -> None:
    (path / "meta.json").write_bytes(b"\xff\x00\xfe")


def forget_the_checksum(path: Path) -> None:
    (path / "meta.json").write_text('{"epoch": 2}')


def replace_the_meta_by_another_type(path: Path) -> None:
    (path / "meta.json").write_text("null")


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    saved = write(tmp_path, 7, score=0.5, outcome="passed", metrics={"val/loss": 0.25})
    found = checkpoint.read(tmp_path / "epoch_0007")
    assert found == saved and found.epoch == 7 and found.meta["metrics"] == {"val/loss": 0.25}
    assert torch.equal(found.state()["weight"], torch.full((3,), 7.0))
    assert {path.name for path in tmp_path.iterdir()} == {"epoch_0007"}
    assert {path.name for path in found.path.iterdir()} == {"state.pt", "meta.json"}


def test_a_person_can_read_the_meta(tmp_path: Path) -> None:
    path = write(tmp_path, 1, score=-0.5).path / "meta.json"
    meta = json.loads(path.read_text())
    assert meta["epoch"] == 1 and meta["score"] == -0.5 and re.fullmatch("[0-9a-f]{64}", meta["sha256"])


def test_an_epoch_that_is_trained_again_replaces_the_first(tmp_path: Path) -> None:
    write(tmp_path, 1, score=1.0)
    checkpoint.save(tmp_path / "epoch_0001", {"weight": torch.zeros(1)}, {"epoch": 1})
    found = checkpoint.read(tmp_path / "epoch_0001")
    assert torch.equal(found.state()["weight"], torch.zeros(1)) and "score" not in found.meta


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_crash_while_writing_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    write(tmp_path, 1)
    torch_save = torch.save

    def crash(state: Any, file: Path) -> None:
        torch_save(state, file)
        truncate(file.parent)
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", crash)
    with pytest.raises(OSError, match="no space left"):
        checkpoint.save(tmp_path / f"epoch_{epoch:04d}", {"weight": torch.zeros(9)}, {"epoch": epoch})
    monkeypatch.undo()
    assert kept(tmp_path) == [1]
    found = checkpoint.newest(tmp_path)
    assert found and torch.equal(found[1]["weight"], torch.ones(3))
    assert write(tmp_path, epoch).state()["weight"][0] == epoch  # and the next attempt succeeds


def test_what_a_crash_left_aside_is_no_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2).path.rename(tmp_path / ".epoch_0002.4711")  # whole, and not yet renamed
    (tmp_path / ".epoch_0003.4711").mkdir()
    found = checkpoint.newest(tmp_path)
    assert found and found[0].epoch == 1
    checkpoint.prune(tmp_path, 1)
    assert kept(tmp_path) == [1]


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (flip_a_byte, "state.pt does not match its checksum"),
        (truncate, "state.pt does not match its checksum"),
        (delete_the_state, r"cannot read state.pt \(No such file or directory\)"),
        (delete_the_meta, r"cannot read meta.json \(.*No such file"),
        (empty_the_meta, r"cannot read meta.json \(Expecting value"),
        (cut_the_meta, r"cannot read meta.json \("),
        (scramble_the_meta, r"cannot read meta.json \(.*decode"),
        (forget_the_checksum, r"cannot read meta.json \('sha256'\)"),
        (replace_the_meta_by_another_type, r"cannot read meta.json \("),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name_and_the_one_before_it_taken(
    tmp_path: Path, damage: Callable[[Path], None], what: str
) -> None:
    write(tmp_path, 1)
    broken = write(tmp_path, 2).path
    damage(broken)
    with pytest.raises(DamagedCheckpoint, match=f"checkpoint {re.escape(str(broken))}: {what}"):
        checkpoint.read(broken).state()
    with pytest.warns(UserWarning, match=f"epoch_0002: {what}.*(taking the one before it|passing over it)"):
        found = checkpoint.newest(tmp_path)
    assert found and found[0].epoch == 1 and torch.equal(found[1]["weight"], torch.ones(3))


def test_where_all_are_damaged_there_is_none(tmp_path: Path) -> None:
    for epoch in (1, 2):
        flip_a_byte(write(tmp_path, epoch).path)
    with pytest.warns(UserWarning, match="does not match its checksum"):
        assert checkpoint.newest(tmp_path) is None


def test_where_there_is_none_there_is_none(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None and checkpoint.newest(tmp_path / "absent") is None
    checkpoint.prune(tmp_path / "absent", 1)


def test_a_whole_checkpoint_is_found_without_a_warning(tmp_path: Path) -> None:
    for epoch in (2, 10, 9):
        write(tmp_path, epoch)
    (tmp_path / "notes.txt").write_text("a file is no checkpoint")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = checkpoint.newest(tmp_path)
    assert found and found[0].epoch == 10 and found[1]["weight"][0] == 10


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return builtins.exec, ("import builtins; builtins.fallen = True",)


def test_no_code_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    saved = checkpoint.save(tmp_path / "epoch_0001", {"weight": Malicious()}, {"epoch": 1})
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        checkpoint.read(saved.path).state()
    assert not hasattr(builtins, "fallen")


@pytest.mark.parametrize(
    ("scores", "passed", "keep_last", "left"),
    [
        ([-5, -4, -3, -2, -1], None, 2, [4, 5]),
        ([-5, -1, -3, -2, -4], None, 2, [2, 4, 5]),  # the best
        ([-5, 1.5, -2, 1.1, 1.2], 5, 1, [2, 5]),  # the best, and the one that passed (the second in a row)
        ([-5, -4], None, 3, [1, 2]),
        ([-1, -1, -1, -1], None, 1, [1, 4]),  # of equals the first
    ],
)
def test_pruning_keeps_the_last_the_best_and_the_one_that_passed(
    tmp_path: Path, scores: list[float], passed: int | None, keep_last: int, left: list[int]
) -> None:
    for epoch, score in enumerate(scores, 1):
        write(tmp_path, epoch, score=score, outcome="passed" if epoch == passed else None)
    checkpoint.prune(tmp_path, keep_last)
    assert kept(tmp_path) == left
    checkpoint.prune(tmp_path, keep_last)
    assert kept(tmp_path) == left


def test_a_checkpoint_that_is_synced_outlives_later_ones_that_are_not(tmp_path: Path) -> None:
    for epoch in range(1, 7):
        checkpoint.save(tmp_path / f"epoch_{epoch}", {}, {"epoch": epoch, "score": epoch - 9.0}, sync=epoch == 2)
        checkpoint.prune(tmp_path, keep_last=2)
    assert [one.name for one in sorted(tmp_path.iterdir())] == ["epoch_2", "epoch_5", "epoch_6"]
    write(tmp_path, 7, score=-1.0)
    checkpoint.prune(tmp_path, keep_last=1)
    assert [one.name for one in tmp_path.iterdir()] == ["epoch_0007"]


def test_pruning_every_epoch_still_keeps_the_best(tmp_path: Path) -> None:
    scores = [-3.0, -0.5, -2.0, -1.0, -4.0, -0.6]
    for epoch, score in enumerate(scores, 1):
        write(tmp_path, epoch, score=score)
        checkpoint.prune(tmp_path, 2)
    assert kept(tmp_path) == [2, 5, 6]


def test_the_best_is_the_one_that_passed_or_else_the_one_of_the_best_score(tmp_path: Path) -> None:
    assert checkpoint.best(tmp_path) is None
    for epoch, score in enumerate([-3.0, 1.5, -2.0], 1):
        write(tmp_path, epoch, score=score)
    found = checkpoint.best(tmp_path)
    assert found and found.epoch == 2
    write(tmp_path, 4, score=1.2, outcome="passed")
    found = checkpoint.best(tmp_path)
    assert found and found.epoch == 4


def draw() -> list[Any]:
    """From every generator; a normal of numpy's and python's leaves its twin for the next call."""
    drawn: list[Any] = [torch.rand(4).tolist(), np.random.normal(), np.random.rand(4).tolist()]
    drawn += [random.gauss(0, 1), random.random()]
    return drawn + ([torch.rand(4, device="cuda").tolist()] if torch.cuda.is_available() else [])


@given(seed=st.integers(0, 2**63 - 1), warm=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_every_generator_goes_on_where_it_was(seed: int, warm: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    rng.seed_everything(seed)
    for _ in range(warm):
        draw()
    file = tmp_path_factory.getbasetemp() / "rng.pt"
    torch.save(rng.state(), file)
    expected = [draw(), draw()]
    rng.seed_everything(1)
    rng.restore(torch.load(file, weights_only=True))
    assert [draw(), draw()] == expected


def test_a_seed_decides_every_generator() -> None:
    first, again, other = [(rng.seed_everything(seed), draw())[1] for seed in (5, 5, 6)]
    assert first == again
    assert all(one != two for one, two in zip(first, other, strict=True))
