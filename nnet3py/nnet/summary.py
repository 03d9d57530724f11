"""Vectors and matrices in a few words, for ``nnet-info`` and ``nnet-show-progress``: what Kaldi prints of them.

Source: Kaldi src/nnet3/nnet-parse.cc (``SummarizeVector``, ``PrintParameterStats``).
"""

from __future__ import annotations

import numpy as np

from nnet3py import log
from nnet3py.nnet.component import Array

_PERCENTILES = (0, 1, 2, 5, 10, 20, 50, 80, 90, 95, 98, 99, 100)


def summarize_vector(vector: Array) -> str:
    """A vector of fewer than 10 numbers whole, a longer one by its percentiles, mean and standard deviation."""
    values = np.asarray(vector, np.float32)
    if len(values) < 10:
        return "[ " + "".join(f"{_succinct(value)} " for value in values) + "]"
    ordered = np.sort(values)
    chosen = [_succinct(ordered[(len(values) - 1) * percentile // 100]) for percentile in _PERCENTILES]
    text = ",".join(chosen[:4]) + " " + ",".join(chosen[4:9]) + " " + ",".join(chosen[9:])
    mean, deviation = mean_and_deviation(values)
    return f"[percentiles(0,1,2,5 10,20,50,80,90 95,98,99,100)=({text}), mean={mean:.3g}, stddev={deviation:.3g}]"


def describe_vector(name: str, vector: Array) -> str:
    """``, name-{mean,stddev}=...`` of the elements."""
    mean, deviation = mean_and_deviation(vector)
    return f", {name}-{{mean,stddev}}={mean:.4g},{deviation:.4g}"


def describe_matrix(name: str, matrix: Array, norms: bool = True) -> str:
    """``, name-rms=...``, and with ``norms`` the distribution of the norms of rows and of columns.

    At ``--verbose=2`` and above, and with ``norms``, also the singular values, which take long.
    """
    squares = np.square(matrix, dtype=np.float64)
    text = f", {name}-rms={np.sqrt(squares.sum() / max(squares.size, 1)):.4g}"
    if norms:
        text += f", {name}-row-norms={summarize_vector(np.sqrt(squares.sum(1)))}"
        text += f", {name}-col-norms={summarize_vector(np.sqrt(squares.sum(0)))}"
        if log.verbose_level() >= 2 and np.isfinite(squares).all():
            text += f", {name}-singular-values={summarize_vector(np.linalg.svd(matrix, compute_uv=False))}"
    return text


def mean_and_deviation(values: Array) -> tuple[float, float]:
    """Mean and standard deviation (over n, not n-1), in float64; zeros for no values."""
    if values.size == 0:
        return 0.0, 0.0
    return float(np.mean(values, dtype=np.float64)), float(np.std(values, dtype=np.float64))


def _succinct(value: float) -> str:
    size = abs(value)
    if 10.0 <= size < 10000.0:
        return f"{value:.0f}"
    if size >= 0.995:
        return f"{value:.1f}"
    if size >= 0.01:
        return f"{value:.2f}"
    return f"{value:.1g}"
