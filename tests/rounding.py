"""Run the tests marked `rounding` under every kind of vector instructions, with one and with two threads of torch.

`python -m tests.rounding` prints one line a variant, and exits with 1 if a variant fails. It leaves out the variant in
which pytest itself runs these tests: this processor's own instructions, one thread. Other processors round
otherwise, and golden losses and counts of attacked points must hold there too. Each variant is a process of its own:
torch reads ATEN_CPU_CAPABILITY once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

TESTS = Path(__file__).parent
CAPABILITIES = ("default", "avx2", "avx512")  # each processor that has one has those before it
THREADS = (1, 2)
LIMIT = 600  # seconds a variant


def main(arguments: list[str] | None = None) -> int:
    """Run all variants, as many at a time as there are cores; return the exit status.

    Arguments are passed on to pytest, in place of the marked tests; then no variant is left out.
    """
    tests = arguments or ["-m", "rounding", *marked_files()]
    usable = usable_capabilities()
    for capability in CAPABILITIES:
        if capability not in usable:
            print(f"{capability:8} skipped: this processor lacks it", flush=True)
    variants = [variant for variant in product(usable, THREADS) if arguments or variant != (usable[-1], 1)]
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        passed = list(pool.map(lambda variant: run_variant(*variant, tests), variants))
    return 0 if all(passed) else 1


def run_variant(capability: str, threads: int, tests: list[str]) -> bool:
    """Run pytest in a new process, print a line, and the report if it failed."""
    settings = {"ATEN_CPU_CAPABILITY": capability, "GATESWEEP_TEST_THREADS": str(threads)}
    settings["OMP_WAIT_POLICY"] = "PASSIVE"  # threads that spin stop one another where cores are fewer than threads
    command = [sys.executable, "-m", "pytest", "--tb=short", "-p", "no:cacheprovider", *tests]
    began = time.perf_counter()
    try:
        run = subprocess.run(
            command, env=os.environ | settings, cwd=TESTS.parent, capture_output=True, text=True, timeout=LIMIT
        )
        report, passed = run.stdout + run.stderr, run.returncode == 0
    except subprocess.TimeoutExpired:
        report, passed = f"not done after {LIMIT} s", False
    summary = report.strip().splitlines()[-1] if report.strip() else "no report"
    outcome = "passed" if passed else "FAILED"
    line = (
        f"{capability:8} {threads} thread{'s' if threads > 1 else ' '} {outcome} {time.perf_counter() - began:5.1f} s"
    )
    print(f"{line}  {summary}" if passed else f"{line}  {summary}\n{report}", flush=True)
    return passed


def usable_capabilities() -> tuple[str, ...]:
    """What this processor has of CAPABILITIES; asked in a process where nothing lowers it."""
    environment = {name: value for name, value in os.environ.items() if name != "ATEN_CPU_CAPABILITY"}
    command = [sys.executable, "-c", "import torch; print(torch.backends.cpu.get_cpu_capability())"]
    highest = (
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip().lower()
    )
    return CAPABILITIES[: CAPABILITIES.index(highest) + 1] if highest in CAPABILITIES else CAPABILITIES[:1]


def marked_files() -> list[str]:
    """The files with marked tests: collecting them alone saves the imports of all others."""
    return sorted(str(path) for path in TESTS.rglob("test_*.py") if "@pytest.mark.rounding" in path.read_text())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
