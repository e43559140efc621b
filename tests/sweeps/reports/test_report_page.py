"""The page of a sweep agrees with the run directories, draws in a browser and sends no request."""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gatesweep.sweeps.commands.report import main
from gatesweep.sweeps.commands.run import run_sweep
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.records.reader import read_sweep
from gatesweep.sweeps.records.summary import leaderboard, leaderboard_text
from gatesweep.sweeps.reports import page, parameters, sections
from gatesweep.sweeps.reports.page import write_page
from gatesweep.sweeps.reports.parameters import (
    best_of_study,
    draw_coordinates,
    score_study,
)
from gatesweep.sweeps.reports.plots import MAX_POINTS, plot_progress, rung_cutoffs
from gatesweep.sweeps.reports.score_axis import score_axis
from tests.conftest import trivial
from tests.support import browser
from tests.support.browser import visit
from tests.support.pretended import Epochs, Pretended, many, pretend

ROOT = Path(__file__).parents[3]
chromium = browser.chromium
DRAWN = "[...document.querySelectorAll('.plot')].map(plot => plot.querySelectorAll('svg.main-svg').length)"
WIDTH = "document.documentElement.scrollWidth"
CLOSENESS = {"val/closeness": "> 0.9"}
CLOSE: Epochs = [(-0.5, {"val/closeness": 0.45}), (-0.2, {"val/closeness": 0.72})]
PASSING: Epochs = [(-0.1, {"val/closeness": 0.81}), (1.4, {"val/closeness": 0.95})]
DIVERGING: Epochs = [(-0.5, {"val/closeness": 0.45}), (-1e9, {"val/closeness": math.nan})]


@pytest.fixture(scope="module")
def swept(ray_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A real sweep of nine trials: one passes, one fails, one diverges, the others are stopped."""
    results = tmp_path_factory.mktemp("results")
    space = {
        "misbehave": {"type": "categorical", "choices": [None, "nan", "a fault <b>of</b> its own"]},
        "lr": {"type": "categorical", "choices": [1e-4, 0.05, 0.2]},
    }
    run_sweep(
        compose_config(
            trivial(results, space, "search=grid", "num_samples=null", "scheduler=asha", "grace_period=2", at_epoch=3)
        )
    )
    yield (results / "latest").resolve()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred trials of up to a hundred epochs."""
    return pretend(tmp_path_factory.mktemp("large") / "sweep", many(100, 100))


def text_of(folder: Path) -> str:
    """The text of a sweep's page with its tables, without scripts."""
    html = write_page(folder).read_text()
    bare = re.sub(r"<(script|style)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", bare.replace("<wbr>", "")))


def test_the_page_agrees_with_the_record(swept: Path) -> None:
    summary, text = json.loads((swept / "summary.json").read_text()), text_of(swept)
    assert f"{summary['passed']} of {summary['trials']} trials passed" in text and summary["passed"] >= 1
    assert "val/closeness &gt; 0.9" in text and "val/loss, smaller is better" in text
    best = summary["best"]
    assert f"{best['trial']} , passed after {best['epochs']} epochs" in text
    assert f"val/closeness {best['metrics']['val/closeness']:.4g} &gt; 0.9 clears by" in text
    assert f"trainable.lr {best['params']['trainable.lr']:.4g}" in text
    assert f"{summary['first_pass_epochs']} epochs" in text and f"{summary['epochs']} epochs" in text
    for outcome in ("passed", "diverged", "failed"):
        epochs = sum(row["epochs"] for row in leaderboard(swept) if row["outcome"] == outcome)
        assert f"{outcome} {summary[outcome]} {epochs} " in text
    assert f"gatesweep run resume={swept}" in text
    assert f"gatesweep train --config {swept / best['trial']}/config.yaml" in text
    assert f"from gatesweep import load trainable, data = load(&#34;{swept / best['trial']}&#34;)" in text
    assert summary["git_commit"] in text and f"torch {summary['versions']['torch']}" in text
    assert "RuntimeError: a fault &lt;b&gt;of&lt;/b&gt; its own" in text


