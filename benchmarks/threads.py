"""Lock-free threads that train one network: frames a second with several beside one, and what a minibatch costs.

The *processor time* of a minibatch is that of all threads together. It grows with the threads if they spend time on
each other, and depends little on what else the machine does; the frames a second do, and the best turn is shown.
"""

from __future__ import annotations

import os
import time

import numpy as np
from train_step import FRAMES, NETWORKS, PnormNetwork

from nnet3py.nnet.network import Network
from nnet3py.train.kept_memory import keep_freed_memory
from nnet3py.train.parameter_update import Method
from nnet3py.train.threads import train_in_threads
from nnet3py.train.trainer import Trainer, TrainerOptions

MINIBATCHES = 24
SECONDS = 40.0


def report() -> list[str]:
    """A table: for each network and number of threads the speed, beside one thread, and the processor time."""
    keep_freed_memory()
    lines = ["| network | threads | frames a second | times one thread | processor time of a minibatch |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for network in NETWORKS:
        numbers = [1, *(number for number in (2, 4, 8, 16) if number <= (os.cpu_count() or 1))]
        walls, processors = _times(network, numbers)
        for number in numbers:
            lines.append(
                f"| {network.title} | {number} | {FRAMES / walls[number]:,.0f} | {walls[1] / walls[number]:.2f} | "
                f"{1000 * processors[number]:.1f} ms |"
            )
    return lines


def _times(network: PnormNetwork, numbers: list[int]) -> tuple[dict[int, float], dict[int, float]]:
    """By number of threads, seconds on the clock and on processors of a minibatch, each of its best turn."""
    minibatch = network.minibatch()
    walls: dict[int, list[float]] = {number: [] for number in numbers}
    processors: dict[int, list[float]] = {number: [] for number in numbers}
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or not walls[numbers[-1]]:
        for number in numbers:
            options = TrainerOptions(method=Method.ONLINE, print_interval=10**9, num_threads=number)
            trainer = Trainer(Network.from_config(network.config(), 1), options)
            train_in_threads(trainer, [minibatch] * (12 * number), number)  # past the first updates of the estimates
            clock, processor = time.perf_counter(), time.process_time()
            train_in_threads(trainer, [minibatch] * MINIBATCHES * number, number)
            walls[number].append((time.perf_counter() - clock) / (MINIBATCHES * number))
            processors[number].append((time.process_time() - processor) / (MINIBATCHES * number))
            assert np.isfinite(trainer.change.flat).all()
    return {n: min(times) for n, times in walls.items()}, {n: min(times) for n, times in processors.items()}
