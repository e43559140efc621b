"""Places where gatesweep runs: a copy of the checkout, and environments with its dependencies but without gatesweep.

python -m tests.support.places source FOLDER                 a copy of what git tracks; prints it
python -m tests.support.places environment FOLDER [WHEEL]    an environment, with the wheel installed; prints its Python
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]


def copy_source(folder: Path) -> Path:
    """Copy the files that git tracks, links as links, because a build writes into its folder; return the copy."""
    listed = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True)
    if listed.returncode:  # not a clone
        ignored = shutil.ignore_patterns(".venv", ".git", "__pycache__", "results", "build", "*.egg-info", ".*_cache")
        return shutil.copytree(ROOT, folder, symlinks=True, ignore=ignored)
    for name in listed.stdout.decode().split("\0"):
        source, target = ROOT / name, folder / name
        if name and source.exists() and name != ".venv":
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    return folder


def make_environment(folder: Path, *install: str) -> Path:
    """Make an environment with the dependencies of this one and only `install` installed; return its Python.

    Python ignores .pth files in a folder that is named in a .pth file, so an editable install of gatesweep is not seen.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    packages = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    )
    (Path(packages.strip()) / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    if install:
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
        subprocess.run([*pip, "--no-build-isolation", "--ignore-installed", *install], check=True)
    return python


if __name__ == "__main__":
    kind, where, *wheels = sys.argv[1:]
    print(copy_source(Path(where)) if kind == "source" else make_environment(Path(where), *wheels))
