"""Evaluate a trained model on a split of its data: the same as `gatesweep evaluate`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # in the place of this folder, whose files have other names
    from gatesweep.__main__ import main

    sys.argv.insert(1, "evaluate")
    sys.exit(main())
