"""Matrices to and from the bytes they have inside a binary example, quickly.

The same encodings as :mod:`nnet3py.tables` reads from a stream; here the bytes are at hand and have been scanned
(:mod:`nnet3py.egs.scan`), and an example a few kilobytes long is read in tens of microseconds.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nnet3py.egs.scan import one_label_rows, sparse_row_starts
from nnet3py.errors import UserError
from nnet3py.tables.compressed_matrix import ONE_BYTE, PERCENTILES, TWO_BYTES, CompressedMatrix, CompressedStack
from nnet3py.tables.general_matrix import GeneralMatrix, read_general_matrix, to_array, write_general_matrix
from nnet3py.tables.row_records import PAIR
from nnet3py.tables.sparse_matrix import SparseMatrix, encoded_rows
from nnet3py.tables.streams import Sink, Source

_FULL_HEADER = struct.Struct("<bibi")
_COMPRESSED_HEADER = struct.Struct("<ffii")
_COMPRESSED_HEAD = np.dtype([("min_value", "<f4"), ("range", "<f4"), ("rows", "<i4"), ("columns", "<i4")])
_FORM_TOKENS = {PERCENTILES: b"CM ", TWO_BYTES: b"CM2 ", ONE_BYTE: b"CM3 "}
_NO_COLUMN_HEADERS = np.empty((0, 4), np.uint16)


def num_cols(encoded: bytes, start: int) -> int:
    """The number of columns of the matrix at ``start``."""
    token = encoded[start : start + 2]
    if token == b"SM":  # SM, number of rows, SV, number of columns
        return int.from_bytes(encoded[start + 12 : start + 16], "little") if encoded[start + 8 : start + 9] else 0
    if token == b"CM":
        at = encoded.index(b" ", start) + 13
        return int.from_bytes(encoded[at : at + 4], "little")
    return int.from_bytes(encoded[start + 9 : start + 13], "little")


def decode(encoded: bytes, start: int, end: int) -> GeneralMatrix:
    """The matrix that lies between two places. A full one is a read-only view of the bytes."""
    token = encoded[start : start + 3]
    if token == b"SM ":
        return _decode_sparse(encoded, start + 3)
    if token == b"FM ":
        _, rows, _, columns = _FULL_HEADER.unpack_from(encoded, start + 3)
        return np.frombuffer(encoded, dtype="<f4", count=rows * columns, offset=start + 13).reshape(rows, columns)
    if token[:2] == b"CM":
        return _decode_compressed(encoded, start)
    matrix = read_general_matrix(Source(io.BytesIO(encoded[start:end]), "example"), True)
    return matrix.astype(np.float32) if isinstance(matrix, np.ndarray) else matrix


def _decode_compressed(encoded: bytes, start: int) -> CompressedMatrix:
    """The stored bytes are not copied: a column of the form CM is a row of what lies in the file."""
    form = {b" ": PERCENTILES, b"2": TWO_BYTES, b"3": ONE_BYTE}[encoded[start + 2 : start + 3]]
    start += 3 if form == PERCENTILES else 4
    min_value, extent, rows, columns = _COMPRESSED_HEADER.unpack_from(encoded, start)
    start += _COMPRESSED_HEADER.size
    headers = _NO_COLUMN_HEADERS
    if form == PERCENTILES:
        headers = np.frombuffer(encoded, "<u2", 4 * columns, start).reshape(columns, 4)
        data = np.frombuffer(encoded, np.uint8, rows * columns, start + 8 * columns).reshape(columns, rows).T
    else:
        kind = "<u2" if form == TWO_BYTES else np.uint8
        data = np.frombuffer(encoded, kind, rows * columns, start).reshape(rows, columns)
    return CompressedMatrix(form, np.float32(min_value), np.float32(extent), rows, columns, headers, data)


def _decode_sparse(encoded: bytes, start: int) -> SparseMatrix:
    rows = int.from_bytes(encoded[start + 1 : start + 5], "little")
    start += 5
    table = one_label_rows(encoded, start, rows)
    if table is not None:
        indptr = np.arange(rows + 1)
        dims, indices, values = table["dim"], table["index"], table["value"]
    else:
        starts = np.array(sparse_row_starts(encoded, start, rows), dtype=np.int64)
        raw = np.frombuffer(encoded, dtype=np.uint8)
        header = starts[:, None] - np.array([9, 8, 7, 6, 4, 3, 2, 1])
        numbers = np.ascontiguousarray(raw[header]).view("<i4").reshape(rows, 2)
        dims, sizes = numbers[:, 0], numbers[:, 1]
        indptr = np.concatenate([[0], np.cumsum(sizes)])
        within = np.arange(indptr[-1]) - indptr[:-1].repeat(sizes)
        places = (starts.repeat(sizes) + 10 * within)[:, None] + np.arange(10)
        elements = np.ascontiguousarray(raw[places]).view(PAIR).reshape(-1)
        if ((elements["mark1"] != 4) | (elements["mark2"] != 4)).any():
            raise UserError("a damaged sparse matrix in a training example: expected 4-byte numbers")
        indices, values = elements["index"], elements["value"]
    columns = int(dims[0]) if rows else 0
    if (dims != columns).any():
        raise UserError("a sparse matrix in a training example whose rows have different numbers of columns")
    if len(indices) and not (indices.min() >= 0 and indices.max() < columns):
        raise UserError(
            f"a label outside 0..{columns - 1} in a training example (labels {indices.min()} to {indices.max()})"
        )
    return SparseMatrix(indptr, indices.astype(np.int32), values.astype(np.float32), columns)


def encode(matrix: GeneralMatrix) -> bytes:
    """The matrix as Kaldi writes it in binary."""
    if isinstance(matrix, SparseMatrix):
        return _encode_sparse(matrix)
    if isinstance(matrix, np.ndarray) and matrix.dtype == np.float32:
        head = _FULL_HEADER.pack(4, matrix.shape[0], 4, matrix.shape[1])
        return b"".join((b"FM ", head, np.ascontiguousarray(matrix).data.cast("B") if matrix.size else b""))
    memory = io.BytesIO()
    write_general_matrix(Sink(memory, "example"), matrix, True)
    return memory.getvalue()


def _encode_sparse(matrix: SparseMatrix) -> bytes:
    return b"SM " + struct.pack("<bi", 4, matrix.num_rows) + encoded_rows(matrix)


def encode_stack(stack: CompressedStack) -> list[bytes]:
    """Each compressed matrix as Kaldi writes it in binary."""
    count, rows, columns = stack.data.shape
    heads = np.empty(count, _COMPRESSED_HEAD)
    heads["min_value"], heads["range"], heads["rows"], heads["columns"] = stack.min_values, stack.ranges, rows, columns
    data = stack.data.swapaxes(1, 2) if stack.form == PERCENTILES else stack.data
    headers = stack.column_headers.astype("<u2", copy=False)
    body = np.ascontiguousarray(data.astype(data.dtype.newbyteorder("<"), copy=False))
    parts = [np.ascontiguousarray(part).view(np.uint8).reshape(count, -1) for part in (heads, headers, body)]
    whole = np.concatenate(parts, axis=1)
    token, size = _FORM_TOKENS[stack.form], whole.shape[1]
    encoded = whole.tobytes()
    return [token + encoded[start : start + size] for start in range(0, count * size, size)]


def encode_sparse_parts(matrix: SparseMatrix, sizes: Sequence[int]) -> list[bytes]:
    """The first ``sizes[0]`` rows of a matrix as a matrix of their own, as Kaldi writes it in binary, and so on."""
    encoded = _encode_sparse(matrix)
    ends = np.cumsum(sizes)
    places = (8 + 13 * ends + 10 * matrix.indptr[ends]).tolist()
    starts = [8, *places[:-1]]
    return [
        b"SM " + struct.pack("<bi", 4, rows) + encoded[start:end]
        for rows, start, end in zip(sizes, starts, places, strict=True)
    ]


def append(matrices: Sequence[bytes]) -> bytes | None:
    """One encoded matrix with the rows of several of the same number of columns; None unless all have one form.

    Sparse and full matrices are joined without being interpreted; compressed ones become a full matrix.
    """
    token = matrices[0][: matrices[0].find(b" ") + 1]
    if not all(matrix.startswith(token) for matrix in matrices):
        return None
    if token == b"SM ":
        rows = sum(int.from_bytes(matrix[4:8], "little") for matrix in matrices)
        return b"".join((b"SM ", struct.pack("<bi", 4, rows), *(matrix[8:] for matrix in matrices)))
    if token == b"FM ":
        rows = sum(int.from_bytes(matrix[4:8], "little") for matrix in matrices)
        return b"".join((b"FM ", struct.pack("<bi", 4, rows), matrices[0][8:13], *(matrix[13:] for matrix in matrices)))
    if token.startswith(b"CM") and len({len(matrix) for matrix in matrices}) == 1:
        return encode(_expand_together(matrices, len(token)))
    return None


def _expand_together(matrices: Sequence[bytes], token_size: int) -> np.ndarray:
    """The rows of compressed matrices of one form and size, expanded in one go: their headers become arrays."""
    raw = np.frombuffer(b"".join(matrices), dtype=np.uint8).reshape(len(matrices), -1)[:, token_size:]
    limits = np.ascontiguousarray(raw[:, :8]).view("<f4")
    sizes = np.ascontiguousarray(raw[:, 8:16]).view("<i4")
    if (sizes != sizes[0]).any():
        raise UserError("compressed matrices of different sizes in examples of one structure")
    rows, columns = (int(size) for size in sizes[0])
    body = raw[:, 16:]
    one = _decode_compressed(matrices[0], 0)
    lowest: Any
    extent: Any  # arrays where a single matrix has numbers
    if one.form == PERCENTILES:
        # side by side, each column with the limits of its matrix
        headers = np.ascontiguousarray(body[:, : 8 * columns]).view("<u2").reshape(-1, 4)
        data = body[:, 8 * columns :].reshape(-1, rows).T
        lowest, extent = (limits[:, side].repeat(columns) for side in (0, 1))
        wide = replace(one, min_value=lowest, range=extent, column_headers=headers, data=data).to_array()
        return wide.reshape(rows, len(matrices), columns).swapaxes(0, 1).reshape(-1, columns)
    data = np.ascontiguousarray(body).view(one.data.dtype).reshape(-1, rows, columns)
    lowest, extent = limits[:, 0, None, None], limits[:, 1, None, None]
    return replace(one, min_value=lowest, range=extent, data=data).to_array().reshape(-1, columns)


def stack_rows(matrices: Sequence[GeneralMatrix]) -> np.ndarray:
    """The rows of all matrices as one float32 array."""
    return np.concatenate([to_array(matrix) for matrix in matrices], dtype=np.float32)
