"""Replays: they decide as sweeps do, virtual time adds up, and what they count is what they say."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import create_trial

from gatesweep.core.gate import WORST_SCORE
from gatesweep.core.loop import fit
from gatesweep.core.record import read_events
from gatesweep.sweeps.commands.arguments import parse
from gatesweep.sweeps.commands.replay import main, replay_command, replay_settings, summarise_replicas
from gatesweep.sweeps.commands.run import run_sweep
from gatesweep.sweeps.config.build import build_run
from gatesweep.sweeps.config.compose import compose_config, load_file
from gatesweep.sweeps.config.schema import make_settings
from gatesweep.sweeps.records.layout import trial_folders
from gatesweep.sweeps.search.study import open_study
from gatesweep.sweeps.simulation.recorded import LearningCurve, RecordedSweep, read_recorded, save_recorded
from gatesweep.sweeps.simulation.simulate import NearestRecorded, SimulatedSweep, point_distance, simulate_sweep
from tests.conftest import LR, trivial
from tests.support.pretended import Pretended, pretend

RATES = [0.003, 0.001, 0.3, 0.0001, 0.03, 0.2, 0.01, 0.1, 0.0003, 0.05, 0.02, 0.15]


def ends(folder: Path) -> dict[str, tuple[str, int]]:
    found = {}
    for trial in trial_folders(folder):
        *epochs, end = read_events(trial / "events.jsonl")
        found[trial.name] = (end["outcome"], epochs[-1]["epoch"])
    return found


def trained_on(folder: Path) -> RecordedSweep:
    """A sweep's trials again, each to its end."""
    curves = []
    for trial, asked in zip(trial_folders(folder), open_study(folder).trials, strict=True):
        config = load_file(trial / "config.yaml", [])
        epochs = list(fit(*build_run(config), make_settings(config)))
        scores, metrics = [epoch.score for epoch in epochs], [epoch.metrics for epoch in epochs]
        curves.append(
            LearningCurve(trial.name, str(epochs[-1].outcome), asked.params, scores, [1.0] * len(scores), metrics)
        )
    return RecordedSweep("whole", load_file(folder / "config.yaml", []), curves, 0.1, 1)


def told(study: Any) -> list[Any]:
    return [(one.number, one.params, one.state, one.values, one.constraints) for one in study.trials]


@pytest.mark.usefixtures("ray_here")
def test_a_replay_stops_the_very_trials_that_a_sweep_stops_and_tells_the_study_the_same(tmp_path: Path) -> None:
    space = {"lr": {"type": "categorical", "choices": RATES}}
    scheduler = ["scheduler=hyperband", "grace_period=1", "scheduler.reduction_factor=2"]
    config = compose_config(trivial(tmp_path, space, "search=grid", "num_samples=null", *scheduler))
    assert run_sweep(config) == 0
    live = (tmp_path / "latest").resolve()
    expected = ends(live)
    assert {"passed", "stopped"} <= {outcome for outcome, _ in expected.values()}
    assert len({epochs for outcome, epochs in expected.values() if outcome == "stopped"}) > 1  # at more than one rung

    whole = trained_on(live)
    (listed,) = replay_settings(whole, scheduler, in_order=True)
    (again,) = listed.replicas(whole, 1)
    assert {name: (end.outcome, end.epochs) for name, end in again.ends.items()} == expected
    assert any(end.epochs < len(end.curve.scores) for end in again.ends.values())

    (sampled,) = replay_settings(whole, [*scheduler, "search=grid"])
    source = sampled.source(whole, 0)
    assert isinstance(source, NearestRecorded)  # the sampler proposes what it proposed to the sweep
    again = simulate_sweep(sampled.config, whole, sampled.space, source)
    assert {name: (end.outcome, end.epochs) for name, end in again.ends.items()} == expected
    assert told(source.search.study) == told(open_study(live))


