"""How many cores this process may use, which may be fewer than the machine has.

The least of: the cores that it is bound to (taskset, cpusets, most queues); the share of time that control groups give
it (containers); and what a queue has given to the job that it runs in, for a queue need not enforce that: 2 cores of a
node of 64 are 2, though all 64 can be seen.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping

from nnet3py.jobs.inherited import in_grid_engine, in_pbs, in_slurm

CONTROL_GROUPS = "/sys/fs/cgroup"


def usable_cores() -> int:
    """Cores that jobs may keep busy at the same time, at least 1."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *_of_control_groups(), *_of_a_queue(os.environ)]))


def _of_a_queue(environment: Mapping[str, str]) -> Iterator[int]:
    if in_slurm(environment):  # of the node that this is; without the first, in a shell of salloc, of a task
        yield from _numbers(environment, "SLURM_CPUS_ON_NODE", "SLURM_CPUS_PER_TASK")
    elif in_grid_engine(environment):
        if environment.get("NHOSTS", "1") == "1":
            yield from _numbers(environment, "NSLOTS")
        else:
            yield from _slots_of_first_host(environment.get("PE_HOSTFILE", ""))
    elif in_pbs(environment):
        yield from _numbers(environment, "NCPUS", "PBS_NUM_PPN")


def _numbers(environment: Mapping[str, str], *names: str) -> Iterator[int]:
    """The first of the variables that is a number above 0."""
    values = (environment.get(name, "") for name in names)
    yield from [int(value) for value in values if value.isascii() and value.isdigit() and int(value) > 0][:1]


def _slots_of_first_host(path: str) -> Iterator[int]:
    """The slots on the host where Grid Engine starts a job's script, the first line of ``PE_HOSTFILE``."""
    with contextlib.suppress(OSError, ValueError, IndexError), open(path, encoding="utf-8") as lines:
        yield max(1, int(lines.readline().split()[1]))


def _of_control_groups() -> Iterator[int]:
    """What each control group above this process lets it have, of version 2 or 1."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as lines:
            groups = [line.rstrip("\n").split(":", 2) for line in lines]
    except OSError:
        return
    for _, controllers, path in (group for group in groups if len(group) == 3):
        if controllers == "":
            for folder in _upwards(CONTROL_GROUPS, path):
                yield from _limit(*_words(f"{folder}/cpu.max", 2))
        elif "cpu" in controllers.split(","):
            for folder in _upwards(f"{CONTROL_GROUPS}/cpu", path):
                yield from _limit(*_words(f"{folder}/cpu.cfs_quota_us"), *_words(f"{folder}/cpu.cfs_period_us"))


def _upwards(root: str, path: str) -> Iterator[str]:
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    for count in range(len(parts), -1, -1):
        yield "/".join([root, *parts[:count]])


def _words(path: str, count: int = 1) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().split()[:count]
    except OSError:
        return []


def _limit(quota: str = "", period: str = "") -> Iterator[int]:
    if quota.isdigit() and period.isdigit() and int(period) > 0:  # not "max", not -1
        yield max(1, math.ceil(int(quota) / int(period)))
