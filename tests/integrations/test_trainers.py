"""Lightning's and Hugging Face's Trainer as trials: bits after kills, a clean working directory, refusals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import pytorch_lightning
from lightning.pytorch.trainer import call
from transformers import Trainer

import gatesweep.lightning_private
from gatesweep.core.errors import InputError
from gatesweep.core.judging import Epoch
from gatesweep.lightning import GateCallback
from gatesweep.sweeps.commands.resume import configure
from gatesweep.sweeps.commands.run import run_sweep
from tests.core.test_function import train as run
from tests.support import trainers
from tests.support.processes import descendants, kill
from tests.sweeps.commands.test_own_code import TRIAL, curves, epochs, wait_for

ROOT = Path(__file__).parents[2]
BOTH = pytest.mark.parametrize("target", [trainers.fit, trainers.train], ids=["lightning", "huggingface"])
pytestmark = pytest.mark.filterwarnings("ignore")  # of both libraries, about loaders without workers and such


@pytest.fixture(autouse=True)
def clean_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory; handlers of signals, which Lightning replaces on the main thread, are put back."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def reported(found: list[Epoch]) -> list[Any]:
    return [
        (epoch.index, {name: value for name, value in epoch.metrics.items() if not name.startswith("system/")})
        for epoch in found
    ]


@BOTH
def test_a_run_that_is_cut_twice_goes_on_bit_by_bit_and_leaves_no_litter(
    target: Callable[..., None], tmp_path: Path, clean_folder: Path
) -> None:
    """The checkpoint is asked for before the model is built; the schedule, dropout and statistics of batches go on."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    whole = reported(run(partial(target, {}), tmp_path / "whole", max_epochs=5))
    cut = [run(partial(target, {}), tmp_path / "cut", stop_after=count, max_epochs=5) for count in (1, 2, 1000)]
    assert [epoch for epoch, _ in whole] == [1, 2, 3, 4, 5]
    assert reported([epoch for part in cut for epoch in part]) == whole
    assert {"train/loss", "val/accuracy"} <= whole[0][1].keys()
    assert all(name.startswith(("train/", "val/")) for name in whole[0][1])
    assert not any(name.endswith(("runtime", "_per_second")) for name in whole[0][1])
    if target is trainers.fit:  # it is logged where the module's own epoch ends
        assert [metrics["train/steps"] for _, metrics in whole] == [6, 12, 18, 24, 30]
    assert list(clean_folder.iterdir()) == []
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


@BOTH
def test_a_run_that_goes_on_without_its_checkpoint_fails(target: Callable[..., None], tmp_path: Path) -> None:
    run(partial(target, {}), tmp_path, stop_after=2)
    with pytest.raises(RuntimeError, match=r"goes on after epoch 2, but .*(ckpt_path=ckpt|checkpoint=check)"):
        run(partial(target, {"forget": True}), tmp_path)


def test_epochs_without_a_validation_at_their_end_are_not_reported(tmp_path: Path) -> None:
    seldom = {"trainer": {"check_val_every_n_epoch": 3}}
    found = run(partial(trainers.fit, seldom), tmp_path / "seldom")
    assert [metrics["train/steps"] for _, metrics in reported(found)][:2] == [18, 36]
    with pytest.raises(InputError, match=r"got val_check_interval=4, expected 1.0.*limit_train_batches=N"):
        run(partial(trainers.fit, {"trainer": {"val_check_interval": 4}}), tmp_path / "amid")


