"""Cepstral mean and variance normalisation.

Statistics are a matrix of 2 by (dim + 1), float64: the sums of the features and, at the end, the number of frames;
below them the sums of the squares.

Source: Kaldi src/transform/cmvn.cc.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.text.expectation import Expected

Statistics = NDArray[np.float64]

STATISTICS_FILE = Expected("statistics of all features (a matrix) in a file of its own", frozenset({"matrix"}))
"""What readers of such a file tell of others."""

_VARIANCE_FLOOR = 1.0e-20


def empty_statistics(dim: int) -> Statistics:
    """Statistics of nothing, for features of ``dim`` columns."""
    return np.zeros((2, dim + 1))


def accumulate(
    statistics: Statistics, features: NDArray[np.float32], weights: NDArray[np.float32] | None = None
) -> None:
    """Add features, (frames, dim) float32, to statistics; ``weights``, (frames,), count each frame by so much.

    Raises:
        UserError: the dimension or the number of weights is another, or a feature is not finite.
    """
    dim = statistics.shape[1] - 1
    if features.shape[1] != dim:
        raise UserError(f"Expected features of dimension {dim}, found {features.shape[1]}.")
    if weights is not None and len(weights) != len(features):
        raise UserError(f"Expected a weight for each of {len(features)} frames, found {len(weights)}.")
    if not np.isfinite(features).all():
        raise UserError("The features hold a NaN or infinite value.")
    weighted = features if weights is None else features * weights[:, None]
    squares = features * features if weights is None else features * features * weights[:, None]
    add_frames(statistics, weighted, squares, 1.0 if weights is None else weights)


def add_frames(
    statistics: Statistics, values: NDArray[Any], squares: NDArray[Any], weights: NDArray[np.float32] | float
) -> None:
    """Add rows of values and of their squares, (frames, dim) each, and each frame's weight to statistics.

    On the order of additions depends the last bit of a sum: frame by frame, on from what is there, as in Kaldi. NumPy
    adds the rows of such an array one after the other, whatever lay in memory how before.
    """
    rows = np.zeros((len(values) + 1, *statistics.shape))
    rows[0] = statistics
    rows[1:, 0, :-1], rows[1:, 1, :-1], rows[1:, 0, -1] = values, squares, weights
    rows.sum(axis=0, out=statistics)


def skip_dims(statistics: Statistics, dims: Sequence[int]) -> Statistics:
    """Statistics that leave the given columns as they are: mean 0 and variance 1.

    Raises:
        UserError: a column does not exist, or there are no variances.
    """
    rows, dim = statistics.shape[0], statistics.shape[1] - 1
    if rows != 2 or not all(0 <= d < dim for d in dims):
        raise UserError(f"Expected columns from 0 to {dim - 1} to skip, found {':'.join(map(str, dims))}.")
    changed = statistics.copy()
    for d in dims:
        changed[:, d] = (0.0, statistics[0, dim])
    return changed


def _mean_and_variance(
    statistics: Statistics, dim: int, norm_vars: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    rows, columns = statistics.shape
    if rows not in (1, 2) or columns != dim + 1:
        raise UserError(
            f"Expected statistics of 2 rows and {dim + 1} columns for features of dimension {dim}, found {rows} by "
            f"{columns}."
        )
    if rows == 1 and norm_vars:
        raise UserError("The variances are to be normalised, but the statistics have only means.")
    count = statistics[0, dim]
    if not (count >= 1.0 and np.isfinite(statistics).all()):
        raise UserError(f"Expected statistics of at least one frame, all finite, found a count of {count:g}.")
    mean = statistics[0, :dim] / count
    if not norm_vars:
        return mean, None
    variance = statistics[1, :dim] / count - mean * mean
    for value in variance[variance < _VARIANCE_FLOOR]:
        log.warning(f"Flooring cepstral variance from {value:g} to {_VARIANCE_FLOOR:g}")
    return mean, np.maximum(variance, _VARIANCE_FLOOR)


def normalise(statistics: Statistics, features: NDArray[np.float32], norm_vars: bool = False) -> NDArray[np.float32]:
    """Features less their mean, and with ``norm_vars`` over their standard deviation; (frames, dim) float32.

    Raises:
        UserError: the statistics are of another dimension, or of no frames.
    """
    dim = features.shape[1]
    mean, variance = _mean_and_variance(statistics, dim, norm_vars)
    if variance is None:
        factor = np.float32(-1.0 / statistics[0, dim])
        return features + (np.float64(factor) * statistics[0, :dim]).astype(np.float32)
    scale = 1.0 / np.sqrt(variance)
    return features * scale.astype(np.float32) + (-(mean * scale)).astype(np.float32)


def denormalise(statistics: Statistics, features: NDArray[np.float32], norm_vars: bool = False) -> NDArray[np.float32]:
    """The reverse: features of mean 0 (and variance 1) given the statistics' mean (and variance).

    Raises:
        UserError: as for :func:`normalise`.
    """
    mean, variance = _mean_and_variance(statistics, features.shape[1], norm_vars)
    scaled = features if variance is None else features * np.sqrt(variance).astype(np.float32)
    return scaled + mean.astype(np.float32)
