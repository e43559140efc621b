"""Recorded bearings: MATLAB files written here, read as batches, trained on, and refused where they would deceive."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy.io import savemat

from gatesweep.core.errors import InputError
from gatesweep.core.gate import Gate
from gatesweep.core.loop import fit
from gatesweep.core.settings import Settings
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.groups import CONFIGS
from gatesweep.sweeps.config.schema import make_gate
from gatesweep.trainables.operators.bearing import BearingOperator
from gatesweep.trainables.operators.bearing_files import FIELDS, RecordedBearings, cut
from gatesweep.trainables.operators.faults import GEOMETRY, simulate
from tests.support.examples import CPU

SPEED = 1797 * 2 * math.pi / 60  # rad/s


def impacts(order: float, seed: int, seconds: float = 1.4) -> np.ndarray:
    """A resonance at 3 kHz struck `order` times a turn (never, for 0), under noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(12_000 * seconds)) / 12_000
    force = 0.1 * rng.standard_normal(len(time))
    if order:
        hits = np.arange(0, seconds * SPEED / (2 * math.pi) * order) / (SPEED / (2 * math.pi) * order)
        force[(hits * 12_000).astype(int).clip(max=len(time) - 1)] += 1
    ring = np.exp(-600 * time[:200]) * np.sin(2 * math.pi * (2800 + 100 * (seed % 4)) * time[:200])
    return np.convolve(force, ring)[: len(time)]


def write(folder: Path, **changes: Any) -> Path:
    """An index of nine recordings, three bearings of each class, one in each part; `changes` to the first line."""
    rows = []
    for index, (label, order) in enumerate(
        (("inner_1", GEOMETRY.orders["inner"]), ("normal", 0.0), ("outer_1", 3.5848))
    ):
        for number, split in enumerate(("train", "val", "test")):
            name = f"{100 + 3 * index + number}.mat"
            signal = impacts(order, 3 * index + number)
            key = name.removesuffix(".mat").zfill(3)
            savemat(folder / name, {f"X{key}_DE_time": signal[:, None], f"X{key}_FE_time": signal[:50, None]})
            rows.append(dict(zip(FIELDS, (name, label, f"{label} of {split}", "0", "1797", split), strict=True)))
    rows[0] |= changes
    path = folder / "bearings.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def recorded(path: Path, **fields: Any) -> RecordedBearings:
    return RecordedBearings(**({"device": CPU, "seed": 0, "path": str(path), "batch_size": 8} | fields))


def test_windows_are_those_of_the_files(tmp_path):
    data = recorded(write(tmp_path), overlap=0.5)
    assert data.classes == ("normal", "inner_1", "outer_1") and not data.has_states
    train = data.part("train")
    each = len(cut(np.zeros(16_800), 1024, 0.5))
    assert each == (16_800 - 1024) // 512 + 1 and len(train["label"]) == 3 * each
    signal = impacts(GEOMETRY.orders["inner"], 0)
    exact = torch.from_numpy(signal[512 : 512 + 1024] - signal.mean()).float()
    ratio = train["vibration"][1] / exact
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=1e-3)
    assert train["vibration"].square().mean().item() == pytest.approx(1, rel=1e-4)
    assert train["label"][:each].unique().tolist() == [1]
    torch.testing.assert_close(train["speed"], torch.full((3 * each,), SPEED))
    parts = [set(data.part(name)["bearing"].tolist()) for name in ("train", "val", "test")]
    assert all(len(part) == 3 for part in parts) and len(set.union(*parts)) == 9


