"""The written model of docs/scaling.md: time of an iteration against machines, disk and network.

Nothing is measured here. The constants are what benchmarks/scaling.py measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

FRAMES_A_SECOND = 1100.0
"""Of one core's training steps, 20 million parameters, minibatches of 512 frames (``run.py scaling``)."""
START = 1.4
"""Seconds of a job that trains on at most a minibatch, with a model of 80 MB, two jobs at once (``run.py scaling``)."""
PROGRAM = 0.3
"""Seconds of nnet-average beside the reading and adding of models: its start, its result written."""
ADDING = 1.5e9
"""Bytes of models a second that nnet-average adds up from the page cache (``run.py scaling``)."""
HOURS = 1000
FRAMES = HOURS * 360_000


@dataclass(frozen=True)
class Cluster:
    """What an iteration's time depends on.

    Attributes:
        jobs: N.
        disk: bytes a second of the shared disk, all machines together.
        link: bytes a second of one machine's connection to it.
        model: bytes of a model, 4 for each parameter.
        speed: frames a second of one job's training steps.
        frames: samples of a job in an iteration.
        group: most models that one job averages; 0: all.
    """

    jobs: int
    disk: float
    link: float = 1.2e9
    model: float = 80e6
    speed: float = FRAMES_A_SECOND
    frames: int = 66_000
    group: int = 0

    def averaging(self) -> float:
        """Seconds from the last job's end to the new model."""
        seconds, models, rate = 0.0, self.jobs, min(self.link, ADDING)
        while self.group and models > self.group:
            parts = math.ceil(models / self.group)
            most = math.ceil(models / parts)
            seconds += PROGRAM + max(most * self.model / rate, models * self.model / self.disk)
            models = parts
        return seconds + PROGRAM + models * self.model / min(rate, self.disk) if self.jobs > 1 else 0.0

    def iteration(self) -> float:
        """Seconds of an iteration: start-up, models read and written by all jobs, training, averaging."""
        moving = max(2 * self.jobs * self.model / self.disk, 2 * self.model / self.link)
        return self.frames / self.speed + START + moving + self.averaging()

    def epoch(self) -> float:
        """Seconds of a pass over the data."""
        return FRAMES / (self.jobs * self.frames) * self.iteration()

    def share(self) -> float:
        """The part of an iteration that is training."""
        return self.frames / self.speed / self.iteration()

    def half(self) -> float:
        """The number of jobs at which half of an iteration is training, where the disk is what is slow."""
        return (self.frames / self.speed - START) * self.disk / (3 * self.model)


def report() -> list[str]:
    """A table: hours of an epoch, and the share of training, for numbers of jobs and speeds of the shared disk."""
    disks = {"0.1 GB/s": 1e8, "1 GB/s": 1e9, "10 GB/s": 1e10}
    lines = [
        f"Hours for one pass over {HOURS} hours of speech (in brackets: the share of the time that is training).",
        "",
        "| jobs | " + " | ".join(disks) + " | 10 GB/s, groups of 32 |",
        "| --- " * (len(disks) + 2) + "|",
    ]
    for jobs in (1, 4, 16, 64, 256, 1000):
        cells = [Cluster(jobs, disk) for disk in disks.values()]
        cells.append(replace(cells[-1], group=32))
        text = " | ".join(f"{one.epoch() / 3600:.3g} ({one.share():.0%})" for one in cells)
        lines.append(f"| {jobs} | {text} |")
    halves = ", ".join(f"{name}: {Cluster(1, disk).half():.0f}" for name, disk in disks.items())
    return [*lines, "", f"Jobs at which half of the time is training, a tree of averages assumed: {halves}."]
