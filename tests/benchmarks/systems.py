"""The systems that gatesweep is compared with, each in the style of its documentation.

`python -m tests.benchmarks.systems NAME FOLDER [PROCESS]` sweeps what FOLDER/config.json says. All train by
`tests.benchmarks.trained`; none knows the gate, but a trial ends when it passes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from gatesweep.sweeps.config.compose import compose_config
from tests.benchmarks.trained import CONFIG, Job, append, loss

ROOT = Path(__file__).parents[2]
DECISIONS = "decisions.jsonl"  # of those systems whose trials do not wait for them
OURS = {"gatesweep": [], "stacked": ["resources.stack=auto"]}  # and what each asks for
PROCESSES = ("optuna", "random")  # started once for each trial at a time; the others start those themselves


def prepare(folder: Path, overrides: list[str]) -> Job:
    """What peers read in the place of the configuration that gatesweep composes."""
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(json.dumps(compose_config(overrides).to_dict()))
    return Job.read(folder)


def start(name: str, folder: Path, overrides: list[str]) -> list[subprocess.Popen]:
    """Begin a sweep in a folder that was prepared, by the command that a person would type."""
    if name in OURS:
        commands = [[str(ROOT / "sweeps" / "run.py"), *overrides, *OURS[name], f"results={folder}"]]
    else:
        processes = Job.read(folder).at_once if name in PROCESSES else 1
        module = ["-m", "tests.benchmarks.systems", name, str(folder)]
        commands = [[*module, str(process)] for process in range(processes)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (folder / "output.txt").open("w") as output:
        return [
            subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, stdout=output, stderr=output)
            for command in commands
        ]


def stops(job: Job) -> bool:
    """Whether the comparison stops trials early."""
    return not job.config.scheduler["_target_"].endswith("FIFOScheduler")


def tune_asha(job: Job, process: int) -> None:
    """https://docs.ray.io/en/latest/tune/examples/tune-pytorch-cifar.html, with Optuna as the search algorithm."""
    stock_tune(job, grace_period=1 if stops(job) else job.max_epochs, reduction_factor=2)


def tune_our_rungs(job: Job, process: int) -> None:
    """The same with gatesweep's rungs, so that what is left between the two is what they are told."""
    ours = job.config.scheduler
    stock_tune(job, grace_period=ours["grace_period"], reduction_factor=ours["reduction_factor"])


def stock_tune(job: Job, **rungs: Any) -> None:
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    from gatesweep.sweeps.execution.cluster import start_ray

    def train(point: dict[str, Any]) -> None:
        number = zlib.crc32(tune.get_context().get_trial_id().encode()) % 10_000
        for epoch in job.train(point, number):
            with tempfile.TemporaryDirectory() as folder:
                torch.save(epoch.state(), Path(folder) / "checkpoint.pt")
                tune.report({"loss": loss(epoch)}, checkpoint=tune.Checkpoint.from_directory(folder))

    def dimension(shape: Any) -> Any:
        if isinstance(shape, CategoricalDistribution):
            return tune.choice(shape.choices)
        if isinstance(shape, IntDistribution):
            return (tune.lograndint if shape.log else tune.randint)(shape.low, shape.high + 1)
        return (tune.loguniform if shape.log else tune.uniform)(shape.low, shape.high)

    start_ray(job.config.resources, job.config.max_concurrent)
    tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space={name: dimension(shape) for name, shape in job.dimensions().items()},
        tune_config=tune.TuneConfig(
            metric="loss",
            mode="min",
            search_alg=OptunaSearch(seed=job.seed),
            scheduler=ASHAScheduler(max_t=job.max_epochs, **rungs),
            num_samples=job.trials,
            max_concurrent_trials=job.at_once,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(name="tune", storage_path=str(job.folder)),
    ).fit()
    ray.shutdown()


def train_in_tune(job: Job, process: int) -> None:
    """https://docs.ray.io/en/latest/train/user-guides/hyperparameter-optimization.html"""
    import ray.train
    from ray import tune
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    from gatesweep.sweeps.execution.cluster import start_ray

    def worker(given: dict[str, Any]) -> None:
        for epoch in job.train(given["point"], given["number"]):
            facts = {"trial": given["number"], "epoch": epoch.index}
            ray.train.report({"loss": loss(epoch), **facts})

    def driver(point: dict[str, Any]) -> None:
        name = tune.get_context().get_trial_id()
        TorchTrainer(
            worker,
            train_loop_config={"point": point, "number": zlib.crc32(name.encode()) % 10_000},
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ray.train.ScalingConfig(num_workers=1),
            run_config=ray.train.RunConfig(name=name, storage_path=str(job.folder), callbacks=[TuneReportCallback()]),
        ).fit()

    class Decisions(tune.Callback):
        def on_trial_result(self, iteration: int, trials: list, trial: Any, result: dict, **info: Any) -> None:
            append(job.folder / DECISIONS, trial=result["trial"], epoch=result["epoch"])

    start_ray(job.config.resources, job.config.max_concurrent)
    tune.Tuner(
        tune.with_resources(driver, {"cpu": 0.01}),
        param_space={"trainable.lr": tune.loguniform(1e-4, 1.0)},
        tune_config=tune.TuneConfig(num_samples=job.trials, max_concurrent_trials=job.at_once),
        run_config=tune.RunConfig(name="tune", storage_path=str(job.folder), callbacks=[Decisions()]),
    ).fit()
    ray.shutdown()