def test_faults_are_told_on_bearings_that_were_never_seen(tmp_path):
    data = recorded(write(tmp_path))
    torch.manual_seed(0)
    trainable = BearingOperator(data, lr=3e-3, dropout=0.0)
    gate = Gate({"val/balanced_accuracy": ">= 0.9"})
    found = list(fit(trainable, data, Settings(max_epochs=25, gate=gate)))
    assert found[-1].outcome == "passed"
    assert trainable.evaluate(data, "test")["balanced_accuracy"] >= 0.9
    assert {"confusion", "reliability", "envelope"} == trainable.figures(data).keys()
    gate = make_gate(compose_config(["trainable=bearing_operator", "data=bearings_files", "gate=bearing_files"]).gate)
    oracle, trivial = ({f"val/{k}": v for k, v in f(data).items()} for f in (trainable.oracle, trainable.trivial))
    assert gate.missed(oracle) == [] and gate.missed(trivial) != []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "val"}, None),
        ({"split": "all"}, r"data\.path line 2: got 'all', expected a split of train, val, test"),
        ({"rpm": "fast"}, r"data\.path line 2: got 'fast', expected rpm above 0"),
        ({"file": "0.mat"}, r"data\.path: got '.*0\.mat', expected a file that exists"),
        (
            {"bearing": "normal of val"},
            r"data\.path line 6, bearing 'normal of val': got 'val', expected split 'train'",
        ),
        ({"label": "odd"}, r"data\.path, 101\.mat, label: got 'inner_1', expected a class of some training bearing: "),
    ],
)
def test_indices_that_would_deceive_are_refused(tmp_path, changes, message):
    path = write(tmp_path, **changes)
    if message is None:  # no inner race to learn from
        message = (
            r"data\.path, 100\.mat, label: got 'inner_1', expected a class of some training bearing: normal, outer_1"
        )
    with pytest.raises(ValueError, match=message):
        recorded(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"split": "random"}, r"data\.split: got 'random', expected 'bearing'"),
        (
            {"key": "_BA_time"},
            r"data\.key: got '_BA_time', expected the end of one variable's name in 100\.mat, which has",
        ),
        ({"samples": 1022}, r"data\.samples: got 1022, expected at least 128, a multiple of 4"),
        ({"samples": 65_536}, r"data\.samples: got 65536, expected at most 16800, of 100\.mat"),
        ({"overlap": 1.0}, r"data\.overlap: got 1\.0, expected a fraction of a window below 1"),
        ({"batch_size": 4000}, r"data\.batch_size: got 4000, expected 1 to 48"),
        ({"path": "nowhere.csv"}, r"data\.path: got 'nowhere\.csv', expected a CSV file with file,label,"),
    ],
)
def test_wrong_values_are_named(tmp_path, fields, message):
    path = write(tmp_path)
    with pytest.raises(ValueError, match=message):
        RecordedBearings(**({"device": CPU, "seed": 0, "path": str(path)} | fields))


def test_broken_files_are_named(tmp_path):
    path = write(tmp_path)
    (tmp_path / "100.mat").write_bytes(b"no matrix in here" * 20)
    with pytest.raises(ValueError, match=r"data\.path: got '.*100\.mat', expected a MATLAB file up to version 7"):
        recorded(path)
    signal = impacts(0.0, 0)
    signal[7] = np.nan
    savemat(tmp_path / "100.mat", {"X100_DE_time": signal})
    with pytest.raises(ValueError, match=r"data\.path: got '.*100\.mat', expected finite samples"):
        recorded(path)
    lines = write(tmp_path).read_text().splitlines()
    path.write_text("\n".join((lines[0], "", lines[1], lines[2].rsplit(",", 1)[0])))  # a blank line, a missing field
    with pytest.raises(InputError, match=r"data\.path line 4: got None, expected a value in column 'split'"):
        recorded(path)
    path.write_bytes(b"file,label\n\xff\xfe,normal\n")
    with pytest.raises(InputError, match=r"data\.path: got '.*bearings\.csv', expected a CSV file: "):
        recorded(path)
    path.write_text("file,label\n100.mat,normal\n")
    with pytest.raises(ValueError, match=r"it has no bearing, load, rpm, split"):
        recorded(path)


def test_random_windows_of_the_same_bearings_score_what_no_unseen_bearing_does():
    """Why windows are not drawn at random: four bearings of each class, nearest neighbours in log power spectra."""
    from sklearn.neighbors import KNeighborsClassifier

    windows = simulate(4, 30, data_seed=7, part=0)
    vibration = windows.vibration.numpy()
    vibration = vibration / vibration.std(axis=1, keepdims=True)
    power = np.log(
        np.square(np.abs(np.fft.rfft(vibration * np.hanning(1024)))[:, 1:]).reshape(len(vibration), 64, 8).mean(2)
    )
    label, bearing = windows.label.numpy(), windows.bearing.numpy()
    scores = []
    for held in (np.random.default_rng(0).random(len(label)) < 0.25, bearing % 4 == 3):
        nearest = KNeighborsClassifier(1).fit(power[~held], label[~held])
        scores.append(nearest.score(power[held], label[held]))
    assert scores[0] > 0.85 and scores[1] < 0.65, scores


def test_files_name_every_field():
    fields = yaml.safe_load((CONFIGS / "data" / "bearings_files.yaml").read_text())
    assert fields.pop("_target_") == f"{RecordedBearings.__module__}.RecordedBearings"
    from inspect import signature

    defaults = {key: one.default for key, one in signature(RecordedBearings).parameters.items()}
    assert fields.keys() == defaults.keys() - {"device", "seed"}
    assert fields == {key: defaults[key] for key in fields} | {"path": "bearings.csv"}
