"""Autoencoders: messages are a slow sum, codes follow a slow count, every combination of parts trains."""

from __future__ import annotations

import functools
import io
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from gatesweep.core.loop import fit
from gatesweep.core.settings import Settings
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.trainables.autoencoders.autoencoder import Autoencoder
from gatesweep.trainables.autoencoders.latent import (
    EPSILON,
    Identity,
    Linear,
    VectorQuantizer,
    codebook_use,
    make_latent,
)
from gatesweep.trainables.autoencoders.metrics import masked_mse, reconstruction
from gatesweep.trainables.autoencoders.model import make_decoder, make_encoder
from tests.support.examples import small_digits, small_events, stacks_as_it_trains_alone

SMALL = {"encoder_width": 16, "decoder_width": 16, "n_codes": 16}


# --- encoders and decoders


def test_messages_are_a_slow_sum_over_the_other_tokens():
    data = small_events()
    torch.manual_seed(0)
    encoder = make_encoder("gnn", data, width=8, depth=1, latent_dim=3)
    features, ids = (part[:4] for part in data.train_all())
    found = encoder(features, ids)
    one = encoder.rounds[0]
    for row in range(4):
        tokens = [t for t in range(ids.shape[1]) if ids[row, t] > 0]
        start = [encoder.first(torch.cat([features[row, t], encoder.embedding(ids[row, t])])) for t in tokens]
        for place, t in enumerate(tokens):
            normed = [one.norm(node) for node in start]
            messages = [
                torch.nn.functional.gelu(one.send(sender) + one.receive(normed[place]))
                for index, sender in enumerate(normed)
                if index != place
            ]
            heard = torch.stack(messages).mean(dim=0)
            node = start[place] + one.update(torch.cat([normed[place], heard]))
            torch.testing.assert_close(found[row, t], encoder.last(node), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["mlp", "gnn"])
def test_tokens_may_come_in_any_order_and_padding_says_nothing(kind):
    data = small_events()
    torch.manual_seed(0)
    encoder = make_encoder(kind, data, width=16, depth=2, latent_dim=3)
    features, ids = (part[:16] for part in data.train_all())
    z = encoder(features, ids)
    order = torch.randperm(ids.shape[1])
    torch.testing.assert_close(encoder(features[:, order], ids[:, order]), z[:, order], atol=1e-5, rtol=1e-4)
    padded = torch.where((ids > 0)[..., None], features, 1e3)
    torch.testing.assert_close(encoder(padded, ids)[ids > 0], z[ids > 0])
    other = features.clone()
    other[:, 0] += 1.0
    moved = (encoder(other, ids)[:, 1:] - z[:, 1:])[ids[:, 1:] > 0].abs().max()
    assert moved > 1e-3 if kind == "gnn" else moved == 0


def test_an_event_of_one_token_or_none_is_fine():
    data = small_events()
    encoder = make_encoder("gnn", data, width=16, depth=2, latent_dim=3)
    ids = torch.tensor([[1, 0, 0], [0, 0, 0]])
    z = encoder(torch.zeros(2, 3, 4), ids)
    assert z.isfinite().all()
    assert masked_mse(make_decoder("gnn", data, width=16, depth=2, latent_dim=3)(z, ids), torch.zeros(2, 3, 4), ids) > 0


# --- latents