def test_the_folder_of_a_sweep_is_read_as_it_was_recorded(tmp_path: Path) -> None:
    trials = [Pretended({}, [(-0.5, {}), (1.5, {})], "passed"), Pretended({}, [(-0.2, {}), (-0.1, {})])]
    folder = pretend(tmp_path / "sweep", [*trials, Pretended({}, [], "failed", "boom")])
    for rate in (0.1, 0.2, 0.3):
        open_study(folder).add_trial(
            create_trial(params={"lr": rate}, distributions={"lr": FloatDistribution(0, 1)}, value=0.0)
        )
    found = read_recorded(folder)
    assert [(one.name, one.outcome, one.params) for one in found.curves] == [
        ("trial_0000", "passed", {"lr": 0.1}),
        ("trial_0001", "finished", {"lr": 0.2}),
        ("trial_0002", "failed", {"lr": 0.3}),
    ]
    assert [one.scores for one in found.curves] == [[-0.5, 1.5], [-0.2, -0.1], []]
    assert found.curves[0].seconds == [0.5, 0.5] and set(found.curves[0].metrics[0]) == {"val/closeness", "val/loss"}
    assert found.concurrent == 2
    assert found.start == 1.0  # their first epochs, of half a second, ended one and two seconds after their starts


def curve(number: int, *scores: float, seconds: float = 1.0, lr: float = 0.1) -> LearningCurve:
    outcome = "passed" if scores[-1] > 0 else "diverged" if scores[-1] == WORST_SCORE else "finished"
    metrics = [{"val/closeness": 0.9 + score / 10, "val/loss": -score} for score in scores]
    name = f"trial_{number:04d}"
    return LearningCurve(name, outcome, {"trainable.lr": lr}, list(scores), [seconds] * len(scores), metrics)


def made(*curves: LearningCurve, start: float = 0.5, concurrent: int = 1) -> RecordedSweep:
    config = compose_config(trivial(Path("results"), LR, "scheduler=none", f"num_samples={len(curves)}"))
    return RecordedSweep("made", config.replace(max_concurrent=None), list(curves), start, concurrent)


def once(of: RecordedSweep, *overrides: str) -> SimulatedSweep:
    (setting,) = replay_settings(of, overrides, in_order=True)
    (found,) = setting.replicas(of, 1)
    return found


GOOD, LATE, BAD = (-0.1, -0.1, 1.5), (-0.9, -0.9, 1.2), (-0.5, -0.5, -0.5, -0.5)


def test_time_is_that_of_starts_and_epochs_on_as_many_workers_as_there_are() -> None:
    of = made(curve(0, *BAD), curve(1, *BAD, seconds=2.0), curve(2, *GOOD))
    one, two = once(of, "scheduler=none"), once(of, "scheduler=none", "max_concurrent=2")
    assert (one.seconds, one.first_pass) == (4.5 + 8.5 + 3.5, 16.5)
    assert (two.seconds, two.first_pass) == (8.5, 4.5 + 3.5)
    assert once(replace(of, concurrent=2), "scheduler=none").seconds == 8.5  # as when recorded, unless one says


def test_who_is_stopped_though_the_whole_curve_passes_is_a_false_kill() -> None:
    found = once(made(curve(0, *GOOD), curve(1, *LATE), curve(2, *BAD)), "grace_period=1")
    assert [end.outcome for end in found.ends.values()] == ["passed", "stopped", "stopped"]
    summary = summarise_replicas([found])
    assert (summary.stopped, summary.false_kills, summary.passed) == (2 / 3, 1 / 2, 1)
    assert summary.epochs == (3 + 1 + 1) / (3 + 3 + 4)
    assert summarise_replicas([once(made(curve(0, *BAD)))]).first_pass == [math.inf] * 3