def test_processes_of_a_trainer_of_its_own_are_refused_before_they_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for strategy in ("ddp", "ddp_spawn"):
        two = {"trainer": {"devices": 2, "strategy": strategy}}
        with pytest.raises(InputError, match=r"got 2 devices \(DDPStrategy\), expected devices=1.*resources.workers"):
            run(partial(trainers.fit, two), tmp_path / strategy)
    build = Trainer.__init__

    def with_two_gpus(self: Trainer, model: Any, args: Any, **options: Any) -> None:
        build(self, model, args, **options)
        args._n_gpu = 2  # there is none here

    monkeypatch.setattr(Trainer, "__init__", with_two_gpus)
    with pytest.raises(InputError, match=r"got 2 devices, expected 1: .*resources.workers"):
        run(partial(trainers.train, {}), tmp_path / "huggingface")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eval_strategy": "no"}, "got eval_strategy='no', expected 'epoch' or 'steps'"),
        ({"save_strategy": "best", "metric_for_best_model": "accuracy"}, "got save_strategy='best', expected 'no'"),
        ({"save_only_model": True}, "got save_only_model=True, expected False"),
    ],
)
def test_arguments_that_suit_no_trial_are_refused(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        run(partial(trainers.train, {"arguments": arguments}), tmp_path)


def test_evaluations_amid_epochs_are_reports_and_the_best_model_is_still_loaded(tmp_path: Path) -> None:
    steps = {"eval_strategy": "steps", "eval_steps": 4, "eval_on_start": True, "logging_steps": 3, "save_steps": 4}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy", "max_steps": 12}
    found = reported(run(partial(trainers.train, {"arguments": {**steps, **best}}), tmp_path, max_epochs=9))
    assert [epoch for epoch, _ in found] == [1, 2, 3, 3] and all("train/loss" in metrics for _, metrics in found)


def test_outside_of_a_sweep_the_trainers_are_as_they_were(clean_folder: Path) -> None:
    trainers.fit({"trainer": {"max_epochs": 1, "enable_progress_bar": False}})
    trainers.train({"arguments": {"num_train_epochs": 1, "save_strategy": "epoch"}})
    assert (clean_folder / "lightning_logs").is_dir() and (clean_folder / "out" / "checkpoint-6").is_dir()


def test_the_trainer_of_the_other_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="expected that of `import lightning as L`"):
        GateCallback().on_fit_start(pytorch_lightning.Trainer(accelerator="cpu", logger=False), None)


def test_lightning_has_the_private_name() -> None:
    checked: list[L.Trainer] = []
    before = call._call_and_handle_interrupt
    try:
        gatesweep.lightning_private.check_before_launch(checked.append)
        trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, max_epochs=0)
        trainer.fit(trainers.Net(1, 0.1), [])
        assert checked == [trainer]
    finally:
        call._call_and_handle_interrupt = before


FILE = """
function: tests.support.trainers:either
trainable: {nap: 0.2}
space: {kind: [lightning, huggingface], lr: [0.01, 0.02, log]}
gate: {val/accuracy: "> 0.9999"}
max_epochs: 3
num_samples: 4
max_concurrent: 1
search: random
scheduler: none
tracking: none
figures: none
"""


def test_kills_of_a_trial_and_of_the_driver_change_no_bit(ray_here: None, tmp_path: Path, clean_folder: Path) -> None:
    file, results = tmp_path / "sweep.yaml", tmp_path / "results"
    file.write_text(FILE)
    command = [sys.executable, "-P", "-m", "gatesweep", "run", str(file), f"results={results}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        wait_for(lambda: (results / "latest").exists() and epochs(results / "latest") >= 2)
        kill(descendants(driver.pid, TRIAL)[:1])
        wait_for(lambda: epochs(results / "latest") >= 8)
    finally:
        kill([driver.pid, *descendants(driver.pid)])
        driver.wait()
    folder = (results / "latest").resolve()
    assert any("process_died" in path.read_text() for path in folder.glob("trial_*/events.jsonl"))
    assert run_sweep(configure([str(file), f"resume={folder}"])) in (0, 3)
    assert list(clean_folder.iterdir()) == []
    found = curves(folder)
    assert len(found) == 4 and {trial[1]["trainable.kind"] for trial in found} == {"lightning", "huggingface"}
    for number, (name, values, reports, outcome) in enumerate(found):
        config = {key.removeprefix("trainable."): value for key, value in values.items()}
        whole = run(partial(trainers.either, config), tmp_path / name, max_epochs=3, seed=number)
        assert reports == reported(whole) and outcome == "finished", name