def test_the_table_is_the_leaderboard_and_links_to_the_folders(swept: Path) -> None:
    html = write_page(swept).read_text()
    table = html[html.index('aria-label="leaderboard"') :]
    links = re.findall(r'<a href="(trial_\d+/)">', table)
    assert links == [row["trial"] + "/" for row in leaderboard(swept)]
    assert all((swept / link).is_dir() for link in links)


def test_known_runs_in_mlflow_are_linked(tmp_path: Path) -> None:
    folder = pretend(tmp_path / "sweep", [Pretended({}, PASSING, "passed"), Pretended({}, CLOSE)])
    assert "MLflow" not in write_page(folder).read_text().replace("in MLflow", "")
    links = {"base": "http://127.0.0.1:5000", "experiment": "1", "compare": "http://127.0.0.1:5000/#/x?a=1&b=2"}
    (folder / "mlflow.json").write_text(json.dumps({**links, "runs": {"trial_0000": "abc"}}))
    html = write_page(folder).read_text()
    assert 'href="http://127.0.0.1:5000/#/experiments/1/runs/abc"' in html and html.count("/runs/") == 1
    assert 'href="http://127.0.0.1:5000/#/x?a=1&amp;b=2"' in html
    for key in ("base", "compare"):
        (folder / "mlflow.json").write_text(json.dumps({**links, key: "javascript:alert(1)", "runs": {}}))
        assert "javascript:" not in re.sub(r"<script>.*?</script>", "", write_page(folder).read_text(), flags=re.DOTALL)


def test_without_a_pass_the_page_says_by_how_much_the_best_trial_misses(tmp_path: Path) -> None:
    text = text_of(pretend(tmp_path / "sweep", [Pretended({}, CLOSE), Pretended({}, DIVERGING, "diverged")]))
    assert "0 of 2 trials passed" in text and "It misses by 0.18 in val/closeness." in text
    assert "val/closeness 0.72 &gt; 0.9 misses by 0.18" in text and "first pass after none" in text


def test_plots_draw_and_nothing_leaves_the_page(swept: Path, chromium: Any) -> None:
    url = write_page(swept).as_uri()
    for width in (1280, 390):
        with visit(chromium, url, width) as seen:
            drawn = seen.page.evaluate(DRAWN)
            assert len(drawn) == 6 and min(drawn) >= 1  # progress, two metrics, history, coordinates, importances
            assert seen.page.evaluate(WIDTH) <= width
            assert seen.errors == [] and seen.requests == [url]
            points = seen.page.evaluate("document.querySelector('.plot').data.flatMap(trace => trace.y).length")
            assert points > sum(row["epochs"] for row in leaderboard(swept))


def test_without_javascript_its_tables_are_readable(swept: Path, chromium: Any) -> None:
    url, rows = write_page(swept).as_uri(), leaderboard(swept)
    with visit(chromium, url, 390, java_script_enabled=False) as seen:
        cells = seen.page.locator(".sortable tbody tr td:first-child")
        assert cells.all_inner_texts() == [row["trial"] for row in rows] and cells.first.is_visible()
        assert seen.page.get_by_text("need JavaScript").is_visible()
        table = seen.page.locator(".wide:has(> table)").last
        assert table.evaluate("node => [node.clientWidth <= 390, getComputedStyle(node).overflowX]") == [True, "auto"]


def test_page_and_plots_follow_light_and_dark(swept: Path, chromium: Any) -> None:
    look = """[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color,
               ...['xtick', 'ytick'].map(tick => getComputedStyle(document.querySelector(`.${tick} text`)).fill)]"""
    with visit(chromium, write_page(swept).as_uri()) as seen:
        light = seen.page.evaluate(look)
        seen.page.emulate_media(color_scheme="dark")
        seen.page.wait_for_function("before => getComputedStyle(document.querySelector('.xtick text')).fill != before",
                                    arg=light[2])  # fmt: skip
        dark = seen.page.evaluate(look)
        assert all(colour != dark_colour for colour, dark_colour in zip(light, dark, strict=True))
        assert dark[1] == dark[2] == dark[3] and light[1] == light[2]  # plots write in the page's ink
        seen.page.emulate_media(media="print", color_scheme="dark")
        assert seen.page.evaluate(look)[0] == light[0]  # paper is white


