"""What an iteration of the driver costs beyond the training in it, with models of 20 million parameters.

The driver runs as a process of its own with jobs that train on one minibatch each, so that an iteration is almost
nothing but that cost: the start of programs, models read and written, the average, the diagnostics. `nnet-average` is
held against reading the same bytes from the page cache.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from programs import ROOT, peak_bytes

from nnet3py.driver.report import read_progress
from nnet3py.kept_memory import keep_freed_memory
from nnet3py.nnet.network import Network
from nnet3py.tables.holders import INT_VECTOR, MATRIX
from nnet3py.tables.table import TableWriter
from nnet3py.train.minibatch import Minibatch, SparseLabels
from nnet3py.train.trainer import Trainer, TrainerOptions

JOBS = (1, 4, 16, 64)
ITERATIONS = 3
NUM_PDFS, FEATURE_DIM, HIDDEN, LAYERS = 1500, 40, 2000, 5
UTTERANCES, FRAMES = 80, 300
_CPU = "driver's own seconds of processor time:"
_DRIVER = f"""
import atexit, runpy, sys, time
atexit.register(lambda: print("{_CPU}", time.process_time(), file=sys.stderr))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _config() -> str:
    """About 20 million parameters: 40 × 11 inputs, five layers of 2000 rectified units, 1500 classes."""
    spliced = ", ".join(f"Offset(input, {t})" if t else "input" for t in range(-5, 6))
    lines = [f"input-node name=input dim={FEATURE_DIM}"]
    last, dim = f"Append({spliced})", FEATURE_DIM * 11
    for layer in range(1, LAYERS + 1):
        parts = {
            "affine": f"type=NaturalGradientAffineComponent input-dim={dim} output-dim={HIDDEN} max-change=0.75",
            "relu": f"type=RectifiedLinearComponent dim={HIDDEN}",
            "renorm": f"type=NormalizeComponent dim={HIDDEN}",
        }
        for kind, settings in parts.items():
            lines.append(f"component name={kind}{layer} {settings}")
            lines.append(f"component-node name={kind}{layer} component={kind}{layer} input={last}")
            last = f"{kind}{layer}"
        dim = HIDDEN
    affine = f"type=NaturalGradientAffineComponent input-dim={dim} output-dim={NUM_PDFS} max-change=1.5"
    lines += [
        f"component name=final {affine} param-stddev=0 bias-stddev=0",
        f"component-node name=final component=final input={last}",
        f"component name=softmax type=LogSoftmaxComponent dim={NUM_PDFS}",
        "component-node name=softmax component=softmax input=final",
        "output-node name=output input=softmax objective=linear",
    ]
    return "\n".join(lines) + "\n"


