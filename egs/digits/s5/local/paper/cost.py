"""What a job costs on this machine: its start, a minibatch by each method, an average of N models.

Each figure is the least of several measurements, taken in turn, so that other work beside them counts little. A job's
time over n minibatches is taken as start + n * minibatch; both come from runs of two lengths.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from dataclasses import dataclass

from plan import METHODS
from trial import Corpus

REPEATS = 5
FEW, MANY = 20, 120
MODELS = 16


@dataclass(frozen=True)
class Cost:
    """Seconds: ``start`` of a job's programs, ``minibatch`` by method, ``average`` per model that is averaged."""

    start: float
    minibatch: dict[str, float]
    average: float

    def job(self, method: str, minibatches: float) -> float:
        """A job's time."""
        return self.start + minibatches * self.minibatch[method]


def measure(corpus: Corpus, egs: str, config: str) -> Cost:
    """Measure, with the examples in ``egs`` and a network of ``config``, both relative to the corpus's directory."""
    with tempfile.TemporaryDirectory(dir=corpus.folder) as folder:
        model = f"{folder}/0.raw"
        _run(corpus, ["nnet-init", config, model])
        size = corpus.minibatch
        for count in (FEW, MANY):
            examples = f"ark:{corpus.path(egs)}/egs.1.ark"
            _run(corpus, ["nnet-subset-egs", f"--n={count * size}", examples, f"ark:{folder}/{count}.ark"])
        best: dict[tuple[str, int], float] = {}
        average = float("inf")
        for _ in range(REPEATS):
            for method in METHODS:
                for count in (FEW, MANY):
                    words = ["nnet-train-shard", f"--update={method}", f"--minibatch-size={size}"]
                    words += ["--shuffle-buffer-size=5000", f"nnet-copy --learning-rate=0.005 {model} - |"]
                    words += [f"ark:{folder}/{count}.ark", f"{folder}/1.raw"]
                    best[method, count] = min(best.get((method, count), float("inf")), _run(corpus, words))
            averaged = _run(corpus, ["nnet-average", *[model] * MODELS, f"{folder}/average.raw"])
            average = min(average, averaged / MODELS)
        minibatch = {method: (best[method, MANY] - best[method, FEW]) / (MANY - FEW) for method in METHODS}
        start = min(best[method, FEW] - FEW * minibatch[method] for method in METHODS)
        return Cost(start, minibatch, average)


def _run(corpus: Corpus, command: list[str]) -> float:
    """Seconds that a command took."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    started = time.perf_counter()
    subprocess.run(command, cwd=corpus.folder, env=environment, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def write(cost: Cost, path: str) -> None:
    """Write as lines of name and seconds."""
    lines = [f"start\t{cost.start:.6f}", f"average\t{cost.average:.6f}"]
    lines += [f"{method}\t{seconds:.6f}" for method, seconds in cost.minibatch.items()]
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")


def read(path: str) -> Cost | None:
    """What :func:`write` wrote, None where there is no file."""
    try:
        with open(path, encoding="utf-8") as file:
            values = {name: float(value) for name, value in (line.split("\t") for line in file)}
    except FileNotFoundError:
        return None
    return Cost(values.pop("start"), values, values.pop("average")) if "average" in values else None
