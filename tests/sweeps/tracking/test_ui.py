"""MLflow's UI in a real browser: the URL that a sweep prints opens its comparison."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from gatesweep.core.record import read_events
from gatesweep.sweeps.commands.run import run_sweep
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.records.layout import trial_folders
from gatesweep.sweeps.tracking.database import default_uri
from gatesweep.sweeps.tracking.view import UI_ADDRESS
from tests.conftest import trivial
from tests.support import browser
from tests.support.servers import mlflow_server

chromium = browser.chromium
WAIT = 60_000  # ms
# The runs with more than one point in the chart of a title.
LINES = """title => {
  const cards = [...document.querySelectorAll('[data-testid="experiment-view-compare-runs-card"]')];
  const plot = cards.find(card => card.innerText.split('\\n')[0] === title)?.querySelector('.js-plotly-plot');
  return [...new Set((plot?.data ?? []).filter(one => (one.x ?? []).length > 1).map(one => one.name))].sort();
}"""


@pytest.fixture(scope="module")
def swept(ray_here: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of twelve trials, more than the ten that MLflow's charts show by themselves."""
    results = tmp_path_factory.mktemp("results")
    run_sweep(compose_config(trivial(results, None, "num_samples=12", "scheduler=none", "tracking=mlflow")))
    return (results / "latest").resolve()


@pytest.fixture(scope="module")
def server(swept: Path) -> Iterator[str]:
    with mlflow_server(default_uri(swept), swept.parent / "mlartifacts") as running:
        yield running.uri


def opened(chromium: Any, server: str, url: str, **more: Any) -> Any:
    """The page of a URL that a sweep gave for `make ui`."""
    return browser.visit(chromium, url.replace(UI_ADDRESS, server), 1700, 1400, **more)


def epochs(trial: Path) -> int:
    """The number of recorded epochs of a trial."""
    return sum(event["event"] == "epoch" for event in read_events(trial / "events.jsonl"))


def place(swept: Path) -> dict[str, str]:
    return json.loads((swept / "mlflow.json").read_text())


def test_the_comparison_shows_a_line_for_every_trial(chromium: Any, server: str, swept: Path) -> None:
    from playwright.sync_api import expect

    folders = trial_folders(swept)
    several = [folder.name for folder in folders if epochs(folder) > 1]
    assert len(folders) == 12 and len(several) > 10
    with opened(chromium, server, place(swept)["compare"]) as seen:
        expect(seen.page.get_by_text(f"{len(folders)} matching runs")).to_be_visible(timeout=WAIT)
        for title in ("score", "val/closeness", "train/step_loss"):
            card = seen.page.get_by_test_id("experiment-view-compare-runs-card").filter(has_text=title).first
            card.scroll_into_view_if_needed()
            seen.page.wait_for_function(f"title => ({LINES})(title).length >= {len(several)}", arg=title, timeout=WAIT)
            names = [name.split()[0] for name in seen.page.evaluate(LINES, title)]
            assert set(several) <= set(names) <= {folder.name for folder in folders}
        seen.page.screenshot(path=str(swept.parent / "comparison.png"))
        assert all(url.startswith((server, "data:", "blob:")) for url in seen.requests)


def test_the_filter_shows_the_passed_ones(chromium: Any, server: str, swept: Path) -> None:
    from playwright.sync_api import expect

    passed = [one.name for one in trial_folders(swept) if json.loads((one / "result.json").read_text())["gate_passed"]]
    query = {"searchFilter": "tags.outcome = 'passed'", "orderByKey": "metrics.`score`", "compareRunsMode": "TABLE"}
    runs = f"{server}/#/experiments/{place(swept)['experiment']}/runs"
    url = f"{runs}?{urlencode({**query, 'workflowType': 'machine_learning'})}"
    with opened(chromium, server, url) as seen:
        rows = seen.page.locator(".ag-center-cols-container .ag-row")
        expect(rows).to_have_count(len(passed), timeout=WAIT)
        shown = " ".join(seen.page.locator(".ag-row").all_inner_texts())
        assert passed and all(name in shown for name in passed)


def test_the_run_of_the_sweep_shows_its_leaderboard_and_report(chromium: Any, server: str, swept: Path) -> None:
    from playwright.sync_api import expect

    where = place(swept)
    run = f"{server}/#/experiments/{where['experiment']}/runs/{where['sweep']}"
    with opened(chromium, server, run) as seen:
        expect(seen.page.get_by_text("of 12 trials passed").first).to_be_visible(timeout=WAIT)
    with opened(chromium, server, f"{run}/artifacts/leaderboard.json") as seen:
        expect(seen.page.get_by_text("trial_0007").first).to_be_visible(timeout=WAIT)
        assert seen.page.get_by_text('"columns"').count() == 0, "a table, not its JSON"
        for name in ("report.html", "study.journal", "summary.json"):
            expect(seen.page.get_by_text(name).first).to_be_visible(timeout=WAIT)