def tokens(n: int = 60, dim: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(10)[None, :] < torch.randint(1, 11, (n, 1), generator=generator)
    return torch.randn(n, 10, dim, generator=generator), mask


def quantizer(**fields: Any) -> VectorQuantizer:
    torch.manual_seed(0)
    made = make_latent("vq", 3, **({"n_codes": 8, "revive_below": 0.0} | fields))
    assert isinstance(made, VectorQuantizer)
    return made


def test_each_latent_gets_its_nearest_code_and_hands_its_gradient_through():
    z, mask = tokens()
    z.requires_grad_()
    latent = quantizer().eval()
    quantised, losses = latent(z, mask)
    index = torch.cdist(z.detach().flatten(0, 1), latent.codes).argmin(dim=1)
    torch.testing.assert_close(quantised.detach().flatten(0, 1), latent.codes[index])
    quantised.square().sum().backward()
    torch.testing.assert_close(z.grad, 2 * quantised.detach())
    gap = (z.detach() - quantised.detach())[mask].square().mean()
    assert losses["commitment"].item() == pytest.approx(0.25 * gap.item(), rel=1e-5)


def test_codes_follow_a_slow_count_of_the_latents_that_chose_them():
    z, mask = tokens()
    latent = quantizer(decay=0.9)
    codes, counts, sums = latent.codes.clone(), latent.counts.clone(), latent.sums.clone()
    for _ in range(3):
        latent(z, mask)
        new_counts, new_sums = torch.zeros(8), torch.zeros(8, 3)
        for value in z[mask]:
            chosen = (codes - value).square().sum(dim=1).argmin()
            new_counts[chosen] += 1
            new_sums[chosen] += value
        counts, sums = 0.9 * counts + 0.1 * new_counts, 0.9 * sums + 0.1 * new_sums
        smoothed = (counts + EPSILON) / (counts.sum() + 8 * EPSILON) * counts.sum()
        codes = sums / smoothed[:, None]
        torch.testing.assert_close(latent.counts, counts, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(latent.codes, codes, atol=1e-4, rtol=1e-4)
    before = latent.codes.clone()
    latent.eval()(z, mask)
    assert torch.equal(latent.codes, before)


def test_codes_settle_on_the_centres_of_clusters():
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.eye(3)
    z = (centres[torch.arange(300) % 3] + 0.1 * torch.randn(300, 3, generator=generator)).view(30, 10, 3)
    latent = quantizer(n_codes=6, decay=0.5, revive_below=0.0)
    latent.codes.copy_(torch.cat([centres + 3, torch.full((3, 3), -50.0)]))
    latent.sums.copy_(latent.codes)
    for _ in range(30):
        latent(z, torch.ones(30, 10, dtype=torch.bool))
    torch.testing.assert_close(latent.codes[:3], centres, atol=0.05, rtol=0)


def test_dead_codes_come_back_as_latents_of_the_batch_and_padding_never_does():
    z, mask = tokens()
    z = torch.where(mask[..., None], z, 1e3)
    far = quantizer(revive_below=0.1)
    far.codes[4:] += 500.0
    far.sums[4:] += 500.0
    far.counts[4:] = 0.0
    far(z, mask)
    known = z[mask]
    assert torch.cdist(far.codes[4:], known).min(dim=1).values.max() < 1e-3
    assert far.codes.abs().max() < 10
    off = quantizer()
    off.codes[4:] += 500.0
    off.sums[4:] += 500.0
    for _ in range(50):
        off(z, mask)
    assert off.usage(z, mask)[4:].sum() == 0


def test_codes_start_from_different_latents_of_the_data():
    z, mask = tokens()
    latent = quantizer(n_codes=100)
    latent.begin(z, mask)
    assert (latent.codes[:, None] == z[mask]).all(dim=-1).any(dim=1).all()
    assert len(torch.unique(latent.codes, dim=0)) == 100
    untouched = quantizer(codebook="random")
    before = untouched.codes.clone()
    untouched.begin(z, mask)
    assert torch.equal(untouched.codes, before)
    with pytest.raises(ValueError, match=rf"trainable\.n_codes: got 900, expected at most {int(mask.sum())}"):
        quantizer(n_codes=900).begin(z, mask)


def test_ranks_that_see_half_a_batch_each_move_the_codes_as_one_that_sees_all(tmp_path):
    z, mask = tokens()
    whole = quantizer(n_codes=8)
    whole(z, mask)
    spawn(functools.partial(_half, folder=str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for one in (first, second):
        torch.testing.assert_close(one["followed"], whole.codes)
    for drawn in ("started", "revived"):
        assert torch.equal(first[drawn], second[drawn]), drawn


def _half(rank: int, *, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    z, mask = tokens()
    codes = {}
    latent = quantizer(n_codes=8)
    latent(z[rank::2], mask[rank::2])
    codes["followed"] = latent.codes.clone()
    latent = quantizer(n_codes=8, revive_below=0.9)
    torch.manual_seed(rank)
    latent.begin(z, mask)
    codes["started"] = latent.codes.clone()
    latent(z[rank::2], mask[rank::2])
    codes["revived"] = latent.codes.clone()
    torch.save(codes, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_use_of_a_codebook_by_hand():
    assert codebook_use(torch.full((8,), 3)) == {
        **{"perplexity": pytest.approx(8), "perplexity_share": pytest.approx(1)},
        **{"codes_used": 1.0, "dead_codes": 0.0},
    }
    half = codebook_use(torch.tensor([5, 5, 0, 0]))
    assert half["perplexity"] == pytest.approx(2)
    assert (half["codes_used"], half["dead_codes"]) == (0.5, 2.0)
    assert codebook_use(torch.tensor([0, 7]))["perplexity"] == pytest.approx(1)


def test_a_linear_latent_has_the_rank_it_was_asked_for():
    z, mask = tokens(dim=6)
    latent = make_latent("linear", 6, rank=2)
    assert isinstance(latent, Linear) and latent.dims == 2
    assert torch.linalg.matrix_rank(latent(z, mask)[0].flatten(0, 1), atol=1e-5) == 2
    same = make_latent("none", 6)
    assert isinstance(same, Identity) and torch.equal(same(z, mask)[0], z)


# --- the trainable


@pytest.mark.parametrize("latent", ["none", "linear", "vq"])
@pytest.mark.parametrize("encoder", ["mlp", "gnn"])
@pytest.mark.parametrize("decoder", ["mlp", "gnn"])
@pytest.mark.parametrize("make", [small_events, small_digits])
def test_every_combination_trains_every_parameter_and_draws(make, encoder, decoder, latent):
    data = make()
    torch.manual_seed(0)
    trainable = Autoencoder(data, encoder=encoder, decoder=decoder, latent=latent, **SMALL)
    trainable.begin(data)
    losses = trainable(data.train(0)[0])
    losses["loss"].backward()
    assert losses["loss"] >= losses["mse"] > 0
    for name, param in trainable.named_parameters():
        assert param.grad is not None and param.grad.abs().sum() > 0, name
    drawings = trainable.eval().figures(data)
    assert set(drawings) == {"reconstruction"} | ({"codebook"} if latent == "vq" else set())
    if encoder == decoder == "mlp":
        for draw in drawings.values():
            draw().savefig(io.BytesIO(), format="png")


@pytest.mark.parametrize("latent", ["none", "linear", "vq"])
def test_evaluation_repeats_itself_and_draws_no_global_numbers(latent):
    data = small_events()
    trainable = Autoencoder(data, latent=latent, **SMALL).eval()
    before, state = torch.get_rng_state(), {key: value.clone() for key, value in trainable.state_dict().items()}
    first = trainable.evaluate(data)
    assert trainable.evaluate(data) == first
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(value, state[key]) for key, value in trainable.state_dict().items())
    for baseline in (trainable.oracle(data), trainable.trivial(data)):
        assert baseline.keys() <= first.keys()
    assert trainable.oracle(data)["mse"] == 0
    assert trainable.trivial(data)["mse"] == pytest.approx(1, abs=0.05)
    assert first["mse"] == pytest.approx(reconstruction(data, trainable.reconstruct)["mse"])


def test_use_is_counted_over_all_held_out_tokens():
    data = small_events(n_events=1500, held_out=600)  # more than one batch
    assert len(data.val()) == 2
    torch.manual_seed(0)
    trainable = Autoencoder(data, **SMALL).eval()
    trainable.begin(data)
    counts = torch.zeros(16)
    for features, ids in data.val():
        z = trainable.encoder(features, ids)[ids > 0]
        for chosen in torch.cdist(z, trainable.latent.codes).argmin(dim=1):
            counts[chosen] += 1
    found = trainable.evaluate(data)
    for name, value in codebook_use(counts).items():
        assert found[name] == pytest.approx(value), name


def test_a_random_codebook_dies_and_one_from_the_data_does_not():
    """The failure of the source's default, and what the gate is for."""
    data = small_events(n_events=1200)
    use = {}
    for name, fields in {"source": {"codebook": "random", "revive_below": 0.0}, "ours": {}}.items():
        torch.manual_seed(0)
        trainable = Autoencoder(data, latent_dim=32, n_codes=128, decay=0.9, **fields)
        epochs = list(fit(trainable, data, Settings(max_epochs=3)))
        use[name] = epochs[-1].metrics["val/codes_used"]
    assert use["source"] < 0.3
    assert use["ours"] > 0.8


@pytest.mark.parametrize("latent", ["none", "linear"])
def test_stacked_losses_are_the_solo_ones(latent):
    data = small_events()
    members = [Autoencoder(data, latent=latent, encoder="gnn", **SMALL) for _ in range(3)]
    stacks_as_it_trains_alone(members, data.train(0)[0])


def test_recomputing_changes_nothing():
    data = small_events()
    grads = []
    for recompute in (False, True):
        torch.manual_seed(0)
        trainable = Autoencoder(data, encoder="gnn", **SMALL)
        trainable.recompute = recompute
        trainable(data.train(0)[0])["loss"].backward()
        grads.append({name: param.grad for name, param in trainable.named_parameters()})
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoder_width": 0}, r"trainable\.encoder_width: got 0, expected at least 1"),
        ({"decoder_depth": 0}, r"trainable\.decoder_depth: got 0, expected at least 1"),
        ({"latent_dim": 0}, r"trainable\.latent_dim: got 0, expected at least 1"),
        (
            {"latent": "linear", "latent_rank": 5},
            r"trainable\.latent_rank: got 5, expected 1 to trainable\.latent_dim = 4",
        ),
        ({"n_codes": 1}, r"trainable\.n_codes: got 1, expected at least 2"),
        ({"commitment": -0.1}, r"trainable\.commitment: got -0\.1, expected at least 0"),
        ({"decay": 1.0}, r"trainable\.decay: got 1\.0, expected 0 or more, and below 1"),
        ({"revive_below": 1.0}, r"trainable\.revive_below: got 1\.0, expected 0 \(off\) or more, and below 1"),
    ],
)
def test_wrong_hyperparameters_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        Autoencoder(small_events(), **fields)


# --- configuration


@pytest.mark.parametrize("latent", ["none", "linear", "vq"])
def test_groups_choose_the_parts_and_the_latent_brings_its_gate(latent):
    parts = [f"trainable/latent={latent}", "trainable/encoder=gnn", "trainable.encoder_depth=3"]
    config = compose_config(["trainable=autoencoder", *parts])
    node = config.trainable
    assert (node["latent"], node["encoder"], node["decoder"], node["encoder_depth"]) == (latent, "gnn", "mlp", 3)
    assert ("n_codes" in node) == ("val/codes_used" in config.gate.thresholds) == (latent == "vq")
    assert ("n_codes" in config.search.space["trainable"]) == (latent == "vq")
