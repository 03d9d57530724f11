"""The orthonormal constraint, by what it converges to."""

from __future__ import annotations

import numpy as np
import pytest

from nnet3py.nnet.affine import LinearComponent
from nnet3py.train.orthonormal import constrain_orthonormal, orthonormal_step


def _matrix(rows: int, columns: int) -> np.ndarray:
    return (np.random.default_rng(0).standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)


def test_a_fixed_scale_gives_rows_of_that_length_at_right_angles() -> None:
    M = _matrix(6, 30)
    for _ in range(60):
        orthonormal_step(M, 1.5)
    np.testing.assert_allclose(M @ M.T, 1.5**2 * np.eye(6), atol=1e-4)


def test_a_floating_scale_keeps_the_norm_to_first_order() -> None:
    M = _matrix(6, 30)
    norm = np.linalg.norm(M)
    for _ in range(100):
        orthonormal_step(M, -1.0)
    products = M @ M.T
    np.testing.assert_allclose(products, products[0, 0] * np.eye(6), atol=1e-4 * products[0, 0])
    assert np.linalg.norm(M) == pytest.approx(norm, rel=0.1)


def test_a_component_with_more_rows_than_columns_gets_orthonormal_columns() -> None:
    component = LinearComponent()
    component.params = 0.5 * _matrix(30, 6)  # far above the constraint the method diverges, as Kaldi's does
    component.orthonormal_constraint = 1.0
    random = np.random.default_rng(1)
    for _ in range(800):
        constrain_orthonormal(component, random)
    np.testing.assert_allclose(component.params.T @ component.params, np.eye(6), atol=1e-3)


def test_a_component_without_the_constraint_is_left_alone() -> None:
    component = LinearComponent()
    component.params = _matrix(4, 6)
    for seed in range(20):
        constrain_orthonormal(component, np.random.default_rng(seed))
    np.testing.assert_array_equal(component.params, _matrix(4, 6))
