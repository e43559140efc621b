"""Names and values that MLflow refuses cost a sweep nothing: they become keys that it takes."""

from __future__ import annotations

import itertools
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from gatesweep.core.record import STEP_LOSS, append_event
from gatesweep.sweeps.config.schema import make_gate
from gatesweep.sweeps.tracking.names import MAX_KEY, metric_key, mlflow_key, model_name
from gatesweep.sweeps.tracking.publisher import Publisher
from gatesweep.sweeps.tracking.runs import SweepRuns
from gatesweep.sweeps.tracking.view import view_tag
from tests.support.pretended import Pretended, pretend
from tests.support.readback import connect

PLAIN = ["val/loss", "a.b-c_d e", "f:g", "größe", "a..b", "x" * 250, ":", "a:z:c", ":x:"]
REFUSED = [
    *("acc@1", "a,b", "a=b", "100%", "a//b", "/a", "a/", "/", "//", "..", ".", "../a", "a/../b", "a/./b", "..a", ""),
    *("a\nb", "a\n", "\0", "x" * 251, "x" * 300 + "a", "x" * 300 + "b", "x" * 249 + "@", "\ud800", "p(x|y)", "🙂"),
    *("acc:40:1", ":00:", ":3a:", "a:2f:", "x" * 232 + ":0123456789abcdef:", "......"),
]


def folder_of(folder: Path, trials: list[Pretended], **named: Any) -> Path:
    """Write the folder of a sweep that MLflow is to have."""
    pretend(folder, trials, "tracking=mlflow", **named)
    for trial in folder.glob("trial_*"):
        shutil.copy(folder / "config.yaml", trial)
    return folder


def test_every_name_has_a_key_of_its_own_that_mlflow_takes() -> None:
    from mlflow.utils.validation import _validate_metric, _validate_param, _validate_tag

    draw = random.Random(0)
    drawn = ["".join(draw.choices("ab@:/.%40f\n", k=draw.randint(0, 7))) for _ in range(5_000)]
    names = set([*PLAIN, *REFUSED, *drawn, *map("".join, itertools.product("a:/.@", repeat=4))])
    keys = {name: mlflow_key(name) for name in names}
    reserved = ["score", "epoch", STEP_LOSS, ":73:core"]
    keys |= {f"reported as {name}": metric_key(name) for name in reserved} | {name: name for name in reserved[:3]}
    assert len(set(keys.values())) == len(keys)
    for key in keys.values():
        assert len(key) <= MAX_KEY and key == key.encode().decode()
        _validate_metric(key, 1.0, 0, 0)
        _validate_param(key, "value")
        _validate_tag(key, "value")
    assert [keys[name] for name in PLAIN] == PLAIN and all(keys[name] != name for name in REFUSED)
    assert (keys["acc@1"], keys["acc:40:1"], keys["......"]) == ("acc:40:1", "acc:3a:40:3a:1", ":2e::2e:....")


def test_a_model_has_a_name_that_mlflow_takes() -> None:
    from mlflow.utils.validation import _validate_logged_model_name

    names = ["lead's run-trial_0000", "v1.2-trial_0000", "v1~2", 'a"b', "a/b:c%", "x" * 300, "x" * 299 + "."]
    for name in names:
        _validate_logged_model_name(model_name(name))
    assert len({model_name(name) for name in names}) == len(names)


