"""The core's throughput beside a bare loop's: `python -m tests.benchmarks.ddp [--repetitions N] [--amp cuda]`.

Two gloo workers on the CPU, one thread each, train the same model on the same batches by the same optimizer: once by
`core.loop.fit`, without its evaluation, and once by the loop that anyone would write around DistributedDataParallel.
They take turns, an epoch each. Ratios are of throughputs: of neighbouring epochs, the median and the middle half; of
the fastest epoch of each side, which on a shared machine is the less disturbed figure; and of the least processor time.
With --amp, one process on that device instead: what bf16 saves of time and memory, for the reference walk transformer,
in both loops.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from time import perf_counter, process_time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from gatesweep.core.loop import fit
from gatesweep.core.precision import DTYPES
from gatesweep.core.settings import Settings
from gatesweep.core.trainable import Data, Trainable
from gatesweep.sweeps.config.build import build_run
from gatesweep.sweeps.config.compose import compose_config

WARM_UP = 2  # epochs of each side that do not count
SIDES: dict[str, list[str]] = {
    "mlp, as it is": ["experiment=mlp"],
    "mlp, width 512": ["experiment=mlp", "trainable.width=512", "trainable.depth=3", "data.batch_size=256"],
    "walk transformer, d_model 128, 3 layers": [
        *("experiment=walk_transformer", "trainable.d_model=128", "trainable.n_layers=3"),
        *("data.windows=640", "data.n_walks=1024", "data.held_out=64", "trainable.sequences=64"),
    ],
}
REFERENCE = ["experiment=walk_reference", "data.windows=6400"]


def rows(batch: Any, first: int, every: int) -> Any:
    """Every so many samples of a batch, from the first on."""
    return batch[first::every] if isinstance(batch, Tensor) else tuple(one[first::every] for one in batch)


def bare(trainable: Trainable, data: Data, wrap: Callable[[nn.Module], nn.Module], precision: str) -> Iterator[float]:
    """Seconds of each epoch, by nothing but torch."""
    model, device = wrap(trainable), trainable.progress.device
    optimizer = trainable.optimizers()["main"]
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    trainable.train()
    epoch = 0
    while True:
        began, losses = perf_counter(), []
        for batch in data.train(epoch):
            with torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32"):
                loss = model(rows(batch, rank, world))["loss"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        torch.stack(losses).tolist()
        yield perf_counter() - began
        epoch += 1


def ours(trainable: Trainable, data: Data, wrap: Callable[[nn.Module], nn.Module], precision: str) -> Iterator[float]:
    """Seconds of each epoch, but for its evaluation: that is no part of the comparison."""
    trainable.evaluate = lambda data: {}  # type: ignore[method-assign]
    epochs = fit(trainable, data, Settings(max_epochs=10**6, precision=precision), wrap=wrap)  # type: ignore[arg-type]
    while True:
        began = perf_counter()
        next(epochs)
        yield perf_counter() - began


def measured(index: int, *, folder: str, repetitions: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=index, world_size=2)
    wrap = functools.partial(DistributedDataParallel, forward_sync_buffers=False, gradient_as_bucket_view=True)
    for name, overrides in SIDES.items():
        config = compose_config([*overrides, "device=cpu"])
        sides = [loop(*build_run(config), wrap, "fp32") for loop in (bare, ours)]
        times: list[list[float]] = [[], []]
        spent: list[list[float]] = [[], []]
        for repetition in range(WARM_UP + repetitions):
            for side in (0, 1) if repetition % 2 else (1, 0):
                dist.barrier()
                began = process_time()
                times[side].append(next(sides[side]))
                spent[side].append(process_time() - began)
        if index == 0:
            bare_cpu, ours_cpu = (min(one[WARM_UP:]) for one in spent)
            steps = len(build_run(config)[1].train(0))
            print(row(name, [one[WARM_UP:] for one in times], bare_cpu / ours_cpu, steps), flush=True)
    dist.destroy_process_group()
    os._exit(0)


def row(name: str, times: list[list[float]], processor: float, steps: int) -> str:
    bare_ms, ours_ms = (1e3 * min(one) / steps for one in times)
    low, median, high = statistics.quantiles((b / o for b, o in zip(*times, strict=True)), n=4)
    shown = f"{median:.3f} ({low:.3f} to {high:.3f}) | {bare_ms / ours_ms:.3f} | {processor:.3f}"
    return f"| {name} | {bare_ms:.2f} | {ours_ms:.2f} | {shown} |"


def amp(device: str, repetitions: int) -> None:
    """Full precision and bf16 in turn, in one process: milliseconds of a step, and the highest memory in use."""
    print("| loop | fp32, ms a step | bf16, ms a step | faster | fp32, MiB | bf16, MiB |")
    print("|---|---|---|---|---|---|")
    for name, loop in (("bare", bare), ("gatesweep", ours)):
        found = {}
        for precision in ("fp32", "bf16"):
            trainable, data = build_run(compose_config([*REFERENCE, f"device={device}"]))
            steps, running = len(data.train(0)), loop(trainable, data, lambda module: module, precision)
            for _ in range(WARM_UP):
                next(running)
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            seconds = statistics.median(next(running) for _ in range(repetitions))
            memory = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else float("nan")
            found[precision] = 1e3 * seconds / steps, memory
        (full, most), (half, less) = found["fp32"], found["bf16"]
        print(f"| {name} | {full:.2f} | {half:.2f} | {full / half:.2f} | {most:.0f} | {less:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=40, help="epochs of each side")
    parser.add_argument("--amp", metavar="DEVICE", help="bf16 against fp32 on that device, e.g. cuda")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.amp:
        amp(arguments.amp, arguments.repetitions)
        return
    print("| model | bare, ms a step | gatesweep, ms a step | gatesweep / bare | of the fastest | of processor time |")
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        spawn(functools.partial(measured, folder=folder, repetitions=arguments.repetitions), nprocs=2)


if __name__ == "__main__":
    main()