def test_a_heading_sorts_numbers_as_numbers_in_folded_rows_too(tmp_path: Path, chromium: Any) -> None:
    folder = pretend(tmp_path / "sweep", many(60, 12))
    epochs = {row["trial"]: row["epochs"] for row in leaderboard(folder)}
    with visit(chromium, write_page(folder).as_uri()) as seen:
        shown = "all => all.map(table => table.tBodies[0].rows.length)"
        assert seen.page.locator(".sortable table").evaluate_all(shown) == [50, 10]
        head = seen.page.locator(".sortable th button", has_text=re.compile("^epochs$")).first
        names = seen.page.locator(".sortable tbody td:first-child")
        for order in ("descending", "ascending"):
            head.click()
            now = names.all_text_contents()
            assert [epochs[name] for name in now] == sorted(epochs.values(), reverse=order == "descending")
            assert set(now) == set(epochs) and max(epochs.values()) == 12
            assert seen.page.locator(f".sortable th[aria-sort={order}]").all_text_contents() == ["epochs", "epochs"]


def test_a_hundred_trials_of_a_hundred_epochs_take_less_than_five_seconds(large: Path) -> None:
    write_page(large)  # imports and caches
    began = time.process_time()
    html = write_page(large).read_text()
    assert time.process_time() - began < 5
    sweep = read_sweep(large)
    progress = plot_progress(sweep, score_axis(sweep), rung_cutoffs(sweep))
    assert sum(len(trace["x"]) for trace in progress["data"]) <= MAX_POINTS + 2 * 100
    assert len(html) < 8e6


def falling(*values: dict[str, Any]) -> list[Pretended]:
    """A trial for each of `values`, each further from the gate than the last."""
    return [Pretended(varied, [(-0.1 * number, {})]) for number, varied in enumerate(values, 1)]


FAILED = Pretended({"trainable.lr": 0.1}, [], "failed", "ValueError: no", "Traceback\nValueError: no\n")
DIVERGED = [Pretended({"trainable.lr": lr}, DIVERGING, "diverged") for lr in (0.1, 0.2, 0.3)]
UNNUMBERED = Pretended({}, [(None, {"val/closeness": math.nan})], None)
RATES: list[dict[str, Any]] = [{"trainable.lr": 0.1 * at, "seed": 1} for at in range(1, 6)]
EVERY_TYPE: list[Any] = [None, "a", True, 1.5, 3, [1, 2], {"k": [None]}]
NO_GATE = {"gate": {"thresholds": {}, "objective": "val/loss", "mode": "min"}}
EDGES: dict[str, tuple[list[Pretended], dict[str, Any]]] = {
    "no trial": ([], {}),
    "no epoch": ([FAILED], {}),
    "one epoch": (falling({"trainable.lr": 0.1}), {}),
    "no numbers": (DIVERGED, {}),
    "metric not reported": ([Pretended({"trainable.lr": 0.1}, [(-1e9, {})], "diverged")], {}),
    "no score": ([UNNUMBERED, Pretended({}, CLOSE)], {}),
    "same scores": ([Pretended(values, CLOSE) for values in RATES], {}),
    "no objective": ([Pretended({}, PASSING, "passed"), Pretended({}, CLOSE)], {"gate": {"thresholds": CLOSENESS}}),
    "compositions, no thresholds": (falling(*({"latent.a": at, "latent.b": 9 - at} for at in range(1, 8))), NO_GATE),
    "conditions, neither thresholds nor objective": (
        falling(*({"kind": "ab"[at % 2]} | ({"p": 0.1 * at} if at % 2 else {}) for at in range(8))),
        {"gate": {"thresholds": {}}},
    ),
    "values of every type": (
        falling(*({"a.x": value, "b.x": f"word {at}"} for at, value in enumerate(EVERY_TYPE))),
        {},
    ),
    "nothing varied": (falling({}, {}, {}, {}), {}),
    "running": ([Pretended({"seed": 1}, PASSING, "passed"), Pretended({"seed": 2}, CLOSE, None)], {}),
    "one varied, another scheduler": (
        falling(*RATES),
        {"scheduler": {"_target_": "ray.tune.schedulers.FIFOScheduler"}},
    ),
    "values changed beyond their range": (falling({"trainable.lr": 7.0}, {"trainable.lr": 0.0}), {}),
}


