"""Whole programs: frames a second through each stage of the examples, start-up of --help, memory of nnet-average."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
NUM_UTTERANCES, FRAMES, FEATURE_DIM, NUM_PDFS = 480, 1000, 40, 300


def _run(command: str, folder: Path) -> float:
    start = time.perf_counter()
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command}\n{done.stderr}")
    return time.perf_counter() - start


def make_inputs(folder: Path) -> None:
    from nnet3py.tables.holders import INT_VECTOR, MATRIX
    from nnet3py.tables.table import TableWriter

    random = np.random.default_rng(0)
    with (
        TableWriter(f"ark:{folder}/feats.ark", MATRIX) as feats,
        TableWriter(f"ark:{folder}/ali.ark", INT_VECTOR) as ali,
    ):
        for number in range(NUM_UTTERANCES):
            key = f"utterance{number:04d}"
            feats.write(key, random.standard_normal((FRAMES, FEATURE_DIM)).astype(np.float32))
            ali.write(key, np.repeat(random.integers(0, NUM_PDFS, FRAMES // 10), 10).astype(np.int32))


def examples_report() -> list[str]:
    """Frames a second of each program that makes or moves examples, as whole processes, medians of three runs."""
    stages = {
        "nnet-get-egs (8 frames, context 4+4)": "nnet-get-egs --num-pdfs=300 --left-context=4 "
        "--right-context=4 --num-frames=8 ark:feats.ark 'ark:ali-to-post ark:ali.ark ark:- |' ark:egs.ark",
        "nnet-copy-egs (4 outputs)": "nnet-copy-egs ark:egs.ark ark:1.ark ark:2.ark ark:3.ark ark:4.ark",
        "nnet-shuffle-egs": "nnet-shuffle-egs --srand=1 ark:egs.ark ark:shuffled.ark",
        "nnet-subset-egs (all)": "nnet-subset-egs --n=1000000 ark:egs.ark ark:subset.ark",
        "nnet-merge-egs (64 examples)": "nnet-merge-egs --minibatch-size=64 ark:egs.ark ark:merged.ark",
    }
    lines = ["| program | frames a second |", "| --- | --- |"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_inputs(folder)
        for stage, command in stages.items():
            seconds = statistics.median(_run(command, folder) for _ in range(3))
            lines.append(f"| {stage} | {NUM_UTTERANCES * FRAMES / seconds:,.0f} |")
    return lines


def help_report() -> list[str]:
    """The slowest three programs to answer --help, each the median of five runs."""
    times = {}
    for path in sorted((ROOT / "bin").iterdir()):
        times[path.name] = statistics.median(_run(f"{path} --help", ROOT) for _ in range(5))
    slowest = sorted(times, key=lambda program: -times[program])[:3]
    lines = ["| slowest --help | seconds |", "| --- | --- |"]
    return lines + [f"| {program} | {times[program]:.3f} |" for program in slowest]


def average_report() -> list[str]:
    """Peak memory of nnet-average against the size of one model, for 2 and for 16 inputs of 20 million parameters."""
    lines = ["| nnet-average, 20 M parameters | peak memory / size of one model | seconds |", "| --- | --- | --- |"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = (
            "input-node name=input dim=4000\ncomponent name=a type=AffineComponent input-dim=4000 output-dim=5000\n"
        )
        config += "component-node name=a component=a input=input\noutput-node name=output input=a\n"
        (folder / "config").write_text(config)
        _run("nnet-init config 0.raw", folder)
        size = os.path.getsize(folder / "0.raw")
        for count in (2, 16):
            command = ["nnet-average", *["0.raw"] * count, "average.raw"]
            start = time.perf_counter()
            peak = peak_bytes(command, folder)
            lines.append(f"| {count} models | {peak / size:.2f} | {time.perf_counter() - start:.2f} |")
    return lines


def peak_bytes(command: list[str], folder: Path) -> int:
    """Run a command; the most memory it had. It is started by a small process, for it begins with its parent's peak."""
    script = (
        "import resource, subprocess, sys\n"
        "status = subprocess.run(sys.argv[1:], stderr=subprocess.DEVNULL).returncode\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
        "sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", script, *command], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command[0]} failed")
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024)
