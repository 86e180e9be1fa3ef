"""Measurement: calls to compare take turns in one process; memory is measured in a separate process for each."""

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence

# glibc gives freed memory back at once, a page fault for each page of the next large tensor. These make it keep it.
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(1 << 34), "MALLOC_MMAP_THRESHOLD_": str(1 << 34)}


def seconds(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """The duration of a call; with `time.process_time`, its time on the processor, whatever else runs."""
    start = clock()
    call()
    return clock() - start


def ratio(
    call: Callable[[], object],
    baseline: Callable[[], object],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """How many times the baseline's duration a call takes: the median over rounds of the ratio in a round.

    In each round both run once, one directly after the other, and they take turns in being first, so that other load
    on the machine affects both. A round before the first warms up.
    """
    found = []
    for turn in range(rounds + 1):
        pair = (call, baseline) if turn % 2 else (baseline, call)
        taken = {contender: seconds(contender, clock) for contender in pair}
        found.append(taken[call] / taken[baseline])
    return statistics.median(found[1:])


def peak_bytes() -> int:
    """The most memory this process has held so far (resident set)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_own_process(arguments: Sequence[str]) -> str:
    """The output of a new process `python -m tests.benchmarks` with these arguments."""
    command = [sys.executable, "-m", "tests.benchmarks", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def with_kept_memory() -> None:
    """Restart this program with glibc set to keep freed memory, unless it is already set."""
    if not KEEP_MEMORY.items() <= os.environ.items():
        os.execve(sys.executable, sys.orig_argv, os.environ | KEEP_MEMORY)


def show(rows: Iterable[Sequence[str]]) -> None:
    """Print a Markdown table, each row as soon as it is measured; the first row has the column names."""
    for number, row in enumerate(rows):
        print("| " + " | ".join(row) + " |", flush=True)
        if number == 0:
            print("|---" * len(row) + "|", flush=True)
    print(flush=True)
