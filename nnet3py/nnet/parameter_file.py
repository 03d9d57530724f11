"""Matrices and vectors named in configuration lines (``matrix=lda.mat``): Kaldi files of a single object."""

from __future__ import annotations

import numpy as np

from nnet3py.errors import UserError
from nnet3py.nnet.component import Array


def read_matrix_file(rxfilename: str, min_columns: int = 1) -> Array:
    """The matrix in ``rxfilename`` as float32 (rows, columns).

    Raises UserError if it cannot be read, has no rows, fewer than ``min_columns`` columns, or numbers not finite.
    """
    from nnet3py.tables.basic_types import read_header
    from nnet3py.tables.matrix import read_matrix
    from nnet3py.tables.streams import open_input
    from nnet3py.text.expectation import MATRIX_FILE

    with open_input(rxfilename, MATRIX_FILE) as source:
        matrix = np.ascontiguousarray(read_matrix(source, read_header(source)), dtype=np.float32)
    if matrix.ndim != 2 or matrix.shape[0] == 0 or matrix.shape[1] < min_columns:
        raise UserError(
            f"{rxfilename}: expected a matrix with rows and at least {min_columns} columns, found one of "
            f"{' by '.join(map(str, matrix.shape))}."
        )
    return _finite(matrix, rxfilename)


def read_vector_file(rxfilename: str) -> Array:
    """The vector in ``rxfilename`` as float32 (dim,). Raises UserError if it cannot be read or is empty."""
    from nnet3py.tables.basic_types import read_header
    from nnet3py.tables.matrix import read_vector
    from nnet3py.tables.streams import open_input
    from nnet3py.text.expectation import VECTOR_FILE

    with open_input(rxfilename, VECTOR_FILE) as source:
        vector = np.ascontiguousarray(read_vector(source, read_header(source)), dtype=np.float32)
    if vector.size == 0:
        raise UserError(f"{rxfilename}: expected a vector with elements, found an empty one.")
    return _finite(vector, rxfilename)


def _finite(array: Array, rxfilename: str) -> Array:
    if not np.isfinite(array).all():
        raise UserError(f"{rxfilename}: has numbers that are not finite; find out what wrote them.")
    return array
