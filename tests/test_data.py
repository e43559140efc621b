"""Each rank's batches of an epoch, and checks of a configuration's values."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.data import check_batch_size, generator, require, share, shuffled


def ranks(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr("core.data.world_size", lambda: count)


def rank(monkeypatch: pytest.MonkeyPatch, index: int) -> None:
    monkeypatch.setattr("torch.distributed.get_rank", lambda: index)


@given(count=st.integers(1, 200), batch_size=st.integers(1, 50), epoch=st.integers(0, 5))
def test_an_epoch_shows_each_sample_at_most_once_in_whole_batches(count: int, batch_size: int, epoch: int) -> None:
    batches = shuffled(count, batch_size, seed=0, epoch=epoch)
    assert [len(batch) for batch in batches] == [batch_size] * (count // batch_size)
    seen = torch.cat([*batches, torch.empty(0, dtype=torch.int64)]).tolist()
    assert len(set(seen)) == len(seen) and set(seen) <= set(range(count))


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


def test_ranks_share_an_epoch_out_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = torch.cat(shuffled(66, 6, seed=3, epoch=2)).tolist()
    ranks(monkeypatch, 4)
    parts = []
    for index in range(4):
        rank(monkeypatch, index)
        parts.append(torch.cat(shuffled(66, 4, seed=3, epoch=2)).tolist())
        assert range(66)[share(66)] == range(index, 64, 4)
    assert len({len(part) for part in parts}) == 1
    together = [sample for part in parts for sample in part]
    assert len(set(together)) == 64 and set(together) <= set(alone)


def test_a_batch_is_at_most_what_each_rank_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    check_batch_size(64, 64)
    ranks(monkeypatch, 2)
    check_batch_size(32, 65)
    with pytest.raises(ValueError, match=r"data\.batch_size: got 33, expected 1 to 32, the training samples of an ep"):
        check_batch_size(33, 65)
    with pytest.raises(ValueError, match=r"data\.batch_size: got 0, expected 1 to 32"):
        check_batch_size(0, 65)


def test_what_is_required_is_said_in_one_line() -> None:
    require(True, "data.size", 3, "at least 3")
    with pytest.raises(ValueError, match=r"^data\.size: got 2, expected at least 3$"):
        require(False, "data.size", 2, "at least 3")
