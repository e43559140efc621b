"""Replays decide as real sweeps do, virtual time adds up, and the counts are right."""

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
from gatesweep.sweeps.records.layout import CONFIG, EVENTS, trial_folders
from gatesweep.sweeps.search.study import open_study
from gatesweep.sweeps.simulation.recorded import LearningCurve, RecordedSweep, read_recorded, save_recorded
from gatesweep.sweeps.simulation.simulate import NearestRecorded, SimulatedSweep, point_distance, simulate_sweep
from tests.conftest import LR, trivial
from tests.support.pretended import Pretended, pretend

RATES = [0.003, 0.001, 0.3, 0.0001, 0.03, 0.2, 0.01, 0.1, 0.0003, 0.05, 0.02, 0.15]


def ends(folder: Path) -> dict[str, tuple[str, int]]:
    """The outcome and the last epoch of each trial of a real sweep."""
    ends_by_trial = {}
    for trial in trial_folders(folder):
        *epochs, end = read_events(trial / EVENTS)
        ends_by_trial[trial.name] = (end["outcome"], epochs[-1]["epoch"])
    return ends_by_trial


def trained_on(folder: Path) -> RecordedSweep:
    """A recorded sweep of the trials in `folder`, each trained again to its end."""
    curves = []
    for trial, proposal in zip(trial_folders(folder), open_study(folder).trials, strict=True):
        config = load_file(trial / CONFIG, [])
        epochs = list(fit(*build_run(config), make_settings(config)))
        scores, metrics = [epoch.score for epoch in epochs], [epoch.metrics for epoch in epochs]
        curves.append(
            LearningCurve(trial.name, str(epochs[-1].outcome), proposal.params, scores, [1.0] * len(scores), metrics)
        )
    return RecordedSweep("whole", load_file(folder / CONFIG, []), curves, 0.1, 1)


def study_contents(study: Any) -> list[Any]:
    """The data of a study that its sampler reads."""
    return [(trial.number, trial.params, trial.state, trial.values, trial.constraints) for trial in study.trials]


@pytest.mark.usefixtures("ray_here")
def test_a_replay_stops_the_same_trials_as_the_sweep_and_fills_the_study_equally(tmp_path: Path) -> None:
    space = {"lr": {"type": "categorical", "choices": RATES}}
    scheduler = ["scheduler=hyperband", "grace_period=1", "scheduler.reduction_factor=2"]
    config = compose_config(trivial(tmp_path, space, "search=grid", "num_samples=null", *scheduler))
    assert run_sweep(config) == 0
    live = (tmp_path / "latest").resolve()
    expected = ends(live)
    assert {"passed", "stopped"} <= {outcome for outcome, _ in expected.values()}
    assert len({epochs for outcome, epochs in expected.values() if outcome == "stopped"}) > 1  # at more than one rung

    whole = trained_on(live)
    (in_order,) = replay_settings(whole, scheduler, in_order=True)
    (again,) = in_order.replicas(whole, 1)
    assert {name: (end.outcome, end.epochs) for name, end in again.ends.items()} == expected
    assert any(end.epochs < len(end.curve.scores) for end in again.ends.values())

    (sampled,) = replay_settings(whole, [*scheduler, "search=grid"])
    source = sampled.source(whole, 0)
    assert isinstance(source, NearestRecorded)  # the sampler proposes what it proposed to the sweep
    again = simulate_sweep(sampled.config, whole, sampled.space, source)
    assert {name: (end.outcome, end.epochs) for name, end in again.ends.items()} == expected
    assert study_contents(source.search.study) == study_contents(open_study(live))


def test_the_folder_of_a_sweep_is_read_as_it_was_recorded(tmp_path: Path) -> None:
    trials = [Pretended({}, [(-0.5, {}), (1.5, {})], "passed"), Pretended({}, [(-0.2, {}), (-0.1, {})])]
    folder = pretend(tmp_path / "sweep", [*trials, Pretended({}, [], "failed", "boom")])
    for rate in (0.1, 0.2, 0.3):
        open_study(folder).add_trial(
            create_trial(params={"lr": rate}, distributions={"lr": FloatDistribution(0, 1)}, value=0.0)
        )
    recorded = read_recorded(folder)
    assert [(curve.name, curve.outcome, curve.params) for curve in recorded.curves] == [
        ("trial_0000", "passed", {"lr": 0.1}),
        ("trial_0001", "finished", {"lr": 0.2}),
        ("trial_0002", "failed", {"lr": 0.3}),
    ]
    assert [curve.scores for curve in recorded.curves] == [[-0.5, 1.5], [-0.2, -0.1], []]
    first = recorded.curves[0]
    assert first.seconds == [0.5, 0.5] and set(first.metrics[0]) == {"val/closeness", "val/loss"}
    assert recorded.concurrent == 2
    assert recorded.start == 1.0  # their first epochs, of half a second, ended one and two seconds after their starts


