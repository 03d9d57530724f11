"""Timing side by side: the things compared take turns, so that a machine whose speed drifts slows all of them alike."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping


def interleaved(
    tasks: Mapping[str, Callable[[], object]], seconds: float, warmups: int = 3, lead_in: bool = False
) -> dict[str, list[float]]:
    """Run the tasks in turn until ``seconds`` have passed; the seconds that each turn of each task took.

    With ``lead_in`` a task runs once more, untimed, before each timed run: what is in the caches is then its own, as
    where it runs again and again, and not its predecessor's.
    """
    for task in tasks.values():
        for _ in range(warmups):
            task()
    times: dict[str, list[float]] = {name: [] for name in tasks}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, task in tasks.items():
            if lead_in:
                task()
            start = time.perf_counter()
            task()
            times[name].append(time.perf_counter() - start)
    return times


def median_ratio(numerator: list[float], denominator: list[float]) -> float:
    """Median over the turns of one task's time over the other's in the same turn."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def machine() -> str:
    """The processor and its number of cores, for the head of a table of figures."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} cores, Python {platform.python_version()}"
