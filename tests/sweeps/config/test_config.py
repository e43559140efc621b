"""Bad input: one line that names the key, what it got and what is expected, exit code 2, and nothing left behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gatesweep.sweeps.commands.resume import configure
from gatesweep.sweeps.commands.run import run_sweep
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.overrides import parse_override
from gatesweep.sweeps.config.values import to_yaml, with_values
from tests.conftest import trivial
from tests.support.pretended import Pretended, pretend

ROOT = Path(__file__).parents[3]

BEFORE_ANYTHING = [
    ("nope=1", "nope: unknown key"),
    ("training.max_epoch=3", "training.max_epoch: unknown key, did you mean training.max_epochs?"),
    ("training.watch=5", "training.watch: unknown key, did you mean training.log_grad_norm_every?"),
    ("num_samples=many", "num_samples: got 'many', expected a valid integer"),
    ("max_concurrent=0", "max_concurrent: got 0, expected greater than 0"),
    ("time_budget=-1", "time_budget: got -1, expected greater than 0"),
    ("training.precision=fp8", "training.precision: got 'fp8', expected 'fp32', 'bf16' or 'fp16'"),
    ("training.schedule.warmup=2", "training.schedule.warmup: got 2, expected a fraction"),
    ("trainable.lr=quick", "trainable.lr: got 'quick', expected a valid number"),
    ("trainable.width=3", "trainable.width: unknown key, expected one of"),
    (
        "trainable=gan_autoencoder trainable.decoder_width=wide",
        "trainable.decoder_width: got 'wide', expected a valid integer",
    ),
    ("trainable=gan_autoencoder trainable.denoiser_width=3", "trainable.denoiser_width: unknown key, expected one of"),
    ("trainable._target_=5", "trainable._target_: got 5, expected the dotted name of a class"),
    ("trainable=no_such", "trainable: got 'no_such', expected one of autoencoder"),
    (
        "data=regression",
        "data._target_: got 'gatesweep.trainables.autoencoders.linear_data.LinearData', expected WalkData: "
        "gatesweep.trainables.walks.trainable.WalkTransformer trains on it",
    ),
    ("search=luck", "search: got 'luck', expected one of gp, grid, random, tpe"),
    (
        "gate.thresholds={val/edge_compliance:'about 0.9'}",
        "'val/edge_compliance' got 'about 0.9', expected e.g. '> 0.95'",
    ),
    ("gate.consecutive=0", "gate.consecutive: got 0, expected greater than 0"),
    ("no value", "got 'no value', expected KEY=VALUE"),
    ("trainable.lr=1,2", "trainable.lr: got '1,2', expected one value"),
    ("~training.pace", "~training.pace: there is no such key to delete"),
    ("resume=/no/such/sweep", "expected the folder of a sweep"),
]
BEFORE_A_TRIAL = [
    ("search.space.trainable.lr={type:float,low:1,high:0.1}", "search.space.trainable.lr: expected low <= high"),
    (
        "search.space.trainable.lr={type:float,low:0,high:0.1,log:true}",
        "expected low above 0 for log: true, with low=0",
    ),
    ("search.space.trainable.lr={type:float,low:0,hi:1}", "search.space.trainable.lr.high: missing"),
    ("search.space.trainable.lr=0.1", "search.space.trainable.lr: got 0.1, expected a leaf"),
    (
        "search.space.trainable.width={type:int,low:1,high:2}",
        "search.space.trainable.width: trainable.width: unknown key",
    ),
    (
        "search.space.trainable.split={type:composition,total:7,parts:{a:2,b:2},step:2}",
        "search.space.trainable.split: expected a possible composition: total=7 less the minima",
    ),
    ("search.space.data.batch_size={type:categorical,choices:[8,4096]}", "data.batch_size=4096 cannot be built"),
    ("data.batch_size=4096", "data.batch_size: got 4096, expected at most 64"),
    ("gate.thresholds={val/nope:'> 0.5'}", "gate.thresholds: 'val/nope' is not reported; this trainable reports"),
    ("gate.objective=val/nope", "gate.objective: 'val/nope' is not reported; this trainable reports"),
    ("search=grid", "search.space.trainable.lr.step: missing"),
    ("num_samples=null", "num_samples: got None, expected a number of trials"),
    ("scheduler.grace_period=0", "scheduler.grace_period: got 0, expected at least 1 epoch"),
    ("scheduler.patience=3", "scheduler.patience: unknown key, expected one of"),
    ("search.sampler.greed=3", "search.sampler.greed: unknown key, expected one of"),
    ("device=no_such_device", "device: got 'no_such_device'"),
    ("tracking=mlflow tracking.uri=http://127.0.0.1:9", "expected a running MLflow server"),
    ("tracking=mlflow tracking.uri=mlflow.db", "tracking.uri: got 'mlflow.db', expected http://host:port"),
    ("resources.gpus_per_worker=64", "1 x (1 CPUs and 64 GPUs) a trial; the cluster has"),
]


@pytest.mark.parametrize(("override", "message"), BEFORE_ANYTHING)
def test_a_value_that_cannot_be(override: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        configure(override.split() if override.startswith("trainable=") else [override])
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("override", "message"), BEFORE_A_TRIAL)
def test_a_sweep_that_cannot_be_starts_no_trial_and_leaves_no_folder(
    ray_here: None, override: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError) as caught:
        parts = override.split(" tracking.")
        overrides = [parts[0], *(f"tracking.{part}" for part in parts[1:])]
        run_sweep(compose_config([*trivial(tmp_path / "results"), *overrides]))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("results", ["/proc/results", "{file}/results"])
def test_a_results_folder_that_cannot_be_written(ray_here: None, results: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"results: got .*, expected a folder that can be"):
        run_sweep(compose_config(trivial(Path(results.format(file=tmp_path / "file")))))


def test_results_that_would_go_with_a_job_s_code(tmp_path: Path) -> None:
    uploaded = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_0" / "results"
    with pytest.raises(ValueError, match=r"which goes with the job's code: results=/a/folder/that/stays"):
        run_sweep(compose_config(trivial(uploaded)))


NOT_THERE = {
    "127.0.0.1:9": r"RAY_ADDRESS: got '127\.0\.0\.1:9', expected a running cluster \(.*refused",
    "ray://127.0.0.1:10001": "a sweep runs on its cluster: ray job submit",
    "here": "expected a running cluster",
}


def test_a_cluster_that_is_not_there(tmp_path: Path) -> None:
    """In a process of its own: this one may have a Ray already."""
    script = f"""
