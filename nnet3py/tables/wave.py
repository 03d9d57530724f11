"""Recordings: WAV files with 16-bit samples.

The standard library's ``wave`` module is not used, because it cannot read the files that programs write into a pipe,
whose header says 0 or the largest number for a length that was not known yet.

Source: Kaldi src/feat/wave-reader.cc.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnet3py.errors import UserError
from nnet3py.tables.basic_types import shown
from nnet3py.tables.streams import Sink, Source

_PCM = 1
_EXTENSIBLE = 0xFFFE
_PCM_SUBFORMAT = bytes.fromhex("0100000000001000800000aa00389b71")
_UNKNOWN_LENGTHS = (0, 0xFFFFFFFF, 0x7FFFF000, 0x7FFFFFFF)
_PIECE = 1 << 20


@dataclass
class Wave:
    """A recording.

    Attributes:
        sample_rate: samples a second.
        samples: (channels, samples) float32, in the range of 16-bit integers, -32768 to 32767.
    """

    sample_rate: float
    samples: NDArray[np.float32]

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.samples.shape[1] / self.sample_rate


@dataclass
class _Format:
    order: str  # "<" or ">", as struct and NumPy have it
    channels: int
    rate: int


def read_wave(source: Source) -> Wave:
    """A WAV file, from ``RIFF`` to the end of its samples.

    Where the header does not know the length, as when a program wrote it into a pipe, the samples go on to the end of
    the data.

    Raises:
        UserError: it is not a WAV file, its samples are not 16-bit integers, it has none, or it ends too early.
    """
    place = source.tell()
    tag = source.read_some(4)
    if tag not in (b"RIFF", b"RIFX"):
        raise source.error(f"expected a WAV file, which starts with RIFF, found {shown(tag)}.", place)
    order = "<" if tag == b"RIFF" else ">"
    total = _uint32(source, order)
    if source.read(4) != b"WAVE":
        raise source.error('expected "WAVE" after RIFF and its length.', place)
    _find_chunk(source, b"fmt ", order)
    layout = _read_format(source, order)
    _find_chunk(source, b"data", order)
    length = _uint32(source, order)
    unknown = length in _UNKNOWN_LENGTHS or total in (0, 0xFFFFFFFF)
    data = _read_to_the_end(source) if unknown else source.read(length)
    frame = 2 * layout.channels
    if len(data) < frame:
        raise source.error("the recording has no samples.", place)
    numbers = np.frombuffer(data[: len(data) // frame * frame], f"{order}i2")
    samples = np.ascontiguousarray(numbers.reshape(-1, layout.channels).T, np.float32)
    return Wave(float(layout.rate), samples)


def _uint32(source: Source, order: str) -> int:
    return int(struct.unpack(order + "I", source.read(4))[0])


def _read_to_the_end(source: Source) -> bytes:
    pieces = []
    while piece := source.read_some(_PIECE):
        pieces.append(piece)
    return b"".join(pieces)


def _find_chunk(source: Source, wanted: bytes, order: str) -> None:
    """Pass over other chunks, such as JUNK, LIST and fact; stands after the wanted one's tag."""
    while True:
        place = source.tell()
        tag = source.read_some(4)
        if tag == wanted:
            return
        if len(tag) < 4 or not all(32 <= byte < 127 for byte in tag):
            raise source.error(f"expected the part {wanted.decode()!r} of a WAV file, found {shown(tag)}.", place)
        left = _uint32(source, order)
        while left > 0:
            piece = source.read(min(left, _PIECE))
            left -= len(piece)


def _read_format(source: Source, order: str) -> _Format:
    place = source.tell()
    size = _uint32(source, order)
    if not 16 <= size <= 1 << 16:
        raise source.error(f"expected a WAV file's format in 16 to 40 bytes, found {size}.", place)
    data = source.read(size)
    code, channels, rate, byte_rate, block, bits = struct.unpack(order + "HHIIHH", data[:16])
    pcm = code == _PCM or (code == _EXTENSIBLE and order == "<" and data[24:40] == _PCM_SUBFORMAT)
    if not pcm or bits != 16:
        raise source.error(
            f"expected 16-bit PCM samples, found format {code} with {bits} bits. Convert the file.", place
        )
    if channels == 0 or rate == 0 or block != 2 * channels or byte_rate != rate * block:
        raise source.error(
            f"the header contradicts itself: {channels} channels, {rate} samples a second, {block} bytes a sample of "
            f"all channels, {byte_rate} bytes a second.",
            place,
        )
    return _Format(order, channels, rate)


def write_wave(sink: Sink, wave: Wave) -> None:
    """A WAV file of 16-bit samples; values are cut off to whole numbers and to the range.

    Raises:
        UserError: the recording has no samples, or too many for the format.
    """
    channels, count = wave.samples.shape
    size = 2 * channels * count
    if not size or size > 0xFFFFFFFF - 36:
        raise UserError(f"Cannot write a WAV file of {channels} channels with {count} samples to {sink.name}.")
    rate = int(wave.sample_rate)
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, _PCM, channels, rate),
        *(rate * 2 * channels, 2 * channels, 16, b"data", size),
    )
    sink.write(head + np.clip(np.trunc(wave.samples.T), -32768, 32767).astype("<i2").tobytes())
