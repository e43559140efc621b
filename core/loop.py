"""The training loop, as a generator: it yields epochs, and the caller decides what they are for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter, process_time
from typing import Any, Literal

import torch
from torch import nn

from gatesweep.core import rng
from gatesweep.core.data import mix_seeds, shard_for_rank
from gatesweep.core.device import peak_memory, release_memory, reset_peak_memory, usage
from gatesweep.core.distributed import average, average_metrics, everywhere, rank, world_size
from gatesweep.core.errors import InputError
from gatesweep.core.gate import WORST_SCORE, Gate
from gatesweep.core.precision import Precision, autocast
from gatesweep.core.schedule import Schedule, schedule
from gatesweep.core.step import TrainStep
from gatesweep.core.trainable import Batch, Data, Diverged, Mean, Metrics, Trainable, owns_step, samples, to_host

Outcome = Literal["passed", "finished", "diverged", "failed"]  # a sweep adds "stopped": by its scheduler
NOT_FINITE = "a training loss or its gradient was not finite"
CUT_SHORT = ("diverged", "failed")  # outcomes whose last epoch may lack metrics, and is no checkpoint


@dataclass(frozen=True)
class Patience:
    """Stop after `epochs` epochs without a better `metric`, and put the best epoch's weights back at the end.

    With a `goal`, stop as soon as the metric is as good as that.
    """

    metric: str
    epochs: int
    mode: Literal["min", "max"] = "min"
    min_delta: float = 0.0
    goal: float | None = None

    @property
    def sign(self) -> int:
        return 1 if self.mode == "max" else -1


@dataclass(frozen=True)
class Settings:
    """How to train; the same for every family."""

    max_epochs: int = 10
    precision: Precision = "fp32"
    clip_norm: float | None = None
    accumulate: int = 1  # batches per update
    schedule: Schedule = field(default_factory=lambda: schedule("constant"))
    gate: Gate = field(default_factory=Gate)
    patience: Patience | None = None
    watch: int | None = None  # updates between readings of every parameter's gradient norm
    compile: bool = False
    activation_checkpointing: bool = False
    system_metrics: bool = False

    def check(self, trainable: Trainable) -> None:
        """Raise InputError where a trainable cannot train so."""
        if self.accumulate > 1 and owns_step(trainable):
            raise InputError(
                f"training.accumulate: got {self.accumulate}, expected 1: {type(trainable).__name__} owns its step, "
                "whose updates build on one another within a batch"
            )


@dataclass(frozen=True)
class Epoch:
    """One yield of the loop: what happened in epoch `index` (from 1), and the means to save it."""

    index: int
    metrics: Metrics
    losses: list[float]  # the training loss of every step
    score: float  # the gate's
    outcome: Outcome | None  # None while the run goes on
    reason: str | None  # what the outcome's name does not say
    state: Callable[[], dict[str, Any]]  # a live view: call it before asking for the next epoch


def fit(
    trainable: Trainable,
    data: Data,
    settings: Settings,
    *,
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
    resume: dict[str, Any] | None = None,
    recorded: int | None = None,
) -> Iterator[Epoch]:
    """Train until the gate passes, the epochs run out, patience ends or the run diverges.

    `wrap` puts the trainable into its DistributedDataParallel wrapper; `resume` is an earlier `Epoch.state()`, whose
    epochs after the first `recorded` are yielded again, for a record that was cut short before them (None: all are
    recorded). A run that had already ended trains no further. Divergence and lack of memory are outcomes, not
    exceptions.
    """
    run = Run(trainable, settings, wrap)
    if resume is None:
        trainable.begin(data)
    else:
        run.load_state_dict(resume)
        yield from run.past(run.epoch if recorded is None else recorded)
    while run.outcome is None and run.epoch < settings.max_epochs:
        yield run.advance(data, lambda metrics, losses: run.train(data.train(run.epoch), metrics, losses))


class Run:
    """One fit: what a checkpoint holds, and what makes an epoch of it."""

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
            watch=settings.watch,
        )
        self.device = self.step.device
        self.epoch, self.streak, self.size = 0, 0, 0
        self.seed = torch.initial_seed()
        self.outcome: Outcome | None = None
        self.reason: str | None = None
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None  # patience: epoch, value and weights
        self.generators: dict[str, Any] = {}  # a stack's members have their own

    def _model(self, wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
        """What `train_step` calls: wrapped where a loss is declared, for a step of its own calls its parts."""
        if owns_step(self.trainable):
            return self.trainable
        return wrap(torch.compile(self.trainable) if self.settings.compile else self.trainable)  # type: ignore[arg-type]

    def advance(self, data: Data, train: Callable[[Metrics, list[float]], None]) -> Epoch:
        """The next epoch: `train` fills in its `train/` metrics and the loss of every step, or raises Diverged."""
        began, processor = perf_counter(), process_time()
        metrics: Metrics = {}
        losses: list[float] = []
        try:
            train(metrics, losses)
            self.validate(data, metrics)
            self.judge(metrics)
        except Diverged as why:
            self.end("diverged", str(why))
        except torch.OutOfMemoryError:
            self.end("failed", _out_of_memory(self.size, self.settings.accumulate))
        if self.outcome == "failed":  # after the except clause, whose traceback held on to the step's tensors
            release_memory()
        seconds = perf_counter() - began
        metrics["system/seconds"] = metrics.get("system/seconds", 0.0) + seconds
        metrics["system/peak_memory_mib"] = peak_memory(self.device)
        if self.settings.system_metrics:
            metrics |= usage(self.device, (process_time() - processor) / seconds)
        return self.next_epoch(metrics, losses)

    def train(self, batches: Sequence[Batch], metrics: Metrics, losses: list[float]) -> None:
        """One pass over the batches."""
        began, self.size = perf_counter(), samples(batches[0])
        reset_peak_memory(self.device)
        this, world = rank(), world_size()
        if world > 1:  # ranks draw apart from one another, and the same again after a restart of all
            rng.seed_everything(mix_seeds(self.seed, self.epoch, this))
        self.trainable.train()
        mean, on_device, count = Mean(), [], 0
        self.step.begin_epoch()
        try:
            for batch, done, share, first, last in grouped(batches, self.settings.accumulate):
                mine, weight = shard_for_rank(batch, this, world)
                self.step.set_progress((self.epoch + done) / self.settings.max_epochs)
                with (
                    self.step.batch(share * weight, first=first, last=last),
                    autocast(self.settings.precision, self.device),
                ):
                    step_losses = self.trainable.train_step(mine, self.step)
                if weight != 1:
                    step_losses = {name: loss * weight for name, loss in step_losses.items()}
                mean.add(step_losses, samples(batch))
                on_device.append(step_losses["loss"].detach())
                count += samples(batch)
        except (Diverged, torch.OutOfMemoryError):  # what was trained before it is reported with it
            losses += to_host(on_device)[0]
            raise
        # The training's one host sync: all before it is queued, not awaited.
        history, totals, norms, finite = to_host(on_device, mean.totals, self.step.norms.totals, self.step.finite)
        losses += average(history)
        seconds = perf_counter() - began
        metrics |= average_metrics({f"train/{name}": value for name, value in mean.means(totals).items()})
        metrics |= {f"train/{name}": value for name, value in self.step.norms.means(norms).items()}
        metrics |= {"system/train_seconds": seconds, "system/samples_per_second": count / seconds}
        if not everywhere(all(map(math.isfinite, finite))):
            raise Diverged(NOT_FINITE)

    def validate(self, data: Data, metrics: Metrics) -> None:
        self.trainable.eval()
        self.trainable.epoch, self.trainable.max_epochs = self.epoch + 1, self.settings.max_epochs
        with autocast(self.settings.precision, self.device):
            held_out = self.trainable.evaluate(data)
        metrics |= average_metrics({f"val/{name}": value for name, value in held_out.items()})
        self.trainable.end_epoch(data, metrics)
        self.trainable.epoch = 0

    def judge(self, metrics: Metrics) -> None:
        """Whether the run ends here."""
        carried = self._carry(metrics)
        if not self.settings.gate.cleared(metrics):
            self.streak = 0
        elif not carried:
            self.streak += 1
        if self.streak >= self.settings.gate.consecutive and not carried:
            self.end("passed")
        elif reason := self._impatient(metrics):
            self.end("finished", reason)
        elif self.epoch + 1 == self.settings.max_epochs:
            self.end("finished")
        if self.outcome == "finished" and self.best:
            self.trainable.load_state_dict(self.best["weights"])
            self.reason = f"{self.reason + '; ' if self.reason else ''}weights of epoch {self.best['epoch']} restored"

    def _carry(self, metrics: Metrics) -> bool:
        """Give gated metrics that were not due at this epoch their last value; returns whether there are any."""
        known = self.history[-1]["metrics"] if self.history else {}
        absent = [name for name in self.settings.gate.reads if name not in metrics and name in known]
        for name in absent:
            metrics |= {key: known[key] for key in (name, f"{name}_low", f"{name}_high") if key in known}
        return bool(absent)

    def _impatient(self, metrics: Metrics) -> str | None:
        """Why to wait no longer, if so."""
        patience = self.settings.patience
        if patience is None:
            return None
        value = self._value(patience, metrics)
        least = self.best["value"] + patience.min_delta if self.best else -math.inf
        if value > least:  # never so for NaN
            weights = {name: tensor.clone() for name, tensor in self.trainable.state_dict().items()}
            self.best = {"epoch": self.epoch + 1, "value": value, "weights": weights}
        if patience.goal is not None and value >= patience.goal * patience.sign:
            return f"{patience.metric} reached {patience.goal:g}"
        if self.epoch + 1 - (self.best["epoch"] if self.best else 0) >= patience.epochs:
            return f"no better {patience.metric} for {patience.epochs} epochs"
        return None

    def _value(self, patience: Patience, metrics: Metrics) -> float:
        """The patience's metric as a number to maximise; NaN at an epoch where it was not due."""
        if patience.metric in metrics:
            return metrics[patience.metric] * patience.sign
        if any(patience.metric in one["metrics"] for one in self.history):
            return math.nan
        raise InputError(
            f"training.patience.metric: {patience.metric!r} is not reported; "
            f"this trainable reports {', '.join(sorted(metrics))}"
        )

    def end(self, outcome: Outcome, reason: str | None = None) -> None:
        self.outcome, self.reason = outcome, reason

    def next_epoch(self, metrics: Metrics, losses: list[float]) -> Epoch:
        self.epoch += 1
        self.history.append({"epoch": self.epoch, "metrics": metrics, "losses": losses})
        return self._yielded(self.history[-1])

    def past(self, after: int) -> Iterator[Epoch]:
        """The epochs that the state came with, from the one after `after` on."""
        return (self._yielded(entry) for entry in self.history if entry["epoch"] > after)

    def _yielded(self, entry: dict[str, Any]) -> Epoch:
        index, metrics, losses = entry["epoch"], entry["metrics"], entry["losses"]
        outcome, reason = (self.outcome, self.reason) if index == self.epoch else (None, None)
        score = WORST_SCORE if outcome in CUT_SHORT else self.settings.gate.score(metrics)
        return Epoch(index, metrics, losses, score, outcome, reason, self.state_dict)

    def state_dict(self) -> dict[str, Any]:
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
        self.trainable.load_state_dict(state["trainable"])
        self.step.load_state_dict(state)
        rng.restore(state["rng"])
        self.epoch, self.streak, self.seed = state["epoch"], state["streak"], state.get("seed", self.seed)
        self.outcome, self.reason = state["outcome"], state["reason"]
        self.history, self.best = list(state["history"]), state["best"]


def grouped(batches: Sequence[Batch], accumulate: int) -> Iterator[tuple[Batch, float, float, bool, bool]]:
    """Batches in groups of one update each: the batch, the fraction of the epoch done after its group, its share of
    the group's samples, and whether it is the group's first and its last."""
    for start in range(0, len(batches), accumulate):
        end = min(start + accumulate, len(batches))
        group = [batches[position] for position in range(start, end)]
        total = sum(samples(batch) for batch in group)
        for offset, batch in enumerate(group):
            yield batch, end / len(batches), samples(batch) / total, offset == 0, offset == len(group) - 1


def _out_of_memory(size: int, accumulate: int) -> str:
    smaller = f"data.batch_size={math.ceil(size / 2)} training.accumulate={2 * accumulate} (the same update)"
    advice = [smaller] if size > 1 else []
    advice += ["training.activation_checkpointing=true", "training.precision=bf16"]
    return f"out of memory at batch size {size}: try {', '.join(advice)}"