def test_a_trial_without_numbers_is_stopped_and_one_that_failed_before_its_first_epoch_holds_nobody_up() -> None:
    failed = replace(curve(0, *BAD), outcome="failed", scores=[], seconds=[], metrics=[])
    found = once(made(failed, curve(1, WORST_SCORE, -0.1, 1.5), curve(2, *GOOD)), "grace_period=1")
    assert [(end.outcome, end.epochs) for end in found.ends.values()] == [("failed", 0), ("stopped", 1), ("passed", 3)]
    assert found.seconds == 0.5 + 1.5 + 3.5


def test_a_budget_and_enough_passes_end_a_replay_and_what_they_cut_counts_as_nothing() -> None:
    of = made(*(curve(number, *GOOD) for number in range(4)))
    short = once(of, "scheduler=none", "time_budget=5", "max_concurrent=2")
    assert (short.passed, [end.outcome for end in short.ends.values()]) == (2, ["passed", "passed", "cut", "cut"])
    assert summarise_replicas([short]).epochs == 1 and summarise_replicas([short]).begun == 4
    assert len(once(of, "stop_after_passes=1").ends) == 1


def test_every_replica_has_an_order_of_its_own_which_is_always_the_same() -> None:
    of = made(*(curve(number, *GOOD, seconds=float(number)) for number in range(6)))
    (setting,) = replay_settings(of, ["num_samples=3"])
    orders = [[end.curve.name for end in found.ends.values()] for found in setting.replicas(of, 20)]
    assert len({tuple(order) for order in orders}) > 10 and all(len(set(order)) == 3 for order in orders)
    assert orders == [[end.curve.name for end in found.ends.values()] for found in setting.replicas(of, 20)]


def test_values_offered_with_commas_make_a_setting_each_named_by_what_differs() -> None:
    found = replay_settings(made(curve(0, *GOOD)), ["grace_period=2,4", "scheduler=asha,median", "num_samples=1"])
    assert [one.name for one in found] == [
        f"grace_period={epochs} scheduler={name}" for epochs in (2, 4) for name in ("asha", "median")
    ]
    assert [one.config.scheduler["grace_period"] for one in found] == [2, 2, 4, 4]


@pytest.mark.parametrize("sampler", ["random", "tpe", "gp"])
def test_a_sampler_is_given_the_nearest_curve_that_is_left_each_once(sampler: str) -> None:
    of = made(*(curve(number, *BAD, lr=10**-number) for number in range(4)))
    (setting,) = replay_settings(of, [f"search={sampler}"])
    found = next(setting.replicas(of, 1))
    assert sorted(end.curve.name for end in found.ends.values()) == [f"trial_{number:04d}" for number in range(4)]


def test_tpe_that_is_told_where_trials_pass_tries_more_of_them_than_chance_does() -> None:
    rates = [10 ** (-4 + 4 * number / 47) for number in range(48)]
    of = made(*(curve(number, *(GOOD if lr > 0.2 else BAD), lr=lr) for number, lr in enumerate(rates)), concurrent=2)
    passed = {}
    for setting in replay_settings(of, ["search=random,tpe", "scheduler=none", "num_samples=20"]):
        passed[setting.name] = sum(found.passed for found in setting.replicas(of, 5))
    assert passed["search=tpe"] > 1.5 * passed["search=random"]


def test_distance_is_taken_in_the_unit_cube() -> None:
    shapes = {
        "lr": FloatDistribution(1e-4, 1.0, log=True),
        "layers": IntDistribution(1, 5),
        "latent": CategoricalDistribution(["vq", "linear"]),
        "fixed": FloatDistribution(1.0, 1.0),
    }
    here = {"lr": 1e-2, "layers": 1, "latent": "vq", "fixed": 1.0}
    assert point_distance(here, here, shapes) == 0
    assert point_distance({**here, "lr": 1.0}, here, shapes) == pytest.approx(0.25)
    assert point_distance({**here, "layers": 5}, here, shapes) == 1
    assert point_distance({**here, "latent": "linear"}, here, shapes) == 1
    assert point_distance({**here, "codes": 64}, here, shapes) == 1