def curve(number: int, *scores: float, seconds: float = 1.0, lr: float = 0.1) -> LearningCurve:
    outcome = "passed" if scores[-1] > 0 else "diverged" if scores[-1] == WORST_SCORE else "finished"
    metrics = [{"val/closeness": 0.9 + score / 10, "val/loss": -score} for score in scores]
    name = f"trial_{number:04d}"
    return LearningCurve(name, outcome, {"trainable.lr": lr}, list(scores), [seconds] * len(scores), metrics)


def recorded_sweep(*curves: LearningCurve, start: float = 0.5, concurrent: int = 1) -> RecordedSweep:
    config = compose_config(trivial(Path("results"), LR, "scheduler=none", f"num_samples={len(curves)}"))
    return RecordedSweep("recorded", config.replace(max_concurrent=None), list(curves), start, concurrent)


def simulate_once(recorded: RecordedSweep, *overrides: str) -> SimulatedSweep:
    """Simulate a sweep over the curves in their recorded order."""
    (setting,) = replay_settings(recorded, overrides, in_order=True)
    (simulated,) = setting.replicas(recorded, 1)
    return simulated


GOOD, LATE, BAD = (-0.1, -0.1, 1.5), (-0.9, -0.9, 1.2), (-0.5, -0.5, -0.5, -0.5)


def test_virtual_time_adds_up_starts_and_epochs_on_each_worker() -> None:
    recorded = recorded_sweep(curve(0, *BAD), curve(1, *BAD, seconds=2.0), curve(2, *GOOD))
    single, double = (
        simulate_once(recorded, "scheduler=none"),
        simulate_once(recorded, "scheduler=none", "max_concurrent=2"),
    )
    assert (single.seconds, single.first_pass) == (4.5 + 8.5 + 3.5, 16.5)
    assert (double.seconds, double.first_pass) == (8.5, 4.5 + 3.5)
    assert (
        simulate_once(replace(recorded, concurrent=2), "scheduler=none").seconds == 8.5
    )  # as recorded, where no other number is configured


def test_a_stopped_trial_whose_whole_curve_passes_is_a_false_kill() -> None:
    simulated = simulate_once(recorded_sweep(curve(0, *GOOD), curve(1, *LATE), curve(2, *BAD)), "grace_period=1")
    assert [end.outcome for end in simulated.ends.values()] == ["passed", "stopped", "stopped"]
    summary = summarise_replicas([simulated])
    assert (summary.stopped, summary.false_kills, summary.passed) == (2 / 3, 1 / 2, 1)
    assert summary.epochs == (3 + 1 + 1) / (3 + 3 + 4)
    assert summarise_replicas([simulate_once(recorded_sweep(curve(0, *BAD)))]).first_pass == [math.inf] * 3


def test_a_trial_with_nan_is_stopped_and_a_trial_without_epochs_takes_no_time() -> None:
    failed = replace(curve(0, *BAD), outcome="failed", scores=[], seconds=[], metrics=[])
    simulated = simulate_once(
        recorded_sweep(failed, curve(1, WORST_SCORE, -0.1, 1.5), curve(2, *GOOD)), "grace_period=1"
    )
    assert [(end.outcome, end.epochs) for end in simulated.ends.values()] == [
        ("failed", 0),
        ("stopped", 1),
        ("passed", 3),
    ]
    assert simulated.seconds == 0.5 + 1.5 + 3.5


def test_a_budget_and_enough_passes_end_a_replay_and_trials_that_are_cut_do_not_count() -> None:
    recorded = recorded_sweep(*(curve(number, *GOOD) for number in range(4)))
    short = simulate_once(recorded, "scheduler=none", "time_budget=5", "max_concurrent=2")
    assert (short.passed, [end.outcome for end in short.ends.values()]) == (2, ["passed", "passed", "cut", "cut"])
    assert summarise_replicas([short]).epochs == 1 and summarise_replicas([short]).begun == 4
    assert len(simulate_once(recorded, "stop_after_passes=1").ends) == 1


def test_every_simulated_sweep_has_its_own_reproducible_order() -> None:
    recorded = recorded_sweep(*(curve(number, *GOOD, seconds=float(number)) for number in range(6)))
    (setting,) = replay_settings(recorded, ["num_samples=3"])
    orders = [[end.curve.name for end in simulated.ends.values()] for simulated in setting.replicas(recorded, 20)]
    assert len({tuple(order) for order in orders}) > 10 and all(len(set(order)) == 3 for order in orders)
    assert orders == [
        [end.curve.name for end in simulated.ends.values()] for simulated in setting.replicas(recorded, 20)
    ]


