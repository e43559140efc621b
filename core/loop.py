"""The training loop as a generator: it yields epochs, and the caller saves, reports or stops."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gatesweep.core import rng
from gatesweep.core.data import micro_batches, mix_seeds, shard_for_rank
from gatesweep.core.device import peak_memory, release_memory, reset_peak_memory, usage
from gatesweep.core.distributed import all_ranks_true, average, average_metrics, rank, world_size
from gatesweep.core.gate import WORST_SCORE
from gatesweep.core.precision import autocast
from gatesweep.core.resume import RESTORED, ran_out_of_epochs
from gatesweep.core.settings import Settings
from gatesweep.core.step import TrainStep
from gatesweep.core.trainable import Batch, Data, Diverged, Mean, Metrics, Trainable, owns_step, samples, to_host

Outcome = Literal["passed", "finished", "diverged", "failed"]  # a sweep adds "stopped": by its scheduler
NOT_FINITE = "a training loss or its gradient was not finite"
EPOCH_METRICS = tuple(  # beside those of the trainable and of `device.usage`
    f"system/{name}" for name in ("peak_memory_mib", "samples_per_second", "seconds", "train_seconds")
)
CUT_SHORT = ("diverged", "failed")  # outcomes whose last epoch may lack metrics, and has no checkpoint


@dataclass(frozen=True)
class Epoch:
    """One item of `fit`: the results of an epoch, and the means to save it."""

    index: int
    """The number of the epoch, from 1."""
    metrics: Metrics
    losses: list[float]
    """The training loss of every step."""
    score: float
    """The gate's score of `metrics`."""
    outcome: Outcome | None
    """The end of the run: a word of `Outcome`; None while it goes on."""
    reason: str | None
    """The reason for the outcome, where its word does not say all."""
    state: Callable[[], dict[str, Any]]
    """Returns the state to resume from. It is a live view: call it before asking for the next epoch."""


def fit(
    trainable: Trainable,
    data: Data,
    settings: Settings,
    *,
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
    resume: dict[str, Any] | None = None,
    recorded: int | None = None,
) -> Iterator[Epoch]:
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


class Run:
    """The state of one `fit`: everything that a checkpoint holds.

    Attributes:
        epoch: the number of epochs done.
        streak: the number of epochs in a row that cleared the gate.
        history: number, metrics and losses of each epoch done.
        best: number, value and weights of the best epoch, for early stopping.
        generators: the random generators of a run that shares its process with others (a member of a stack).
    """

    def __init__(self, trainable: Trainable, settings: Settings, wrap: Callable[[nn.Module], nn.Module]) -> None:
        settings.check(trainable)
        self.trainable, self.settings = trainable, settings
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
        self.epoch, self.streak, self.batch_size = 0, 0, 0
        self.seed = torch.initial_seed()
        self.outcome: Outcome | None = None
        self.reason: str | None = None
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
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
        self.epoch += 1
        self.history.append({"epoch": self.epoch, "metrics": metrics, "losses": losses})
        return self._make_epoch(self.history[-1])

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

    def epochs_after(self, index: int) -> Iterator[Epoch]:
        """Yield the epochs of the history whose number is above `index`."""
        return (self._make_epoch(entry) for entry in self.history if entry["epoch"] > index)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on bit for bit. The tensors are the run's own, not copies."""
        return {
            "epoch": self.epoch,  # the schedule's position and the data's order are functions of it
            "seed": self.seed,
            "streak": self.streak,
            "outcome": self.outcome,
            "reason": self.reason,
            "history": self.history,
            "best": self.best,
            "trainable": self.trainable.state_dict(),
            "rng": rng.state(),
            **self.step.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`. Raises RuntimeError where its tensors do not fit the trainable."""
        self.trainable.load_state_dict(state["trainable"])
        self.step.load_state_dict(state)
        rng.restore(state["rng"])
        self.epoch, self.streak, self.seed = state["epoch"], state["streak"], state.get("seed", self.seed)
        self.outcome, self.reason = state["outcome"], state["reason"]
        self.history, self.best = list(state["history"]), state["best"]
        if self.outcome == "finished" and ran_out_of_epochs(self.reason) and self.epoch < self.settings.max_epochs:
            self.outcome = self.reason = None  # `max_epochs` has grown since

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

    def _decide_outcome(self, metrics: Metrics) -> None:
        """End the run if it passed, if early stopping says so, or if this was the last epoch."""
        carried = self._carry_metrics(metrics)
        if not self.settings.gate.cleared(metrics):
            self.streak = 0
        elif not carried:
            self.streak += 1
        if self.streak >= self.settings.gate.consecutive and not carried:
            self._end("passed")
        elif reason := self._stop_early(metrics):
            self._end("finished", reason)
        elif self.epoch + 1 == self.settings.max_epochs:
            self._end("finished")
        if self.outcome == "finished" and self.best:
            self._restore_best(metrics)

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

    def _carry_metrics(self, metrics: Metrics) -> bool:
        """Copy gated metrics that were not evaluated in this epoch from the last one; returns True if there are any."""
        previous = self.history[-1]["metrics"] if self.history else {}
        absent = [name for name in self.settings.gate.reads if name not in metrics and name in previous]
        for name in absent:
            metrics |= {key: previous[key] for key in (name, f"{name}_low", f"{name}_high") if key in previous}
        return bool(absent)

    def _stop_early(self, metrics: Metrics) -> str | None:
        """Keep the weights of a better epoch; return the reason for stopping now, or None."""
        patience = self.settings.patience
        if patience is None:
            return None
        value = patience.value(metrics, [entry["metrics"] for entry in self.history])
        threshold = self.best["value"] + patience.min_delta if self.best else -math.inf
        if value > threshold:  # False for NaN
            weights = {name: tensor.clone() for name, tensor in self.trainable.state_dict().items()}
            self.best = {"epoch": self.epoch + 1, "value": value, "weights": weights}
        if patience.goal is not None and value >= patience.goal * patience.sign:
            return f"{patience.metric} reached {patience.goal:g}"
        if self.epoch + 1 - (self.best["epoch"] if self.best else 0) >= patience.epochs:
            return f"no better {patience.metric} for {patience.epochs} epochs"
        return None

    def _end(self, outcome: Outcome, reason: str | None = None) -> None:
        self.outcome, self.reason = outcome, reason

    def _make_epoch(self, entry: dict[str, Any]) -> Epoch:
        """Return the Epoch of an entry of the history; only the last one can have an outcome."""
        index, metrics, losses = entry["epoch"], entry["metrics"], entry["losses"]
        outcome, reason = (self.outcome, self.reason) if index == self.epoch else (None, None)
        score = WORST_SCORE if outcome in CUT_SHORT else self.settings.gate.score(metrics)
        return Epoch(index, metrics, losses, score, outcome, reason, self.state_dict)
