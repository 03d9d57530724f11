"""Natural gradient against closed forms, and its behaviour on rows that are zero, few, constant or not finite."""

from __future__ import annotations

import numpy as np
import pytest

from nnet3py.train.natural_gradient import OnlineNaturalGradient, simple_natural_gradient


def _rows(num_rows: int, dim: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    spectrum = 1.0 / (1.0 + np.arange(dim))
    mixing = np.linalg.qr(random.standard_normal((dim, dim)))[0]
    return ((random.standard_normal((num_rows, dim)) * spectrum) @ mixing).astype(np.float32)


def test_scale_keeps_the_frobenius_norm() -> None:
    online = OnlineNaturalGradient(rank=10)
    for seed in range(5):
        rows = _rows(64, 30, seed)
        hat, scale = online.precondition(rows)
        assert np.linalg.norm(scale * hat) == pytest.approx(np.linalg.norm(rows), rel=1e-5)
    simple = simple_natural_gradient(rows)
    assert np.linalg.norm(simple) == pytest.approx(np.linalg.norm(rows), rel=1e-5)


def test_scale_keeps_the_norm_where_one_direction_dominates() -> None:
    # Here nearly all of ‖X‖ is removed by the estimate, so that the norm from the factors loses its digits.
    random = np.random.default_rng(0)
    rows = (random.standard_normal((64, 1)) @ random.standard_normal((1, 500))).astype(np.float32)
    online = OnlineNaturalGradient(rank=4)
    for _ in range(15):
        hat, scale = online.precondition(rows)
    assert np.linalg.norm(scale * hat) == pytest.approx(np.linalg.norm(rows), rel=1e-4)


def test_result_is_the_product_with_the_smoothed_inverse() -> None:
    online = OnlineNaturalGradient(rank=10, alpha=3.0)
    for seed in range(15):
        online.precondition(_rows(64, 30, seed))
    online.frozen = True
    state, rows, dim = online.state, _rows(64, 30, 99), 30
    assert state is not None
    beta = state.rho * 4.0 + 3.0 * state.d.sum() / dim
    R = state.W / np.sqrt(1.0 / (beta / state.d + 1.0))[:, None]
    F = R.T @ np.diag(state.d) @ R + state.rho * np.eye(dim)
    G = F + 3.0 / dim * np.trace(F) * np.eye(dim)
    np.testing.assert_allclose(online.precondition(rows)[0], beta * rows @ np.linalg.inv(G), atol=2e-5)


def test_estimate_finds_the_leading_covariance_of_a_steady_stream() -> None:
    online = OnlineNaturalGradient(rank=8, num_samples_history=5000.0)
    everything = [_rows(256, 30, 7)[np.random.default_rng(seed).integers(0, 256, 256)] for seed in range(200)]
    for rows in everything:
        online.precondition(rows)
    S = sum(rows.astype(float).T @ rows / len(rows) for rows in everything[-40:]) / 40
    state = online.state
    assert state is not None
    assert 30 * state.rho + state.d.sum() == pytest.approx(np.trace(S), rel=0.02)
    np.testing.assert_allclose(state.d[:4] + state.rho, np.linalg.eigvalsh(S)[::-1][:4], rtol=0.1)


def test_appended_ones_are_the_same_as_a_column_of_ones() -> None:
    one, other = OnlineNaturalGradient(rank=10), OnlineNaturalGradient(rank=10)
    for seed in range(14):
        rows = _rows(50, 30, seed)
        explicit = np.concatenate([rows, np.ones((50, 1), np.float32)], axis=1)
        hat, scale = one.precondition(rows, append_one=True)
        expected, expected_scale = other.precondition(explicit)
        np.testing.assert_allclose(hat, expected, atol=1e-5)
        assert scale == pytest.approx(expected_scale, rel=1e-5)


def test_factors_give_the_same_product_as_the_formed_rows() -> None:
    one, other = OnlineNaturalGradient(rank=10), OnlineNaturalGradient(rank=10)
    for seed in range(14):
        rows = _rows(50, 30, seed)
        factors = one.factors(rows)
        assert factors.H is not None
        assert factors.W is not None
        np.testing.assert_allclose(rows - factors.H @ factors.W, other.precondition(rows)[0], atol=1e-6)


def test_estimate_is_updated_at_first_and_then_every_period() -> None:
    online = OnlineNaturalGradient(rank=5, update_period=4)
    updated, before = [], None
    for minibatch in range(20):
        online.precondition(_rows(30, 12, minibatch))
        assert online.state is not None
        if before is None or not np.array_equal(before, online.state.W):
            updated.append(minibatch)
        before = online.state.W
    assert updated == [*range(11), 14, 18]


def test_a_frozen_estimate_does_not_change_but_still_starts() -> None:
    online = OnlineNaturalGradient(rank=5)
    online.frozen = True
    online.precondition(_rows(30, 12))
    assert online.state is not None
    W = online.state.W.copy()
    online.precondition(_rows(30, 12, 1))
    np.testing.assert_array_equal(online.state.W, W)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_rows_that_are_not_finite_leave_the_estimate_alone(bad: float) -> None:
    online, twin = OnlineNaturalGradient(rank=5), OnlineNaturalGradient(rank=5)
    for seed in range(12):
        rows = _rows(30, 12, seed)
        if seed == 6:
            broken = rows.copy()
            broken[3, 2] = bad
            _, scale = online.precondition(broken)
            assert not np.isfinite(scale)
        np.testing.assert_array_equal(online.precondition(rows)[0], twin.precondition(rows)[0])


def test_a_first_minibatch_that_is_not_finite_does_not_start_the_estimate() -> None:
    online = OnlineNaturalGradient(rank=5)
    online.precondition(np.full((4, 8), np.nan, np.float32))
    assert online.state is None


def test_zero_rows_go_through_and_the_estimate_recovers() -> None:
    online = OnlineNaturalGradient(rank=5, num_samples_history=100.0)
    for _ in range(60):
        hat, scale = online.precondition(np.zeros((30, 12), np.float32))
        assert scale == 1.0
        assert not hat.any()
    assert online.orthogonality_error() < 1e-3
    rows = _rows(30, 12)
    hat, scale = online.precondition(rows)
    assert np.linalg.norm(scale * hat) == pytest.approx(np.linalg.norm(rows), rel=1e-5)


def test_rank_is_capped_below_the_dimension_and_dimension_one_is_left_alone() -> None:
    online = OnlineNaturalGradient(rank=20)
    online.precondition(_rows(30, 4))
    assert online.state is not None
    assert online.state.W.shape == (3, 4)
    rows = np.arange(5, dtype=np.float32)[:, None]
    hat, scale = OnlineNaturalGradient(rank=20).precondition(rows)
    np.testing.assert_array_equal(hat, rows)
    assert scale == 1.0


def test_simple_method_equals_leaving_each_row_out_by_hand() -> None:
    for num_rows, dim in [(40, 7), (6, 15)]:
        rows, alpha = _rows(num_rows, dim, 3), 2.5
        X = rows.astype(float)
        smoothing = alpha * np.trace(X.T @ X) / (num_rows * dim)
        expected = np.empty_like(X)
        for i in range(num_rows):
            others = np.delete(X, i, axis=0)
            expected[i] = np.linalg.solve(smoothing * np.eye(dim) + others.T @ others / (num_rows - 1), X[i])
        expected *= np.linalg.norm(X) / np.linalg.norm(expected)
        np.testing.assert_allclose(simple_natural_gradient(rows, alpha), expected, rtol=2e-4, atol=1e-5)


def test_simple_method_leaves_single_and_zero_rows_unchanged() -> None:
    np.testing.assert_array_equal(simple_natural_gradient(_rows(1, 5)), _rows(1, 5))
    assert not simple_natural_gradient(np.zeros((4, 5), np.float32)).any()
    assert np.isnan(simple_natural_gradient(np.full((4, 5), np.inf, np.float32))).all()
