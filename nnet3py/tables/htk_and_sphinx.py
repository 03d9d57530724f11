"""Feature files of HTK and of CMU Sphinx. Both are binary only, big-endian, 4-byte floats a frame after the other.

HTK: a header of 12 bytes (frames, frame shift in units of 100 ns, bytes a frame, kind of parameters), the frames, and
two bytes of checksum if the kind says so. Sphinx: how many numbers there are, then the numbers, 13 a frame.

Source: Kaldi src/matrix/kaldi-matrix.cc (``ReadHtk``, ``WriteHtk``), src/util/kaldi-holder-inl.h
(``SphinxMatrixHolder``); HTK Book, section 5.10.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnet3py.errors import UserError
from nnet3py.tables.holders import Holder
from nnet3py.tables.streams import Sink, Source

HTK_MFCC, HTK_FBANK = 6, 7
HTK_ENERGY, HTK_C0 = 0o100, 0o20000

_HEADER = struct.Struct(">iihH")
_BASE_KIND = 0o77
_NOT_FRAMES = {0: "a waveform", 5: "16-bit reflection coefficients", 10: "discrete symbols"}
_COMPRESSED, _CHECKSUM, _QUANTISED = 0o2000, 0o10000, 0o40000
_LARGEST_FRAME = 0x7FFF
_SPHINX_DIM = 13


@dataclass
class HtkFeatures:
    """What an HTK file holds.

    Attributes:
        matrix: (frames, dim) float32.
        period: from one frame to the next, in units of 100 ns.
        kind: HTK's number for the kind of parameters, with its qualifiers.
    """

    matrix: NDArray[np.float32]
    period: int
    kind: int


def read_htk(source: Source) -> HtkFeatures:
    """An HTK feature file.

    Raises:
        UserError: it is none, is compressed or quantised, has no features, or ends too early.
    """
    place = source.tell()
    frames, period, size, kind = _HEADER.unpack(source.read(_HEADER.size))
    if kind & (_COMPRESSED | _QUANTISED):
        raise source.error(f"the HTK features are compressed or vector-quantised (kind {kind:#o}).", place)
    if kind & _BASE_KIND in _NOT_FRAMES:
        raise source.error(f"expected HTK features, found {_NOT_FRAMES[kind & _BASE_KIND]}.", place)
    if frames < 0 or size <= 0 or size % 4:
        raise source.error(
            f"expected the header of an HTK feature file, found {frames} frames of {size} bytes, which is not a number "
            "of 4-byte floats.",
            place,
        )
    matrix = source.read_array(">f4", frames * (size // 4)).reshape(frames, size // 4)
    if kind & _CHECKSUM:
        source.read(2)
    return HtkFeatures(matrix.astype(np.float32), period, kind & ~_CHECKSUM)


def write_htk(sink: Sink, features: HtkFeatures) -> None:
    """An HTK feature file without checksum. Raises UserError for more columns than the format allows."""
    frames, dim = features.matrix.shape
    if 4 * dim > _LARGEST_FRAME:
        raise UserError(f"Cannot write {sink.name}: an HTK file has at most {_LARGEST_FRAME // 4} columns, not {dim}.")
    sink.write(_HEADER.pack(frames, features.period, 4 * dim, features.kind))
    sink.write(features.matrix.astype(">f4").tobytes())


def read_sphinx(source: Source) -> NDArray[np.float32]:
    """A Sphinx feature file: (frames, 13) float32.

    Raises:
        UserError: it is none, or ends too early.
    """
    place = source.tell()
    (count,) = struct.unpack(">i", source.read(4))
    if count < 0 or count % _SPHINX_DIM:
        raise source.error(
            f"expected a big-endian Sphinx feature file with {_SPHINX_DIM} numbers a frame, found {count} numbers.",
            place,
        )
    return source.read_array(">f4", count).reshape(-1, _SPHINX_DIM).astype(np.float32)


class _HtkHolder(Holder[HtkFeatures]):
    name = "HTK features"

    def read(self, source: Source) -> HtkFeatures:
        return read_htk(source)

    def write(self, sink: Sink, value: HtkFeatures, binary: bool) -> None:
        if not binary:
            raise UserError("HTK features have no text form: write them without the option t.")
        write_htk(sink, value)


class _HtkMatrixHolder(Holder[NDArray[np.float32]]):
    name = "HTK features"

    def read(self, source: Source) -> NDArray[np.float32]:
        return read_htk(source).matrix


class _SphinxMatrixHolder(Holder[NDArray[np.float32]]):
    name = "Sphinx features"

    def read(self, source: Source) -> NDArray[np.float32]:
        return read_sphinx(source)


HTK: Holder[HtkFeatures] = _HtkHolder()
HTK_MATRIX: Holder[NDArray[np.float32]] = _HtkMatrixHolder()
"""To read the matrix alone."""
SPHINX_MATRIX: Holder[NDArray[np.float32]] = _SphinxMatrixHolder()
