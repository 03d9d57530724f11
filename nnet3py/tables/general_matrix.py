"""A matrix in whichever form it is stored: in full, compressed or sparse.

Source: Kaldi src/matrix/sparse-matrix.cc, ``GeneralMatrix``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnet3py.tables.basic_types import read_token
from nnet3py.tables.compressed_matrix import CompressedMatrix, compress, read_compressed_body, write_compressed_body
from nnet3py.tables.matrix import matrix_text, read_matrix, write_matrix
from nnet3py.tables.sparse_matrix import SparseMatrix, read_sparse_matrix, write_sparse_matrix
from nnet3py.tables.streams import Sink, Source

GeneralMatrix = NDArray[Any] | CompressedMatrix | SparseMatrix


def read_general_matrix(source: Source, binary: bool) -> GeneralMatrix:
    """A matrix of any of the three forms.

    Raises:
        UserError: the data are not a matrix, or end too early.
    """
    if not binary:
        source.skip_space()
        return read_sparse_matrix(source, False) if source.peek(1) == b"r" else read_matrix(source, False)
    first = source.peek(1)
    if first == b"C":
        return read_compressed_matrix(source, True)
    if first == b"S":
        return read_sparse_matrix(source, True)
    return read_matrix(source, True)


def write_general_matrix(sink: Sink, matrix: GeneralMatrix, binary: bool) -> None:
    """A matrix in its own form; one without rows is written as one in full, as in Kaldi."""
    if isinstance(matrix, np.ndarray):
        write_matrix(sink, matrix, binary)
    elif matrix.num_rows == 0:
        write_matrix(sink, np.empty((0, 0), np.float32), binary)
    elif isinstance(matrix, CompressedMatrix):
        write_compressed_matrix(sink, matrix, binary)
    else:
        write_sparse_matrix(sink, matrix, binary)


def write_compressed_matrix(sink: Sink, matrix: CompressedMatrix, binary: bool) -> None:
    """A compressed matrix; in text it is expanded."""
    if binary:
        write_compressed_body(sink, matrix)
    else:
        sink.write(matrix_text(matrix.to_array()))


def read_compressed_matrix(source: Source, binary: bool) -> CompressedMatrix:
    """A compressed matrix; one that is stored in full is compressed by the automatic method, as in Kaldi.

    Raises:
        UserError: the data are not a matrix, or end too early.
    """
    if not binary or source.peek(1) != b"C":
        return compress(read_matrix(source, binary))
    return read_compressed_body(source, read_token(source, True))


def to_array(matrix: GeneralMatrix) -> NDArray[Any]:
    """The matrix in full, (rows, columns)."""
    return matrix if isinstance(matrix, np.ndarray) else matrix.to_array()


def row_range(matrix: GeneralMatrix, start: int, num_rows: int) -> GeneralMatrix:
    """``num_rows`` rows from ``start`` on, in the same form; beyond either end the first or last row is repeated.

    Source: Kaldi's ``ExtractRowRangeWithPadding``.

    Raises:
        ValueError: rows are wanted of a matrix that has none.
    """
    if isinstance(matrix, CompressedMatrix):
        return matrix.row_range(start, num_rows)
    if num_rows <= 0:
        return np.empty((0, 0), np.float32)
    if matrix.shape[0] == 0:
        raise ValueError("an empty matrix has no row to repeat")
    rows = np.clip(np.arange(start, start + num_rows), 0, matrix.shape[0] - 1)
    return matrix.take_rows(rows) if isinstance(matrix, SparseMatrix) else matrix[rows]
