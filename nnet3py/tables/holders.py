"""The types of things that tables hold: how each is read from and written to an archive.

A holder is what :class:`~nnet3py.tables.table.SequentialReader` and its relatives are given to know their values' type.
Anything with the methods of :class:`Holder` will do.

Source: Kaldi src/util/kaldi-holder-inl.h; src/util/table-types.h.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.tables.basic_types import (
    read_bool,
    read_double,
    read_float,
    read_header,
    read_int,
    shown,
    write_bool,
    write_double,
    write_float,
    write_header,
    write_int,
)
from nnet3py.tables.compressed_matrix import CompressedMatrix, compress
from nnet3py.tables.general_matrix import (
    GeneralMatrix,
    read_compressed_matrix,
    read_general_matrix,
    to_array,
    write_compressed_matrix,
    write_general_matrix,
)
from nnet3py.tables.matrix import read_matrix, read_vector, write_matrix, write_vector
from nnet3py.tables.posterior import Posterior, read_posterior, write_posterior
from nnet3py.tables.streams import Sink, Source
from nnet3py.tables.wave import Wave, WaveLength, read_wave, read_wave_length, write_wave
from nnet3py.text.lines import decode, encode

T = TypeVar("T")

_LENGTH_TOLERANCE = 3  # frames that a range may exceed a matrix by: rounding of segment times
_LARGEST_AT_ONCE = 1 << 24
_INTEGER = np.dtype([("mark", "u1"), ("value", "<i4")])


class Holder(Generic[T]):
    """How one type of value is read and written; a subclass need only have ``read`` and ``write``.

    Attributes:
        name: what messages call the type.
        contents: the words for what is in a file that can be read as it (:mod:`nnet3py.text.file_kind`); empty if any
            may be.
    """

    name: str
    contents: frozenset[str] = frozenset()

    def read(self, source: Source) -> T:
        r"""The next value. It reads the ``\0B`` itself, where the type has one.

        Raises:
            UserError: the data are not such a value, or end too early.
        """
        raise NotImplementedError

    def write(self, sink: Sink, value: T, binary: bool) -> None:
        r"""Write a value, with its ``\0B``."""
        raise NotImplementedError

    def extract_range(self, value: T, text: str) -> T:
        """The part of a value that a script's ``[text]`` names.

        Raises:
            UserError: it is not a range, goes beyond the value, or the type has no parts.
        """
        raise UserError(f"A range such as [{text}] has no meaning for a table of {self.name}.")

    def to_dataset(self, value: T) -> Any:
        """The value as HDF5 stores it: an array, a number or a string."""
        raise UserError(f"An HDF5 file cannot hold a table of {self.name}; use an archive.")

    def from_dataset(self, data: Any) -> T:
        """The counterpart of :meth:`to_dataset`."""
        raise UserError(f"An HDF5 file cannot hold a table of {self.name}; use an archive.")


class _ObjectHolder(Holder[T]):
    r"""A holder of objects that begin with ``\0B`` when binary, made of a pair of functions."""

    def __init__(
        self,
        name: str,
        contents: set[str],
        read: Callable[[Source, bool], T],
        write: Callable[[Sink, T, bool], None],
    ) -> None:
        self.name = name
        self.contents = frozenset(contents)
        self._read = read
        self._write = write

    def read(self, source: Source) -> T:
        return self._read(source, read_header(source))

    def write(self, sink: Sink, value: T, binary: bool) -> None:
        write_header(sink, binary)
        self._write(sink, value, binary)


def _parse_range(text: str, sizes: tuple[int, ...]) -> list[slice]:
    """``0:9,2:5`` as slices; both ends belong to it, ``:`` is everything.

    Source: Kaldi src/util/kaldi-holder.cc, ``ParseMatrixRangeSpecifier``.
    """
    parts = text.split(",")
    if len(parts) > len(sizes) or not all(parts):
        raise UserError(f"Expected a range such as [0:9{',2:5' if len(sizes) > 1 else ''}], found [{text}].")
    slices = []
    for part, size, tolerance in zip(parts, sizes, (_LENGTH_TOLERANCE, 0), strict=False):
        if part == ":":
            slices.append(slice(0, size))
            continue
        ends = part.split(":")
        if len(ends) != 2 or not all(end.isascii() and end.isdigit() for end in ends):
            raise UserError(f"Expected a range such as 0:9, found {part!r} in [{text}].")
        first, last = int(ends[0]), int(ends[1])
        if not first <= last < size + tolerance or first >= size:
            raise UserError(f"The range [{text}] goes beyond a size of {' by '.join(map(str, sizes))}.")
        if last >= size:
            log.warning(f"The range [{text}] goes beyond a size of {' by '.join(map(str, sizes))}.")
        slices.append(slice(first, min(last, size - 1) + 1))
    return slices


def _part(array: NDArray[Any], text: str) -> NDArray[Any]:
    return array[tuple(_parse_range(text, array.shape))]


def _numbers(data: Any, dimensions: int, what: str, floats: bool = True) -> NDArray[Any]:
    array = np.asarray(data)
    wanted = "fiu" if floats else "iu"
    if array.ndim != dimensions or array.dtype.kind not in wanted:
        raise UserError(f"Expected {what} in the HDF5 data set, found an array {array.shape} of {array.dtype}.")
    if not floats:
        return array
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


class _MatrixHolder(_ObjectHolder[NDArray[Any]]):
    def extract_range(self, value: NDArray[Any], text: str) -> NDArray[Any]:
        return _part(value, text)

    def to_dataset(self, value: NDArray[Any]) -> Any:
        return value

    def from_dataset(self, data: Any) -> NDArray[Any]:
        return _numbers(data, 2, "a matrix")


class _VectorHolder(_ObjectHolder[NDArray[Any]]):
    def extract_range(self, value: NDArray[Any], text: str) -> NDArray[Any]:
        return _part(value, text)

    def to_dataset(self, value: NDArray[Any]) -> Any:
        return value

    def from_dataset(self, data: Any) -> NDArray[Any]:
        return _numbers(data, 1, "a vector")


class _GeneralMatrixHolder(_ObjectHolder[GeneralMatrix]):
    def extract_range(self, value: GeneralMatrix, text: str) -> GeneralMatrix:
        return _part(to_array(value), text)

    def to_dataset(self, value: GeneralMatrix) -> Any:
        return to_array(value)

    def from_dataset(self, data: Any) -> GeneralMatrix:
        return _numbers(data, 2, "a matrix")


class _CompressedMatrixHolder(_ObjectHolder[CompressedMatrix]):
    def extract_range(self, value: CompressedMatrix, text: str) -> CompressedMatrix:
        return compress(_part(value.to_array(), text))

    def to_dataset(self, value: CompressedMatrix) -> Any:
        return value.to_array()

    def from_dataset(self, data: Any) -> CompressedMatrix:
        return compress(_numbers(data, 2, "a matrix"))


def _write_compressed(sink: Sink, value: CompressedMatrix | NDArray[Any], binary: bool) -> None:
    write_compressed_matrix(sink, compress(value) if isinstance(value, np.ndarray) else value, binary)


class _NumberHolder(Holder[T]):
    """One number, or T or F; in text, alone on its line."""

    contents = frozenset({"integers", "numbers"})

    def __init__(
        self,
        name: str,
        read: Callable[[Source, bool], T],
        write: Callable[[Sink, bool, T], None],
        convert: Callable[[Any], T],
    ) -> None:
        self.name = name
        self._read = read
        self._write = write
        self._convert = convert

    def read(self, source: Source) -> T:
        if read_header(source):
            return self._read(source, True)
        place = source.tell()
        line = source.peek(4096).split(b"\n", 1)[0]
        if not line.strip():
            raise source.error(f"expected {self.name}, found an empty line.", place)
        value = self._read(source, False)
        rest = source.readline()
        if rest.strip():
            raise source.error(f"expected {self.name} alone on its line, found also {shown(rest.strip())}.", place)
        return value

    def write(self, sink: Sink, value: T, binary: bool) -> None:
        write_header(sink, binary)
        self._write(sink, binary, value)
        if not binary:
            sink.write(b"\n")

    def to_dataset(self, value: T) -> Any:
        return value

    def from_dataset(self, data: Any) -> T:
        if np.ndim(data) != 0 or isinstance(data, (bytes, str)):
            raise UserError(f"Expected {self.name} in the HDF5 data set, found an array or text.")
        return self._convert(data)


class _IntVectorHolder(Holder[NDArray[np.int32]]):
    """Integers, each with its size byte; in text, a line of them. Alignments."""

    name = "vectors of integers"
    contents = frozenset({"integers", "numbers"})

    def read(self, source: Source) -> NDArray[np.int32]:
        if not read_header(source):
            return self._read_text(source)
        place = source.tell()
        size = read_int(source, True)
        if size < 0:
            raise source.error(f"expected the length of a vector of integers, found {size}.", place)
        if size * _INTEGER.itemsize > _LARGEST_AT_ONCE:
            return np.array([read_int(source, True) for _ in range(size)], np.int32)
        place = source.tell()
        pairs = source.read_array(_INTEGER, size)
        if not (pairs["mark"] == 4).all():
            raise source.error("expected integers of 4 bytes, found others.", place)
        return pairs["value"].copy()

    def _read_text(self, source: Source) -> NDArray[np.int32]:
        place = source.tell()
        words = source.readline().split()
        for word in words:
            if not _is_integer(word):
                raise source.error(f"expected integers of 32 bits, found {shown(word)}.", place)
        return np.array([int(word) for word in words], np.int32)

    def write(self, sink: Sink, value: Sequence[int] | NDArray[Any], binary: bool) -> None:
        array = np.asarray(value, np.int32)
        if not binary:
            sink.write(b"".join(b"%d " % number for number in array.tolist()) + b"\n")
            return
        pairs = np.empty(array.size, _INTEGER)
        pairs["mark"], pairs["value"] = 4, array
        sink.write(b"\0B" + struct.pack("<bi", 4, array.size) + pairs.tobytes())

    def to_dataset(self, value: NDArray[np.int32]) -> Any:
        return np.asarray(value, np.int32)

    def from_dataset(self, data: Any) -> NDArray[np.int32]:
        array = _numbers(data, 1, "a vector of integers", floats=False)
        if array.size and not -(2**31) <= int(array.min()) <= int(array.max()) < 2**31:
            raise UserError("Expected integers of 32 bits in the HDF5 data set, found larger ones.")
        return array.astype(np.int32)


def _is_integer(word: bytes) -> bool:
    try:
        return b"_" not in word and -(2**31) <= int(word) < 2**31
    except ValueError:
        return False


def _hdf5_text(word: bytes) -> Any:
    """Text of a data set, which need not be UTF-8 as HDF5 calls it."""
    import h5py

    return np.array(word, h5py.string_dtype())


class _TokenHolder(Holder[str]):
    """One word, alone on its line; the same in text and binary."""

    name = "words"
    contents = frozenset({"words", "integers", "places"})

    def read(self, source: Source) -> str:
        place = source.tell()
        words = source.readline().split()
        if len(words) != 1:
            raise source.error(f"expected one word on the line, found {len(words)}.", place)
        return decode(words[0])

    def write(self, sink: Sink, value: str, binary: bool) -> None:
        sink.write(_word(value) + b"\n")

    def to_dataset(self, value: str) -> Any:
        return _hdf5_text(_word(value))

    def from_dataset(self, data: Any) -> str:
        if not isinstance(data, bytes):
            raise UserError("Expected a word in the HDF5 data set, found an array or a number.")
        return decode(data)


class _TokenVectorHolder(Holder[list[str]]):
    """Words on one line; the same in text and binary. Transcripts, spk2utt."""

    name = "lists of words"
    contents = frozenset({"words", "integers", "places"})

    def read(self, source: Source) -> list[str]:
        return [decode(word) for word in source.readline().split()]

    def write(self, sink: Sink, value: Sequence[str], binary: bool) -> None:
        sink.write(b"".join(_word(word) + b" " for word in value) + b"\n")


def _word(text: str) -> bytes:
    data = encode(text)
    if len(data.split()) != 1 or data != data.strip():
        raise UserError(f"Expected a word without white space to write, found {text!r}.")
    return data


class _WaveHolder(Holder[Wave]):
    """Recordings, as WAV files; there is no text form."""

    name = "recordings"
    contents = frozenset({"recording"})

    def read(self, source: Source) -> Wave:
        return read_wave(source)

    def write(self, sink: Sink, value: Wave, binary: bool) -> None:
        if not binary:
            raise UserError("A recording has no text form: write it without the option t.")
        write_wave(sink, value)


class _WaveLengthHolder(Holder[WaveLength]):
    """Recordings of which only the length is wanted; they cannot be written."""

    name = "recordings"
    contents = frozenset({"recording"})

    def read(self, source: Source) -> WaveLength:
        return read_wave_length(source)


MATRIX = _MatrixHolder("matrices", {"matrix"}, read_matrix, write_matrix)
VECTOR = _VectorHolder("vectors", {"vector"}, read_vector, write_vector)
GENERAL_MATRIX = _GeneralMatrixHolder("matrices", {"matrix"}, read_general_matrix, write_general_matrix)
COMPRESSED_MATRIX = _CompressedMatrixHolder(
    "compressed matrices", {"matrix"}, read_compressed_matrix, _write_compressed
)
POSTERIOR: Holder[Posterior] = _ObjectHolder(
    "posteriors", {"posterior", "numbers", "vector"}, read_posterior, write_posterior
)
INT: Holder[int] = _NumberHolder("an integer", read_int, write_int, int)
FLOAT: Holder[float] = _NumberHolder("a number", read_float, write_float, float)
DOUBLE: Holder[float] = _NumberHolder("a number", read_double, write_double, float)
BOOL: Holder[bool] = _NumberHolder("T or F", read_bool, write_bool, bool)
INT_VECTOR = _IntVectorHolder()
TOKEN = _TokenHolder()
TOKEN_VECTOR = _TokenVectorHolder()
WAVE = _WaveHolder()
WAVE_LENGTH = _WaveLengthHolder()
