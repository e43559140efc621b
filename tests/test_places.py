"""One import name in every place: checkout, editable install, wheel, job of a Ray cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.places import copy_source, make_environment
from tests.support.processes import descendants
from tests.support.servers import free_port
from tests.support.sockets import check_closed

TINY_SWEEP = ["experiment=mlp", "num_samples=2", "max_concurrent=1", "training.max_epochs=2"]
# Imports all of gatesweep, or a module of each folder, then each folder by its bare name. Prints the files, and the
# bare names that were not refused.
IMPORT = """
import importlib, json, pathlib, pkgutil, sys
import gatesweep
some = ["gatesweep.core.gate", "gatesweep.sweeps.config.compose", "gatesweep.trainables.walks"]
every = (module.name for module in pkgutil.walk_packages(gatesweep.__path__, "gatesweep."))
for name in every if sys.argv[1] == "all" else some:
    if not name.endswith("__main__"):
        importlib.import_module(name)
bare = []
for name in ("core", "sweeps", "trainables", "configs"):
    try:
        bare += [name] if importlib.import_module(name).__file__ else []
    except ImportError:
        pass
files = {}
for name, module in list(sys.modules.items()):
    if name.partition(".")[0] in ("gatesweep", "core", "sweeps", "trainables") and getattr(module, "__file__", None):
        files.setdefault(str(pathlib.Path(module.__file__).resolve()), []).append(name)
print(json.dumps({"bare": bare, "files": files, "root": str(pathlib.Path(gatesweep.__file__).resolve().parent)}))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, for a build writes into its folder."""
    return copy_source(tmp_path_factory.mktemp("source") / "checkout")


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(source)], check=True)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the wheel."""
    return make_environment(tmp_path_factory.mktemp("installed") / "environment", str(wheel))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that has the dependencies alone."""
    return make_environment(tmp_path_factory.mktemp("bare") / "environment")


def clean(**more: str) -> dict[str, str]:
    """The environment of a person's shell: nothing that points at a checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RAY_"))} | more


