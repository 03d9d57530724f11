"""Threads that train one network: without locks, and those of BLAS; frames a second with several beside one.

The *processor time* of a minibatch is that of all threads together. It grows with the threads if they spend time on
each other, and depends little on what else the machine does; the frames a second do, and the best turn is shown. The
threads of BLAS share out each matrix product; what lies between products has one thread, and the bare products show
what sharing them can give.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timing
from train_step import FRAMES, NETWORKS, PnormNetwork, bare_products, nnet3py_step

from nnet3py.kept_memory import keep_freed_memory
from nnet3py.nnet.network import Network
from nnet3py.train.parameter_update import Method
from nnet3py.train.threads import train_in_threads
from nnet3py.train.trainer import Trainer, TrainerOptions

MINIBATCHES = 24
STEPS_OF_A_TURN = 10
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
    return lines + _blas_report()


def _blas_report() -> list[str]:
    """A table: a training step and its bare products with one and with two threads of OpenBLAS."""
    library = next((Path(np.__file__).parent.parent / "numpy.libs").glob("libscipy_openblas64_*.so*"), None)
    if library is None:
        return ["", "NumPy has no OpenBLAS of its own here: its threads were not measured."]
    set_threads = ctypes.CDLL(str(library)).scipy_openblas_set_num_threads64_

    def with_threads(number: int, task: Callable[[], object]) -> Callable[[], object]:
        def run() -> None:  # as often as it takes for threads and caches to be as where one number is kept
            set_threads(number)
            for _ in range(STEPS_OF_A_TURN):
                task()

        return run

    frames = FRAMES * STEPS_OF_A_TURN
    lines = ["", "| network | threads of BLAS share | frames a second with one | with two | times one |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for network in NETWORKS:
        step, products = nnet3py_step(network, Method.ONLINE, "numba"), bare_products(network)
        tasks: dict[str, Callable[[], object]] = {}
        for what, task in (("bare products", products), ("natural gradient", step)):
            tasks.update({f"{what} {number}": with_threads(number, task) for number in (1, 2)})
        times = timing.interleaved(tasks, SECONDS, warmups=1, lead_in=True)
        for what in ("bare products", "natural gradient"):
            one, two = times[f"{what} 1"], times[f"{what} 2"]
            lines.append(
                f"| {network.title} | {what} | {frames / statistics.median(one):,.0f} | "
                f"{frames / statistics.median(two):,.0f} | {timing.median_ratio(one, two):.2f} |"
            )
    set_threads(1)
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
