"""Sparse matrices: rows of (column, value) pairs, as examples hold their labels.

Binary: ``SM``, the number of rows, and for each row ``SV``, the number of columns, the number of pairs, the pairs.
Text: ``rows=2 dim=20 [ 1 0.4 9 1.2 ] dim=20 [ 3 1.7 ]``.

Source: Kaldi src/matrix/sparse-matrix.cc, ``SparseVector`` and ``SparseMatrix``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnet3py.tables.basic_types import expect_token, read_float, read_int, shown, write_int, write_token
from nnet3py.tables.row_records import PAIR, interleaved, pairs_of
from nnet3py.tables.streams import Sink, Source

_MOST_ROWS = 10_000_000  # Kaldi's own limit
_LARGEST_AT_ONCE = 1 << 24  # bytes looked at ahead of knowing that they are what they should be
_ROW_HEAD = np.dtype([("token", "S3"), ("mark1", "u1"), ("dim", "<i4"), ("mark2", "u1"), ("size", "<i4")])
_ROW_OF_ONE = np.dtype([("head", _ROW_HEAD), ("pair", PAIR)])


@dataclass
class SparseMatrix:
    """A matrix of which each row holds a few values, in compressed-sparse-row form.

    Attributes:
        indptr: (rows + 1,) int64; row i has the elements indptr[i] to indptr[i + 1] - 1.
        indices: (elements,) int32, the columns, ascending within a row.
        values: (elements,) float32.
        num_cols: the number of columns.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.int32]
    values: NDArray[np.float32]
    num_cols: int

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return len(self.indptr) - 1

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.num_rows, self.num_cols

    def to_array(self) -> NDArray[np.float32]:
        """The matrix in full, (rows, columns) float32."""
        array = np.zeros(self.shape, np.float32)
        array[np.repeat(np.arange(self.num_rows), np.diff(self.indptr)), self.indices] = self.values
        return array

    def take_rows(self, rows: NDArray[np.integer[Any]] | Iterable[int]) -> SparseMatrix:
        """The matrix of the given rows, in their order; a row may come more than once."""
        chosen = np.asarray(rows, np.int64)
        sizes = np.diff(self.indptr)[chosen]
        indptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        elements = np.repeat(self.indptr[chosen] - indptr[:-1], sizes) + np.arange(indptr[-1])
        return SparseMatrix(indptr, self.indices[elements], self.values[elements], self.num_cols)

    @classmethod
    def from_rows(cls, rows: Iterable[Iterable[tuple[int, float]]], num_cols: int) -> SparseMatrix:
        """A matrix of rows given as (column, value) pairs: put in order, and values of one column added up.

        Source: the constructor of Kaldi's ``SparseVector`` from pairs.

        Raises:
            ValueError: a column is not from 0 to ``num_cols`` - 1.
        """
        indptr = [0]
        indices: list[int] = []
        values: list[float] = []
        for row in rows:
            merged: dict[int, np.float32] = {}
            for index, value in row:
                if not 0 <= index < num_cols:
                    raise ValueError(f"column {index} of a sparse matrix with {num_cols} columns")
                merged[index] = np.float32(value) + merged[index] if index in merged else np.float32(value)
            kept = sorted((index, value) for index, value in merged.items() if value != 0)
            indices += [index for index, _ in kept]
            values += [float(value) for _, value in kept]
            indptr.append(len(indices))
        return cls(np.array(indptr, np.int64), np.array(indices, np.int32), np.array(values, np.float32), num_cols)


def read_sparse_matrix(source: Source, binary: bool) -> SparseMatrix:
    """A sparse matrix.

    Raises:
        UserError: the data are not one, or end too early.
    """
    if not binary:
        return _read_text(source)
    expect_token(source, True, "SM")
    place = source.tell()
    rows = read_int(source, True)
    if not 0 <= rows < _MOST_ROWS:
        raise source.error(f"expected the number of rows of a sparse matrix, found {rows}.", place)
    return _read_rows_of_one(source, rows) or _read_rows(source, rows)


def _read_rows_of_one(source: Source, rows: int) -> SparseMatrix | None:
    """All rows at once if each has one element, which is how most labels are; otherwise nothing is consumed."""
    size = rows * _ROW_OF_ONE.itemsize
    data = source.peek(size if size <= _LARGEST_AT_ONCE else 0)
    if rows == 0 or len(data) < size:
        return None
    table = np.frombuffer(data, _ROW_OF_ONE)
    head, pair = table["head"], table["pair"]
    dim, index = head["dim"], pair["index"]
    regular = (
        (head["token"] == b"SV ") & (head["mark1"] == 4) & (head["mark2"] == 4) & (head["size"] == 1)
        & (pair["mark1"] == 4) & (pair["mark2"] == 4) & (dim == dim[0]) & (index >= 0) & (index < dim)
    )  # fmt: skip
    if not regular.all():
        return None
    source.read(size)
    return SparseMatrix(np.arange(rows + 1), index.copy(), pair["value"].copy(), int(dim[0]))