def imported(python: Path, folder: Path, what: str = "some") -> dict:
    done = subprocess.run([python, "-c", IMPORT, what], cwd=folder, env=clean(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check_names(seen: dict) -> None:
    assert len(seen["files"]) > 5
    assert seen["bare"] == []
    assert [names for names in seen["files"].values() if len(names) > 1] == []
    assert all(name.startswith("gatesweep") for names in seen["files"].values() for name in names)


def test_an_environment_of_dependencies_has_no_gatesweep(bare: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [bare, "-c", "import torch, gatesweep"], cwd=tmp_path, env=clean(), capture_output=True, text=True
    )
    assert done.returncode == 1 and "No module named 'gatesweep'" in done.stderr


def test_in_a_checkout_a_file_has_one_name(bare: Path, source: Path) -> None:
    seen = imported(bare, source, "all")
    check_names(seen)
    assert len(seen["files"]) > 100
    assert seen["root"] == str(source / "gatesweep")


def test_installed_as_editable_a_file_has_one_name(source: Path, tmp_path: Path) -> None:
    python = make_environment(tmp_path / "environment", "--editable", str(source))
    (tmp_path / "empty").mkdir()
    seen = imported(python, tmp_path / "empty")
    check_names(seen)
    assert seen["root"] == str(source / "gatesweep")


def test_installed_from_a_wheel_a_file_has_one_name(installed: Path, tmp_path: Path) -> None:
    seen = imported(installed, tmp_path)
    check_names(seen)
    assert Path(seen["root"]).parents[3] == installed.parents[1]


def test_the_wheel_holds_one_package_and_its_data(wheel: Path, source: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.partition("/")[0] for name in names}
    assert "gatesweep" in tops and len(tops) == 2 and all(top.startswith("gatesweep") for top in tops)
    for folder in ("core", "sweeps", "trainables"):
        modules = {f"gatesweep/{path.relative_to(source)}" for path in (source / folder).glob("**/*.py")}
        assert modules and modules <= names
    assert {f"gatesweep/{path.name}" for path in (source / "integrations").glob("*.py")} <= names
    data = [*source.glob("configs/**/*.yaml"), *source.glob("sweeps/reports/templates/*")]
    data += [*source.glob("trainables/walks/connectome/*")]
    kept = {f"gatesweep/{path.relative_to(source)}" for path in data}
    assert len(kept) > 100 and kept <= names
    assert not [name for name in names if "test" in Path(name).name or "__pycache__" in name]


def test_a_wheel_sweeps_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    gatesweep, results = installed.with_name("gatesweep"), tmp_path / "results"
    command = [gatesweep, "run", *TINY_SWEEP, f"results={results}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=tmp_path / "empty", env=clean(), text=True, **pipes)
    while process.poll() is None and not list(results.glob("*/trial_0000/events.jsonl")):
        time.sleep(0.05)
    process.send_signal(signal.SIGSTOP)  # so that the sweep does not end before its sockets are looked at
    try:
        check_closed([process.pid, *descendants(process.pid)], clean())
    finally:
        process.send_signal(signal.SIGCONT)
    output, errors = process.communicate(timeout=300)
    assert process.returncode in (0, 3), errors
    assert list((tmp_path / "empty").iterdir()) == []
    assert json.loads((results / "latest" / "summary.json").read_text())["trials"] == 2
    assert (results / "latest" / "report.html").is_file() and (results / "latest" / "mlflow.json").is_file()
    assert "tracking: not all was published" not in output


def test_the_scripts_in_a_wheel_do_no_harm(installed: Path, tmp_path: Path) -> None:
    script = installed.parents[1] / "lib" / f"python3.{sys.version_info[1]}" / "site-packages/gatesweep/sweeps/run.py"
    done = subprocess.run([installed, script, "--help"], cwd=tmp_path, env=clean(), capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: gatesweep run"), done.stderr
    code = "import gatesweep.sweeps.run, gatesweep.sweeps.train"
    done = subprocess.run([installed, "-c", code], cwd=tmp_path, env=clean(), capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@contextmanager
def ray_head(python: Path, folder: Path) -> Iterator[dict[str, str]]:
    """A Ray of one machine, on loopback, whose jobs find `python` first; yields the environment that reaches it."""
    address, dashboard = f"127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
    paths = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    # The second makes Ray listen on loopback alone.
    environment = clean(PATH=paths, RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_AUTH_MODE="disabled")
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "GATESWEEP_RESULTS": str(folder / "results")}
    command = [python, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2", "--num-gpus=0"]
    command += [f"--port={address.partition(':')[2]}", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    command += [f"--dashboard-port={dashboard.rpartition(':')[2]}", f"--ray-client-server-port={free_port()}"]
    command += [f"--dashboard-agent-listen-port={free_port()}", "--min-worker-port=0", "--max-worker-port=0"]
    command += [f"--object-store-memory={100 * 2**20}", f"--temp-dir={folder / 'ray'}"]
    with (folder / "ray.log").open("w") as log:
        head = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"{dashboard}/api/version", timeout=5):
                    break
            except OSError:
                assert head.poll() is None and time.monotonic() < deadline, (folder / "ray.log").read_text()
                time.sleep(0.2)
        yield environment | {"RAY_API_SERVER_ADDRESS": dashboard, "RAY_ADDRESS": dashboard}
    finally:
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(30)
        except subprocess.TimeoutExpired:
            head.kill()
            head.wait()


def test_a_job_sweeps_where_only_dependencies_are_installed(bare: Path, source: Path) -> None:
    pytest.importorskip("aiohttp_cors", reason="pip install 'ray[default]'")
    import tempfile

    with tempfile.TemporaryDirectory(prefix="gs", ignore_cleanup_errors=True) as name:  # short: Ray's sockets lie there
        folder = Path(name)
        with ray_head(bare, folder) as environment:
            command = [bare, "-m", "ray.scripts.scripts", "job", "submit", "--working-dir", ".", "--", "python"]
            command += [
                "sweeps/run.py",
                *TINY_SWEEP,
                "tracking=none",
                "figures=none",
                "gate.thresholds={val/r2: '> 0.01'}",
            ]
            deadline = time.monotonic() + 120
            while True:  # Ray's agent, which takes the job, starts after the dashboard that answers
                done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, timeout=400)
                if "No available agent" not in done.stderr + done.stdout or time.monotonic() > deadline:
                    break
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        [summary] = (folder / "results").glob("*-mlp/summary.json")
        assert json.loads(summary.read_text())["passed"] == 2
