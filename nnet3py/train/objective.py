"""What training maximises, per output node.

linear: Σ over rows and classes of ``output * supervision``; with a log-softmax output and posteriors as supervision
this is the log-probability of the labels, each weighted by its posterior. quadratic: ``-½ ‖output - supervision‖²``.
Both are sums over the minibatch; the weight to divide by is the sum of the supervision (linear) or the number of rows.

Source: Kaldi src/nnet3/nnet-training.cc (ComputeObjectiveFunction), src/nnet3/nnet-diagnostics.cc (ComputeAccuracy).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnet3py.errors import UserError
from nnet3py.train.minibatch import SparseLabels
from nnet3py.train.natural_gradient import squared_frobenius_norm

Array = np.ndarray
Supervision = SparseLabels | Array


@dataclass(frozen=True)
class Objective:
    """weight: what to divide ``value`` by for an average. derivative: (rows, dim) float32, or None if not asked for."""

    weight: float
    value: float
    derivative: Array | None


def objective(kind: str, name: str, output: Array, supervision: Supervision, want_derivative: bool = True) -> Objective:
    """The objective ``kind`` ("linear" or "quadratic") of the output ``name``, (rows, dim), for its supervision.

    Raises UserError if the examples' dimension differs from the network's.
    """
    require_same_dim(name, output.shape[1], supervision)
    rows = supervision.num_rows if isinstance(supervision, SparseLabels) else len(supervision)
    assert rows == output.shape[0], (rows, output.shape)
    if kind == "quadratic":
        dense = supervision.to_array() if isinstance(supervision, SparseLabels) else supervision
        difference = dense - output
        value = -0.5 * squared_frobenius_norm(difference)
        return Objective(float(rows), value, difference if want_derivative else None)
    if kind != "linear":
        raise UserError(f"Output '{name}' has the objective {kind!r}; expected linear or quadratic.")
    if isinstance(supervision, SparseLabels):
        return _sparse_linear(output, supervision, want_derivative)
    weight = float(supervision.sum(dtype=np.float64))
    value = float(np.vdot(output, supervision))
    return Objective(weight, value, supervision.copy() if want_derivative else None)


def require_same_dim(name: str, output_dim: int, supervision: Supervision) -> None:
    """Raise UserError if the supervision of the output ``name`` is not of the network's dimension."""
    dim = supervision.dim if isinstance(supervision, SparseLabels) else supervision.shape[1]
    if dim != output_dim:
        raise UserError(
            f"Nnet versus example output dimension (num-classes) mismatch for '{name}': {output_dim} (nnet) vs. "
            f"{dim} (egs). Train with the examples that were made for this network's targets."
        )


def _sparse_linear(output: Array, labels: SparseLabels, want_derivative: bool) -> Objective:
    chosen = output[labels.rows, labels.classes]
    value = float(np.dot(chosen.astype(np.float64), labels.weights))
    weight = float(labels.weights.sum(dtype=np.float64))
    derivative = None
    if want_derivative:
        derivative = np.zeros(output.shape, np.float32)
        derivative[labels.rows, labels.classes] = labels.weights
    return Objective(weight, value, derivative)


def accuracy(output: Array, supervision: Supervision) -> tuple[Array, Array]:
    """Two (dim,) float64 arrays by class: the weight of the rows, and of those where the output is largest for it.

    The class of a row is that of its largest supervision, its weight the sum of its supervision.
    """
    dim = output.shape[1]
    if isinstance(supervision, SparseLabels):
        classes, weights, rows = _largest_labels(supervision)
    else:
        classes, weights = supervision.argmax(axis=1), supervision.sum(axis=1, dtype=np.float64)
        rows = np.arange(len(supervision))
    right = output.argmax(axis=1)[rows] == classes
    total = np.bincount(classes, weights, minlength=dim)
    return total, np.bincount(classes[right], weights[right], minlength=dim)


def _largest_labels(labels: SparseLabels) -> tuple[Array, Array, Array]:
    """Class, weight and row of each row that has any label."""
    if labels.one_per_row:
        return labels.classes, labels.weights.astype(np.float64), labels.rows
    order = np.lexsort((labels.classes, -labels.weights, labels.rows))
    rows, first = np.unique(labels.rows[order], return_index=True)
    weights = np.bincount(labels.rows, labels.weights, minlength=labels.num_rows)
    return labels.classes[order][first], weights[rows], rows
