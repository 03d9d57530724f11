"""Reading HDF5 files that somebody else may have made: what is wrong in them becomes a UserError.

Links that lead out of a file are refused, and a size is believed only if the file has bytes for it.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from nnet3py.errors import UserError
from nnet3py.tables.streams import Source

Array = np.ndarray
_GREATEST_COMPRESSION = 1100  # deflate reaches 1032:1; a data set that claims more is not believed


@contextlib.contextmanager
def opened(rxfilename: str, source: Source, what: str) -> Iterator[h5py.File]:
    """An HDF5 file on disk, or the rest of a stream, which is to hold ``what`` ("network").

    What h5py raises for a corrupt one, also while its user reads it, becomes a UserError.
    """
    try:
        place: Any = rxfilename if os.path.isfile(rxfilename) else io.BytesIO(_rest(source))
        with h5py.File(place, "r") as file:
            yield file
    except UserError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError, UnicodeDecodeError) as problem:
        words = str(problem).replace("\n", " ")[:200]
        raise UserError(f"{source.name}: not a readable HDF5 {what}, cut off or corrupt ({words}).") from problem


def _rest(source: Source) -> bytes:
    pieces = []
    while piece := source.read_some(1 << 20):
        pieces.append(piece)
    return b"".join(pieces)


def require_layout(file: h5py.File, layout: str, version: int, what: str, where: str) -> None:
    """Raise UserError unless the attributes ``format`` and ``version`` are these."""
    found = str(file.attrs.get("format", ""))
    if found != layout:
        raise UserError(f"{where}: an HDF5 file, but not {what} (its attribute format is not {layout}).")
    stored = int(file.attrs.get("version", -1))
    if stored != version:
        raise UserError(f"{where}: expected version {version} of the layout, found {stored}.")


def child_group(parent: h5py.Group, name: str, where: str) -> h5py.Group:
    """A group stored in this file itself: links to elsewhere are refused."""
    if name not in parent or not isinstance(parent.get(name, getlink=True), h5py.HardLink):
        raise UserError(f"{where}: expected a group {name}.")
    group = parent[name]
    if not isinstance(group, h5py.Group):
        raise UserError(f"{where}: expected a group {name}, found something else.")
    return group


def stored_array(group: h5py.Group, name: str, dtype: Any, where: str) -> Array:
    """A data set whose size is believed only if the file has bytes for it."""
    data = group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(data, h5py.Dataset) or data.external or data.is_virtual:
        raise UserError(f"{where}: expected a data set {name} within the file.")
    if data.dtype.kind not in "fiu" or data.shape is None:
        raise UserError(f"{where}: expected numbers in {name}, found {data.dtype}.")
    held = data.id.get_storage_size()
    most = held * (_GREATEST_COMPRESSION if data.compression else 1)
    if data.size * data.dtype.itemsize > most:
        raise UserError(f"{where}: {name} has the shape {data.shape}, but the file holds {held} bytes of it.")
    return np.ascontiguousarray(data[()], dtype=dtype)
