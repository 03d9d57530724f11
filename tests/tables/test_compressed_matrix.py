"""Compressed matrices beside the formulas of their three forms in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from nnet3py.tables.compressed_matrix import PERCENTILES, CompressedMatrix


def _expanded(percentiles: np.ndarray, byte: int) -> np.float32:
    """One element: the offset's product in float32, the rest exact, rounded to double precision and then to single."""
    p0, p25, p75, p100 = percentiles
    if byte <= 64:
        start, product, part = p0, (p25 - p0) * np.float32(byte), Fraction(1, 64)
    elif byte <= 192:
        start, product, part = p25, (p75 - p25) * np.float32(byte - 64), Fraction(1, 128)
    else:
        start, product, part = p75, (p100 - p75) * np.float32(byte - 192), Fraction(1 / 63.0)
    return np.float32(float(Fraction(float(start)) + Fraction(float(product)) * part))


@pytest.mark.parametrize("contiguous", [False, True])
@pytest.mark.parametrize(("lowest", "extent"), [(-3.25, 7.1), (1.0e4, 1.0e-3), (-1.0e-8, 5.0e3), (0.0, 1.0e-20)])
def test_every_byte_between_percentiles_is_as_in_exact_arithmetic(
    lowest: float, extent: float, contiguous: bool
) -> None:
    headers = np.array([[0, 900, 1500, 65535], [7, 8, 40000, 50001], [333, 333, 333, 334]], np.uint16)
    data = np.stack([np.random.default_rng(seed).permutation(256) for seed in range(3)]).astype(np.uint8)
    data = np.ascontiguousarray(data.T) if contiguous else data.T  # the latter is how files have it
    matrix = CompressedMatrix(PERCENTILES, np.float32(lowest), np.float32(extent), 256, 3, headers, data)
    step = float(np.float32(extent) * np.float32(1.52590218966964e-05))
    found = matrix.to_array()
    assert found.shape == (256, 3)
    for column in range(3):
        places = [Fraction(float(np.float32(lowest))) + Fraction(step) * int(n) for n in headers[column]]
        percentiles = np.array([float(place) for place in places]).astype(np.float32)
        expected = np.array([_expanded(percentiles, byte) for byte in data[:, column].tolist()], np.float32)
        np.testing.assert_array_equal(found[:, column], expected)
