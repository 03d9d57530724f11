"""A network and minibatches that it learns in a second, for tests of the training loop and its program."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np

from nnet3py.egs.example import EXAMPLE, Example, NnetIo
from nnet3py.nnet.network import Network
from nnet3py.tables.sparse_matrix import SparseMatrix
from nnet3py.tables.table import TableWriter
from nnet3py.train.minibatch import Minibatch

CONFIG = """
input-node name=input dim=5
component name=affine1 type={affine} input-dim=15 output-dim=12 learning-rate=0.02 max-change=0.75 {extra}
component-node name=affine1 component=affine1 input=Append(Offset(input, -1), input, Offset(input, 1))
component name=pnorm1 type=PnormComponent input-dim=12 output-dim=4
component-node name=pnorm1 component=pnorm1 input=affine1
component name=norm1 type=NormalizeComponent dim=4
component-node name=norm1 component=norm1 input=pnorm1
component name=affine2 type={affine} input-dim=4 output-dim=3 learning-rate=0.02 max-change=1.5 {extra}
component-node name=affine2 component=affine2 input=norm1
component name=log-softmax type=LogSoftmaxComponent dim=3
component-node name=log-softmax component=log-softmax input=affine2
output-node name=output input=log-softmax
"""


def tiny_network(affine: str = "NaturalGradientAffineComponent", extra: str = "", seed: int = 0) -> Network:
    return Network.from_config(CONFIG.format(affine=affine, extra=extra), seed)


def example(seed: int, sequences: int = 8, frames: int = 4, scale: float = 1.0) -> Example:
    """Merged chunks whose class is that of the largest of the middle three inputs."""
    random = np.random.default_rng(seed)
    times, num_inputs = np.arange(-1, frames + 1), sequences * (frames + 2)
    features = random.standard_normal((num_inputs, 5)).astype(np.float32)
    inputs = np.array([(n, t, 0) for n in range(sequences) for t in times], np.int32)
    labels = features.reshape(sequences, frames + 2, 5)[:, 1:-1, 1:4].argmax(axis=2).ravel()
    outputs = np.array([(n, t, 0) for n in range(sequences) for t in range(frames)], np.int32)
    post = SparseMatrix.from_rows([[(int(label), 1.0)] for label in labels], 3)
    return Example([NnetIo("input", inputs, features * np.float32(scale)), NnetIo("output", outputs, post)])


def minibatch(seed: int, scale: float = 1.0) -> Minibatch:
    return Minibatch.from_example(example(seed, scale=scale), ["input"], ["output"])


def write_examples(path: Path, seeds: range, scale: float = 1.0) -> Path:
    """An archive of merged examples."""
    with TableWriter(f"ark:{path}", EXAMPLE) as writer:
        for seed in seeds:
            writer.write(f"minibatch-{seed}", example(seed, scale=scale))
    return path


def parameters(network: Network) -> np.ndarray:
    return np.concatenate([a.ravel() for c in network.updatable_components().values() for a in c.parameters().values()])


def run(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60, cwd=cwd)


def fails_with_one_error(ended: subprocess.CompletedProcess[str], *words: str) -> None:
    assert ended.returncode == 1, ended.stderr
    errors = [line for line in ended.stderr.splitlines() if line.startswith("ERROR")]
    assert len(errors) == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    for word in words:
        assert word in errors[0], errors[0]
