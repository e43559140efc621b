"""The training loop as a generator: it yields epochs, and the caller saves, reports or stops."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor, nn

from gatesweep.core import rng
from gatesweep.core.data import micro_batches, mix_seeds, shard_for_rank
from gatesweep.core.device import peak_memory, release_memory, reset_peak_memory, usage
from gatesweep.core.distributed import all_ranks_true, average, average_metrics, rank, world_size
from gatesweep.core.judging import CUT_SHORT as CUT_SHORT
from gatesweep.core.judging import Epoch, JudgedRun
from gatesweep.core.judging import Outcome as Outcome
from gatesweep.core.precision import autocast
from gatesweep.core.resume import RESTORED
from gatesweep.core.settings import Settings
from gatesweep.core.step import TrainStep
from gatesweep.core.trainable import Batch, Data, Diverged, Mean, Metrics, Trainable, owns_step, samples, to_host

NOT_FINITE = "a training loss or its gradient was not finite"
EPOCH_METRICS = tuple(  # beside those of the trainable and of `device.usage`
    f"system/{name}" for name in ("peak_memory_mib", "samples_per_second", "seconds", "train_seconds")
)


def fit(
    trainable: Trainable,
    data: Data,
    settings: Settings,
    *,
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
    resume: dict[str, Any] | None = None,
    recorded: int | None = None,
) -> Generator[Epoch]:
    """Train until the gate passes, the epochs run out, early stopping ends the run, or it diverges.

    Args:
        wrap: puts the trainable into its DistributedDataParallel wrapper.
        resume: what `Epoch.state()` returned earlier. A run that had ended trains no further, unless it ended at a
            smaller `max_epochs`; schedules then follow the new one.
        recorded: how many epochs the caller's record has. Later epochs that `resume` holds are yielded again, for a
            record that is behind its checkpoint. None: the record has all of them.

    Divergence and a lack of memory are outcomes, not exceptions. Raises InputError where the settings do not suit the
    trainable, or where the gate or early stopping reads a metric that is not reported.
    """
    run = Run(trainable, settings, wrap)
    if resume is None:
        trainable.begin(data)
    else:
        run.load_state_dict(resume)
        yield from run.epochs_after(run.epoch if recorded is None else recorded)
    while run.outcome is None and run.epoch < settings.max_epochs:
        yield run.run_epoch(data, lambda metrics, losses: run.train_epoch(data.train(run.epoch), metrics, losses))


class Run(JudgedRun):
    """The state of one `fit`: everything that a checkpoint holds.

    Attributes:
        generators: the random generators of a run that shares its process with others (a member of a stack).
    """

    def __init__(self, trainable: Trainable, settings: Settings, wrap: Callable[[nn.Module], nn.Module]) -> None:
        settings.check(trainable)
        super().__init__(settings, torch.initial_seed())
        self.trainable = trainable
        trainable.recompute = settings.activation_checkpointing
        self.step = TrainStep(
            trainable,
            self._model(wrap),
            clip_norm=settings.clip_norm,
            precision=settings.precision,
            schedule=settings.schedule,
            log_grad_norm_every=settings.log_grad_norm_every,
        )
        self.device = self.step.device
        self.batch_size = 0
        self.generators: dict[str, Any] = {}

    def run_epoch(self, data: Data, train: Callable[[Metrics, list[float]], None]) -> Epoch:
        """Train and evaluate for one epoch.

        `train` adds its `train/` metrics and the loss of every step to its two arguments, or raises Diverged.
        """
        began, processor = perf_counter(), process_time()
        metrics: Metrics = {}
        losses: list[float] = []
        try:
            train(metrics, losses)
            self._evaluate(data, metrics)
            self._decide_outcome(metrics)
        except Diverged as why:
            self._end("diverged", str(why))
        except torch.OutOfMemoryError:
            self._end("failed", self.settings.out_of_memory_advice(self.batch_size))
        if self.outcome == "failed":  # not in the except clause: its traceback keeps the step's tensors alive
            release_memory()
        seconds = perf_counter() - began
        metrics["system/seconds"] = metrics.get("system/seconds", 0.0) + seconds
        metrics["system/peak_memory_mib"] = peak_memory(self.device)
        if self.settings.system_metrics:
            metrics |= usage(self.device, (process_time() - processor) / seconds)
        return self._record_epoch(metrics, losses)

    def train_epoch(self, batches: Sequence[Batch], metrics: Metrics, losses: list[float]) -> None:
        """Train on the batches once. Adds to `metrics` and `losses` as `run_epoch` asks; raises Diverged."""
        began, self.batch_size = perf_counter(), samples(batches[0])
        reset_peak_memory(self.device)
        if world_size() > 1:  # ranks draw different numbers, and the same ones again after a restart
            rng.seed_everything(mix_seeds(self.seed, self.epoch, rank()))
        self.trainable.train()
        mean = Mean()
        step_losses: list[Tensor] = []
        self.step.begin_epoch()
        try:
            count = self._train_batches(batches, mean, step_losses)
        except (Diverged, torch.OutOfMemoryError):  # the steps before it are reported too
            losses += to_host(step_losses)[0]
            raise
        # The only host sync of the training: until here the device's work is queued, not awaited.
        history, totals, norms, finite = to_host(step_losses, mean.totals, self.step.norms.totals, self.step.finite)
        losses += average(history)
        seconds = perf_counter() - began
        metrics |= average_metrics({f"train/{name}": value for name, value in mean.means(totals).items()})
        metrics |= {f"train/{name}": value for name, value in self.step.norms.means(norms).items()}
        metrics |= {"system/train_seconds": seconds, "system/samples_per_second": count / seconds}
        if not all_ranks_true(all(map(math.isfinite, finite))):
            raise Diverged(NOT_FINITE)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on bit for bit. The tensors are the run's own, not copies."""
        return {
            **super().state_dict(),
            "trainable": self.trainable.state_dict(),
            "rng": rng.state(),
            **self.step.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`. Raises RuntimeError where its tensors do not fit the trainable."""
        self.trainable.load_state_dict(state["trainable"])
        self.step.load_state_dict(state)
        rng.restore(state["rng"])
        self._restore_judged(state)

    def _model(self, wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
        """Return the module that `train_step` calls.

        A trainable that owns its step stays bare, for such a step calls parts of it, which a wrapper does not offer.
        """
        if owns_step(self.trainable):
            return self.trainable
        return wrap(torch.compile(self.trainable) if self.settings.compile else self.trainable)  # type: ignore[arg-type]

    def _train_batches(self, batches: Sequence[Batch], mean: Mean, step_losses: list[Tensor]) -> int:
        """Take a step on each batch; add its losses to `mean` and `step_losses`. Returns the number of samples."""
        this, world, settings, count = rank(), world_size(), self.settings, 0
        for batch, epoch_fraction, share, first, last in micro_batches(batches, settings.accumulate):
            shard, weight = shard_for_rank(batch, this, world)
            self.step.set_progress((self.epoch + epoch_fraction) / settings.max_epochs)
            with (
                self.step.batch(share * weight, first=first, last=last),
                autocast(settings.precision, self.device),
            ):
                losses = self.trainable.train_step(shard, self.step)
            if weight != 1:
                losses = {name: loss * weight for name, loss in losses.items()}
            mean.add(losses, samples(batch))
            step_losses.append(losses["loss"].detach())
            count += samples(batch)
        return count

    def _evaluate(self, data: Data, metrics: Metrics) -> None:
        """Add the `val/` metrics, averaged over ranks, and let the trainable act on them."""
        self.trainable.eval()
        self.trainable.epoch, self.trainable.max_epochs = self.epoch + 1, self.settings.max_epochs
        with autocast(self.settings.precision, self.device):
            held_out = self.trainable.evaluate(data)
        metrics |= average_metrics({f"val/{name}": value for name, value in held_out.items()})
        self.trainable.end_epoch(data, metrics)
        self.trainable.epoch = 0

    def _keep_best(self) -> dict[str, Any]:
        return {"weights": {name: tensor.clone() for name, tensor in self.trainable.state_dict().items()}}

    def _restore_best(self, metrics: Metrics) -> None:
        """Put the weights of the best epoch back, and its metrics into those of the last epoch.

        The metrics that the last epoch's own weights had are kept as `discarded/`, so that its point is not lost.
        """
        assert self.best
        self.trainable.load_state_dict(self.best["weights"])
        self.reason = f"{self.reason + '; ' if self.reason else ''}{RESTORED.format(self.best['epoch'])}"
        kept = next((entry["metrics"] for entry in self.history if entry["epoch"] == self.best["epoch"]), metrics)
        if kept is metrics:  # the last epoch was the best
            return
        for name in [name for name in metrics if not name.startswith("system/")]:
            metrics[f"discarded/{name}"] = metrics.pop(name)
        metrics |= {name: value for name, value in kept.items() if not name.startswith("system/")}
