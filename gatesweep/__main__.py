"""The command `gatesweep`, and `python -m gatesweep`: the same."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run `gatesweep ARGUMENTS`, by default those of the process; returns the exit code."""
    try:
        from gatesweep.sweeps.commands.dispatch import main as dispatch
        from gatesweep.sweeps.commands.streams import lasting_streams, use_utf8

        if argv is not None:
            return dispatch(argv)
        use_utf8()
        with lasting_streams():
            return dispatch()
    except KeyboardInterrupt:  # while the parser is imported
        return 130


if __name__ == "__main__":
    sys.exit(main())