def test_curves_that_were_saved_replay_like_the_sweep_that_they_are_of(tmp_path: Path) -> None:
    of = made(curve(0, *GOOD), replace(curve(1, *BAD), metrics=[{"val/closeness": math.nan}] * 4))
    save_recorded(replace(of, config=of.config.replace(results=str(tmp_path))), tmp_path / "kept")
    again = read_recorded(tmp_path / "kept")
    assert repr(again.curves) == repr(of.curves) and (again.start, again.concurrent) == (of.start, of.concurrent)
    assert str(tmp_path) not in (tmp_path / "kept" / "config.yaml").read_text()
    assert repr(once(again)) == repr(once(of))


def command(*arguments: object) -> int:
    return replay_command(parse("replay", [str(one) for one in arguments]))


def test_the_command_prints_a_line_for_each_sweep_and_setting(tmp_path: Path, capsys: Any) -> None:
    for name in ("one", "other"):
        save_recorded(replace(made(curve(0, *GOOD), curve(1, *LATE), curve(2, *BAD)), name=name), tmp_path / name)
    assert command(tmp_path / "one", tmp_path / "other", "grace_period=1,6", "--replicas", 3) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("one: 3 trials, of which 2 pass, of 3.3 s each and 0.50 s to start")
    assert [line.split()[:2] for line in lines[3:]] == [
        [name, f"grace_period={epochs}"] for name in ("one", "other") for epochs in (1, 6)
    ]
    assert lines[4].split()[2:5] == ["0%", "0%", "100%"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "got 'nowhere', expected the folder of a sweep"),
        (["grace_period=2"], "got no sweep, expected the folder of one"),
        (["POOL", "gate=walks"], "got 'gate=walks', expected one of scheduler, grace_period"),
        (["POOL", "training.max_epochs=9"], "got 'training.max_epochs=9', expected one of scheduler"),
        (["POOL", "search.space.trainable.lr.high=2"], "expected one of scheduler"),
        (["POOL", "scheduler=asa"], "scheduler: got 'asa', expected one of asha, hyperband, median, none, pbt"),
        (
            ["POOL", "scheduler=pbt"],
            "scheduler: got gatesweep.sweeps.schedulers.pbt.Population, expected one that only stops trials",
        ),
        (["POOL", "scheduler=median", "scheduler.hard_stop=false"], "scheduler: it asked to PAUSE a trial"),
        (["POOL", "grace_period=0,2"], "grace_period: got 0"),
        (["POOL", "grace_period=interval(1,2)"], "expected values with commas between"),
        (["POOL", "search=grid"], "search.space.trainable.lr.step: missing"),
        (["POOL", "search=tpe", "--in-order"], "--in-order: got search= as well"),
        (["POOL", "--replicas", "0"], "--replicas: got 0, expected at least 1"),
        (["POOL", "grace_period=2", "--save", "POOL"], "--save: got more than a sweep"),
        (["STOPPED"], "trial_0001 was stopped after 2 epochs, expected only trials that ran to their end"),
        (["EMPTY"], "got no trials, expected some that ran to their end"),
    ],
)
def test_bad_input_is_told_in_one_line(arguments: list[str], message: str, tmp_path: Path, capsys: Any) -> None:
    worse = (curve(number, *[-0.5 - number] * 6) for number in range(6))
    save_recorded(made(*worse), tmp_path / "POOL")
    epochs: Any = [(-0.5, {}), (-0.4, {})]
    pretend(tmp_path / "STOPPED", [Pretended({}, epochs), Pretended({}, epochs, "stopped")])
    pretend(tmp_path / "EMPTY", [])
    here = [str(tmp_path / one) if one in ("POOL", "STOPPED", "EMPTY") else one for one in arguments]
    assert main(here) == 2
    said = capsys.readouterr().err
    assert message in said and said.startswith("error: ") and said.count("\n") == 1
