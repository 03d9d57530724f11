"""Objectives and accuracy against sums written out."""

from __future__ import annotations

import numpy as np
import pytest

from nnet3py.errors import UserError
from nnet3py.train.minibatch import SparseLabels
from nnet3py.train.objective import accuracy, objective

OUTPUT = np.log(np.random.default_rng(0).dirichlet(np.ones(4), 6)).astype(np.float32)


def _sparse(rows: list[int], classes: list[int], weights: list[float]) -> SparseLabels:
    return SparseLabels(
        np.array(rows), np.array(classes, np.int32), np.array(weights, np.float32), 6, 4, rows == list(range(6))
    )


HARD = _sparse([0, 1, 2, 3, 4, 5], [3, 2, 1, 0, 3, 3], [1, 1, 0.5, 1, 1, 0])
SOFT = _sparse([0, 0, 2, 2, 2, 5], [1, 3, 0, 2, 3, 1], [0.25, 0.75, 0.1, 0.2, 0.7, 1.0])


@pytest.mark.parametrize("labels", [HARD, SOFT])
def test_linear_objective_is_the_weighted_log_probability(labels: SparseLabels) -> None:
    dense = labels.to_array()
    for supervision in (labels, dense):
        found = objective("linear", "output", OUTPUT, supervision)
        assert found.weight == pytest.approx(dense.sum())
        assert found.value == pytest.approx((OUTPUT * dense).sum(), rel=1e-6)
        assert found.derivative is not None
        np.testing.assert_array_equal(found.derivative, dense)


def test_quadratic_objective_is_minus_half_the_squared_distance() -> None:
    target = np.random.default_rng(1).standard_normal((6, 4)).astype(np.float32)
    found = objective("quadratic", "output", OUTPUT, target)
    assert found.weight == 6.0
    assert found.value == pytest.approx(-0.5 * ((target - OUTPUT) ** 2).sum(), rel=1e-6)
    assert found.derivative is not None
    np.testing.assert_allclose(found.derivative, target - OUTPUT)


def test_a_derivative_is_not_the_examples_own_array() -> None:
    dense = SOFT.to_array()
    found = objective("linear", "output", OUTPUT, dense)
    assert found.derivative is not None
    assert not np.shares_memory(found.derivative, dense)  # backpropagation may overwrite it


def test_a_wrong_number_of_classes_is_named() -> None:
    with pytest.raises(UserError, match=r"mismatch for 'output': 3 \(nnet\) vs. 4 \(egs\)"):
        objective("linear", "output", OUTPUT[:, :3], HARD)


@pytest.mark.parametrize("labels", [HARD, SOFT])
def test_accuracy_weighs_rows_by_their_supervision(labels: SparseLabels) -> None:
    dense = labels.to_array()
    weights, right = np.zeros(4), np.zeros(4)
    for row, output in zip(dense, OUTPUT, strict=True):
        if row.any():
            weights[row.argmax()] += row.sum()
            right[row.argmax()] += row.sum() if output.argmax() == row.argmax() else 0.0
    for supervision in (labels, dense):
        found = accuracy(OUTPUT, supervision)
        np.testing.assert_allclose(found[0], weights, rtol=1e-6)
        np.testing.assert_allclose(found[1], right, rtol=1e-6)
