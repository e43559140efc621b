"""A trainable that prints, warns and fails, from Python and from other programs."""

from __future__ import annotations

import os
import sys
import time
import warnings
from typing import Any

from gatesweep.core.distributed import rank
from gatesweep.core.trainable import Data, Metrics
from tests.support.trivial import Line, Points

SECRET = "correct-horse-7"


class NoisyLine(Line):
    """A `Line` that has something to say: `say` at each epoch, a warning, and a line of another program's."""

    def __init__(self, data: Points, *, say: str = "", **options: Any) -> None:
        super().__init__(data, **options)
        self.say = say

    def evaluate(self, data: Data) -> Metrics:
        if not self.say:
            return super().evaluate(data)
        print(f"{self.say} in epoch {int(self.epochs) + 1} of rank {rank()}, password={SECRET}")
        warnings.warn("mind the step", stacklevel=1)
        print("to the error stream", file=sys.stderr)
        os.system("echo from another program")
        if self.say == "fails" and self.epochs == 1:
            time.sleep(0.5)  # so that what it printed comes before the traceback, in another stream
            raise ValueError("it had to come")
        return super().evaluate(data)
