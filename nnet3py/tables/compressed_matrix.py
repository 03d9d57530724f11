"""Kaldi's lossy compression of matrices, to the bit.

A compressed matrix has a header (smallest value and range as float32, rows, columns) and one of three forms:

- ``CM``: one byte an element, column by column, with eight bytes a column that place its 0th, 25th, 75th and 100th
  percentile within the range; bytes 0-64, 64-192 and 192-255 divide the three intervals evenly. For speech features.
- ``CM2``: two bytes an element, row by row, that divide the range evenly.
- ``CM3``: one byte an element, row by row, that divides the range evenly.

Numbers agree with Kaldi's to the last bit only if every operation has the precision it has there (float32 for most,
float64 where C++ promotes because of a ``double`` constant), so that the order and the types below are not a matter of
taste. A product is rounded before it is added to something, as in a Kaldi that its own makefiles built; one built for
processors with fused multiply-add (``-mfma``, ``-march=native``) rounds otherwise.

Source: Kaldi src/matrix/compressed-matrix.cc.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnet3py.errors import UserError
from nnet3py.tables.basic_types import shown, write_token
from nnet3py.tables.streams import Sink, Source

PERCENTILES = 1  # the form CM, with a header for each column
TWO_BYTES = 2  # CM2
ONE_BYTE = 3  # CM3

_TOKENS = {"CM": PERCENTILES, "CM2": TWO_BYTES, "CM3": ONE_BYTE}
_FORM_TOKENS = {form: token for token, form in _TOKENS.items()}
_HEADER = struct.Struct("<ffii")

AUTOMATIC = 1  # the method that stands for SPEECH_FEATURE above 8 rows and TWO_BYTE_AUTO otherwise
SPEECH_FEATURE = 2
TWO_BYTE_AUTO = 3
TWO_BYTE_SIGNED_INTEGER = 4
ONE_BYTE_AUTO = 5
ONE_BYTE_UNSIGNED_INTEGER = 6
ONE_BYTE_ZERO_ONE = 7

_FORM_OF_METHOD = {
    SPEECH_FEATURE: PERCENTILES,
    TWO_BYTE_AUTO: TWO_BYTES,
    TWO_BYTE_SIGNED_INTEGER: TWO_BYTES,
    ONE_BYTE_AUTO: ONE_BYTE,
    ONE_BYTE_UNSIGNED_INTEGER: ONE_BYTE,
    ONE_BYTE_ZERO_ONE: ONE_BYTE,
}
# smallest value and range of the methods that do not look at the data
_FIXED_RANGE = {
    TWO_BYTE_SIGNED_INTEGER: (-32768.0, 65535.0),
    ONE_BYTE_UNSIGNED_INTEGER: (0.0, 255.0),
    ONE_BYTE_ZERO_ONE: (0.0, 1.0),
}

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class CompressedMatrix:
    """A matrix in compressed form, as it is stored.

    Attributes:
        form: PERCENTILES, TWO_BYTES or ONE_BYTE.
        min_value: the smallest value that can be represented (float32).
        range: the largest minus the smallest (float32).
        num_rows, num_cols: the size.
        column_headers: (columns, 4) uint16, the percentiles' places in the range; without rows in the other forms.
        data: (rows, columns) uint8 or uint16.
    """

    form: int
    min_value: np.float32
    range: np.float32
    num_rows: int
    num_cols: int
    column_headers: NDArray[np.uint16]
    data: NDArray[Any]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.num_rows, self.num_cols

    def to_array(self) -> Float32:
        """The matrix expanded, (rows, columns) float32."""
        if self.form == PERCENTILES:
            return _expand_percentiles(self.min_value, self.range, self.column_headers, self.data)
        steps = 65535.0 if self.form == TWO_BYTES else 255.0
        increment = np.float32(np.float64(self.range) * (1.0 / steps))
        return _evenly_spaced(self.min_value, increment, self.data)

    def row_range(self, start: int, num_rows: int) -> CompressedMatrix:
        """``num_rows`` rows from ``start`` on; beyond either end the first or last row is repeated.

        Nothing is expanded, except that fewer than 8 rows of the form CM become CM2, as in Kaldi, where the columns'
        headers would take more room than they save.

        Raises:
            ValueError: rows are wanted of a matrix that has none.
        """
        if num_rows <= 0:
            return EMPTY
        if self.num_rows == 0:
            raise ValueError("an empty compressed matrix has no row to repeat")
        end = start + num_rows
        if start >= 0 and end <= self.num_rows:
            data = self.data[start:end]
        else:
            data = self.data[np.clip(np.arange(start, end), 0, self.num_rows - 1)]
        part = CompressedMatrix(
            self.form, self.min_value, self.range, num_rows, self.num_cols, self.column_headers, data
        )
        if num_rows < 8 and self.form == PERCENTILES:
            return compress(part.to_array(), TWO_BYTE_AUTO)
        return part


EMPTY = CompressedMatrix(
    PERCENTILES, np.float32(0), np.float32(0), 0, 0, np.empty((0, 4), np.uint16), np.empty((0, 0), np.uint8)
)


def _evenly_spaced(start: np.float32 | Float32, step: np.float32 | Float32, counts: NDArray[Any]) -> Float32:
    """``start + step * counts`` in float32, rounded after the product and after the sum."""
    with np.errstate(all="ignore"):
        values = counts.astype(np.float32)
        values *= step
        values += start
        return values


def _uint16_to_float(
    min_value: np.float32 | Float32, extent: np.float32 | Float32, places: NDArray[np.uint16]
) -> Float32:
    with np.errstate(all="ignore"):
        return _evenly_spaced(min_value, extent * np.float32(1.52590218966964e-05), places)


def _expand_percentiles(
    min_value: np.float32 | Float32, extent: np.float32 | Float32, headers: NDArray[np.uint16], data: NDArray[np.uint8]
) -> Float32:
    """Interpolate between the columns' percentiles: bytes of the form CM to float32.

    ``min_value`` and ``extent`` are numbers, or have one for each column. NumPy's loops run along the longer side.

    Kaldi adds in double precision and rounds to float32 at last. Where a byte is divided by a power of two, one
    addition in single precision gives the same number, as long as the range is above 1e-30 and below 1e36: the sum of
    two float32 numbers is exact in double precision, or the smaller is of no consequence.
    """
    upright = data.shape[0] > data.shape[1]
    with np.errstate(all="ignore"):
        limits = _uint16_to_float(min_value, extent, headers.T)
        p0, p25, p75, p100 = limits[:, :, None] if upright else limits[:, None, :]
        levels = np.ascontiguousarray(data.T if upright else data)
        counts = levels.astype(np.float32)
        low = counts * ((p25 - p0) * np.float32(1 / 64))
        low += p0
        values = counts - np.float32(64)
        values *= (p75 - p25) * np.float32(1 / 128)
        values += p25
        _replace(values, low, _mask(levels <= 64))
        high = np.flatnonzero(levels > 192)
        of_column = high // max(1, levels.shape[1]) if upright else high % max(1, levels.shape[1])
        above = counts.ravel()[high] - np.float32(192)
        above *= (p100 - p75).ravel()[of_column]
        values.ravel()[high] = above.astype(np.float64) * (1 / 63.0) + p75.ravel()[of_column]
        return values.T if upright else values


@dataclass(frozen=True)
class CompressedStack:
    """Compressed matrices of one size and form, each with a range of its own.

    Attributes:
        form: PERCENTILES, TWO_BYTES or ONE_BYTE.
        min_values, ranges: (matrices,) float32.
        column_headers: (matrices, columns, 4) uint16; (matrices, 0, 4) in the other forms.
        data: (matrices, rows, columns) uint8 or uint16.
    """

    form: int
    min_values: Float32
    ranges: Float32
    column_headers: NDArray[np.uint16]
    data: NDArray[Any]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> CompressedMatrix:
        _, rows, columns = self.data.shape
        return CompressedMatrix(
            self.form, self.min_values[index], self.ranges[index], rows, columns, self.column_headers[index],
            self.data[index],
        )  # fmt: skip


def compress(array: NDArray[Any], method: int = AUTOMATIC) -> CompressedMatrix:
    """Compress a matrix by one of Kaldi's methods (``--compression-method``).

    Args:
        array: (rows, columns) of finite numbers; used as float32.
        method: 1 automatic, 2 speech feature, 3 two bytes, 4 two bytes as signed integers, 5 one byte, 6 one byte as
            an unsigned integer, 7 one byte for values from 0 to 1.

    Raises:
        UserError: the method does not exist, or the matrix holds a NaN or an infinite value.
    """
    _check_method(method)
    return EMPTY if array.size == 0 else compress_stack(array[None], method)[0]


def compress_stack(stack: NDArray[Any], method: int = AUTOMATIC) -> CompressedStack:
    """Compress each of many matrices of one size, with the result that :func:`compress` has for each.

    Args:
        stack: (matrices, rows, columns) of finite numbers, none of the sizes 0; used as float32.
        method: as for :func:`compress`.

    Raises:
        UserError: the method does not exist, or a matrix holds a NaN or an infinite value.
    """
    _check_method(method)
    rows = stack.shape[1]
    if method == AUTOMATIC:
        method = SPEECH_FEATURE if rows > 8 else TWO_BYTE_AUTO
    form = _FORM_OF_METHOD[method]
    with np.errstate(over="ignore"):
        if form == PERCENTILES:  # column by column, as it will lie in the file
            values = np.ascontiguousarray(stack.swapaxes(1, 2), np.float32)
        else:
            values = np.ascontiguousarray(stack, np.float32)
    min_values, ranges = _value_ranges(values.reshape(len(values), -1), method)
    lowest, extent = min_values[:, None, None], ranges[:, None, None]
    if form == PERCENTILES:
        headers = _column_headers(values, lowest, extent)
        data = _compress_columns(values, _uint16_to_float(lowest, extent, headers)).swapaxes(1, 2)
        return CompressedStack(form, min_values, ranges, headers, data)
    steps, kind = (65535, np.uint16) if form == TWO_BYTES else (255, np.uint8)
    no_headers = np.empty((len(values), 0, 4), np.uint16)
    return CompressedStack(form, min_values, ranges, no_headers, _quantise(values, lowest, extent, steps).astype(kind))


def _check_method(method: int) -> None:
    if method != AUTOMATIC and method not in _FORM_OF_METHOD:
        raise UserError(f"Expected a compression method from 1 to 7, found {method}.")


def _value_ranges(values: Float32, method: int) -> tuple[Float32, Float32]:
    """The smallest value and the range of each row of ``values`` (matrices, elements)."""
    smallest, largest = values.min(axis=1), values.max(axis=1)
    if not (np.isfinite(smallest).all() and np.isfinite(largest).all()):
        raise UserError("A matrix with a NaN or infinite value cannot be compressed: find out where it comes from.")
    if method in _FIXED_RANGE:
        low, fixed = _FIXED_RANGE[method]
        return np.full(len(values), low, np.float32), np.full(len(values), fixed, np.float32)
    exact = smallest.astype(np.float64)
    with np.errstate(over="ignore"):
        beyond = (exact + (1.0 + np.abs(exact))).astype(np.float32)
        largest = np.where(largest == smallest, beyond, largest)  # the range must not be zero
        extent = largest - smallest
    wide = ~np.isfinite(extent)
    if wide.any():
        raise UserError(
            f"A matrix with values from {smallest[wide][0]:g} to {largest[wide][0]:g} cannot be compressed: "
            "too wide a range."
        )
    return smallest, extent


def _quantise(values: Float32, min_value: Float32, extent: Float32, steps: int) -> NDArray[np.int32]:
    fraction = np.clip((values - min_value) / extent, np.float32(0), np.float32(1))
    return ((fraction * np.float32(steps)).astype(np.float64) + 0.499).astype(np.int32)


def _column_headers(values: Float32, min_value: Float32, extent: Float32) -> NDArray[np.uint16]:
    """The percentiles of each column in 65535ths of the range, each above the one before.

    values: (matrices, columns, rows); the result is (matrices, columns, 4).
    """
    rows = values.shape[2]
    quarter = rows // 4
    chosen = [0, quarter, 3 * quarter, rows - 1] if rows >= 5 else list(range(rows))
    places = _quantise(np.sort(values, axis=2)[:, :, chosen], min_value, extent, 65535)
    headers = np.empty((*values.shape[:2], 4), np.int32)
    headers[..., 0] = np.minimum(places[..., 0], 65532)
    for index, ceiling in ((1, 65533), (2, 65534), (3, 65535)):
        headers[..., index] = headers[..., index - 1] + 1
        if index < len(chosen):
            headers[..., index] = np.minimum(np.maximum(places[..., index], headers[..., index]), ceiling)
    return headers.astype(np.uint16)


def _compress_columns(values: Float32, percentiles: Float32) -> NDArray[np.uint8]:
    """The bytes of ``values`` (matrices, columns, rows), whose columns have ``percentiles`` (matrices, columns, 4).

    From the first percentile to the second there are 64 steps, then 128, then 63. NumPy's loops run along the rows or,
    if these are fewer, along the columns of all matrices.
    """
    columns = values.reshape(-1, values.shape[2])
    upright = columns.shape[1] > columns.shape[0]
    limits = percentiles.reshape(-1, 4).T
    p0, p25, p75, p100 = limits[:, :, None] if upright else np.ascontiguousarray(limits)[:, None, :]
    levels = columns if upright else np.ascontiguousarray(columns.T)
    above25, above75 = _mask(levels >= p25), _mask(levels >= p75)
    steps = (above25 & 64) + 64
    steps -= above75 & 65
    with np.errstate(all="ignore"):
        start = _of_interval(levels.shape, p0, p25, p75, above25, above75)
        fraction = np.subtract(levels, start, out=start)
        fraction /= _of_interval(levels.shape, p25 - p0, p75 - p25, p100 - p75, above25, above75)
        fraction *= steps.astype(np.float32)
        scaled = fraction.astype(np.float64)
        scaled += 0.5
        if not np.abs(scaled).max() < 2.0**31:
            # What does not fit 32 bits becomes the most negative integer on the processors that Kaldi runs on.
            scaled = np.where(np.abs(scaled) < 2.0**31, scaled, -(2.0**31))
    whole = scaled.astype(np.int32)
    np.minimum(whole, steps, out=whole)
    np.maximum(whole, 0, out=whole)
    whole += above25 & 64
    whole += above75 & 128
    data = whole.astype(np.uint8)
    return (data if upright else data.T).reshape(values.shape)


def _of_interval(
    shape: tuple[int, ...], low: Float32, middle: Float32, high: Float32, above25: NDArray[Any], above75: NDArray[Any]
) -> Float32:
    """For each number the one of the interval between percentiles that it lies in."""
    chosen = np.empty(shape, np.float32)
    chosen[...] = low
    _replace(chosen, middle, above25)
    _replace(chosen, high, above75)
    return chosen


def _mask(where: NDArray[np.bool_]) -> NDArray[np.int32]:
    """All bits set where it is true."""
    mask = where.view(np.int8).astype(np.int32)
    return np.negative(mask, out=mask)


def _replace(values: Float32, others: Float32, mask: NDArray[np.int32]) -> None:
    """Take numbers from another array, by their bits: without a branch for each, a quarter of putmask's time."""
    bits = values.view(np.int32)
    difference = bits ^ others.view(np.int32)
    difference &= mask
    bits ^= difference


