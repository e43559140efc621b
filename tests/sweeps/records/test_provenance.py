"""Provenance tells the truth about the code of a sweep, quickly, and keeps the source of the user's classes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from gatesweep.core.trainable import Trainable
from gatesweep.sweeps.config.compose import compose_config
from gatesweep.sweeps.config.targets import locate
from gatesweep.sweeps.records import repository as repositories
from gatesweep.sweeps.records.provenance import code_line, provenance
from gatesweep.sweeps.records.repository import Git
from gatesweep.sweeps.records.source import MAX_FILE_BYTES, keep_source, modules_of, sources_of
from gatesweep.sweeps.tracking.parameters import code_tags
from tests.conftest import trivial

MODEL = """
from newcomer_base import Line, Points
from newcomer_helper import WIDTH

class Mine(Line): ...
class Data(Points): ...
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A newcomer's folder: a model beside its helper, under no version control."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    (folder / "newcomer_model.py").write_text(MODEL)
    (folder / "newcomer_helper.py").write_text("WIDTH = 3\n")
    shutil.copyfile(Path(__file__).parents[2] / "support" / "trivial.py", folder / "newcomer_base.py")
    for name in ("newcomer_model", "newcomer_helper", "newcomer_base"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return folder


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_code_of_a_newcomer_is_named_and_kept(project: Path) -> None:
    """Outside a repository, in one without a commit, with files that git does not know, committed, and changed."""
    sweep = project / "results" / "sweep"
    sweep.mkdir(parents=True)
    own = ["trainable._target_=newcomer_model.Mine", "data._target_=newcomer_model.Data"]
    config = compose_config([*trivial(project / "results"), *own])
    locate("trainable", config.trainable)

    def code() -> dict[str, Any]:
        return provenance(config, sweep)["code"]

    def state() -> tuple[Any, Any]:
        return code()["commit"], code()["dirty"]

    assert state() == (None, None)
    git(project, "init", "--quiet")
    assert state() == (None, True)
    for known in ("newcomer_base.py", "newcomer_model.py", "newcomer_helper.py"):
        git(project, "add", known)
        git(project, "commit", "--quiet", "-m", known)
        assert state() == (git(project, "rev-parse", "HEAD"), known != "newcomer_helper.py")  # results are no source
    (project / "sweep.log").write_text("no source")
    commit, dirty = state()
    assert dirty is False
    (project / "newcomer_helper.py").write_text("WIDTH = 4\n")
    kept = code()
    assert (kept["dirty"], kept["source"]) == (True, "source_2.zip")
    with zipfile.ZipFile(sweep / "source.zip") as archive:
        own = [name for name in archive.namelist() if not name.startswith("gatesweep/")]  # imported by other tests
        assert own == ["newcomer_model.py", "newcomer_base.py", "newcomer_helper.py"]
        assert archive.read("newcomer_helper.py") == b"WIDTH = 3\n"
    assert code_line(kept) == f"code newcomer_model, commit {commit}, changed or not committed since"
    tags = code_tags({"code": kept, "git_commit": "0123abc-dirty"})
    assert tags["mlflow.source.git.commit"] == commit and tags["code.dirty"] == "true"
    assert "mlflow.source.git.commit" not in code_tags({"code": {**kept, "commit": None}, "git_commit": "0123abc"})


def committed(folder: Path) -> None:
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "one")


