"""Recordings: WAV files with 16-bit samples.

The standard library's ``wave`` module is not used, because it cannot read the files that programs write into a pipe,
whose header says 0 or the largest number for a length that was not known yet. :mod:`nnet3py.tables.riff` has what else
is met around the samples.

Source: Kaldi src/feat/wave-reader.cc.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnet3py.errors import UserError
from nnet3py.tables.riff import finish_wave, read_wave_header, refuse_another_recording
from nnet3py.tables.streams import Sink, Source

_PCM = 1
_PIECE = 1 << 20
_OVERLAP = 16


def _seconds(samples: int, rate: float) -> float:
    return float(np.float32(samples) / np.float32(rate))


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
        """Seconds, in single precision as in Kaldi."""
        return _seconds(self.samples.shape[1], self.sample_rate)


@dataclass(frozen=True)
class WaveLength:
    """How long a recording is.

    Attributes:
        sample_rate: samples a second.
        samples: how many, of one channel.
    """

    sample_rate: float
    samples: int

    @property
    def duration(self) -> float:
        """Seconds, in single precision as in Kaldi."""
        return _seconds(self.samples, self.sample_rate)


def read_wave(source: Source) -> Wave:
    """A WAV file, from ``RIFF`` to the end of its last chunk.

    Where the header does not know the length, as when a program wrote it into a pipe, the samples go on to the end of
    the data. Where it says more than there is, what there is is used and a warning printed, as by Kaldi.

    Raises:
        UserError: it is not a WAV file, its samples are not 16-bit integers, it has none, or its header is cut off.
    """
    header = read_wave_header(source)
    place = source.tell()
    data = bytearray()
    while header.length is None or len(data) < header.length:
        piece = source.read_some(_PIECE if header.length is None else min(_PIECE, header.length - len(data)))
        if not piece:
            break
        data += piece
    if header.length is None:
        refuse_another_recording(source, data, place)
    finish_wave(source, header, len(data))
    numbers = np.frombuffer(data, f"{header.order}i2", len(data) // header.frame * header.channels)
    samples = np.ascontiguousarray(numbers.reshape(-1, header.channels).T, np.float32)
    return Wave(float(header.sample_rate), samples)


def read_wave_length(source: Source) -> WaveLength:
    """How long a WAV file is, without keeping its samples; a file's are not even read.

    It is the length of what :func:`read_wave` would return, also where the header does not know it or says too much.

    Raises:
        UserError: as for :func:`read_wave`.
    """
    header = read_wave_header(source)
    if header.length is not None:
        found = source.skip(header.length)
    else:
        place, found, end = source.tell(), 0, b""
        while piece := source.read_some(_PIECE):
            refuse_another_recording(source, end + piece, place)
            found, end = found + len(piece), piece[-_OVERLAP:]
    finish_wave(source, header, found)
    return WaveLength(float(header.sample_rate), found // header.frame)


def write_wave(sink: Sink, wave: Wave) -> None:
    """A WAV file of 16-bit samples; values are cut off to whole numbers and to the range.

    Raises:
        UserError: the recording has no samples, or too many for the format.
    """
    channels, count = wave.samples.shape
    size = 2 * channels * count
    rate = int(wave.sample_rate)
    if not size or size > 0xFFFFFFFF - 36 or channels > 0x7FFF or not 0 < 2 * channels * rate <= 0xFFFFFFFF:
        raise UserError(
            f"Cannot write a WAV file of {channels} channels with {count} samples, {rate} a second, to {sink.name}."
        )
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        *(b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, _PCM, channels, rate),
        *(rate * 2 * channels, 2 * channels, 16, b"data", size),
    )
    sink.write(head + np.clip(np.trunc(wave.samples.T), -32768, 32767).astype("<i2").tobytes())
