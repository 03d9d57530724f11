"""Sums of matrices: of one table, of files, or of several tables key by key.

Source: Kaldi src/bin/matrix-sum.cc.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.open_files import room_for
from nnet3py.tables.basic_types import read_header
from nnet3py.tables.holders import MATRIX
from nnet3py.tables.matrix import read_matrix
from nnet3py.tables.streams import open_input
from nnet3py.tables.table import RandomAccessReader, SequentialReader, TableWriter
from nnet3py.text.expectation import MATRIX_FILE

Matrix = NDArray[np.float32]


def sum_of_table(rspecifier: str) -> tuple[Matrix, int, int]:
    """The sum of a table's matrices, made in double precision; how many went in, and how many were left out.

    An empty matrix, or one of another size than the first, is left out with a warning.

    Raises:
        UserError: no matrix went in, or the table cannot be read.
    """
    total: NDArray[np.float64] | None = None
    done = failed = 0
    with SequentialReader(rspecifier, MATRIX) as reader:
        for key, matrix in reader:
            if matrix.size == 0 or (total is not None and matrix.shape != total.shape):
                wanted = "one that is not empty" if total is None else _size(total)
                log.warning(f"{key}: expected a matrix of the same size as others, {wanted}, found {_size(matrix)}.")
                failed += 1
                continue
            total = _float32(matrix).astype(np.float64) + (0.0 if total is None else total)
            done += 1
    if total is None:
        raise UserError(f"{rspecifier} has no matrix to add up; nothing is written.")
    return total.astype(np.float32), done, failed


def sum_of_files(rxfilenames: Sequence[str], average: bool = False) -> Matrix:
    """The sum, or average, of the matrices in several files.

    Raises:
        UserError: a file cannot be read, or has a matrix of another size.
    """
    total: Matrix | None = None
    for name in rxfilenames:
        with open_input(name, MATRIX_FILE) as source:
            matrix = _float32(read_matrix(source, read_header(source)))
        if total is not None and matrix.shape != total.shape:
            raise UserError(f"Expected a matrix of {_size(total)} in {name}, found {_size(matrix)}.")
        total = matrix if total is None else total + matrix
    assert total is not None
    return total * np.float32(1.0 / len(rxfilenames)) if average else total


def sum_tables(rspecifiers: Sequence[str], wspecifier: str, scales: Sequence[float]) -> tuple[int, int]:
    """For each key of the first table the sum over all tables, each scaled; returns how many sums, and what lacked.

    A table that has no matrix under a key, or one of another size, is passed over there with a warning.

    Raises:
        UserError: the first table is empty, or a table cannot be read or written.
    """
    done = missing = 0
    room_for(len(rspecifiers))  # all are read side by side
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(SequentialReader(rspecifiers[0], MATRIX))
        others = [(name, stack.enter_context(RandomAccessReader(name, MATRIX))) for name in rspecifiers[1:]]
        writer = stack.enter_context(TableWriter(wspecifier, MATRIX))
        for key, matrix in first:
            total = _float32(matrix) * np.float32(scales[0])
            for (name, table), scale in zip(others, scales[1:], strict=True):
                if key not in table:
                    log.warning(f"{key}: {name} has no matrix for it.")
                    missing += 1
                    continue
                other = _float32(table[key])
                if other.shape != total.shape:
                    log.warning(f"{key}: expected a matrix of {_size(total)} in {name}, found {_size(other)}.")
                    continue
                total += np.float32(scale) * other
            writer.write(key, total)
            done += 1
        if not done:
            raise UserError(f"{rspecifiers[0]} has no matrix; nothing is written.")
    return done, missing


def _float32(array: NDArray[Any]) -> Matrix:
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def _size(array: NDArray[Any]) -> str:
    return f"{array.shape[0]} by {array.shape[1]}"
