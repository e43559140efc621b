"""The order of an epoch, each rank's part of a batch, and checks of a configuration's values."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gatesweep.core.data import (
    batch_layout,
    check_batch_size,
    generator,
    micro_batches,
    require,
    shard_for_rank,
    shuffled,
)
from gatesweep.core.errors import InputError


class Pair(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


@given(count=st.integers(1, 200), batch_size=st.integers(1, 50), epoch=st.integers(0, 5))
def test_an_epoch_shows_each_sample_once(count: int, batch_size: int, epoch: int) -> None:
    batches = shuffled(count, batch_size, seed=0, epoch=epoch)
    whole, tail = divmod(count, batch_size)
    assert [len(batch) for batch in batches] == [batch_size] * whole + [tail] * (tail > 0)
    assert sorted(torch.cat(batches).tolist()) == list(range(count))


def test_the_layout_of_a_batch_names_its_tensors() -> None:
    x, y = torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64)
    assert batch_layout(x) == {"": ("float32", [5, 2])}
    assert batch_layout({"a": (x, {"b": y}), "c": "no tensor"}) == {"a.0": ("float32", [5, 2]), "a.1.b": ("int64", [5])}
    assert batch_layout(Pair(x, y)) == {"0": ("float32", [5, 2]), "1": ("int64", [5])}


def test_the_order_is_one_of_its_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return torch.cat(shuffled(64, 16, seed=seed, epoch=epoch)).tolist()

    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    assert sorted(order(0, 1)) == list(range(64))


def test_neighbouring_seeds_and_epochs_have_nothing_in_common() -> None:
    """Adding the two up, say, would give (0, 1) and (1, 0) the same order."""
    draws = {torch.rand((), generator=generator(seed, epoch)).item() for seed in range(20) for epoch in range(20)}
    assert len(draws) == 400


@given(count=st.integers(1, 40), world=st.integers(1, 7))
def test_ranks_see_each_sample_once_and_their_weighted_means_average_to_that_of_all(count: int, world: int) -> None:
    """Uneven tails too, and fewer samples than ranks."""
    batch = {"x": torch.arange(float(count)), "parts": (torch.arange(2 * count).reshape(count, 2), torch.empty(0, 3))}
    parts = [shard_for_rank(batch, rank, world) for rank in range(world)]
    seen = torch.cat([mine["x"] for mine, weight in parts if weight])
    assert sorted(seen.tolist()) == list(range(count))
    assert all(torch.equal(mine["parts"][0][:, 0], 2 * mine["x"].long()) for mine, _ in parts)  # rows stay together
    assert sum(weight * mine["x"].mean().item() for mine, weight in parts) / world == pytest.approx((count - 1) / 2)
    assert all(len(mine["x"]) >= 1 for mine, _ in parts)


def test_one_worker_trains_on_the_batch_itself() -> None:
    batch = [torch.zeros(3)]
    assert shard_for_rank(batch, 0, 1) == (batch, 1.0)


def test_named_tuples_stay_what_they_are() -> None:
    mine, weight = shard_for_rank(Pair(torch.arange(5), torch.arange(5)), 1, 2)
    assert isinstance(mine, Pair) and mine.x.tolist() == mine.y.tolist() == [1, 3]
    assert weight == pytest.approx(2 * 2 / 5)


def test_micro_batches_share_an_update_by_their_samples() -> None:
    batches = [torch.zeros(count) for count in (3, 1, 4)]
    found = [(len(part.batch), *part[1:]) for part in micro_batches(batches, 2)]
    assert found == [
        (3, 2 / 3, 0.75, True, False),
        (1, 2 / 3, 0.25, False, True),
        (4, 1.0, 1.0, True, True),  # the last update of an epoch may have fewer
    ]


def test_a_batch_is_at_most_an_epoch() -> None:
    check_batch_size(64, 64)
    with pytest.raises(InputError, match=r"data\.batch_size: got 65, expected 1 to 64, the training samples of an ep"):
        check_batch_size(65, 64)
    with pytest.raises(InputError, match=r"data\.batch_size: got 0, expected 1 to 64"):
        check_batch_size(0, 64)


def test_what_is_required_is_said_in_one_line() -> None:
    require(True, "data.size", 3, "at least 3")
    with pytest.raises(InputError, match=r"^data\.size: got 2, expected at least 3$"):
        require(False, "data.size", 2, "at least 3")