@pytest.mark.parametrize(
    "kind", ["clean", "ignored", "elsewhere", "lazy", "assume", "skip", "submodule", "clean submodule"]
)
def test_code_is_dirty_where_a_source_is_not_what_the_commit_holds(
    kind: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever git is told to overlook. What the trainable imports from other folders is kept with it."""
    helper = project / "newcomer_helper.py"
    if kind in ("elsewhere", "lazy"):
        (tmp_path / "other").mkdir()
        helper = helper.rename(tmp_path / "other" / helper.name)
        monkeypatch.syspath_prepend(str(helper.parent))
    if kind == "lazy":
        text = MODEL.replace(
            "from newcomer_helper import WIDTH", "def late():\n    from newcomer_helper import WIDTH\n"
        )
        (project / "newcomer_model.py").write_text(text)
    if kind == "ignored":
        (project / ".gitignore").write_text(helper.name)
    if kind.endswith("submodule"):
        helper.unlink()
        (tmp_path / "inner").mkdir()
        (tmp_path / "inner" / "__init__.py").write_text("WIDTH = 3\n")
        committed(tmp_path / "inner")
        committed(project)
        git(project, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(tmp_path / "inner"), helper.stem)
        git(project, "config", "diff.ignoreSubmodules", "all")
        monkeypatch.delitem(sys.modules, helper.stem, raising=False)
    committed(project)
    if kind in ("assume", "skip"):
        git(project, "update-index", {"assume": "--assume-unchanged", "skip": "--skip-worktree"}[kind], helper.name)
        helper.write_text("WIDTH = 4\n")
    if kind == "submodule":
        (project / helper.stem / "__init__.py").write_text("WIDTH = 4\n")
    sweep = tmp_path / "results" / "sweep"
    sweep.mkdir(parents=True)
    own = ["trainable._target_=newcomer_model.Mine", "data._target_=newcomer_model.Data"]
    config = compose_config([*trivial(tmp_path / "results"), *own])
    locate("trainable", config.trainable)
    code = provenance(config, sweep)["code"]
    assert code["dirty"] is not kind.startswith("clean")
    with zipfile.ZipFile(sweep / "source.zip") as archive:
        assert {name.split("/")[0].removesuffix(".py") for name in archive.namelist() if "newcomer" in name} == {
            "newcomer_model",
            "newcomer_base",
            "newcomer_helper",
        }


def test_an_archive_of_sources_lacks_what_is_large_unreadable_or_secret(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of classes that any section names; it says what it lacks, and is the same for the same sources."""
    from gatesweep.trainables.autoencoders.mlp import MLP

    secrets = ["hunter2", "0123456789abcdef", "correct-horse"]
    monkeypatch.setenv("NEWCOMER_TOKEN", secrets[2])
    (project / "newcomer_helper.py").write_text(
        f"'''Basic attributes'''\nWIDTH, token = 3, next(iter('ab'))\nurl = 'postgresql://me:{secrets[0]}@host/db'\n"
        f"api_key: str = '{secrets[1]}'\nshown = '{secrets[2]}'\n"
    )
    rest = {
        "large": "x" * (MAX_FILE_BYTES + 1),
        "latin": "é",
        "gone": "",
        "loss": "class Loss: ...",
        "hex": "0a" * 200_000,
    }
    for name, text in rest.items():
        (project / f"newcomer_{name}.py").write_bytes(
            f"'''{text}'''\n".encode("latin-1") if name != "loss" else text.encode()
        )
    compiled = {name: type(sys)(f"newcomer_{name}") for name in (*rest, "native", "odd")}
    for name, module in compiled.items():
        module.__file__ = str(project / f"newcomer_{name}.{'so' if name == 'native' else 'py'}")
        monkeypatch.setitem(sys.modules, module.__name__, module)
    compiled["odd"].__file__ = None
    compiled["loss"].Loss = type("Loss", (), {"__module__": "newcomer_loss"})  # type: ignore[attr-defined]
    (project / "newcomer_gone.py").unlink()
    __import__("newcomer_model")
    values = {"trainable": {"_target_": "newcomer_model.Mine", "losses": [{"_target_": "newcomer_loss.Loss"}]}}
    modules = modules_of([values, {"_target_": f"{MLP.__module__}.MLP"}, {"_target_": "no.such.Thing"}])
    assert [module.name for module in modules] == ["newcomer_model", "newcomer_loss", MLP.__module__]
    began = time.monotonic()
    name, missing = keep_source(project, sources_of(modules))
    assert time.monotonic() - began < 20
    assert name == "source.zip" and keep_source(project, sources_of(modules)) == (name, missing)
    assert sorted(missing) == [f"newcomer_{name}" for name in ("gone", "large", "latin", "native")]
    with zipfile.ZipFile(project / name) as archive:
        helper = archive.read("newcomer_helper.py").decode()
        assert helper.startswith("'''Basic attributes'''\nWIDTH, token = 3, next(iter('ab'))\n")
        assert "class Loss" in archive.read("newcomer_loss.py").decode()
        assert not [secret for secret in secrets if secret in helper]
    assert keep_source(project / "nowhere", sources_of(modules))[0] is None
    assert modules_of({"_target_": f"{Trainable.__module__}.Trainable", "more": {"_target_": "torch.nn.Linear"}})


def test_an_untracked_source_makes_gatesweep_dirty_too(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    own, installed = tmp_path / "configs" / "config.yaml", tmp_path / "venv" / "site-packages" / "a.py"
    for path in (own, installed):
        path.parent.mkdir(parents=True)
        path.write_text("")
    git(tmp_path, "add", "configs")
    git(tmp_path, "commit", "--quiet", "-m", "one")
    assert Git().state(installed).commit is None  # the repository around an environment is not that of its packages
    assert Git().state(own).dirty is False
    (tmp_path / "new.py").write_text("")
    assert Git().state(own).dirty is True


@pytest.mark.parametrize("git_is", ["absent", "hanging", "refusing"])
def test_without_an_answer_of_git_it_says_unknown_and_does_not_wait(
    git_is: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    if git_is != "absent":
        script = "exec sleep 60" if git_is == "hanging" else "echo 'fatal: detected dubious ownership' >&2; exit 128"
        (programs / "git").write_text(f"#!/bin/sh\nPATH={os.defpath}\n{script}\n")
        (programs / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(repositories, "SECONDS", 0.5)
    monkeypatch.delenv("GATESWEEP_COMMIT", raising=False)
    config = compose_config(trivial(tmp_path))
    locate("trainable", config.trainable)
    began = time.monotonic()
    facts = provenance(config, tmp_path)
    assert time.monotonic() - began < 20  # it would wait 60
    assert facts["git_commit"] is None and (facts["code"]["commit"], facts["code"]["dirty"]) == (None, None)
    assert facts["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
