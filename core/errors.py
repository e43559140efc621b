"""The error of bad input: the only one that a command prints without a traceback."""

from __future__ import annotations

LONGEST_REASON = 300  # characters of another library's error in a message


class InputError(ValueError):
    """Bad input: a configuration, a file or an argument that a person can correct.

    The message is one line that names the key or file, the value found, and what is expected. A command prints it and
    exits with 2. Every other exception is a fault of gatesweep or of the user's own code, and keeps its traceback.
    """


def reason(error: BaseException) -> str:
    """Return an exception's own words in one line, without the stack that C++ puts behind them; never empty."""
    text = str(error).partition("\nException raised from")[0]
    words = " ".join(text.split()) or type(error).__name__
    return words if len(words) <= LONGEST_REASON else f"{words[:LONGEST_REASON]}..."


class MissingMetric(InputError):
    """A metric that a gate reads and a run does not report; the other runs of its sweep will not either."""
