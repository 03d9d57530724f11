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


def test_wide_matrices_are_expanded_as_tall_ones() -> None:
    random = np.random.default_rng(5)
    headers = np.sort(random.integers(0, 65536, (3, 4)), axis=1).astype(np.uint16)
    data = np.stack([random.permutation(256) for _ in range(3)], axis=1).astype(np.uint8)
    tall = CompressedMatrix(PERCENTILES, np.float32(-2), np.float32(9), 256, 3, headers, data).to_array()
    side_by_side = data.reshape(128, 2, 3).swapaxes(0, 1).reshape(2, 384)
    wide = CompressedMatrix(
        PERCENTILES, np.float32(-2), np.float32(9), 2, 384, np.tile(headers, (128, 1)), side_by_side
    ).to_array()
    np.testing.assert_array_equal(wide.reshape(2, 128, 3).swapaxes(0, 1).reshape(256, 3), tall)


@pytest.mark.parametrize(("rows", "columns"), [(0, 3), (3, 0), (1, 1)])
def test_a_matrix_without_numbers_or_with_one_is_expanded(rows: int, columns: int) -> None:
    headers = np.tile(np.array([0, 0, 0, 65535], np.uint16), (columns, 1))
    data = np.full((rows, columns), 255, np.uint8)
    matrix = CompressedMatrix(PERCENTILES, np.float32(1), np.float32(2), rows, columns, headers, data)
    np.testing.assert_array_equal(matrix.to_array(), np.full((rows, columns), 3, np.float32))
