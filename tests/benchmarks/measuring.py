"""Costs of a piece of work, each measured in a process of its own: CPU seconds are the steady figure on a busy machine.

A child is `python -m tests.benchmarks.measuring module:function JSON`. It imports, calls the function, and prints what
that cost and returned.
"""

import importlib
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tasks.core.threads import SHORT_SPINS

MEGABYTE = 1e6


@dataclass(frozen=True)
class Cost:
    """`cpu_seconds` are user and system time of all threads, imports left out; `peak_mb` is of the whole process."""

    cpu_seconds: float
    wall_seconds: float
    import_seconds: float  # CPU too
    peak_mb: float
    result: Any

    def __str__(self) -> str:
        return f"{self.cpu_seconds:7.2f} CPU s {self.wall_seconds:7.2f} s {self.peak_mb:7,.0f} MB"


def measure(function: str, imports: Sequence[str] = (), **arguments: Any) -> Cost:
    """Call `module:function` with arguments that are JSON, in a new process. What it prints is shown if it fails.

    `imports` are modules that the function imports inside, told apart from the work.
    """
    told = json.dumps({"imports": list(imports), "arguments": arguments})
    command = [sys.executable, "-m", "tests.benchmarks.measuring", function, told]
    done = subprocess.run(command, capture_output=True, text=True, env=SHORT_SPINS | os.environ)
    if done.returncode:
        sys.exit(f"{function}({arguments}) ended with {done.returncode}:\n{done.stderr}")
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def measure_in_turn(
    functions: dict[str, str], repetitions: int, imports: Sequence[str] = (), **arguments: Any
) -> dict[str, list[Cost]]:
    """Each of the functions once, and again: what else the machine does falls on all of them alike."""
    costs: dict[str, list[Cost]] = {name: [] for name in functions}
    for _ in range(repetitions):
        for name, function in functions.items():
            costs[name].append(measure(function, imports, **arguments))
    return costs


def ratio(ours: list[Cost], theirs: list[Cost]) -> str:
    """The median of the rounds' ratios of CPU seconds, and their spread."""
    each = [one.cpu_seconds / other.cpu_seconds for one, other in zip(ours, theirs, strict=True)]
    return f"{median(each):.2f} x ({min(each):.2f} to {max(each):.2f})"


def typical(costs: list[Cost]) -> Cost:
    """The one of the median CPU seconds."""
    return sorted(costs, key=lambda cost: cost.cpu_seconds)[len(costs) // 2]


def print_costs(costs: dict[str, list[Cost]], unit: str) -> None:
    """A line for each function with its result in `unit`; the first is ours, and beside the others stands its ratio."""
    ours = next(iter(costs.values()))
    for name, each in costs.items():
        beside = "" if each is ours else f"  ours: {ratio(ours, each)}"
        print(f"  {name:10}{typical(each)}  {typical(each).result:,} {unit}{beside}", flush=True)


def machine() -> str:
    """In words: cores, memory, interpreter."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{len(os.sched_getaffinity(0))} cores of {_processor()}, {memory:.0f} GiB, Python {platform.python_version()}"
    )


def _processor() -> str:
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return found.group(1) if found else platform.machine()


# --- the child ------------------------------------------------------------------------------------


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _peak_mb() -> float:
    # Not `ru_maxrss`: a child inherits that of the process it was started from.
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found.group(1)) * 1024 / MEGABYTE


def main() -> None:
    out = os.dup(1)
    os.dup2(2, 1)
    module, _, name = sys.argv[1].partition(":")
    function, asked = getattr(importlib.import_module(module), name), json.loads(sys.argv[2])
    for each in asked["imports"]:
        importlib.import_module(each)
    imported, began = _cpu_seconds(), time.perf_counter()
    result = function(**asked["arguments"])
    wall = time.perf_counter() - began
    cost = Cost(_cpu_seconds() - imported, wall, imported, _peak_mb(), result)
    os.write(out, json.dumps(cost.__dict__).encode())


if __name__ == "__main__":
    main()
