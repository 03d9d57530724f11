"""Matrices and vectors in Kaldi's binary and text forms.

Binary: the token ``FM`` (float32) or ``DM`` (float64), the numbers of rows and columns, the elements row by row;
``FV`` and ``DV`` with one size for vectors; ``CM``, ``CM2``, ``CM3`` are compressed matrices
(:mod:`nnet3py.tables.compressed_matrix`). Text: the rows between brackets, one a line, with 7 significant digits.

Source: Kaldi src/matrix/kaldi-matrix.cc and kaldi-vector.cc, ``Read`` and ``Write``; src/base/io-funcs-inl.h for
vectors of integers.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnet3py.errors import UserError
from nnet3py.tables.basic_types import read_int, read_token, shown
from nnet3py.tables.compressed_matrix import read_compressed_body
from nnet3py.tables.streams import Sink, Source

Array = NDArray[Any]

_MATRIX_HEAD = struct.Struct("<3sbibi")
_VECTOR_HEAD = struct.Struct("<3sbi")
_MATRIX_TYPES = {b"FM ": "<f4", b"DM ": "<f8"}
_VECTOR_TYPES = {b"FV ": "<f4", b"DV ": "<f8"}
_LARGEST_SIZE = 2**31 - 1


def read_matrix(source: Source, binary: bool, *, wide: bool = False) -> Array:
    """A matrix, (rows, columns), float32 or float64 as it was stored; a compressed one is expanded to float32.

    Text is read as float32, or with ``wide`` as float64.

    Raises:
        UserError: the data are not a matrix, or end too early.
    """
    if not binary:
        return _read_text_matrix(source, wide)
    head = source.peek(_MATRIX_HEAD.size)
    kind = _MATRIX_TYPES.get(head[:3])
    if kind is None:
        if head[:1] == b"C":
            return read_compressed_body(source, read_token(source, True)).to_array()
        raise source.error(f"expected a matrix (FM, DM, CM, CM2 or CM3), found {shown(head[:3])}.")
    place = source.tell()
    _, row_mark, rows, column_mark, columns = _MATRIX_HEAD.unpack(source.read(_MATRIX_HEAD.size))
    if row_mark != 4 or column_mark != 4 or rows < 0 or columns < 0 or (columns == 0 and rows > 0):
        raise source.error(f"expected the size of a matrix, found {rows} rows and {columns} columns.", place)
    return source.read_array(kind, rows * columns).reshape(rows, columns)


def _text_numbers(source: Source, place: int, words: list[bytes], wide: bool = False) -> Array:
    """Words as float32, rounded once, as C's ``strtof`` does; or as float64."""
    try:
        doubles = np.array([float(word) for word in words])
    except ValueError:
        raise _not_a_number(source, place, words) from None
    if b"_" in b"".join(words):  # Python reads 1_000 as a number, Kaldi does not
        raise _not_a_number(source, place, words)
    if wide:
        return doubles
    # A double half-way between two floats was rounded there, and says no longer on which side the number lay.
    for index in np.flatnonzero(doubles.view(np.int64) & 0x1FFFFFFF == 0x10000000):
        exact, rounded = Fraction(words[index].decode()), Fraction(doubles[index])
        if exact != rounded:
            doubles[index] = np.nextafter(doubles[index], np.inf if exact > rounded else -np.inf)
    with np.errstate(over="ignore"):
        return doubles.astype(np.float32)


def _not_a_number(source: Source, place: int, words: list[bytes]) -> UserError:
    for word in words:
        try:
            float(word if b"_" not in word else b"")
        except ValueError:
            return source.error(f"expected numbers, found {shown(word)}.", place)
    raise AssertionError(words)


def _open_bracket(source: Source, what: str) -> bool:
    """Consume the ``[`` that starts text; false for ``[]``, an empty one."""
    source.skip_space()
    place = source.tell()
    head = source.peek(2)
    if head[:1] != b"[":
        found = "the end of the data" if not head else shown(source.peek(20).split(None, 1)[0])
        raise source.error(f'expected "[", the start of {what} in text, found {found}.', place)
    source.read(1)
    if head == b"[]":
        source.read(1)
        _end_of_line(source)
        return False
    return True


def _end_of_line(source: Source) -> None:
    if source.peek(2) == b"\r\n":
        source.read(2)
    elif source.peek(1) == b"\n":
        source.read(1)


def _read_text_matrix(source: Source, wide: bool) -> Array:
    start = source.tell()
    kind = np.float64 if wide else np.float32
    if not _open_bracket(source, "a matrix"):
        return np.empty((0, 0), kind)
    rows: list[Array] = []
    closed = False
    while not closed:
        place = source.tell()
        line = source.readline(stop=b"]")
        if not line:
            raise source.error(f'the data end within a matrix that starts at byte {start}; expected "]".', place)
        closed = line.endswith(b"]")
        for part in line.rstrip(b"]").split(b";"):
            words = part.split()
            if not words:
                continue
            row = _text_numbers(source, place, words, wide)
            if rows and len(row) != len(rows[0]):
                raise source.error(f"expected {len(rows[0])} numbers in a row, found {len(row)}.", place)
            rows.append(row)
    _end_of_line(source)
    return np.array(rows, kind) if rows else np.empty((0, 0), kind)


