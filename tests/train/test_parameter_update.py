"""The update of an affine layer by each training method, against products written out in float64."""

from __future__ import annotations

import numpy as np
import pytest

from nnet3py.nnet.affine import NaturalGradientAffineComponent
from nnet3py.train.natural_gradient import OnlineNaturalGradient, simple_natural_gradient
from nnet3py.train.parameter_update import Method, ParameterUpdate


def _layer(input_dim: int, output_dim: int) -> NaturalGradientAffineComponent:
    layer = NaturalGradientAffineComponent()
    layer.linear = np.zeros((output_dim, input_dim), np.float32)
    layer.bias = np.zeros(output_dim, np.float32)
    layer.rank_in, layer.rank_out = 4, 6
    layer.learning_rate = 0.5
    return layer


def _update(layer: NaturalGradientAffineComponent, method: Method) -> ParameterUpdate:
    return ParameterUpdate(layer, method, {name: np.zeros_like(array) for name, array in layer.parameters().items()})


def _rows(seed: int, num_rows: int, dim: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.standard_normal((num_rows, dim)) + random.standard_normal(dim)).astype(np.float32)


def _with_ones(x: np.ndarray) -> np.ndarray:
    return np.concatenate([x, np.ones((len(x), 1), np.float32)], axis=1)


def test_plain_sgd_is_the_gradient_summed_over_rows() -> None:
    layer = _layer(7, 9)
    update = _update(layer, Method.SGD)
    x, dy = _rows(0, 20, 7), _rows(1, 20, 9)
    update.add_outer_product(dy, x, "linear", "bias")
    update.add_outer_product(dy, x, "linear", "bias")  # it adds
    np.testing.assert_allclose(update.delta["linear"], 2 * 0.5 * dy.T.astype(float) @ x, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(update.delta["bias"], 2 * 0.5 * dy.sum(axis=0), rtol=1e-5, atol=1e-5)


# The derivatives are formed for the second, and kept in factors for the first and third.
@pytest.mark.parametrize(("input_dim", "output_dim"), [(7, 40), (40, 9), (12, 30)])
def test_online_update_is_the_product_of_the_preconditioned_rows(input_dim: int, output_dim: int) -> None:
    layer = _layer(input_dim, output_dim)
    update = _update(layer, Method.AS_MODEL)
    assert update.method is Method.ONLINE
    of_x = OnlineNaturalGradient(4, 4.0, 4, 2000.0)
    of_y = OnlineNaturalGradient(6, 4.0, 4, 2000.0)
    expected = np.zeros((output_dim, input_dim + 1))
    for seed in range(16):
        x, dy = _rows(seed, 25, input_dim), _rows(100 + seed, 25, output_dim)
        x_before, dy_before = x.copy(), dy.copy()
        update.add_outer_product(dy, x, "linear", "bias")
        np.testing.assert_array_equal(x, x_before)
        np.testing.assert_array_equal(dy, dy_before)
        x_hat, x_scale = of_x.precondition(_with_ones(x))
        y_hat, y_scale = of_y.precondition(dy)
        expected += 0.5 * x_scale * y_scale * y_hat.T.astype(float) @ x_hat
    found = np.concatenate([update.delta["linear"], update.delta["bias"][:, None]], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


def test_simple_update_is_the_product_of_the_preconditioned_rows() -> None:
    layer = _layer(7, 9)
    update = _update(layer, Method.SIMPLE)
    x, dy = _rows(0, 20, 7), _rows(1, 20, 9)
    update.add_outer_product(dy, x, "linear", "bias")
    expected = 0.5 * simple_natural_gradient(dy).T.astype(float) @ simple_natural_gradient(_with_ones(x))
    found = np.concatenate([update.delta["linear"], update.delta["bias"][:, None]], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", [Method.SGD, Method.SIMPLE, Method.ONLINE])
def test_a_layer_without_bias_is_updated_without_one(method: Method) -> None:
    update = _update(_layer(7, 9), method)
    update.add_outer_product(_rows(1, 20, 9), _rows(0, 20, 7), "linear", None)
    assert update.delta["linear"].any()
    assert not update.delta["bias"].any()


@pytest.mark.parametrize("method", [Method.SIMPLE, Method.ONLINE])
@pytest.mark.parametrize("side", ["x", "dy"])
def test_rows_that_are_not_finite_are_left_out_and_reported(method: Method, side: str) -> None:
    update = _update(_layer(7, 9), method)
    rows = {"x": _rows(0, 20, 7), "dy": _rows(1, 20, 9)}
    rows[side][3, 4] = np.nan
    update.add_outer_product(rows["dy"], rows["x"], "linear", "bias")
    assert not update.finite
    assert not update.delta["linear"].any()
    assert not update.delta["bias"].any()


def test_vector_fields_are_preconditioned_too() -> None:
    update = _update(_layer(7, 9), Method.ONLINE)
    plain = _update(_layer(7, 9), Method.SGD)
    online = OnlineNaturalGradient(4, 4.0, 4, 2000.0)
    for seed in range(12):
        rows = _rows(seed, 30, 9)
        before = update.delta["bias"].copy()
        update.add_vector("bias", rows.copy())
        hat, scale = online.precondition(rows)
        np.testing.assert_allclose(update.delta["bias"] - before, 0.5 * scale * hat.sum(axis=0), atol=1e-3)
    plain.add_vector("bias", rows.copy())
    np.testing.assert_allclose(plain.delta["bias"], 0.5 * rows.sum(axis=0), rtol=1e-5)


@pytest.mark.parametrize("method", [Method.SGD, Method.SIMPLE, Method.ONLINE])
def test_a_whole_gradient_is_preconditioned_by_rows(method: Method) -> None:
    update = _update(_layer(7, 9), method)
    of_rows = OnlineNaturalGradient(4, 4.0, 4, 2000.0)
    expected = np.zeros((9, 8))
    for seed in range(12):
        gradient, bias_gradient = _rows(seed, 9, 7), _rows(seed, 1, 9)[0]
        rows = np.concatenate([gradient, bias_gradient[:, None]], axis=1)
        update.add_gradient(gradient, bias_gradient, "linear", "bias")
        if method is Method.SGD:
            expected += 0.5 * rows
        elif method is Method.SIMPLE:
            expected += 0.5 * simple_natural_gradient(rows)
        else:
            rows, scale = of_rows.precondition(rows)
            expected += 0.5 * scale * rows
    found = np.concatenate([update.delta["linear"], update.delta["bias"][:, None]], axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert update.finite
    before = update.delta["linear"].copy()
    with np.errstate(invalid="ignore"):
        update.add_gradient(np.full((9, 7), np.inf, np.float32), np.zeros(9, np.float32), "linear", "bias")
    assert not update.finite
    np.testing.assert_array_equal(update.delta["linear"], before)


def test_an_estimate_that_is_new_while_frozen_is_started_and_not_updated() -> None:
    """As in Kaldi, where backstitch freezes what is not there yet on its first minibatch."""
    update = _update(_layer(6, 5), Method.ONLINE)
    x, dy = _rows(1, 40, 6), _rows(2, 40, 5)
    update.freeze(True)
    update.add_outer_product(dy, x, "linear", "bias")
    started = OnlineNaturalGradient(rank=update.estimates()["out", "linear"].W.shape[0]).started(dy)
    np.testing.assert_array_equal(update.estimates()["out", "linear"].W, started.W)
    update.freeze(False)
    update.add_outer_product(dy, x, "linear", "bias")
    assert (update.estimates()["out", "linear"].W != started.W).any()
