"""Several ranks train as one does at the same batch size: same losses, same weights, for every trainable."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from gatesweep.core.data import mix_seeds
from gatesweep.core.distributed import rank, world_size
from gatesweep.core.gate import Gate
from gatesweep.core.loop import fit
from gatesweep.core.settings import EarlyStopping, Settings
from gatesweep.core.trainable import Batch, Trainable, samples
from gatesweep.sweeps.config.build import build_run
from gatesweep.sweeps.config.schema import make_settings
from gatesweep.sweeps.config.targets import locate
from gatesweep.trainables.autoencoders.diffusion import DiffusionAutoencoder
from tests.conftest import TRAINABLES, tiny
from tests.support.examples import ONE, Slope, seen, stored

DECLARED = [one for one in TRAINABLES if locate("trainable", tiny(one).trainable).train_step is Trainable.train_step]
TWO: dict[str, tuple[str, ...]] = {one: (one,) for one in DECLARED} | {
    # at its default size its own rounding, 6e-8 of the weights, makes a tenth of the loss in ten steps
    "born_adversarial": ("born_adversarial", "trainable.dim=4", "trainable.bond=3", "trainable.std=0.01"),
    # what is no plain mean over samples: bits that are free on average over the batch, weights that follow the losses
    "circuit_vae, free bits": ("circuit_vae", "trainable.free_bits=0.05"),
    "physics_operator, gradients": ("physics_operator", "trainable.balance=gradient", "trainable.variational=true"),
    "bearing_operator, running": ("bearing_operator", "trainable.balance=running"),
    "walk_transformer, accumulated": ("walk_transformer", "trainable.dropout=0.3", "training.accumulate=2"),
}
THREE: dict[str, tuple[str, ...]] = {
    "mlp, uneven": ("mlp", "trainable.dropout=0.3", "data.n_samples=390"),  # 11 + 11 + 10, and at last 1 + 1 + 0
    "autoencoder, uneven": ("autoencoder", "data.n_events=404"),  # 6 + 5 + 5, and at last 2 + 1 + 1
}
CASES = TWO | THREE
RAND, RANDN, DROPOUT, TIMES = torch.rand, torch.randn, F.dropout, DiffusionAutoencoder.times  # as they are


class Draws:
    """Has a rank draw the random numbers of the whole batch, as one process does, and take its rows of them."""

    batch = 0  # its samples

    def rows(self, draw: Callable[[list[int]], Tensor], shape: Sequence[int]) -> Tensor:
        mine = torch.arange(self.batch)[rank() :: world_size()] if rank() < self.batch else torch.arange(1)
        axis = list(shape).index(len(mine))  # of the samples; before it, an attacker's tries
        return draw([*shape[:axis], self.batch, *shape[axis + 1 :]]).index_select(axis, mine)

    def rand(self, *shape: Any, generator: torch.Generator | None = None, **options: Any) -> Tensor:
        return RAND(*shape, generator=generator, **options) if generator else self.rows(RAND, *shape)

    def randn(self, *shape: Any, generator: torch.Generator | None = None, **options: Any) -> Tensor:
        return RANDN(*shape, generator=generator, **options) if generator else self.rows(RANDN, *shape)

    def randn_like(self, x: Tensor, **options: Any) -> Tensor:
        return self.rows(RANDN, x.shape)

    def dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return x * (self.rows(RAND, x.shape) >= p) / (1 - p) if training and p else x

    def times(self, trainable: DiffusionAutoencoder, ids: Tensor) -> Tensor:
        with mock.patch.object(torch, "rand", RAND):  # one number for all samples
            if not trainable.training:
                return TIMES(trainable, ids)
            return self.rows(lambda shape: TIMES(trainable, ids.new_zeros(shape)), ids.shape)

    @contextmanager
    def everywhere(self) -> Iterator[None]:
        with ExitStack() as stack:
            for name in ("rand", "randn", "randn_like"):
                stack.enter_context(mock.patch.object(torch, name, getattr(self, name)))
            stack.enter_context(mock.patch.object(F, "dropout", self.dropout))
            stack.enter_context(mock.patch.object(DiffusionAutoencoder, "times", lambda *given: self.times(*given)))
            yield


def trained(case: str, wrap: Callable[[nn.Module], nn.Module] = lambda module: module) -> dict[str, Any]:
    """The losses of an epoch and the weights after it, by random numbers that depend on the batch alone."""
    config = tiny(*CASES[case], "training.max_epochs=1")
    trainable, data = build_run(config)
    draws, step, batches = Draws(), trainable.train_step, enumerate(data.train(0))

    def seeded(batch: Batch, lent: Any) -> Any:
        position, whole = next(batches)
        torch.manual_seed(mix_seeds(position))
        draws.batch = samples(whole)
        return step(batch, lent)

    trainable.train_step = seeded  # type: ignore[method-assign]
    with draws.everywhere():
        (epoch,) = fit(trainable, data, make_settings(config), wrap=wrap)
    return {"losses": epoch.losses, "weights": trainable.state_dict()}


# What ranks do: first two of them, then three


def _rank(index: int, *, folder: str) -> None:
    torch.set_num_threads(1)
    for world, cases in ((2, TWO), (3, THREE)):
        if index < world:
            dist.init_process_group("gloo", init_method=f"file://{folder}/{world}", rank=index, world_size=world)
            found: dict[str, Any] = {case: trained(case, _wrap) for case in cases}
            if world == 2:
                found |= {"restarted": _restarted(), "passed": _passed(), "impatient": _impatient()}
            torch.save(found, f"{folder}/{world}_{index}.pt")
            dist.destroy_process_group()
    os._exit(0)  # torch's threads outlive the interpreter's end now and then, and abort a process that is done


def _wrap(module: nn.Module) -> nn.Module:
    return DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)


def _restarted() -> dict[str, Any]:
    """Three epochs with dropout, undisturbed and from a checkpoint after the first: weights, and what dropped."""
    config = tiny("mlp", "trainable.dropout=0.3")
    dropped: list[Tensor] = []

    def dropout(x: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
        found = DROPOUT(x, p, training, inplace)
        if training:
            dropped.append((found == 0).flatten())
        return found

    found, resume = {}, None
    for run in ("undisturbed", "restarted"):
        dropped.clear()
        trainable, data = build_run(config.replace(seed=len(found)))  # what the checkpoint holds must win
        with mock.patch.object(F, "dropout", dropout):
            states = [stored(e.state()) for e in fit(trainable, data, make_settings(config), wrap=_wrap, resume=resume)]
        found[run] = {"weights": trainable.state_dict(), "dropped": torch.cat(dropped), "epochs": len(states)}
        given = [states[0]]
        dist.broadcast_object_list(given)  # rank 0's: the checkpoint
        resume = given[0]
    return found


def _passed() -> list[Any]:
    """At its second epoch on average; on rank 0 at the first, on rank 1 never."""
    values = ([0.9, 0.9, 0.9], [0.1, 0.6, 0.1])[rank()]
    return seen(fit(Slope(values=values), ONE, Settings(max_epochs=3, gate=Gate({"val/value": "> 0.7"}))))


def _impatient() -> list[Any]:
    """Two epochs after the first on average; on rank 0 never."""
    values = ([1.0, 2.0, 3.0, 4.0, 5.0], [0.0, -2.0, -4.0, -6.0, -8.0])[rank()]
    settings = Settings(max_epochs=5, patience=EarlyStopping("val/value", 2, mode="max"))
    return seen(fit(Slope(values=values), ONE, settings))


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """By the size of their group, what ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])  # imported once for all ranks
    start_processes(functools.partial(_rank, folder=str(folder)), nprocs=3, start_method="forkserver")
    return {world: [_read(folder / f"{world}_{one}.pt") for one in range(world)] for world in (2, 3)}


