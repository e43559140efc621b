"""Publish a sweep to MLflow: the same as `gatesweep publish`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # in the place of this folder, whose files have other names
    from gatesweep.__main__ import main

    sys.argv.insert(1, "publish")
    sys.exit(main())