import os, sys
from gatesweep.sweeps.commands.run import main
for address in {list(NOT_THERE)}:
    os.environ["RAY_ADDRESS"] = address
    assert main(["experiment=mlp", "results=results"]) == 2
"""
    command, variables = [sys.executable, "-c", script], {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=variables, timeout=120)
    assert done.returncode == 0, done.stderr
    for line, message in zip(done.stderr.splitlines(), NOT_THERE.values(), strict=True):
        assert line.startswith("error: ") and re.search(message, line)
    assert not (tmp_path / "results").exists()


def test_a_folder_that_another_sweep_is_running_in(ray_here: None, tmp_path: Path) -> None:
    import fcntl

    folder = pretend(tmp_path / "sweep", [Pretended({"trainable.lr": 0.1}, [(-0.5, {})])])
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="which another sweep is running in"):
            run_sweep(configure([f"resume={folder}"]))


def test_a_key_that_varies_is_fixed_as_the_message_says() -> None:
    with pytest.raises(ValueError, match=r"type '~search\.space\.trainable\.lr' too") as caught:
        configure(["trainable=mlp", "trainable.lr=0.01"])
    remedy = str(caught.value).split("'")[1]
    config = configure(["trainable=mlp", "trainable.lr=0.01", remedy])
    assert config.trainable["lr"] == 0.01 and "lr" not in config.search.space["trainable"]


def test_a_configuration_is_written_as_yaml_writes_it() -> None:
    for name in ("mlp", "circuit_vae", "born_gan"):
        config = compose_config([f"experiment={name}", "name=null"])
        changed = with_values(config, {"trainable.lr": 0.5, "seed": 7})
        for variant in (config, changed, config):
            assert to_yaml(variant) == yaml.safe_dump(variant.to_dict(), sort_keys=False)


@pytest.mark.parametrize("place", ["/a b/ü%20#x?y,z=1", "/it's", "/back\\", "~/x [1]", "s3://bucket/a, b?c=d e"])
def test_a_path_or_an_address_is_taken_as_it_is(place: str) -> None:
    for key in ("results", "data.path"):
        assert parse_override(f"{key}={place}").value() == place
    assert parse_override(f"resume={place[1:]}").value() == place[1:]
