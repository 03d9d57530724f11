"""Kaldi's encoding of a vector of indexes (n, t, x): which sequence, which frame, and a third one that is normally 0.

In binary an element is one signed byte where it can be: the difference in t from the element before it (from zero for
the first), with n and x unchanged. Everything else is byte 127 and the three numbers, each as Kaldi writes an int32
(byte 4, then four bytes). An index vector is ``<I1V>``, the number of elements, the elements.

Index vectors are held as (rows, 3) int32 arrays with columns n, t, x. The same few occur over and over in an archive,
so both directions remember the ones they met.

Source: Kaldi src/nnet3/nnet-common.cc, WriteIndexVector and ReadIndexVector.
"""

from __future__ import annotations

import functools
import re
import struct

import numpy as np

from nnet3py.egs.incomplete import Incomplete
from nnet3py.errors import UserError

TOKEN = b"<I1V> "
_EXPLICIT = 127
_EXPLICIT_SIZE = 16  # byte 127, then 4+n, 4+t, 4+x
_LARGEST_STEP = 124
_THREE_INTEGERS = struct.Struct("<bibibi")
_NOT_ALLOWED = re.compile(rb"[\x7d\x7e\x80-\x83]")  # 125, 126, and -128..-125
_INT32 = np.iinfo(np.int32)

T_COLUMN = 1

_MOST_REMEMBERED = 256
_last_seen: dict[int, bytes] = {}  # by the number of elements, the encoding met last


def consecutive(t_begin: int, count: int, t_stride: int = 1) -> np.ndarray:
    """Indexes of one sequence: n = x = 0 and t = t_begin, t_begin + t_stride, ...; read-only, shared between calls."""
    return _consecutive(t_begin, count, t_stride)


@functools.lru_cache(maxsize=256)
def _consecutive(t_begin: int, count: int, t_stride: int) -> np.ndarray:
    indexes = np.zeros((count, 3), dtype=np.int32)
    indexes[:, T_COLUMN] = t_begin + t_stride * np.arange(count)
    indexes.flags.writeable = False
    return indexes


def end_of(buffer: bytes, start: int, count: int) -> int:
    """Where ``count`` encoded elements that begin at ``start`` end.

    Raises Incomplete when the buffer ends first, UserError at a byte that no element starts with.
    """
    known = _last_seen.get(count)
    if known is not None and buffer.startswith(known, start):  # the same bytes end at the same place
        return start + len(known)
    end = _measure(buffer, start, count)
    if len(_last_seen) >= _MOST_REMEMBERED:
        _last_seen.clear()
    _last_seen[count] = buffer[start:end]
    return end


def _measure(buffer: bytes, start: int, count: int) -> int:
    position, left = start, count
    while left > 0:
        if position + left > len(buffer):
            raise Incomplete(position + left)
        explicit = buffer.find(_EXPLICIT, position, position + left)
        run = left if explicit < 0 else explicit - position
        wrong = _NOT_ALLOWED.search(buffer, position, position + run)
        if wrong:
            raise UserError(
                f"a damaged vector of indexes: byte {wrong.group()[0]} at byte {wrong.start()} of the example is "
                "neither a time step (-124..124) nor 127"
            )
        left -= run
        position += run
        if left > 0:
            position += _EXPLICIT_SIZE
            left -= 1
            if position > len(buffer):
                raise Incomplete(position)
            sizes = buffer[position - 15], buffer[position - 10], buffer[position - 5]
            if sizes != (4, 4, 4):
                raise UserError(
                    f"a damaged vector of indexes: expected 4-byte integers at byte {position - 15} of the example"
                )
    return position


@functools.lru_cache(maxsize=512)
def decode(elements: bytes, count: int) -> np.ndarray:
    """The (count, 3) int32 array of the encoded elements, which :func:`end_of` has measured; read-only."""
    indexes = np.zeros((count, 3), dtype=np.int64)
    row = position = 0
    n = t = x = 0
    while row < count:
        explicit = elements.find(_EXPLICIT, position, position + count - row)
        run = count - row if explicit < 0 else explicit - position
        if run:
            steps = np.frombuffer(elements, dtype=np.int8, count=run, offset=position)
            indexes[row : row + run, 0] = n
            indexes[row : row + run, 1] = t + np.cumsum(steps, dtype=np.int64)
            indexes[row : row + run, 2] = x
            row += run
            position += run
            t = int(indexes[row - 1, 1])
        if row < count:
            _, n, _, t, _, x = _THREE_INTEGERS.unpack_from(elements, position + 1)
            indexes[row] = n, t, x
            row += 1
            position += _EXPLICIT_SIZE
    if count and not (_INT32.min <= indexes.min() and indexes.max() <= _INT32.max):
        raise UserError("a damaged vector of indexes: a time index is beyond 32 bits")
    result = indexes.astype(np.int32)
    result.flags.writeable = False
    return result


def encode(indexes: np.ndarray) -> bytes:
    """``<I1V>``, the number of rows of ``indexes`` (rows, 3), and its elements, in binary."""
    indexes = np.ascontiguousarray(indexes, dtype=np.int32)
    return _encode(indexes.tobytes())


@functools.lru_cache(maxsize=512)
def _encode(flat: bytes) -> bytes:
    indexes = np.frombuffer(flat, dtype=np.int32).reshape(-1, 3)
    steps = np.diff(indexes.astype(np.int64), axis=0, prepend=np.zeros((1, 3), dtype=np.int64))
    short = (steps[:, 0] == 0) & (steps[:, 2] == 0) & (np.abs(steps[:, 1]) <= _LARGEST_STEP)
    one_byte = steps[:, 1].astype(np.int8).tobytes()
    pieces = [TOKEN, struct.pack("<bi", 4, len(indexes))]
    done = 0
    for row in np.flatnonzero(~short).tolist():
        n, t, x = indexes[row].tolist()
        pieces += (one_byte[done:row], b"\x7f", _THREE_INTEGERS.pack(4, n, 4, t, 4, x))
        done = row + 1
    pieces.append(one_byte[done:])
    return b"".join(pieces)


def encode_text(indexes: np.ndarray) -> bytes:
    """The same in Kaldi's text form: ``<I1V> 2 <I1> 0 0 0 <I1> 0 1 0`` and a final space."""
    rows = "".join(f"<I1> {n} {t} {x} " for n, t, x in indexes.tolist())
    return f"<I1V> {len(indexes)} {rows}".encode()
