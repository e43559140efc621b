"""What trials print: in the log of each, bounded, without secrets, and on the screen."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from gatesweep.core.record import append_event
from gatesweep.sweeps.execution import trial_logs
from gatesweep.sweeps.execution.trial import OUTPUT_MARK
from gatesweep.sweeps.execution.trial_logs import TrialLogs
from gatesweep.sweeps.records.layout import EVENTS, LOG, OLDER_LOG
from tests.conftest import trivial
from tests.support.noisy import SECRET
from tests.sweeps.commands.test_sweep import run

NOISY = "trainable._target_=tests.support.noisy.NoisyLine"
SAY = {"say": {"type": "categorical", "choices": ["speaks", "fails"]}}


def of(folder: Path, name: str) -> str:
    return (folder / name / LOG).read_text()


def test_what_a_trial_prints_is_in_its_log_and_a_failure_is_shown(
    ray_here: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Python's streams, warnings, another program's lines, the traceback; appended to where the sweep goes on."""
    grid = ["search=grid", "num_samples=null", "scheduler=none", "max_concurrent=1", NOISY, "training.max_epochs=2"]
    _, folder, summary = run(trivial(tmp_path, SAY, *grid, f"storage={tmp_path / 'storage'}", lr=0.01))
    assert (summary["finished"], summary["failed"]) == (1, 1)
    logs = {name: of(folder, name) for name in ("trial_0000", "trial_0001")}
    [speaks] = [name for name, text in logs.items() if "speaks" in text]
    [fails] = logs.keys() - {speaks}
    for text in logs.values():
        counts = Counter(text.splitlines())
        assert counts["from another program"] == counts["to the error stream"] == 2, text
        assert text.count("mind the step") >= 1 and SECRET not in text and "password=***" in text
        assert OUTPUT_MARK.strip() not in text
    assert "fails" not in logs[speaks] and "speaks" not in logs[fails]
    assert logs[fails].splitlines()[-1] == "ValueError: it had to come" and "Traceback" not in logs[speaks]
    shown = capfd.readouterr().out
    assert f"{fails} | ValueError: it had to come\n{fails} | all of it: {folder / fails / LOG}\n" in shown
    assert "speaks in epoch" not in shown
    copy = tmp_path / "storage" / folder.name
    assert {name: of(copy, name) for name in logs} == logs

    run([f"resume={folder}", "training.max_epochs=3", "logs=screen"])
    assert of(folder, speaks).startswith(logs[speaks]) and "speaks in epoch 3" in of(folder, speaks)
    shown = capfd.readouterr().out
    assert "resume: trials that have ended: 1; that go on: 1; to begin: the rest of the grid\n" in shown
    assert f"{speaks} | speaks in epoch 3 of rank 0, password=***\n" in shown and f"{speaks} | from another" in shown


@pytest.fixture
def logs(tmp_path: Path) -> TrialLogs:
    """Logs of two trials that have begun; nothing is heard of a Ray."""
    for name in ("trial_0000", "trial_0001"):
        (tmp_path / name).mkdir()
        append_event(tmp_path / name / EVENTS, "start")
    return TrialLogs(tmp_path, on_screen=False)


def hear(logs: TrialLogs, *lines: str, process: str = "7") -> None:
    logs._route({"ip": "127.0.0.1", "pid": process, "is_err": False, "lines": list(lines)})


def test_a_process_that_is_kept_writes_into_the_log_of_each_trial_in_turn(logs: TrialLogs) -> None:
    hear(logs, "of no trial", f"{OUTPUT_MARK}trial_0000", "first", f"half a line{OUTPUT_MARK}trial_0001")
    hear(logs, "10%\r50%\r100%", f"{OUTPUT_MARK}", "between trials")
    hear(logs, f"{OUTPUT_MARK}trial_0000,trial_0001", "of a stack", process="8")
    first, second = (of(logs.sweep, name).splitlines() for name in ("trial_0000", "trial_0001"))
    assert first[:2] == ["first", "half a line"] and first[2].startswith("--- process 8 on ")
    assert second[0] == "100%" and first[3:] == second[2:] == ["of a stack"]


def test_a_log_begins_with_the_record_and_has_an_end(logs: TrialLogs, monkeypatch: pytest.MonkeyPatch) -> None:
    hear(logs, f"{OUTPUT_MARK}trial_0002", "early")  # a member of a stack begins with its first epoch
    assert not (logs.sweep / "trial_0002").exists()
    (logs.sweep / "trial_0002").mkdir()
    append_event(logs.sweep / "trial_0002" / EVENTS, "start")
    hear(logs, "late")
    assert of(logs.sweep, "trial_0002") == "early\nlate\n"
    monkeypatch.setattr(trial_logs, "MAX_LOG", 1000)
    for number in range(300):
        hear(logs, f"line {number}", "x" * 10_000_000 if number == 200 else "")
    kept = [logs.sweep / "trial_0002" / name for name in (OLDER_LOG, LOG)]
    assert sum(path.stat().st_size for path in kept if path.exists()) < 5000
    assert "line 299\n" in "".join(path.read_text() for path in kept if path.exists())