def _make_corpus(folder: Path) -> None:
    random = np.random.default_rng(0)
    for name in ("data", "ali"):
        (folder / name).mkdir()
    features = TableWriter(f"ark,scp:{folder}/data/feats.ark,{folder}/data/feats.scp", MATRIX)
    labels = TableWriter(f"ark,scp:{folder}/ali/ali.1.ark,{folder}/ali/ali.scp", INT_VECTOR)
    with features, labels:
        for number in range(UTTERANCES):
            key = f"utterance{number:03d}"
            features.write(key, random.standard_normal((FRAMES, FEATURE_DIM)).astype(np.float32))
            labels.write(key, np.repeat(random.integers(0, NUM_PDFS, FRAMES // 10), 10).astype(np.int32))
    keys = [f"utterance{number:03d}" for number in range(UTTERANCES)]
    (folder / "data/utt2spk").write_text("".join(f"{key} {key}\n" for key in keys))
    (folder / "ali/num_pdfs").write_text(f"{NUM_PDFS}\n")


def _run(command: list[str], folder: Path) -> tuple[float, str]:
    """Wall seconds of a command, and what it said."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return time.perf_counter() - start, done.stderr


@dataclass(frozen=True)
class _Cost:
    """Of an iteration, in seconds.

    Attributes:
        jobs: from its start to the last training job's end.
        average: from there to the average's end.
        diagnostics: from there until the diagnostics that run beside it have ended too; 0 if they were quicker.
        driver: the driver's own processor time.
    """

    jobs: float
    average: float
    diagnostics: float
    driver: float


def _train(folder: Path, jobs: int, archives: int) -> _Cost:
    """Train; means over all iterations but the first, which keeps the best job's model and averages nothing."""
    name = f"exp{jobs}"
    (folder / name / "configs").mkdir(parents=True)
    (folder / name / "configs/final.config").write_text(_config())
    options = {
        "--feat-dir": "data",
        "--ali-dir": "ali",
        "--dir": name,
        "--egs.dir": "egs",
        "--cmd": "run-local",
        "--trainer.one-frame-per-eg": "false",
        "--trainer.num-epochs": f"{ITERATIONS * jobs / archives:.6f}",
        "--trainer.optimization.num-jobs-initial": jobs,
        "--trainer.optimization.num-jobs-final": jobs,
        "--trainer.optimization.initial-effective-lrate": "1e-6",  # no job is to diverge and be left out
        "--trainer.optimization.final-effective-lrate": "1e-6",
        "--trainer.optimization.minibatch-size": "1:64",
        "--trainer.optimization.do-final-combination": "false",
    }
    words = [f"{option}={value}" for option, value in options.items()]
    driver = [sys.executable, "-c", _DRIVER, str(ROOT / "steps/train_dnn.py")]
    _, said = _run([*driver, *words], folder)
    rows = [row for row in read_progress(str(folder / name / "progress.tsv")) if row.iteration_seconds >= 0]
    found = re.search(rf"{_CPU} (\S+)", said)
    assert found is not None
    logs = folder / name / "log"
    iterations = [row.model for row in rows[1:]]
    trained = {i: _ended(logs, f"train.{i}.*.log") for i in iterations}
    made = {i: _ended(logs, f"average.{i}.log") if jobs > 1 else trained[i] for i in iterations}
    looked = {i: max(_ended(logs, f"compute_prob_*.{i}.log"), _ended(logs, f"progress.{i}.log")) for i in iterations}
    average = statistics.mean(made[i] - trained[i] for i in iterations)
    diagnostics = statistics.mean(max(0.0, looked[i] - made[i]) for i in iterations)
    whole = statistics.mean(row.iteration_seconds for row in rows[1:])
    shutil.copy(folder / name / "final.raw", folder / "0.raw")
    shutil.rmtree(folder / name)
    return _Cost(whole - average, average, diagnostics, float(found[1]) / len(rows))


def _ended(logs: Path, pattern: str) -> float:
    """When the last line was written to the logs of that name, of which there must be one."""
    return max(path.stat().st_mtime for path in logs.glob(pattern))


def _frames_a_second() -> float:
    """Of training steps alone, one thread, minibatches of 512 frames; the mean over four updates of the estimates."""
    keep_freed_memory()
    frames, random = 512, np.random.default_rng(0)
    labels = random.integers(0, NUM_PDFS, frames).astype(np.int32)
    weights = np.ones(frames, np.float32)
    supervision = SparseLabels(np.arange(frames), labels, weights, frames, NUM_PDFS, one_per_row=True)
    inputs = random.standard_normal((11 * frames, FEATURE_DIM)).astype(np.float32)
    times = {"input": tuple(range(-5, 6)), "output": (0,)}
    minibatch = Minibatch(frames, times, {"input": inputs}, {"output": supervision})
    trainer = Trainer(Network.from_config(_config(), 1), TrainerOptions(print_interval=10**9))
    for _ in range(13):
        trainer.train(minibatch)
    start = time.perf_counter()
    for _ in range(16):
        trainer.train(minibatch)
    return 16 * frames / (time.perf_counter() - start)


def _make_examples(folder: Path) -> int:
    """Examples in more archives than the most jobs; returns their number."""
    examples = UTTERANCES * FRAMES // 8
    words = ["--left-context=5", "--right-context=5", f"--samples-per-iter={examples // (max(JOBS) + 8)}"]
    words += ["--num-utts-subset=8", "--num-frames-diagnostic=2000", "--num-train-frames-combine=1000"]
    _run([sys.executable, str(ROOT / "steps/get_egs.py"), *words, "data", "ali", "egs"], folder)
    return int((folder / "egs/info/num_archives").read_text())


def report() -> list[str]:
    """Two tables: iterations by jobs, and averages by models."""
    slots = os.cpu_count() or 1
    lines = [
        f"An iteration of at most one minibatch a job, {slots} jobs at once.",
        "",
        "| jobs | training jobs (s) | each, times slots (s) | average (s) | diagnostics after it (s) | driver (s) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    averages = [
        "| models | nnet-average (s) | reading them (s) | ratio | peak memory / one model |",
        "| --- | --- | --- | --- | --- |",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _make_corpus(folder)
        archives = _make_examples(folder)
        size = sum(path.stat().st_size for path in (folder / "egs").glob("egs.*.ark"))
        lines[:0] = [
            f"A job's training steps: {_frames_a_second():,.0f} frames a second. Its examples: "
            f"{size / (UTTERANCES * FRAMES):.0f} bytes a frame.",
            "",
        ]
        for jobs in JOBS:
            cost = _train(folder, jobs, archives)
            each = cost.jobs / jobs * min(jobs, slots)
            times = f"{cost.jobs:.1f} | {each:.2f} | {cost.average:.2f} | {cost.diagnostics:.2f} | {cost.driver:.2f}"
            lines.append(f"| {jobs} | {times} |")
            if jobs > 1:
                average, reading = _average(folder, jobs)
                peak = peak_bytes(["nnet-average", *_models(folder, jobs), "average.raw"], folder)
                memory = peak / os.path.getsize(folder / "0.raw")
                averages.append(f"| {jobs} | {average:.2f} | {reading:.2f} | {average / reading:.2f} | {memory:.1f} |")
    return [*lines, "", *averages]


def _models(folder: Path, count: int) -> list[str]:
    """So many copies of the model, each a file of its own."""
    names = [f"model.{number}.raw" for number in range(1, count + 1)]
    for name in names:
        if not (folder / name).exists():
            shutil.copy(folder / "0.raw", folder / name)
    return names


def _average(folder: Path, count: int) -> tuple[float, float]:
    """Seconds of nnet-average, and of a process that reads the same bytes; the better of three turns of each."""
    models = _models(folder, count)
    reader = [sys.executable, "-c", "import sys\nfor n in sys.argv[1:]: open(n, 'rb', buffering=0).read()", *models]
    turns = [(_run(["nnet-average", *models, "average.raw"], folder)[0], _run(reader, folder)[0]) for _ in range(3)]
    return min(turn[0] for turn in turns), min(turn[1] for turn in turns)