def read_compressed_body(source: Source, token: str) -> CompressedMatrix:
    """What follows the token ``CM``, ``CM2`` or ``CM3``."""
    form = _TOKENS.get(token)
    place = source.tell()
    if form is None:
        raise source.error(f"expected CM, CM2 or CM3, found {shown(token.encode())}.", place)
    min_value, extent, rows, columns = _HEADER.unpack(source.read(_HEADER.size))
    if columns == 0:
        return EMPTY
    if rows <= 0 or columns < 0:
        raise source.error(f"expected the size of a compressed matrix, found {rows} by {columns}.", place)
    headers = np.empty((0, 4), np.uint16)
    if form == PERCENTILES:
        headers = source.read_array("<u2", 4 * columns).reshape(columns, 4)
        data = source.read_array(np.uint8, rows * columns).reshape(columns, rows).T
    else:
        data = source.read_array("<u2" if form == TWO_BYTES else np.uint8, rows * columns).reshape(rows, columns)
    return CompressedMatrix(form, np.float32(min_value), np.float32(extent), rows, columns, headers, data)


def write_compressed_body(sink: Sink, matrix: CompressedMatrix) -> None:
    """A compressed matrix in binary, its token first."""
    if matrix.num_rows == 0:
        write_token(sink, True, "CM")
        sink.write(_HEADER.pack(0, 0, 0, 0))
        return
    write_token(sink, True, _FORM_TOKENS[matrix.form])
    sink.write(struct.pack("<ffii", matrix.min_value, matrix.range, matrix.num_rows, matrix.num_cols))
    if matrix.form == PERCENTILES:
        sink.write(matrix.column_headers.astype("<u2", copy=False).tobytes())
        sink.write(np.ascontiguousarray(matrix.data.T).tobytes())
    else:
        sink.write(matrix.data.astype(matrix.data.dtype.newbyteorder("<"), copy=False).tobytes())