@pytest.fixture(scope="module")
def opened(chromium: Any) -> Iterator[Any]:
    with visit(chromium, "about:blank", 390) as seen:
        yield seen


@pytest.mark.parametrize("name", EDGES)
def test_every_edge_case_of_a_sweep_has_a_page(name: str, tmp_path: Path, opened: Any) -> None:
    trials, config = EDGES[name]
    folder = pretend(tmp_path / "sweep", trials, end=None if name == "running" else "end", **config)
    opened.page.goto(write_page(folder).as_uri())
    drawn = opened.page.evaluate(DRAWN)
    assert all(drawn) and opened.errors == [] and opened.page.evaluate(WIDTH) <= 390
    text = opened.page.inner_text("main")
    assert f"of {len(trials)} trial" in text and not re.search(r"\bnan\b|\bNone\b", text)
    if name == "running":
        assert "not ended" in text and "Go on with the sweep" in text
    if name == "no epoch":
        assert "ValueError: no" in text and drawn == []


def test_names_are_escaped(tmp_path: Path, opened: Any) -> None:
    evil = "</script><script>window.evil = 1</script><img src=x onerror='window.evil = 1'>"
    values = [{"trainable.lr": 0.1 * at, f"trainable.{evil}": evil + str(at)} for at in range(1, 5)]
    trials = [Pretended(varied, [(-0.1 * number, {})], reason=evil) for number, varied in enumerate(values)]
    trials.append(Pretended(values[0], [], "failed", evil, f"Traceback\n{evil}\n"))
    opened.page.goto(write_page(pretend(tmp_path / "sweep", trials, name=evil)).as_uri())
    assert opened.page.evaluate("window.evil") is None and opened.errors == []
    assert opened.page.inner_text("h1") == evil and evil in opened.page.inner_text(".sortable")


def test_a_page_of_very_many_trials_shows_the_best_and_says_so(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MAX_ROWS", 60)
    monkeypatch.setattr(sections, "MAX_LINES", 10)
    monkeypatch.setattr(parameters, "MAX_LINES", 10)
    monkeypatch.setattr(sections, "MAX_LEAVES", 40)
    monkeypatch.setattr(parameters, "MAX_LEAVES", 40)
    text, html = text_of(large), (large / "report.html").read_text()
    assert "The other 40 are in leaderboard.csv" in text and "One line for each of the best 10 trials." in text
    assert "the scores of 40 trials" in text
    table = html[html.index('aria-label="leaderboard"') :]
    board = [row["trial"] for row in leaderboard(large)]
    assert re.findall(r'<a href="(trial_\d+)/">', table) == board[:60]
    sweep = read_sweep(large)
    axis = score_axis(sweep)
    study = score_study(sweep, axis)
    assert len(draw_coordinates(study, axis)["data"]) == 10
    best = sorted((trial.value for trial in study.trials if trial.value is not None), reverse=True)[:10]
    assert sorted((trial.value for trial in best_of_study(study, 10).trials), reverse=True) == best


def test_a_terminal_shows_the_head_of_a_long_leaderboard() -> None:
    rows = [{"trial": f"trial_{index:04d}", "score": 1.0 - index} for index in range(101)]
    assert len(leaderboard_text(rows[:100]).splitlines()) == 101
    *lines, last = leaderboard_text(rows).splitlines()
    assert len(lines) == 51 and "trial_0049" in lines[-1] and last == "... and 51 more, in leaderboard.csv"


def test_the_command_writes_the_files_that_a_killed_sweep_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pretend(tmp_path / "sweep", [Pretended({}, PASSING, "passed"), Pretended({}, CLOSE, None)], end=None)
    command = [sys.executable, str(ROOT / "sweeps" / "report.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0 and re.search("trial_0001 +interrupted", done.stdout), done.stderr
    assert (folder / "report.html").exists() and (folder / "leaderboard.csv").exists()
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["passed"], summary["seconds"], summary["git_commit"]) == (1, 4.0, "0123abc")
    (folder / "summary.json").unlink()
    monkeypatch.setattr(sys, "argv", ["report.py", str(folder)])
    with (folder / ".lock").open("w") as lock:  # as a running driver does
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main() == 0 and not (folder / "summary.json").exists()
    assert main() == 0 and (folder / "summary.json").exists()
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path)])
    assert main() == 2