def write_matrix(sink: Sink, array: Array, binary: bool) -> None:
    """A matrix: float32 as ``FM``, float64 as ``DM``. One without rows or columns is written as 0 by 0."""
    assert array.ndim == 2, array.shape
    if not binary:
        sink.write(matrix_text(array))
        return
    wide = array.dtype == np.float64
    rows, columns = array.shape if array.size else (0, 0)
    if max(rows, columns) > _LARGEST_SIZE:
        raise UserError(f"Cannot write {sink.name}: a matrix of {rows} by {columns} is too large for Kaldi's format.")
    sink.write(_MATRIX_HEAD.pack(b"DM " if wide else b"FM ", 4, rows, 4, columns))
    if array.size:
        sink.write(np.ascontiguousarray(array, "<f8" if wide else "<f4").data.cast("B"))


def matrix_text(array: Array) -> bytes:
    """A matrix as Kaldi prints it: each row on a line, 7 significant digits."""
    if array.size == 0:
        return b" [ ]\n"
    form = "%.7g " * array.shape[1]
    rows = "".join("\n  " + form % tuple(row) for row in array.tolist())
    return b" [" + rows.encode("ascii") + b"]\n"


def read_vector(source: Source, binary: bool) -> Array:
    """A vector, float32 or float64 as it was stored.

    Raises:
        UserError: the data are not a vector, or end too early.
    """
    if not binary:
        return _read_text_vector(source)
    head = source.peek(_VECTOR_HEAD.size)
    kind = _VECTOR_TYPES.get(head[:3])
    if kind is None:
        raise source.error(f"expected a vector (FV or DV), found {shown(head[:3])}.")
    place = source.tell()
    _, mark, size = _VECTOR_HEAD.unpack(source.read(_VECTOR_HEAD.size))
    if mark != 4 or size < 0:
        raise source.error(f"expected the size of a vector, found {size}.", place)
    return source.read_array(kind, size)


def _read_text_vector(source: Source) -> NDArray[np.float32]:
    start = source.tell()
    if not _open_bracket(source, "a vector"):
        return np.empty(0, np.float32)
    line = source.readline(stop=b"]")
    if not line.endswith(b"]"):
        raise source.error('expected a vector on one line and "]" at its end; is it a matrix, or cut off?', start)
    _end_of_line(source)
    return _text_numbers(source, start, line[:-1].split())


def write_vector(sink: Sink, array: Array, binary: bool) -> None:
    """A vector: float32 as ``FV``, float64 as ``DV``."""
    assert array.ndim == 1, array.shape
    if not binary:
        sink.write(b" [ " + ("%.7g " * array.size % tuple(array.tolist())).encode("ascii") + b"]\n")
        return
    wide = array.dtype == np.float64
    sink.write(_VECTOR_HEAD.pack(b"DV " if wide else b"FV ", 4, array.size))
    sink.write(np.ascontiguousarray(array, "<f8" if wide else "<f4").tobytes())


def read_int_vector(source: Source, binary: bool) -> NDArray[np.int32]:
    """A vector of 32-bit integers as it stands inside other objects (one size byte for all).

    In a table of alignments each integer has its own size byte: :data:`nnet3py.tables.holders.INT_VECTOR`.
    """
    if not binary:
        return _read_text_int_vector(source)
    place = source.tell()
    mark, size = struct.unpack("<bi", source.read(5))
    if mark != 4 or size < 0:
        raise source.error(f"expected a vector of 32-bit integers, found integer size {mark} and length {size}.", place)
    return source.read_array("<i4", size)


def _read_text_int_vector(source: Source) -> NDArray[np.int32]:
    if not _open_bracket(source, "a vector of integers"):
        return np.empty(0, np.int32)
    values: list[int] = []
    while True:
        source.skip_space()
        if source.peek(1) == b"]":
            source.read(1)
            _end_of_line(source)
            return np.array(values, np.int32)
        values.append(read_int(source, False))


def write_int_vector(sink: Sink, values: Sequence[int] | NDArray[np.integer[Any]], binary: bool) -> None:
    """The counterpart of :func:`read_int_vector`."""
    array = np.asarray(values, dtype=np.int64).astype("<i4")
    if binary:
        sink.write(struct.pack("<bi", 4, array.size) + array.tobytes())
    else:
        sink.write(b"[ " + b"".join(b"%d " % value for value in array.tolist()) + b"]\n")