def _read_rows(source: Source, rows: int) -> SparseMatrix:
    indptr, num_cols = [0], 0
    indices: list[NDArray[np.int32]] = []
    values: list[NDArray[np.float32]] = []
    for _ in range(rows):
        place = source.tell()
        expect_token(source, True, "SV")
        dim, size = read_int(source, True), read_int(source, True)
        if not 0 <= size <= dim or (indices and num_cols and dim != num_cols):
            raise source.error(
                f"expected a sparse row of {num_cols or dim} columns, found {dim}, {size} filled.", place
            )
        num_cols = max(num_cols, dim)
        index, value = _read_pairs(source, size, dim)
        indptr.append(indptr[-1] + size)
        indices.append(index)
        values.append(value)
    empty = np.empty(0)
    return SparseMatrix(
        np.array(indptr, np.int64),
        np.concatenate([empty, *indices]).astype(np.int32),
        np.concatenate([empty, *values]).astype(np.float32),
        num_cols,
    )


def _read_pairs(source: Source, size: int, dim: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    place = source.tell()
    data = source.peek(min(size * PAIR.itemsize, _LARGEST_AT_ONCE))
    pairs = np.frombuffer(data[: len(data) // PAIR.itemsize * PAIR.itemsize], PAIR)
    if len(pairs) == size and (pairs["mark1"] == 4).all() and (pairs["mark2"] == 4).all():
        source.read(size * PAIR.itemsize)
        index, value = pairs["index"].copy(), pairs["value"].copy()
    else:  # values of 8 bytes, or not a sparse matrix
        rows = [(read_int(source, True), read_float(source, True)) for _ in range(size)]
        index = np.array([row[0] for row in rows], np.int32)
        value = np.array([row[1] for row in rows], np.float32)
    if size and not (index[0] >= 0 and index[-1] < dim and (np.diff(index) > 0).all()):
        raise source.error(f"expected ascending columns from 0 to {dim - 1} in a sparse row, found others.", place)
    return index, value


def _read_text_size(source: Source, name: str) -> int:
    place = source.tell()
    word = source.read_word()
    digits = word[len(name) :]
    if not word.startswith(name.encode()) or not digits.isdigit() or len(digits) > 10:
        raise source.error(f'expected "{name}" and a number, found {shown(word)}.', place)
    return int(digits)


def _read_text(source: Source) -> SparseMatrix:
    count = _read_text_size(source, "rows=")
    indptr, num_cols = [0], 0
    indices: list[int] = []
    values: list[float] = []
    for _ in range(count):
        num_cols = max(num_cols, _read_text_size(source, "dim="))
        place = source.tell()
        if source.read_word() != b"[":
            raise source.error('expected "[" at the start of a sparse row.', place)
        row: list[int] = []
        while True:
            source.skip_space()
            if source.peek(1) == b"]":
                source.read(1)
                break
            row.append(read_int(source, False))
            values.append(read_float(source, False))
        if row and not (row[0] >= 0 and row[-1] < num_cols and all(a < b for a, b in itertools.pairwise(row))):
            raise source.error(f"expected ascending columns from 0 to {num_cols - 1}, found others.", place)
        indices += row
        indptr.append(len(indices))
    return SparseMatrix(np.array(indptr, np.int64), np.array(indices, np.int32), np.array(values, np.float32), num_cols)


def write_sparse_matrix(sink: Sink, matrix: SparseMatrix, binary: bool) -> None:
    """The counterpart of :func:`read_sparse_matrix`."""
    if not binary:
        sink.write(_text(matrix))
        return
    write_token(sink, True, "SM")
    write_int(sink, True, matrix.num_rows)
    sink.write(encoded_rows(matrix))


def encoded_rows(matrix: SparseMatrix) -> bytes:
    """The rows in binary, without what comes before the first."""
    sizes = np.diff(matrix.indptr)
    heads = np.empty(matrix.num_rows, _ROW_HEAD)
    heads["token"], heads["mark1"], heads["mark2"] = b"SV ", 4, 4
    heads["dim"], heads["size"] = matrix.num_cols, sizes
    return interleaved(heads, pairs_of(matrix.indices, matrix.values), sizes)


def _text(matrix: SparseMatrix) -> bytes:
    words = [f"rows={matrix.num_rows} "]
    indices, values = matrix.indices.tolist(), matrix.values.tolist()
    for start, end in zip(matrix.indptr[:-1].tolist(), matrix.indptr[1:].tolist(), strict=True):
        pairs = "".join(f"{indices[i]} {values[i]:.7g} " for i in range(start, end))
        words.append(f"dim={matrix.num_cols} [ {pairs}] ")
    return ("".join(words) + "\n").encode("ascii")