def _read(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


# Tests


@pytest.mark.parametrize("case", CASES)
def test_ranks_train_as_one_at_the_same_batch_size(case: str, ranks: dict[int, list[dict[str, Any]]]) -> None:
    one = trained(case)
    for found in ranks[2 if case in TWO else 3]:
        several = found[case]
        assert several["losses"] == pytest.approx(one["losses"], rel=1e-5)
        for name, weight in one["weights"].items():
            # Looser: Adam divides by a gradient's size, so that where there is next to none its rounding counts.
            apart = (several["weights"][name].double() - weight.double()).abs().max()
            assert apart <= 1e-3 * weight.double().abs().max(), name


def test_gates_and_patience_decide_alike_on_all_ranks_whatever_each_of_them_measured(
    ranks: dict[int, list[dict[str, Any]]],
) -> None:
    for decision, epochs, outcome in (("passed", 2, "passed"), ("impatient", 3, "finished")):
        first, second = (found[decision] for found in ranks[2])
        assert first == second
        assert (len(first), first[-1][3][1]) == (epochs, outcome)


def test_ranks_draw_noise_of_their_own_and_the_same_again_after_a_restart(
    ranks: dict[int, list[dict[str, Any]]],
) -> None:
    noise = []
    for found in ranks[2]:
        whole, rest = found["restarted"]["undisturbed"], found["restarted"]["restarted"]
        assert (whole["epochs"], rest["epochs"]) == (3, 2)
        for name, value in whole["weights"].items():
            assert torch.equal(value, rest["weights"][name]), name
        assert torch.equal(whole["dropped"][-len(rest["dropped"]) :], rest["dropped"])
        noise.append(whole["dropped"])
    apart = (noise[0] != noise[1]).double().mean()
    assert apart == pytest.approx(2 * 0.3 * 0.7, abs=0.05)  # of two independent ones
