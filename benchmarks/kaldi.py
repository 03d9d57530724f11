"""Whole programs beside Kaldi's own, on the same files, where Kaldi's are on PATH.

In turns, one thread each. What they write is compared as well: bytes where both must write the same, and for training
how far the changes of the parameters are from each other.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import programs
import timing
import train_step

MINIBATCHES = 50
DISTINCT = 20
SECONDS = 60.0
ABSENT = "Kaldi's programs (nnet3-train, nnet3-get-egs, ...) are not on PATH: not measured."

CUT = "--num-pdfs=300 --left-context=4 --right-context=4 --num-frames=8 ark:feats.ark ark:post.ark ark:"
EXAMPLES = {
    "get-egs (8 frames, context 4+4)": CUT,
    "copy-egs (4 outputs)": "ark:egs.ark ark:1 ark:2 ark:3 ark:",
    "shuffle-egs": "--srand=1 ark:egs.ark ark:",
    "subset-egs (all)": "--n=1000000 --randomize-order=false ark:egs.ark ark:",
    "merge-egs (64 examples)": "--minibatch-size=64 ark:egs.ark ark:",
}


def examples_report() -> list[str]:
    """Frames a second of each program that makes or moves examples, and how many times Kaldi's."""
    if shutil.which("nnet3-merge-egs") is None:
        return [ABSENT]
    lines = ["| program | nnet3py | Kaldi | nnet3py / Kaldi | bytes |", "| --- | --- | --- | --- | --- |"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        programs.make_inputs(folder)
        _run("ali-to-post ark:ali.ark ark:post.ark", folder)
        _run(f"nnet-get-egs {CUT}egs.ark", folder)
        for stage, arguments in EXAMPLES.items():
            program = stage.split()[0]
            times = timing.interleaved(
                {
                    "ours": _running(f"nnet-{program} {arguments}ours", folder),
                    "Kaldi": _running(f"nnet3-{program} {arguments}kaldis", folder),
                },
                SECONDS / 3,
                warmups=1,
            )
            frames = programs.NUM_UTTERANCES * programs.FRAMES
            ours, theirs = (frames / statistics.median(times[who]) for who in ("ours", "Kaldi"))
            ratio = timing.median_ratio(times["Kaldi"], times["ours"])
            same = (folder / "ours").read_bytes() == (folder / "kaldis").read_bytes()
            said = "the same" if same else "drawn at random" if program == "shuffle-egs" else "DIFFERENT"
            lines.append(f"| {stage} | {ours:,.0f} | {theirs:,.0f} | {ratio:.2f} | {said} |")
    return lines


def training_report() -> list[str]:
    """Frames a second of nnet-train-shard and of nnet3-train, from an archive to a model, and how far these differ.

    Kaldi draws at random which minibatches repair and observe rectifiers, so its own models differ from seed to seed.
    """
    if shutil.which("nnet3-train") is None:
        return [ABSENT]
    lines = [
        "| network | nnet-train-shard | nnet3-train | ratio | difference | of Kaldi's, another seed |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for network in (*train_step.NETWORKS, *train_step.OTHERS):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            _write_training(network, folder)
            arguments = "--max-param-change=2 0.raw ark:egs.ark"
            kaldi = "nnet3-train --use-gpu=no"
            tasks = {
                "ours": _running(f"nnet-train-shard --srand=1 {arguments} ours.raw", folder),
                "Kaldi": _running(f"{kaldi} --srand=1 {arguments} kaldis.raw", folder),
            }
            times = timing.interleaved(tasks, SECONDS, warmups=0)
            _run(f"{kaldi} --srand=2 {arguments} another.raw", folder)
            frames = MINIBATCHES * train_step.FRAMES
            ours, theirs = (frames / statistics.median(times[who]) for who in ("ours", "Kaldi"))
            ratio = timing.median_ratio(times["Kaldi"], times["ours"])
            differences = " | ".join(f"{_difference(folder, name):.0e}" for name in ("ours", "another"))
            lines.append(f"| {network.title} | {ours:,.0f} | {theirs:,.0f} | {ratio:.2f} | {differences} |")
    return lines


def _write_training(network: train_step.PnormNetwork | train_step.ReluNetwork, folder: Path) -> None:
    """A model, and an archive of minibatches in which every ``DISTINCT``-th is the same."""
    from nnet3py.egs.example import EXAMPLE, Example, NnetIo
    from nnet3py.nnet.model_file import write_network
    from nnet3py.nnet.network import Network
    from nnet3py.tables.sparse_matrix import SparseMatrix
    from nnet3py.tables.table import TableWriter

    write_network(f"{folder}/0.raw", Network.from_config(network.config(), 1), True)
    batch = network.minibatch()
    indexes = {
        name: np.array([(n, t, 0) for t in times for n in range(batch.num_sequences)], np.int32)
        for name, times in batch.times.items()
    }
    examples = []
    for seed in range(DISTINCT):
        random = np.random.default_rng(seed)
        x = random.standard_normal(batch.inputs["input"].shape).astype(np.float32)
        classes = random.integers(0, network.classes, train_step.FRAMES).tolist()
        labels = SparseMatrix.from_rows([[(label, 1.0)] for label in classes], network.classes)
        examples.append(Example([NnetIo("input", indexes["input"], x), NnetIo("output", indexes["output"], labels)]))
    with TableWriter(f"ark:{folder}/egs.ark", EXAMPLE) as writer:
        for number in range(MINIBATCHES):
            writer.write(f"minibatch{number}", examples[number % DISTINCT])


def _difference(folder: Path, model: str) -> float:
    """‖model - Kaldi's‖ / ‖Kaldi's - the first‖ of all parameters."""
    from nnet3py.nnet.model_file import read_network

    first, found, theirs = (
        np.concatenate(
            [
                parameter.ravel()
                for component in read_network(f"{folder}/{name}.raw").updatable_components().values()
                for parameter in component.parameters().values()
            ]
        ).astype(np.float64)
        for name in ("0", model, "kaldis")
    )
    return float(np.linalg.norm(found - theirs) / np.linalg.norm(theirs - first))


def _running(command: str, folder: Path) -> Callable[[], object]:
    return lambda: _run(command, folder)


def _run(command: str, folder: Path) -> None:
    done = subprocess.run(command.split(), cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command}\n{done.stderr}")
