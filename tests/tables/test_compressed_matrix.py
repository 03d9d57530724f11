"""Compressed matrices beside the formulas of their three forms, rounded where Kaldi rounds."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from nnet3py.tables.compressed_matrix import ONE_BYTE, PERCENTILES, TWO_BYTES, CompressedMatrix, compress


def _single(exact: Fraction) -> Fraction:
    """To the nearest float32. Double precision on the way does no harm to a sum or product of two such numbers."""
    return Fraction(float(np.float32(float(exact))))


def _double(exact: Fraction) -> Fraction:
    return Fraction(float(exact))


def _expanded(percentiles: list[Fraction], byte: int) -> float:
    """One element: the offset's product in float32, the rest in double precision, rounded to single at last."""
    p0, p25, p75 = percentiles[:3]
    widths = [_single(high - low) for low, high in pairwise(percentiles)]
    if byte <= 64:
        return float(_single(_double(p0 + _double(_single(widths[0] * byte) / 64))))
    if byte <= 192:
        return float(_single(_double(p25 + _double(_single(widths[1] * (byte - 64)) / 128))))
    return float(_single(_double(p75 + _double(_single(widths[2] * (byte - 192)) * Fraction(1 / 63.0)))))


@pytest.mark.parametrize("contiguous", [False, True])
@pytest.mark.parametrize(("lowest", "extent"), [(-3.25, 7.1), (1.0e4, 1.0e-3), (-1.0e-8, 5.0e3), (0.0, 1.0e-20)])
def test_every_byte_between_percentiles_is_rounded_after_each_operation(
    lowest: float, extent: float, contiguous: bool
) -> None:
    headers = np.array([[0, 900, 1500, 65535], [7, 8, 40000, 50001], [333, 333, 333, 334]], np.uint16)
    data = np.stack([np.random.default_rng(seed).permutation(256) for seed in range(3)]).astype(np.uint8)
    data = np.ascontiguousarray(data.T) if contiguous else data.T  # the latter is how files have it
    matrix = CompressedMatrix(PERCENTILES, np.float32(lowest), np.float32(extent), 256, 3, headers, data)
    start = Fraction(float(np.float32(lowest)))
    step = Fraction(float(np.float32(extent) * np.float32(1.52590218966964e-05)))
    found = matrix.to_array()
    assert found.shape == (256, 3)
    for column in range(3):
        percentiles = [_single(start + _single(step * int(place))) for place in headers[column]]
        expected = np.array([_expanded(percentiles, byte) for byte in data[:, column].tolist()], np.float32)
        np.testing.assert_array_equal(found[:, column], expected)


_STEP = 1 + 2.0**-23  # three times this lies half-way between two float32 numbers, of which 3 + 2**-21 is even


@pytest.mark.parametrize(
    ("form", "min_value", "extent", "headers", "number", "expected"),
    [
        # -3 + 3 * _STEP: rounded after the product; fused it would be 3 * 2**-23
        (ONE_BYTE, -3.0, 255 + 2.0**-15, [], 3, 2.0**-21),
        (TWO_BYTES, -3.0, 65535 + 2.0**-7, [], 3, 2.0**-21),
        (PERCENTILES, -3.0, 65535 + 2.0**-7, [3, 4, 5, 6], 0, 2.0**-21),
        # -1 + 63 * (1 / 63.0) in double precision; fused it would be -2**-54
        (PERCENTILES, -1.5, 65535 * 2.0**-15, [0, 1, 16384, 49152], 255, 0.0),
    ],
)
def test_a_product_is_rounded_before_it_is_added(
    form: int, min_value: float, extent: float, headers: list[int], number: int, expected: float
) -> None:
    data = np.array([[number]], np.uint16 if form == TWO_BYTES else np.uint8)
    columns = np.array(headers, np.uint16).reshape(-1, 4)
    matrix = CompressedMatrix(form, np.float32(min_value), np.float32(extent), 1, 1, columns, data)
    assert matrix.to_array().tolist() == [[expected]]
    assert Fraction(3) * Fraction(_STEP) - 3 == Fraction(3, 2**23) != Fraction(1, 2**21)
    assert 63 * Fraction(1 / 63.0) - 1 == -Fraction(1, 2**54)


def test_bytes_are_chosen_between_percentiles_that_are_rounded_so() -> None:
    column = [9.3, -14.1, 17.4, 22.6, -4.4, -13.2, 23.0, -2.4, 14.6]
    matrix = compress(np.array(column, np.float32)[:, None], 2)
    assert matrix.column_headers.tolist() == [[0, 17134, 55643, 65535]]
    # as Kaldi's functions give them, compiled as its makefiles do; with -mfma the fourth is 251
    assert matrix.data[:, 0].tolist() == [144, 0, 192, 250, 64, 6, 255, 76, 176]


@pytest.mark.parametrize(("form", "kind", "steps"), [(ONE_BYTE, np.uint8, 255), (TWO_BYTES, np.uint16, 65535)])
@pytest.mark.parametrize(("lowest", "extent"), [(-3.25, 7.1), (1.0e4, 1.0e-3), (-1.0e-8, 5.0e3), (0.0, 1.0e-20)])
def test_evenly_divided_ranges_are_rounded_after_each_operation(
    lowest: float, extent: float, form: int, kind: Any, steps: int
) -> None:
    data = np.linspace(0, steps, 256).astype(kind).reshape(64, 4)
    no_headers = np.empty((0, 4), np.uint16)
    matrix = CompressedMatrix(form, np.float32(lowest), np.float32(extent), 64, 4, no_headers, data)
    start = Fraction(float(np.float32(lowest)))
    step = _single(_double(Fraction(float(np.float32(extent))) * Fraction(1.0 / steps)))
    expected = [[float(_single(start + _single(step * number))) for number in row] for row in data.tolist()]
    np.testing.assert_array_equal(matrix.to_array(), expected)


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
