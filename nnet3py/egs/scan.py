"""Finding where a binary training example ends, and where its parts lie, without interpreting what is in them.

Shuffling, copying and taking subsets move examples as bytes; only their extent is needed. The scan follows the
structure of the encoding (it does not search for the closing token, which compressed data might contain by chance), so
that an example that scans is one that can be read.

    <Nnet3Eg> <NumIo> 2 { <NnetIo> name <I1V> rows index... matrix </NnetIo> } </Nnet3Eg>

Matrices are FM and DM (rows, columns, values), CM, CM2 and CM3 (compressed), SM (sparse rows, each SV).

Source: Kaldi src/nnet3/nnet-example.cc; src/matrix/{kaldi,compressed,sparse}-matrix.cc.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from nnet3py.egs import index_vector
from nnet3py.egs.incomplete import Incomplete
from nnet3py.errors import UserError

_INT = struct.Struct("<bi")
_TWO_INTS = struct.Struct("<bibi")
_COMPRESSED_HEADER = struct.Struct("<ffii")
_ONE_LABEL_ROW = 23  # SV, dim, 1, class, weight
_LONGEST_NAME = 1000
_MOST_IOS = 1000000

ONE_LABEL = np.dtype(
    {
        "names": ["dim", "index", "value"],
        "formats": ["<i4", "<i4", "<f4"],
        "offsets": [4, 14, 19],
        "itemsize": _ONE_LABEL_ROW,
    }
)
"""A sparse row that holds one element, as it lies in the file."""


class IoSpan(NamedTuple):
    """Where one input or output lies in the example's bytes."""

    name: bytes
    rows: int
    indexes: int
    """Start of the encoded index elements."""
    matrix: int
    """Start of the matrix, which is also the end of the index elements."""
    end: int
    """End of the matrix."""


def scan_example(buffer: bytes, start: int = 0) -> tuple[int, list[IoSpan]]:
    """The end of the binary example that begins at ``start`` (after the file's ``\\0B``), and its parts.

    Raises Incomplete when the buffer ends first; UserError where the bytes are not those of an example.
    """
    try:
        position = _after(buffer, start, b"<Nnet3Eg> <NumIo> ")
        num_ios, position = _integer(buffer, position)
        if not 0 < num_ios <= _MOST_IOS:
            raise UserError(f"the number of inputs and outputs of an example cannot be {num_ios} (byte {position})")
        spans = []
        for _ in range(num_ios):
            span = _scan_io(buffer, position)
            spans.append(span)
            position = _after(buffer, span.end, b"</NnetIo> ")
        return _after(buffer, position, b"</Nnet3Eg> "), spans
    except struct.error:
        raise Incomplete(len(buffer) + 1) from None


def _scan_io(buffer: bytes, position: int) -> IoSpan:
    position = _after(buffer, position, b"<NnetIo> ")
    name_end = buffer.find(b" ", position, position + _LONGEST_NAME)
    if name_end < 0:
        if len(buffer) < position + _LONGEST_NAME:
            raise Incomplete(len(buffer) + 1)
        raise UserError(f"expected the name of an input or output and a space at byte {position} of the example")
    name = buffer[position:name_end]
    rows, position = _integer(buffer, _after(buffer, name_end + 1, index_vector.TOKEN))
    if rows < 0:
        raise UserError(f"a vector of {rows} indexes at byte {position} of the example")
    matrix = index_vector.end_of(buffer, position, rows)
    end, matrix_rows = _scan_matrix(buffer, matrix)
    if matrix_rows != rows:
        raise UserError(f"{name.decode(errors='replace')!r} has {rows} indexes and {matrix_rows} rows of features")
    return IoSpan(name, rows, position, matrix, end)


def _after(buffer: bytes, position: int, token: bytes) -> int:
    end = position + len(token)
    if buffer.startswith(token, position):
        return end
    found = buffer[position:end]
    if token.startswith(found):
        raise Incomplete(end)
    raise UserError(f"expected {token.decode().strip()} at byte {position} of the example, found {found!r}")


