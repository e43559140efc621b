"""Slurm and HTCondor: a sweep as a job that is interrupted, queued again and goes on, on throwaway pools."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from gatesweep.core.record import read_events

ROOT = Path(__file__).parents[3]
SCRIPTS = sorted(
    [ROOT / "configs" / "cluster" / name for name in ("batch.sh", "slurm.sh", "htcondor.sh")]
    + [*ROOT.glob("tests/cluster/slurm_*.sh"), *ROOT.glob("tests/cluster/condor_*.sh")]
)
NEEDS = {
    "slurm": ("slurmctld slurmd slurm-client munge iproute2", "sbatch slurmctld slurmd munged ip"),
    "condor": ("condor iproute2 procps (Debian 13, Ubuntu 24.04)", "condor_master condor_submit ip pgrep"),
}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound_shell(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--external-sources", script], check=True, cwd=ROOT)


def test_slurm_reads_every_option_of_its_script() -> None:
    """Slurm stops reading at the first command, and a comment with a space before SBATCH is no option."""
    lines = (ROOT / "configs/cluster/slurm.sh").read_text().splitlines()
    first_command = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    options = [number for number, line in enumerate(lines) if "SBATCH" in line]
    assert len(options) >= 9 and max(options) < first_command
    assert all(re.match(r"#SBATCH --[a-z-]+", lines[number]) for number in options)
    assert {"#SBATCH --requeue", "#SBATCH --signal=B:TERM@120", "#SBATCH --open-mode=append"} <= {
        lines[number].partition("  ")[0] for number in options
    }


def batch(command: str) -> subprocess.Popen[str]:
    """A shell with the functions of batch.sh, and what of them is called."""
    line = ["bash", "-c", f"source configs/cluster/batch.sh; {command}"]
    return subprocess.Popen(line, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_a_job_ends_with_the_exit_code_of_its_sweep(tmp_path: Path) -> None:
    bad = batch(f"run_sweep {tmp_path}/results training.max_epochs=0")
    assert "training.max_epochs" in bad.communicate(timeout=60)[0] and bad.returncode == 2
    elsewhere = batch(f"run_sweep {tmp_path}/results results={tmp_path}/other")
    assert "GATESWEEP_RESULTS" in elsewhere.communicate(timeout=60)[0] and elsewhere.returncode == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("on_sigterm, expected", [("exit 130", 130), ("exit 3", 3), (None, 130)])
def test_sigterm_to_the_job_reaches_what_it_runs(on_sigterm: str | None, expected: int, tmp_path: Path) -> None:
    program, ready = tmp_path / "program.sh", tmp_path / "ready"
    handler = f"trap '{on_sigterm}' TERM\n" if on_sigterm else ""
    program.write_text(f"{handler}touch {ready}\nwhile :; do sleep 0.1; done\n")
    job = batch(f"in_front bash {program}")
    deadline = time.monotonic() + 20
    while not ready.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    assert job.wait(timeout=20) == expected


@pytest.mark.parametrize("system", NEEDS)
def test_an_interrupted_job_goes_on_with_its_sweep_on_two_machines(system: str, tmp_path: Path) -> None:
    """A minute or three; `BATCH_SYSTEMS=1 python -m pytest tests/sweeps/execution/test_batch_systems.py`."""
    install, programs = NEEDS[system]
    if "BATCH_SYSTEMS" not in os.environ:
        pytest.skip("takes minutes: BATCH_SYSTEMS=1 runs it")
    missing = [one for one in programs.split() if not shutil.which(one)]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and {' '.join(missing)}: apt-get install {install}")
    if subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "--net", "--uts", "true"]).returncode:
        pytest.skip("needs namespaces (unshare), which this container refuses")
    here = ROOT / "tests" / "cluster"
    ours = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}  # a Ray of one machine
    run = subprocess.run(
        [here / f"{system}_here.sh", tmp_path, here / f"{system}_sweep.sh", tmp_path, "2"],
        capture_output=True, text=True, timeout=400, env=ours,
    )  # fmt: skip
    job = tmp_path / "job.log" if system == "slurm" else tmp_path / "results" / "condor-1" / "machine-0.log"
    said = run.stdout + run.stderr + (job.read_text() if job.exists() else "")
    assert run.returncode == 0, said
    assert "ended: 0 of Ray left" in run.stdout, said
    assert said.count("machines: 2 of 2") == 2 and "interrupted; go on with" in said, said

    sweeps = list((tmp_path / "results" / f"{system}-1").glob("*-mlp"))
    assert len(sweeps) == 1, "the job that was queued again began a sweep of its own"
    summary = json.loads((sweeps[0] / "summary.json").read_text())
    assert summary["trials"] == 8 and not summary["failed"]
    assert [event["event"] for event in read_events(sweeps[0] / "events.jsonl")].count("start") == 2
    code = 0 if summary["passed"] else 3
    expected = {"Restarts=1", f"ExitCode={code}:0"} if system == "slurm" else {f"0 {code} 2"}
    assert expected <= set(run.stdout.splitlines()), said
    assert (ROOT / "core").is_dir(), "HTCondor renames what is called core where a job runs"