def optuna_hyperband(job: Job, process: int) -> None:
    """Its tutorial on distribution, 10_key_features/004_distributed, with the example of `HyperbandPruner`."""
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=job.max_epochs, reduction_factor=3)
    study = optuna.create_study(
        study_name="peers",
        storage=JournalStorage(JournalFileBackend(str(job.folder / "journal.log"))),
        sampler=optuna.samplers.TPESampler(seed=job.seed * 100 + process),
        pruner=pruner if stops(job) else optuna.pruners.NopPruner(),
        load_if_exists=True,
    )
    optimize(job, study)


def optuna_alone(job: Job, process: int) -> None:
    """One process, no storage."""
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=job.seed), pruner=optuna.pruners.NopPruner())
    optimize(job, study)


def random_search(job: Job, process: int) -> None:
    """A process on its own, that stops nothing."""
    sampler = optuna.samplers.RandomSampler(seed=job.seed * 100 + process)
    optimize(job, optuna.create_study(sampler=sampler, pruner=optuna.pruners.NopPruner()), process)


def optimize(job: Job, study: optuna.Study, process: int = 0) -> None:
    from gatesweep.sweeps.search.space import read_space, suggest_values

    space = read_space(job.config)

    def objective(trial: optuna.Trial) -> float:
        value = float("inf")
        for epoch in job.train_on(suggest_values(trial, space), trial.number + 5000 * process):
            value = loss(epoch)
            trial.report(value, epoch.index)
            if trial.should_prune():
                raise optuna.TrialPruned()
        return value

    study.optimize(objective, n_trials=job.trials)


def syne_asha(job: Job, process: int) -> None:
    """https://github.com/syne-tune/syne-tune, with the pause between two looks at the trials cut from 5 s to 0.1 s."""
    syne(job, sleep_time=0.1)


def syne_stock(job: Job, process: int) -> None:
    """As it comes: it looks at its trials every five seconds."""
    syne(job)


def syne(job: Job, **settings: Any) -> None:
    from syne_tune import Tuner, config_space
    from syne_tune.backend import LocalBackend
    from syne_tune.optimizer.baselines import ASHA
    from syne_tune.results_callback import StoreResultsCallback

    class Decisions(StoreResultsCallback):
        def on_trial_result(self, trial: Any, status: str, result: dict[str, Any], decision: str) -> None:
            append(job.folder / DECISIONS, trial=trial.trial_id, epoch=result["epoch"])
            super().on_trial_result(trial, status, result, decision)

    def dimension(shape: Any) -> Any:
        if isinstance(shape, CategoricalDistribution):
            return config_space.choice(list(shape.choices))
        if isinstance(shape, IntDistribution):
            return (config_space.lograndint if shape.log else config_space.randint)(shape.low, shape.high)
        return (config_space.loguniform if shape.log else config_space.uniform)(shape.low, shape.high)

    os.environ["SYNETUNE_FOLDER"] = str(job.folder)
    space = {name: dimension(shape) for name, shape in job.dimensions().items()}
    Tuner(
        trial_backend=LocalBackend(str(Path(__file__).with_name("syne_trial.py")), pass_args_as_json=True),
        scheduler=ASHA(
            {**space, "folder": str(job.folder)},
            metric="loss",
            time_attr="epoch",
            max_t=job.max_epochs,
            grace_period=1 if stops(job) else job.max_epochs,
            random_seed=job.seed,
        ),
        stop_criterion=lambda status: status.num_trials_finished >= job.trials,
        n_workers=job.at_once,
        callbacks=[Decisions()],
        **settings,
    ).run()


SYSTEMS: dict[str, Callable[[Job, int], None]] = {
    "tune": tune_asha,
    "tune_our_rungs": tune_our_rungs,
    "train_in_tune": train_in_tune,
    "optuna": optuna_hyperband,
    "optuna_alone": optuna_alone,
    "random": random_search,
    "syne": syne_asha,
    "syne_stock": syne_stock,
}


def main() -> None:
    name, folder, process = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    for key in [key for key in os.environ if key.startswith("TUNE_") or key == "RAY_AIR_NEW_OUTPUT"]:
        del os.environ[key]  # gatesweep's own, set by `import sweeps`: peers run as they come
    SYSTEMS[name](Job.read(folder), process)


if __name__ == "__main__":
    main()
