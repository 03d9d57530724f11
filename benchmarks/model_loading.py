"""Loading a model of 20 million parameters against reading the bytes of the same file, from the page cache.

Each turn is a process of its own that does one of the two once, as programs do: in a process that has loaded a model
before, memory is there already and both are faster.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import timing

from nnet3py.nnet.model_file import write_network
from nnet3py.nnet.network import Network

TURNS = {"Kaldi binary": 25, "HDF5": 25, "Kaldi text": 1}
LAYERS, DIM = 5, 2000

_TASKS = {
    "bytes": """
with open(path, "rb", buffering=0) as file:
    data = file.read()
""",
    "network": """
network = read_network(path)
""",
}
_PROCESS = """
import sys, time
import nnet3py.nnet.hdf5_file
from nnet3py.nnet.model_file import read_network
path = sys.argv[1]
start = time.perf_counter(){task}
print(time.perf_counter() - start)
"""


def _network() -> Network:
    """Five layers of 2000 by 2000, each with a nonlinearity and batch normalisation."""
    lines, last = [f"input-node name=input dim={DIM}"], "input"
    kinds = {
        "affine": f"type=NaturalGradientAffineComponent input-dim={DIM} output-dim={DIM}",
        "relu": f"type=RectifiedLinearComponent dim={DIM}",
        "norm": f"type=BatchNormComponent dim={DIM}",
    }
    for layer in range(1, LAYERS + 1):
        for kind, settings in kinds.items():
            name = f"{kind}{layer}"
            lines.append(f"component name={name} {settings}")
            lines.append(f"component-node name={name} component={name} input={last}")
            last = name
    return Network.from_config("\n".join([*lines, f"output-node name=output input={last}"]))


def _seconds(task: str, path: Path) -> float:
    command = [sys.executable, "-c", _PROCESS.format(task=_TASKS[task]), str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return float(done.stdout)


def report() -> list[str]:
    """A row a form of model file: seconds to read its bytes and to load it, medians of turns taken alternately."""
    lines = [
        "| model file, 20 M parameters | MB | bytes (s) | network (s) | ratio |",
        "| --- | --- | --- | --- | --- |",
    ]
    with tempfile.TemporaryDirectory() as name:
        network = _network()
        for form, turns in TURNS.items():
            path = Path(name) / ("model.h5" if form == "HDF5" else "model")
            write_network(str(path), network, binary=form != "Kaldi text")
            times: dict[str, list[float]] = {task: [] for task in _TASKS}
            for _ in range(turns):
                for task, taken in times.items():
                    taken.append(_seconds(task, path))
            read, load = (statistics.median(taken) for taken in times.values())
            ratio = timing.median_ratio(times["network"], times["bytes"])
            size = os.path.getsize(path) / 1e6
            lines.append(f"| {form} | {size:.0f} | {read:.3f} | {load:.3f} | {ratio:.2f} |")
    return lines
