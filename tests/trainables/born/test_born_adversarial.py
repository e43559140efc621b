"""Born machines trained under attack: what their loss is made of, and that they withstand what others do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gatesweep.sweeps.config.build import build_run
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.schema import make_gate
from gatesweep.trainables.born.adversarial import BornAdversarial
from gatesweep.trainables.born.attacks import is_robust, surprise
from gatesweep.trainables.born.classifier import BornClassifier
from gatesweep.trainables.born.data import BornData
from tests.support.examples import CPU, stacks_as_it_trains_alone

SMALL: dict[str, Any] = {"generated": 64, "attacked": 32, "robustness": [], "dim": 6, "bond": 4}


def moons(**fields: Any) -> BornData:
    return BornData(**({"device": CPU, "seed": 0, "per_class": 200, "batch_size": 50} | fields))


def made(data: BornData, progress: float = 1.0, seed: int = 0, **fields: Any) -> BornAdversarial:
    torch.manual_seed(seed)
    trainable = BornAdversarial(data, **(SMALL | fields)).train()
    trainable.progress.fill_(progress)
    return trainable


# --- the loss


@pytest.mark.parametrize("method", ["pgd", "fgsm"])
def test_the_loss_weighs_points_as_they_are_and_as_attacked(method):
    data = moons()
    batch = data.train(0)[0]
    found = made(data, method=method, clean_weight=0.25, weight_generative=2.0)(batch)
    expected = 0.25 * found["class_nll"] + 0.75 * found["attacked"] + 2.0 * found["joint_nll"]
    torch.testing.assert_close(found["loss"], expected)
    assert found["attacked"] > found["class_nll"] > 0


def test_the_terms_are_what_they_are_called():
    data = moons()
    x, labels = batch = data.train(0)[0]
    trainable = made(data, eps=0.0)  # an attack of no size
    found = trainable(batch)
    torch.testing.assert_close(found["class_nll"], surprise(trainable.machine, x, labels).mean())
    torch.testing.assert_close(found["attacked"], found["class_nll"])
    torch.testing.assert_close(found["joint_nll"], -trainable.machine.joint_log_likelihood(x, labels).mean() / 2)
    held_out = trainable.eval()(batch)
    assert held_out.keys() == {"loss"}
    torch.testing.assert_close(held_out["loss"], found["class_nll"])


def test_trades_adds_the_divergence_of_what_is_said_before_and_after():
    data = moons()
    x, _ = batch = data.train(0)[0]
    trainable = made(data, method="trades", beta=3.0, clean_weight=0.9)  # which trades does not read
    torch.manual_seed(1)
    found = trainable(batch)
    torch.testing.assert_close(found["loss"], found["class_nll"] + 3.0 * found["attacked"])
    clean = trainable.machine.class_log_probabilities(x)
    torch.manual_seed(1)
    moved = trainable.attack(x, batch[1], trainable._objective(clean.detach(), batch[1]))
    after = trainable.machine.class_log_probabilities(moved)
    divergence = torch.nn.functional.kl_div(after, clean, log_target=True, reduction="batchmean")
    torch.testing.assert_close(found["attacked"], divergence)
    assert divergence > 0
    none = made(data, method="trades", eps=0.0)(batch)["attacked"]
    assert none.item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("method", ["pgd", "fgsm", "trades"])
def test_the_attack_grows_with_progress_and_then_stays(method):
    data = moons()
    x, labels = data.train(0)[0]
    reached = []
    for progress in (0.0, 0.1, 0.2, 0.4, 1.0):
        trainable = made(data, progress, method=method, eps=0.2, ramp=0.4)
        clean = trainable.machine.class_log_probabilities(x).detach()
        away = (trainable.attack(x, labels, trainable._objective(clean, labels)) - x).abs()
        reached.append((away.amax(dim=1) if method == "fgsm" else away.norm(dim=1)).max().item())
    assert reached[0] == 0.0
    for found, most in zip(reached[1:], (0.05, 0.1, 0.2, 0.2), strict=True):
        assert 0.8 * most < found <= most * (1 + 1e-5)


def test_attacked_points_carry_gradients_to_the_tensors_but_not_through_the_attack():
    data = moons()
    batch = data.train(0)[0]
    trainable = made(data, clean_weight=0.0)
    torch.manual_seed(1)
    trainable(batch)["loss"].backward()
    found = trainable.machine.sites.grad.clone()
    trainable.zero_grad()
    torch.manual_seed(1)
    moved = trainable.attack(*batch, trainable._objective(torch.zeros(1), batch[1]))
    assert not moved.requires_grad
    surprise(trainable.machine, moved, batch[1]).mean().backward()
    torch.testing.assert_close(found, trainable.machine.sites.grad)


# --- in all the ways to train


def test_members_of_a_stack_are_attacked_as_alone():
    data = moons()
    batch = data.train(0)[0]
    members = [made(data, seed=seed, training_tries=1, eps=0.1) for seed in range(2)]
    for member in members:  # from the points themselves: a stack draws other numbers
        member.eval()
    stacks_as_it_trains_alone(members, batch, rtol=1e-4, atol=1e-5)
    params, buffers = torch.func.stack_module_state(members)
    for member in members:
        member.train()

    def losses(p: Any, b: Any) -> Any:
        return torch.func.functional_call(members[0], (p, b), (batch,))

    stacked = torch.vmap(losses, randomness="different")(params, buffers)
    for position, member in enumerate(members):
        alone = member(batch)
        assert stacked["class_nll"][position].item() == pytest.approx(alone["class_nll"].item(), rel=1e-4)
        assert stacked["attacked"][position].item() == pytest.approx(alone["attacked"].item(), rel=0.2)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's compiler of its own
@pytest.mark.parametrize("method", ["pgd", "trades"])
def test_it_compiles_whole_and_loses_what_it_does_uncompiled(method):
    """Attack, gradients and all, as one graph; its kernels are the compiler's matter, and take it half a minute."""
    batch = moons().train(0)[0]
    found = []
    for compiled in (False, True):
        trainable = made(moons(), method=method, dim=3, training_tries=2)
        run = torch.compile(trainable, backend="aot_eager", fullgraph=True) if compiled else trainable
        torch.manual_seed(1)
        losses = run(batch)
        losses["loss"].backward()
        found.append((losses, trainable.machine.sites.grad))
    for name, loss in found[0][0].items():
        assert found[1][0][name].item() == pytest.approx(loss.item(), rel=1e-4), name
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-5)


