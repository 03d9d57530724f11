"""Copies of whole tables and single objects, in another form: what the copy programs do."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnet3py.errors import UserError
from nnet3py.tables.basic_types import read_header, write_header
from nnet3py.tables.compressed_matrix import CompressedMatrix, compress
from nnet3py.tables.general_matrix import write_general_matrix
from nnet3py.tables.holders import GENERAL_MATRIX, INT, INT_VECTOR, MATRIX, POSTERIOR, VECTOR, Holder
from nnet3py.tables.matrix import (
    read_int_vector,
    read_vector,
    write_int_vector,
    write_vector,
)
from nnet3py.tables.posterior import Posterior
from nnet3py.tables.streams import open_input, open_output
from nnet3py.tables.table import SequentialReader, TableWriter
from nnet3py.text.expectation import VECTOR_FILE, Expected

_INTEGERS = Expected("a vector of integers in a file of its own", frozenset({"integers", "numbers", "vector"}))
_LOG_FLOOR = 1.0e-20  # as in Kaldi's copy-matrix

Change = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def _as_float32(array: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def elementwise(scale: float = 1.0, function: str = "", power: float = 1.0) -> Change:
    """What ``copy-matrix`` does to a matrix: scale it, apply a function, raise its elements to a power.

    function: ``log`` (of elements below 1e-20, that of 1e-20), ``exp``, ``softmax-per-row``, or empty for none. The
    function that is returned raises UserError for a number that has no such power.
    """

    def change(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            changed = matrix if scale == 1.0 else matrix * np.float32(scale)
            if function == "log":
                changed = np.log(np.maximum(changed, np.float32(_LOG_FLOOR)))
            elif function == "exp":
                changed = np.exp(changed)
            elif function == "softmax-per-row":
                changed = _softmax_of_rows(changed)
            return changed if power == 1.0 else _raised(changed, power)

    return change


def _softmax_of_rows(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    if matrix.size == 0:
        return matrix
    weights = np.exp(matrix - matrix.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def _raised(matrix: NDArray[np.float32], power: float) -> NDArray[np.float32]:
    raised = np.power(matrix, np.float32(power))
    bad = np.isfinite(matrix) & ~np.isfinite(raised)
    if bad.any():
        raise UserError(f"The number {matrix[bad][0]:g} in a matrix cannot be raised to the power {power:g}.")
    return raised


def _with_dim(vector: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """The vector cut off or padded with zeros; a negative dimension leaves it."""
    if dim < 0:
        return vector
    return np.concatenate([vector[:dim], np.zeros(max(dim - len(vector), 0), np.float32)])


def _prepared(
    matrix: NDArray[Any], method: int | None, change: Change | None
) -> NDArray[np.float32] | CompressedMatrix:
    array = _as_float32(matrix)
    if change is not None:
        array = change(array)
    return array if method is None else compress(array, method)


def _require_some(count: int, rspecifier: str, what: str) -> None:
    """An empty input is an error, so that it does not take the place of an earlier output."""
    if count == 0:
        raise UserError(f"There are no {what} in {rspecifier}; nothing is written.")


def copy_matrices(
    source: str,
    target: str,
    *,
    method: int | None = None,
    num_frames: str = "",
    change: Change | None = None,
    holder: Holder[NDArray[Any]] = MATRIX,
) -> int:
    """Copy a table of matrices; returns how many.

    Args:
        source: rspecifier.
        target: wspecifier.
        method: how to compress them; ``None`` for not at all.
        num_frames: wspecifier for their numbers of rows; empty for none.
        change: what to do with each.
        holder: how they are read.

    Raises:
        UserError: the table is empty, or cannot be read or written.
    """
    count = 0
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(SequentialReader(source, holder))
        writer = stack.enter_context(TableWriter(target, GENERAL_MATRIX))
        lengths = stack.enter_context(TableWriter(num_frames, INT)) if num_frames else None
        for key, matrix in reader:
            try:
                writer.write(key, _prepared(matrix, method, change))
            except UserError as problem:
                raise UserError(f"Key {key!r}: {problem}") from problem
            if lengths is not None:
                lengths.write(key, len(matrix))
            count += 1
        _require_some(count, source, "matrices")
    return count


def copy_matrix_file(
    source: str,
    target: str,
    *,
    method: int | None = None,
    binary: bool = True,
    change: Change | None = None,
    holder: Holder[NDArray[Any]] = MATRIX,
) -> None:
    """Copy one matrix from a rxfilename to a wxfilename; otherwise like :func:`copy_matrices`."""
    with open_input(source, Expected("a matrix in a file of its own", holder.contents)) as stream:
        matrix = holder.read(stream)
    with open_output(target) as sink:
        write_header(sink, binary)
        write_general_matrix(sink, _prepared(matrix, method, change), binary)


def copy_vectors(source: str, target: str, *, scale: float = 1.0, dim: int = -1) -> int:
    """Copy a table of vectors, cut off or padded to ``dim`` if that is not negative, times ``scale``; their number."""
    count = 0
    with SequentialReader(source, VECTOR) as reader, TableWriter(target, VECTOR) as writer:
        for key, vector in reader:
            writer.write(key, _with_dim(_as_float32(vector), dim) * np.float32(scale))
            count += 1
        _require_some(count, source, "vectors")
    return count


def copy_vector_file(source: str, target: str, *, binary: bool = True, scale: float = 1.0, dim: int = -1) -> None:
    """Copy one vector from a rxfilename to a wxfilename, changed as in :func:`copy_vectors`."""
    with open_input(source, VECTOR_FILE) as stream:
        vector = read_vector(stream, read_header(stream))
    with open_output(target) as sink:
        write_header(sink, binary)
        write_vector(sink, _with_dim(_as_float32(vector), dim) * np.float32(scale), binary)


def copy_int_vectors(source: str, target: str) -> int:
    """Copy a table of vectors of integers; returns how many."""
    count = 0
    with SequentialReader(source, INT_VECTOR) as reader, TableWriter(target, INT_VECTOR) as writer:
        for key, vector in reader:
            writer.write(key, vector)
            count += 1
        _require_some(count, source, "vectors of integers")
    return count


def copy_int_vector_file(source: str, target: str, *, binary: bool = True) -> None:
    """Copy one vector of integers from a rxfilename to a wxfilename."""
    with open_input(source, _INTEGERS) as stream:
        vector = read_int_vector(stream, read_header(stream))
    with open_output(target) as sink:
        write_header(sink, binary)
        write_int_vector(sink, vector, binary)


def alignments_to_posteriors(source: str, target: str) -> int:
    """Copy a table of integer vectors as posteriors of weight 1; returns how many."""
    count = 0
    with SequentialReader(source, INT_VECTOR) as reader, TableWriter(target, POSTERIOR) as writer:
        for key, vector in reader:
            writer.write(key, Posterior.of_alignment(vector))
            count += 1
        _require_some(count, source, "alignments")
    return count


def write_sizes(source: str, target: str, *, axis: int) -> int:
    """Write the number of rows (axis 0) or columns (axis 1) of each matrix to a table of integers; returns how many."""
    count = 0
    with SequentialReader(source, GENERAL_MATRIX) as reader, TableWriter(target, INT) as writer:
        for key, matrix in reader:
            writer.write(key, matrix.shape[axis])
            count += 1
        _require_some(count, source, "matrices")
    return count


def write_lengths(source: str, target: str) -> int:
    """Write the number of elements of each vector of integers to a table of integers; returns how many."""
    count = 0
    with SequentialReader(source, INT_VECTOR) as reader, TableWriter(target, INT) as writer:
        for key, vector in reader:
            writer.write(key, len(vector))
            count += 1
        _require_some(count, source, "vectors of int32")
    return count


def first_dimension(source: str) -> int:
    """The number of columns of a table's first matrix.

    Raises:
        UserError: the table is empty.
    """
    with SequentialReader(source, GENERAL_MATRIX) as reader:
        for _, matrix in reader:
            return int(matrix.shape[1])
    raise UserError(f"There are no matrices in {source}, so that their dimension is not known.")


def total_frames(source: str) -> int:
    """The number of rows of all matrices of a table together."""
    with SequentialReader(source, GENERAL_MATRIX) as reader:
        lengths = [int(matrix.shape[0]) for _, matrix in reader]
    _require_some(len(lengths), source, "matrices")
    return sum(lengths)