def _integer(buffer: bytes, position: int) -> tuple[int, int]:
    size, value = _INT.unpack_from(buffer, position)
    if size != 4:
        raise UserError(f"expected a 4-byte integer at byte {position} of the example, found size byte {size}")
    return value, position + 5


def _scan_matrix(buffer: bytes, position: int) -> tuple[int, int]:
    """The end of the matrix at ``position``, and its number of rows."""
    token_end = buffer.find(b" ", position, position + 4) + 1
    token = buffer[position:token_end]
    if token == b"SM ":
        return _scan_sparse(buffer, token_end)
    if token in (b"CM ", b"CM2 ", b"CM3 "):
        _, _, rows, columns = _COMPRESSED_HEADER.unpack_from(buffer, token_end)
        begin = token_end + _COMPRESSED_HEADER.size
        size = columns * (8 + rows) if token == b"CM " else rows * columns * (2 if token == b"CM2 " else 1)
    elif token in (b"FM ", b"DM "):
        one, rows, two, columns = _TWO_INTS.unpack_from(buffer, token_end)
        if (one, two) != (4, 4):
            raise UserError(f"expected two 4-byte integers at byte {token_end} of the example, found damage")
        begin = token_end + _TWO_INTS.size
        size = rows * columns * (4 if token == b"FM " else 8)
    elif token_end == 0 and len(buffer) < position + 4:
        raise Incomplete(position + 4)
    else:
        raise UserError(
            f"expected a matrix (FM, DM, CM, CM2, CM3 or SM) at byte {position} of the example, "
            f"found {buffer[position : position + 4]!r}"
        )
    if rows < 0 or columns < 0:
        raise UserError(f"a matrix of {rows} rows and {columns} columns at byte {position} of the example")
    if begin + size > len(buffer):
        raise Incomplete(begin + size)
    return begin + size, rows


def _scan_sparse(buffer: bytes, position: int) -> tuple[int, int]:
    rows, position = _integer(buffer, position)
    if rows < 0:
        raise UserError(f"a sparse matrix of {rows} rows at byte {position} of the example")
    end = position + rows * _ONE_LABEL_ROW
    if rows > 8 and one_label_rows(buffer, position, rows) is not None:
        return end, rows
    for _ in range(rows):
        position = _after(buffer, position, b"SV ")
        one, dim, two, size = _TWO_INTS.unpack_from(buffer, position)
        if (one, two) != (4, 4) or not 0 <= size <= dim:
            raise UserError(f"a damaged sparse row ({size} elements of {dim}) at byte {position} of the example")
        position += 10 + 10 * size
    if position > len(buffer):
        raise Incomplete(position)
    return position, rows


def one_label_rows(buffer: bytes, position: int, rows: int) -> np.ndarray | None:
    """The sparse rows at ``position`` as an array of ONE_LABEL if each holds exactly one element, else None."""
    if position + rows * _ONE_LABEL_ROW > len(buffer):
        return None
    table = np.frombuffer(buffer, dtype=ONE_LABEL, count=rows, offset=position)
    raw = np.frombuffer(buffer, dtype=np.uint8, count=rows * _ONE_LABEL_ROW, offset=position).reshape(rows, -1)
    expected = _ONE_LABEL_PATTERN
    if not (raw[:, _ONE_LABEL_FIXED] == expected[_ONE_LABEL_FIXED]).all():
        return None
    return table


_ONE_LABEL_PATTERN = np.frombuffer(
    b"SV \x04" + bytes(4) + b"\x04\x01\x00\x00\x00" + b"\x04" + bytes(4) + b"\x04" + bytes(4), dtype=np.uint8
)
_ONE_LABEL_FIXED = np.array([0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 18])


def sparse_row_starts(buffer: bytes, position: int, rows: int) -> list[int]:
    """Where each sparse row's first element lies; the matrix has been scanned before."""
    starts = []
    for _ in range(rows):
        size = int.from_bytes(buffer[position + 9 : position + 13], "little")
        starts.append(position + 13)
        position += 13 + 10 * size
    return starts
