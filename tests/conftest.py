"""Fixtures of all tests, and one small setting per trainable: the only place where tests know sizes."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.groups import CONFIGS
from gatesweep.sweeps.config.schema import Config

# A shell that runs the tests in the background ignores Ctrl-C, and the processes that tests start would inherit this.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Variables of this shell for a cluster's storage and MLflow must not decide where tests write.
for name in ("GATESWEEP_RESULTS", "GATESWEEP_STORAGE", "MLFLOW_TRACKING_URI", "RAY_ADDRESS"):
    os.environ.pop(name, None)
# Sweeps of the tests' own trainables are resumed and loaded again.
os.environ["GATESWEEP_TRUST"] = "tests"
STATE = tempfile.TemporaryDirectory(prefix="gatesweep-state-")  # what this machine knows of the tests' sweeps
os.environ["XDG_STATE_HOME"] = STATE.name
# torch's compiler builds code cached for wide vectors again for narrow ones: NaN, or an error of the C++ compiler.
if CAPABILITY := os.environ.get("ATEN_CPU_CAPABILITY"):
    CACHE = Path(tempfile.gettempdir()) / f"torchinductor_{os.getuid()}_{CAPABILITY}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(CACHE))

THREADS = int(os.environ.get("GATESWEEP_TEST_THREADS", "1"))  # of torch; `tests.rounding` tries others
TRAINABLES = sorted(path.stem for path in (CONFIGS / "trainable").glob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))

TINY: dict[str, list[str]] = {
    "autoencoder": [
        "trainable.encoder_width=32",
        "trainable.decoder_width=32",
        "trainable.n_codes=32",
        "trainable.lr=0.01",
        "data.n_events=400",
        "data.held_out=32",
        "data.batch_size=16",
    ],
    "bearing_operator": [
        "trainable.width=8",
        "trainable.modes=8",
        "trainable.layers=2",
        "trainable.casing_width=16",
        "trainable.filters=2",
        "trainable.classifier_width=16",
        "data.train_bearings=4",
        "data.val_bearings=1",
        "data.test_bearings=1",
        "data.windows=4",
        "data.batch_size=16",
    ],
    "born_adversarial": [
        "trainable.training_steps=2",
        "trainable.training_tries=2",
        "trainable.generated=64",
        "trainable.attacked=32",
        "trainable.attack_steps=2",
        "data.per_class=320",
        "data.batch_size=32",
    ],
    "born_classifier": [
        "trainable.dim=4",
        "trainable.bond=3",
        "trainable.std=0.01",
        "trainable.generated=64",
        "trainable.attacked=32",
        "trainable.attack_steps=2",
        "data.per_class=320",
        "data.batch_size=32",
    ],
    "born_gan": [
        "trainable.pretrain_epochs=0",
        "trainable.goal=0.0",
        "trainable.critic_width=16",
        "trainable.critic_depth=2",
        "trainable.generated=64",
        "trainable.attacked=32",
        "trainable.attack_steps=2",
        "data.per_class=320",
        "data.batch_size=32",
    ],
    "born_generator": [
        "trainable.dim=4",
        "trainable.bond=3",
        "trainable.std=0.01",
        "trainable.generated=64",
        "trainable.attacked=32",
        "trainable.attack_steps=2",
        "data.per_class=320",
        "data.batch_size=32",
    ],
    "circuit_vae": [
        "trainable.latent={topology:2,values:3,response:2}",
        "trainable.hidden=16",
        "trainable.layers=2",
        "trainable.decoder_hidden=16",
        "trainable.samples=64",
        "data.n_train=240",
        "data.n_val=48",
        "data.n_test=48",
        "data.batch_size=16",
    ],
    "diffusion_autoencoder": [
        "trainable.encoder_width=32",
        "trainable.decoder_width=32",
        "trainable.denoiser_width=32",
        "trainable.sampling_steps=5",
        "trainable.generated=32",
        "trainable.lr=0.01",
        "data.n_events=400",
        "data.held_out=32",
        "data.batch_size=16",
    ],
    "gan_autoencoder": [
        "trainable.encoder_width=32",
        "trainable.decoder_width=32",
        "trainable.critic_width=32",
        "trainable.generated=32",
        "trainable.lr=0.01",
        "data.n_events=400",
        "data.held_out=32",
        "data.batch_size=16",
    ],
    "mlp": [
        "trainable.width=8",
        "data.n_samples=400",
        "data.held_out=100",
        "data.batch_size=32",
    ],
    "physics_operator": [
        "trainable.width=6",
        "trainable.layers=2",
        "trainable.modes_rows=3",
        "trainable.modes_columns=4",
        "trainable.lr=0.01",
        "data.columns=16",
        "data.rows=9",
        "data.n_labelled=16",
        "data.n_unlabelled=64",
        "data.n_val=8",
        "data.n_test=8",
    ],
    "walk_transformer": [
        "trainable.d_model=16",
        "trainable.n_layers=1",
        "trainable.n_heads=2",
        "trainable.sequences=64",
        "data.windows=256",
        "data.n_walks=256",
        "data.held_out=64",
        "data.batch_size=32",
    ],
}


def tiny(name: str, *overrides: str) -> Config:
    """Return the configuration of a trainable at its small setting."""
    return compose_config([f"trainable={name}", *TINY[name], "training.max_epochs=3", *overrides])


@pytest.fixture(autouse=True)
def few_threads() -> None:
    """Train on one thread: two are slower on a busy machine. `tests.rounding` tries both."""
    torch.set_num_threads(THREADS)


@pytest.fixture(params=TRAINABLES)
def name(request: pytest.FixtureRequest) -> str:
    """The name of each trainable in turn."""
    assert request.param in TINY, f"tests/conftest.py: TINY needs a small setting for {request.param}"
    return request.param


GOLDEN = Path(__file__).parent / "golden"


LR = {"lr": {"type": "float", "low": 1e-4, "high": 1.0, "log": True}}


def trivial(results: Path, space: dict[str, Any] | None = None, *overrides: str, **trainable: Any) -> list[str]:
    """Return overrides for a sweep of `tests.support.trivial`: eight trials of six epochs, one at a time, no MLflow."""
    nodes = {
        "trainable": {"_target_": "tests.support.trivial.Line", **trainable},
        "data": {"_target_": "tests.support.trivial.Points"},
        "search.space": {"trainable": LR if space is None else space},
        "gate.thresholds": {"val/closeness": "> 0.9"},
        "gate.objective": "val/loss",
        "gate.mode": "min",
        "name": "trivial",
        "num_samples": 8,
        "max_concurrent": 1,
        "training.max_epochs": 6,
        "tracking": "none",
        "figures": "none",
        "results": str(results),
    }
    texts = {key: value if isinstance(value, str) else _inline(value) for key, value in nodes.items()}
    return [*(f"{key}={value}" for key, value in texts.items()), *overrides]


def _inline(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_inline(item) for item in value) + "]"
    return "null" if value is None else f"'{value}'" if isinstance(value, str) else str(value)


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """Start one Ray for all sweeps of a test process: a sweep uses the Ray that is running."""
    import ray

    from gatesweep.sweeps.execution.cluster import start_ray

    start_ray(compose_config([]).resources, None)
    yield
    ray.shutdown()
