"""`python -m gatesweep.check mine:Net`, which is `gatesweep check mine:Net`."""

from __future__ import annotations

import sys

from gatesweep.__main__ import main

if __name__ == "__main__":
    sys.argv.insert(1, "check")
    sys.exit(main())