# --- what it is for


def trained(kind: type[BornClassifier] | type[BornAdversarial], data: BornData, seed: int, **fields: Any) -> Any:
    torch.manual_seed(seed)
    trainable = kind(data, **(SMALL | fields))
    optimizer = trainable.optimizers()["main"]
    epochs = 25
    for epoch in range(epochs):
        for batch in data.train(epoch):
            trainable.progress.fill_((epoch + 1) / epochs)
            optimizer.zero_grad()
            trainable.train()(batch)["loss"].backward()
            torch.nn.utils.clip_grad_norm_(trainable.parameters(), 1.0)
            optimizer.step()
    return trainable.eval()


def test_trained_under_attack_a_machine_withstands_more_and_classifies_as_well():
    """On test points that nobody tuned on; attacks of 15 % of the range, for smooth machines withstand less anyway."""
    data = moons(per_class=800, batch_size=100)
    x, labels = (part[::2] for part in data.part("test"))
    plain, hardened = (
        trained(kind, data, 1, dim=10, bond=6, std=0.05, **fields).exact()
        for kind, fields in ((BornClassifier, {}), (BornAdversarial, {"eps": 0.15}))
    )
    robust = [is_robust(one, x.double(), labels, 0.15).double().mean().item() for one in (plain, hardened)]
    accurate = [is_robust(one, x.double(), labels, 0.0).double().mean().item() for one in (plain, hardened)]
    assert robust[1] > robust[0] + 0.1
    assert accurate[1] > accurate[0] - 0.02


def test_the_joint_gate_asks_for_what_the_exact_density_has_and_a_gaussian_has_not():
    config = compose_config(["experiment=born_joint"])
    trainable, data = build_run(config)
    gate = make_gate(config.gate)
    oracle, trivial = (
        {f"val/{key}": value for key, value in found(data).items()} for found in (trainable.oracle, trainable.trivial)
    )
    assert gate.missed(oracle) == []
    missed = " ".join(gate.missed(trivial))
    assert all(name in missed for name in ("accuracy", "robust_accuracy_10", "joint_nll_per_dim", "sliced_w1"))


# --- fields


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("eps", -0.1, "a fraction of the inputs' range, 0 to 1"),
        ("eps", 8.0, "a fraction of the inputs' range, 0 to 1"),
        ("ramp", 0.0, "a fraction of the run, above 0 up to 1"),
        ("training_steps", 0, "at least 1"),
        ("training_tries", 0, "at least 1"),
        ("clean_weight", 1.5, "0 to 1"),
        ("beta", -1.0, "at least 0"),
        ("weight_generative", -1.0, "at least 0"),
    ],
)
def test_wrong_values_are_named(field, value, expected):
    with pytest.raises(ValueError, match=rf"trainable\.{field}: got {value}, expected {expected}"):
        BornAdversarial(moons(), **(SMALL | {field: value}))
