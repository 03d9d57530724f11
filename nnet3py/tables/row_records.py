"""Rows of records in binary: each row a header of fixed size and then some records of fixed size, put together at once.

Posteriors and sparse matrices are laid out like this: for a frame or row, how many pairs it has, and the pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PAIR = np.dtype([("mark1", "u1"), ("index", "<i4"), ("mark2", "u1"), ("value", "<f4")])
"""An int32 and a float32, each after the byte that tells its size, which is 4."""


def pairs_of(indices: NDArray[np.int32], values: NDArray[np.float32]) -> NDArray[Any]:
    """Numbers (pairs,) of either kind as :data:`PAIR`."""
    pairs = np.empty(len(indices), PAIR)
    pairs["mark1"], pairs["mark2"], pairs["index"], pairs["value"] = 4, 4, indices, values
    return pairs


def interleaved(heads: NDArray[Any], records: NDArray[Any], sizes: NDArray[np.int64]) -> bytes:
    """The bytes of each header and of the records of its row.

    heads: (rows,) of a structured type. records: (records,) of one, row after row. sizes: (rows,), how many each has.
    """
    rows, head_size, record_size = len(heads), heads.dtype.itemsize, records.dtype.itemsize
    head_bytes = heads.view(np.uint8).reshape(rows, head_size)
    if (sizes == 1).all():
        record_bytes = records.view(np.uint8).reshape(rows, record_size)
        return np.concatenate([head_bytes, record_bytes], axis=1).tobytes()
    out = np.empty(heads.nbytes + records.nbytes, np.uint8)
    is_record = np.ones(len(out), bool)
    starts = head_size * np.arange(rows) + record_size * (np.cumsum(sizes) - sizes)
    is_record[(starts[:, None] + np.arange(head_size)).ravel()] = False
    out[~is_record] = head_bytes.ravel()
    out[is_record] = records.view(np.uint8)
    return out.tobytes()


def pairs_at(data: bytes, head_size: int, sizes: NDArray[np.int64]) -> NDArray[Any]:
    """The pairs (records,) of rows of which each has a header of ``head_size`` bytes and ``sizes`` (rows,) pairs."""
    is_record = np.ones(len(data), bool)
    starts = head_size * np.arange(len(sizes)) + PAIR.itemsize * (np.cumsum(sizes) - sizes)
    is_record[(starts[:, None] + np.arange(head_size)).ravel()] = False
    found: NDArray[Any] = np.frombuffer(data, np.uint8)[is_record].view(PAIR)
    return found
