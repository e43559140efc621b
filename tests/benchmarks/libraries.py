"""Our Born tensors and Fourier operator beside tensorkrowch's and neuraloperator's: the same function, the same step.

pip install -c constraints.txt -e ".[bench]"; python -m tests.benchmarks.libraries [steps]

Both sides get the same weights and inputs, their outputs are compared, and then each trains by Adam, step by step in
turn. Ratios are of the medians.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import warnings
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam

from gatesweep.trainables.born.mps import BornMachine
from gatesweep.trainables.operators.fno import FNO, Transform
from gatesweep.trainables.operators.grid import Axis, Grid

os.environ.setdefault("WANDB_MODE", "disabled")  # neuraloperator imports it
LR = 1e-4

Loss = Callable[[], Tensor]


def step_times(sides: Sequence[tuple[nn.Module, Loss]], steps: int) -> list[float]:
    """Median seconds of a training step of each side, which take turns, after three that warm up."""
    optimizers = [Adam(module.parameters(), lr=LR) for module, _ in sides]
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(3 + steps):
        for (_, loss), optimizer, taken in zip(sides, optimizers, times, strict=True):
            began = perf_counter()
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
            taken.append(perf_counter() - began)
    return [statistics.median(taken[3:]) for taken in times]


def row(what: str, ours: Tensor, theirs: Tensor, times: Sequence[float] = ()) -> str:
    gap = (ours - theirs).abs().max() / theirs.abs().max()
    assert gap < 1e-4, f"{what}: not the same function, off by {gap:.2g}"
    shown = [f"{1e3 * times[0]:.1f}", f"{1e3 * times[1]:.1f}", f"{times[1] / times[0]:.2f}"] if times else [""] * 3
    return f"| {what} | {gap:.1e} | {' | '.join(shown)} |"


def born(features: int, classes: int, dim: int, bond: int, batch: int, steps: int) -> list[str]:
    """Class probabilities of a chain, its log partition function, and the step of a classifier."""
    import tensorkrowch as tk

    machine = BornMachine(n_features=features, n_classes=classes, embedding="legendre", dim=dim, bond=bond, std=0.01)
    sites, label, edge, half = machine.sites.detach(), machine.label.detach(), machine.edge, features // 2
    first, last = torch.einsum("a,aeg->eg", edge, sites[0]), torch.einsum("aeg,g->ae", sites[-1], edge)
    chain = [first, *sites[1:half], label, *sites[half:-1], last]
    other, whole = (tk.models.MPSLayer(tensors=[one.clone() for one in chain], out_position=half) for _ in range(2))
    x, labels = torch.rand(batch, features), torch.randint(classes, (batch,))
    other.auto_stack, other.auto_unbind = True, False
    other.trace(machine.embed(x))

    def theirs() -> Tensor:
        return other(machine.embed(x)).square().log().log_softmax(dim=1)

    with torch.no_grad():
        pair = machine.class_log_probabilities(x).exp(), theirs().exp()
        log_z = machine.log_partition().logsumexp(0), 2 * whole.norm(log_scale=True)
    times = step_times(
        [
            (machine, lambda: F.nll_loss(machine.class_log_probabilities(x), labels)),
            (other, lambda: F.nll_loss(theirs(), labels)),
        ],
        steps,
    )
    what = f"Born tensors: {features} features, d {dim}, D {bond}"
    return [row(f"{what}, p(c\\|x), batch {batch}", *pair, times), row(f"{what}, log Z", *log_z)]


class EveryOther(nn.Module):
    """GELU at every other call: without a channel MLP, neuraloperator's block applies its activation twice."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = itertools.count()

    def forward(self, field: Tensor) -> Tensor:
        return field if next(self.calls) % 2 else F.gelu(field)


def operator(points: int, width: int, modes: int, layers: int, batch: int, steps: int) -> str:
    """A Fourier operator on a periodic square of points x points, and the step of a regression."""
    from neuralop.models import FNO as Theirs

    grid = Grid(Axis(points, periodic=True), Axis(points, periodic=True))
    ours = FNO(3, 1, coordinates=0, width=width, modes=(modes, modes), layers=layers)
    transform = Transform(grid, (modes, modes))
    theirs = Theirs(
        n_modes=(2 * modes, 2 * modes - 1), in_channels=3, out_channels=1, hidden_channels=width, n_layers=layers,
        lifting_channel_ratio=0, projection_channel_ratio=2, positional_embedding=None, use_channel_mlp=False,
        channel_mlp_skip=None, fno_skip="linear",
    )  # fmt: skip
    theirs.fno_blocks.non_linearity = EveryOther()
    copy(ours, theirs, modes)
    x, target = torch.randn(batch, 3, points, points), torch.randn(batch, 1, points, points)
    nowhere = torch.zeros(0, points, points)

    def found() -> Tensor:
        return ours.project(ours.hidden(x, nowhere, transform, lambda block, *inputs: block(*inputs)))

    with torch.no_grad():
        pair = found(), theirs(x)
    times = step_times(
        [(ours, lambda: F.mse_loss(found(), target)), (theirs, lambda: F.mse_loss(theirs(x), target))], steps
    )
    return row(f"Fourier operator: {points} x {points}, width {width}, modes {modes}, batch {batch}", *pair, times)


@torch.no_grad()
def copy(ours: FNO, theirs: Any, modes: int) -> None:
    """Our weights into theirs: their rows run from -modes to modes - 1, ours from 0 up and then from -modes."""
    pairs = [(ours.lift, theirs.lifting.fcs[0]), *zip((ours.widen, ours.narrow), theirs.projection.fcs, strict=True)]
    for mine, other in pairs:
        other.weight.copy_(mine.weight[:, :, None])
        other.bias.copy_(mine.bias)
    for layer, block in enumerate(ours.blocks):
        weight = torch.view_as_complex(block.spectral.weight).roll(modes, dims=0)
        theirs.fno_blocks.convs[layer].weight.tensor.copy_(weight.permute(2, 3, 0, 1))
        theirs.fno_blocks.convs[layer].bias.copy_(block.pointwise.bias[:, None, None])
        theirs.fno_blocks.fno_skips[layer].conv.weight.copy_(block.pointwise.weight[:, :, None])


def main() -> None:
    warnings.simplefilter("ignore")  # of the libraries
    torch.set_num_threads(1)
    torch.manual_seed(0)
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    print("| the same function | largest difference, relative | our step, ms | theirs, ms | theirs / ours |")
    print("|---|---|---|---|---|")
    print(*born(2, 2, 10, 6, 256, steps), sep="\n", flush=True)
    print(*born(64, 10, 2, 20, 256, steps), sep="\n", flush=True)
    print(operator(32, 16, 8, 3, 20, steps), flush=True)
    print(operator(64, 32, 12, 4, 8, steps), flush=True)


if __name__ == "__main__":
    main()