@pytest.mark.parametrize("name", ["lead's run", "v1.2", "a \"quoted\" 'one' 50% = a,b@c"])
def test_names_and_values_that_mlflow_refuses_cost_nothing(name: str, tmp_path: Path) -> None:
    """Metrics, NaN and infinities, parameters, long values and a sweep's folder; published twice, all is there once."""
    metrics = {key or "val/": float(number) for number, key in enumerate([*PLAIN, *REFUSED]) if "\ud800" not in key}
    metrics |= {"score": 5.0, "val/nan": math.nan, "val/inf": 1.5}
    values = {"trainable.lr@": 0.1, "trainable.note": "n" * 7000 + "\0"}
    folder = folder_of(tmp_path / name, [Pretended(values, [(-1.0, metrics)] * 2)])
    events = folder / "trial_0000" / "events.jsonl"
    events.write_text(events.read_text().replace('"val/inf": 1.5', '"val/inf": Infinity'))
    (folder / "trial_0000" / "result.json").unlink()  # it is made of the events again
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for _ in range(2):
        Publisher(folder, uri, "an 'experiment' / " + "x" * 600).sync()
    client = connect(uri)
    experiment = next(one for one in client.search_experiments() if one.name.startswith("an 'exp"))
    (run,) = [run for run in client.search_runs([experiment.experiment_id]) if "trial" in run.data.tags]
    for key, value in metrics.items():
        history = client.get_metric_history(run.info.run_id, metric_key(key))
        shown = repr(math.nan if key == "val/inf" else value)
        assert [(point.step, repr(point.value)) for point in history] == [(1, shown), (2, shown)], key
    assert (run.data.metrics["score"], run.data.metrics[":73:core"], run.info.status) == (-1.0, 5.0, "FINISHED")
    assert run.data.params["trainable.lr:40:"] == "0.1" and len(run.data.params["trainable.note"]) == 6000


def test_a_refused_point_holds_no_other_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server of another version may refuse what this one takes: each refusal is said once."""
    from mlflow.entities import Metric

    sweep_runs = SweepRuns(folder_of(tmp_path / "sweep", []), f"sqlite:///{tmp_path / 'mlflow.db'}", "gatesweep")
    run = sweep_runs.create("trial_0000", {"trial": "trial_0000"}, 0).info.run_id
    points = [Metric("bad@key" if step % 500 == 7 else "good", float(step), 1, step) for step in range(1500)]
    points[3] = Metric("worse", "no number", 1, 3)  # type: ignore[arg-type]
    sweep_runs.send(run, points, {"a": 1, "b": 2}, {"c": "3"})
    sweep_runs.send(run, params={"a": "another value", "d": 4})  # MLflow never changes a parameter
    data = sweep_runs.client.get_run(run).data
    assert len(sweep_runs.client.get_metric_history(run, "good")) == 1500 - 4
    assert (data.params, data.tags["c"]) == ({"a": "1", "b": "2", "d": "4"}, "3")
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tracking")]
    assert [line.partition(" (")[0].removeprefix("tracking: MLflow refuses the ") for line in said] == [
        "metric 'worse'", "metric 'bad@key'", "param 'a'"
    ]  # fmt: skip


def test_a_view_fits_into_its_tag_however_long_the_names_are(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "sweep", [])
    publisher, draw = Publisher(folder, f"sqlite:///{tmp_path / 'mlflow.db'}", "gatesweep"), random.Random(0)
    names = ["".join(draw.choices("abcdefghij@", k=240)) for _ in range(12)]
    key, value = view_tag("sweep", None, make_gate(publisher.config.gate), names, 0)
    assert len(value) <= 5000
    publisher.runs.set_view(key, value)
    assert publisher.runs.client.get_experiment(publisher.runs.experiment).tags[key] == value


def test_two_sweeps_of_one_folder_name_stay_two(tmp_path: Path) -> None:
    """Their results lie in different places, and their identifiers differ; a copy is the same sweep."""
    uri, folders = f"sqlite:///{tmp_path / 'mlflow.db'}", []
    for number in range(3):  # the third is one of an older version, without an identifier
        trials = [Pretended({"trainable.lr": 0.1}, [(-1.0, {})] * 2) for _ in range(2)]
        folder = folder_of(tmp_path / f"results{number}" / "sweep", trials, end=None)
        if number < 2:
            append_event(folder / "events.jsonl", "start", sweep_id=f"{number}" * 32)
        append_event(folder / "events.jsonl", "end", elapsed=1.0)
        folders.append(folder)
    folders.append(Path(shutil.copytree(folders[0], tmp_path / "copy" / "another name")))
    urls = []
    for folder in [*folders, *folders]:
        publisher = Publisher(folder, uri, "gatesweep")
        publisher.sync()
        urls.append(publisher.url)
    client = connect(uri)
    stored = client.search_runs([client.get_experiment_by_name("gatesweep").experiment_id])
    names = sorted(run.data.tags.get("trial", "") for run in stored)
    assert names == 3 * [""] + 3 * ["trial_0000"] + 3 * ["trial_0001"]
    assert [urls.index(url) for url in urls] == [0, 1, 2, 0, 0, 1, 2, 0]