def test_values_with_commas_make_one_setting_each_named_by_its_values() -> None:
    settings = replay_settings(
        recorded_sweep(curve(0, *GOOD)), ["grace_period=2,4", "scheduler=asha,median", "num_samples=1"]
    )
    assert [setting.name for setting in settings] == [
        f"grace_period={epochs} scheduler={name}" for epochs in (2, 4) for name in ("asha", "median")
    ]
    assert [setting.config.scheduler["grace_period"] for setting in settings] == [2, 2, 4, 4]


@pytest.mark.parametrize("sampler", ["random", "tpe", "gp"])
def test_a_sampler_gets_the_nearest_unused_curve_each_once(sampler: str) -> None:
    recorded = recorded_sweep(*(curve(number, *BAD, lr=10**-number) for number in range(4)))
    (setting,) = replay_settings(recorded, [f"search={sampler}"])
    simulated = next(setting.replicas(recorded, 1))
    assert sorted(end.curve.name for end in simulated.ends.values()) == [f"trial_{number:04d}" for number in range(4)]


def test_tpe_finds_more_passing_trials_than_random_search() -> None:
    rates = [10 ** (-4 + 4 * number / 47) for number in range(48)]
    recorded = recorded_sweep(
        *(curve(number, *(GOOD if lr > 0.2 else BAD), lr=lr) for number, lr in enumerate(rates)), concurrent=2
    )
    passed = {}
    for setting in replay_settings(recorded, ["search=random,tpe", "scheduler=none", "num_samples=20"]):
        passed[setting.name] = sum(simulated.passed for simulated in setting.replicas(recorded, 5))
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


def test_saved_curves_replay_like_the_recorded_sweep(tmp_path: Path) -> None:
    recorded = recorded_sweep(curve(0, *GOOD), replace(curve(1, *BAD), metrics=[{"val/closeness": math.nan}] * 4))
    save_recorded(replace(recorded, config=recorded.config.replace(results=str(tmp_path))), tmp_path / "kept")
    again = read_recorded(tmp_path / "kept")
    assert repr(again.curves) == repr(recorded.curves) and (again.start, again.concurrent) == (
        recorded.start,
        recorded.concurrent,
    )
    assert str(tmp_path) not in (tmp_path / "kept" / CONFIG).read_text()
    assert repr(simulate_once(again)) == repr(simulate_once(recorded))


def command(*arguments: object) -> int:
    return replay_command(parse("replay", [str(argument) for argument in arguments]))


def test_the_command_prints_a_line_for_each_sweep_and_setting(tmp_path: Path, capsys: Any) -> None:
    for name in ("one", "other"):
        save_recorded(
            replace(recorded_sweep(curve(0, *GOOD), curve(1, *LATE), curve(2, *BAD)), name=name), tmp_path / name
        )
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
        (["SWEEP", "gate=walks"], "got 'gate=walks', expected one of scheduler, grace_period"),
        (["SWEEP", "training.max_epochs=9"], "got 'training.max_epochs=9', expected one of scheduler"),
        (["SWEEP", "search.space.trainable.lr.high=2"], "expected one of scheduler"),
        (["SWEEP", "scheduler=asa"], "scheduler: got 'asa', expected one of asha, hyperband, median, none, pbt"),
        (
            ["SWEEP", "scheduler=pbt"],
            "scheduler: got gatesweep.sweeps.schedulers.pbt.Population, expected one that only stops trials",
        ),
        (["SWEEP", "scheduler=median", "scheduler.hard_stop=false"], "scheduler: it asked to PAUSE a trial"),
        (["SWEEP", "grace_period=0,2"], "grace_period: got 0"),
        (["SWEEP", "grace_period=interval(1,2)"], "expected values with commas between"),
        (["SWEEP", "search=grid"], "search.space.trainable.lr.step: missing"),
        (["SWEEP", "search=tpe", "--in-order"], "--in-order: got search= as well"),
        (["SWEEP", "--replicas", "0"], "--replicas: got 0, expected at least 1"),
        (["SWEEP", "grace_period=2", "--save", "SWEEP"], "--save: got more than a sweep"),
        (["STOPPED"], "trial_0001 was stopped after 2 epochs, expected only trials that ran to their end"),
        (["EMPTY"], "got no trials, expected some that ran to their end"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments: list[str], message: str, tmp_path: Path, capsys: Any) -> None:
    worse = (curve(number, *[-0.5 - number] * 6) for number in range(6))
    save_recorded(recorded_sweep(*worse), tmp_path / "SWEEP")
    epochs: Any = [(-0.5, {}), (-0.4, {})]
    pretend(tmp_path / "STOPPED", [Pretended({}, epochs), Pretended({}, epochs, "stopped")])
    pretend(tmp_path / "EMPTY", [])
    here = [str(tmp_path / name) if name in ("SWEEP", "STOPPED", "EMPTY") else name for name in arguments]
    assert main(here) == 2
    errors = capsys.readouterr().err
    assert message in errors and errors.startswith("error: ") and errors.count("\n") == 1
