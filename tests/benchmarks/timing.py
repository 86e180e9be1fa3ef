"""Measuring: contenders take turns in one process, and the memory of each is measured in a process of its own."""

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

# glibc gives freed memory back at once, a page fault for each page of the next large tensor. These make it keep it.
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(1 << 34), "MALLOC_MMAP_THRESHOLD_": str(1 << 34)}


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def ratio(call: Callable[[], object], baseline: Callable[[], object], rounds: int) -> float:
    """How many times the baseline's duration a call takes: the median over rounds of the ratio in a round.

    In a round both run once, one right after the other and in turns first, so that what else the machine does falls on
    both. A round before the first warms up.
    """
    found = []
    for turn in range(rounds + 1):
        pair = (call, baseline) if turn % 2 else (baseline, call)
        taken = {contender: seconds(contender) for contender in pair}
        found.append(taken[call] / taken[baseline])
    return statistics.median(found[1:])


def peak_bytes() -> int:
    """The most memory this process has held so far (resident set)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_own_process(arguments: list[str], environment: dict[str, str] | None = None) -> str:
    """What `python -m tests.benchmarks` prints when started afresh with these arguments."""
    command = [sys.executable, "-m", "tests.benchmarks", *arguments]
    done = subprocess.run(command, env=os.environ | (environment or {}), capture_output=True, text=True, check=True)
    return done.stdout
