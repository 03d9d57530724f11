"""Derivatives of features over time."""

from __future__ import annotations

import numpy as np

from nnet3py.alignment.deltas import add_deltas


def test_a_ramp_has_its_slope_and_no_curvature_away_from_the_ends() -> None:
    ramp = np.outer(np.arange(20.0), [2.0, -0.5]).astype(np.float32)
    found = add_deltas(ramp)
    np.testing.assert_array_equal(found[:, :2], ramp)
    np.testing.assert_allclose(found[2:-2, 2:4], np.broadcast_to([2.0, -0.5], (16, 2)), rtol=1e-6)
    np.testing.assert_allclose(found[4:-4, 4:], 0.0, atol=1e-6)


def test_derivatives_are_least_squares_slopes_of_features_whose_ends_repeat() -> None:
    features = np.random.default_rng(1).normal(size=(9, 3)).astype(np.float32)
    first = add_deltas(features, order=1)[:, 3:]
    for frame in range(9):
        window = features[np.clip(np.arange(frame - 2, frame + 3), 0, 8)]
        np.testing.assert_allclose(first[frame], np.polyfit(np.arange(-2, 3), window, 1)[0], rtol=1e-4, atol=1e-5)


def test_one_frame_has_no_derivative() -> None:
    found = add_deltas(np.array([[1.0, 2.0]], np.float32))
    np.testing.assert_allclose(found, [[1.0, 2.0, 0.0, 0.0, 0.0, 0.0]], atol=1e-6)
