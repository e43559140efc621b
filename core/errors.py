"""The error that is the user's to mend."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input: a configuration, a file or an argument that a person can correct.

    The message is one line that names the key or file, the value found, and what is expected; a command prints it and
    exits with 2. Every other exception is a fault of gatesweep or of the user's own code, and keeps its traceback.
    """
