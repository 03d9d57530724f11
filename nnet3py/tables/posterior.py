"""Posteriors: for each frame, (class, weight) pairs.

Binary: the number of frames, and for each frame the number of pairs and the pairs. Text: ``[ 7 0.5 8 0.5 ] [ 8 1 ]`` on
one line.

Source: Kaldi src/hmm/posterior.cc, ``ReadPosterior`` and ``WritePosterior``.
"""

from __future__ import annotations

import struct

import numpy as np

from nnet3py.tables.basic_types import read_float, read_int, shown
from nnet3py.tables.streams import Sink, Source

Posterior = list[list[tuple[int, float]]]

_MOST_FRAMES = 10_000_000  # Kaldi's own limit
_LARGEST_AT_ONCE = 1 << 24
_SIZE = struct.Struct("<bi")
_PAIR = struct.Struct("<bibf")
_FRAME_OF_ONE = np.dtype(
    [("mark1", "u1"), ("size", "<i4"), ("mark2", "u1"), ("index", "<i4"), ("mark3", "u1"), ("value", "<f4")]
)


def read_posterior(source: Source, binary: bool) -> Posterior:
    """A posterior.

    Raises:
        UserError: the data are not one, or end too early.
    """
    if not binary:
        return _read_text(source)
    place = source.tell()
    frames = read_int(source, True)
    if not 0 <= frames <= _MOST_FRAMES:
        raise source.error(f"expected the number of frames of a posterior, found {frames}.", place)
    regular = _read_frames_of_one(source, frames)
    return regular if regular is not None else [_read_frame(source) for _ in range(frames)]


def _read_frames_of_one(source: Source, frames: int) -> Posterior | None:
    """All frames at once if each has one pair, as from an alignment; otherwise nothing is consumed."""
    size = frames * _FRAME_OF_ONE.itemsize
    data = source.peek(size if size <= _LARGEST_AT_ONCE else 0)
    if frames == 0 or len(data) < size:
        return None
    table = np.frombuffer(data, _FRAME_OF_ONE)
    marks = (table["mark1"] == 4) & (table["mark2"] == 4) & (table["mark3"] == 4) & (table["size"] == 1)
    if not marks.all():
        return None
    source.read(size)
    return [[pair] for pair in zip(table["index"].tolist(), table["value"].tolist(), strict=True)]


def _read_frame(source: Source) -> list[tuple[int, float]]:
    place = source.tell()
    size = read_int(source, True)
    if size < 0:
        raise source.error(f"expected the number of classes of a frame, found {size}.", place)
    return [(read_int(source, True), read_float(source, True)) for _ in range(size)]


def _read_text(source: Source) -> Posterior:
    place = source.tell()
    words = source.readline().replace(b"]", b" ] ").split()
    posterior: Posterior = []
    position = 0
    while position < len(words):
        if words[position] != b"[":
            raise source.error(
                f'expected "[" at the start of a frame, found {shown(words[position])}; is it an alignment?', place
            )
        try:
            end = words.index(b"]", position)
        except ValueError:
            raise source.error('expected "]" at the end of a frame, found the end of the line.', place) from None
        inside = words[position + 1 : end]
        try:
            if len(inside) % 2:
                raise ValueError
            pairs = zip(inside[::2], inside[1::2], strict=True)
            posterior.append([(int(index), float(np.float32(value.decode()))) for index, value in pairs])
        except ValueError:
            text = shown(b" ".join(inside))
            raise source.error(f"expected pairs of a class and a weight, found {text}.", place) from None
        position = end + 1
    return posterior


def write_posterior(sink: Sink, posterior: Posterior, binary: bool) -> None:
    """The counterpart of :func:`read_posterior`."""
    if not binary:
        frames = ("[ " + "".join(f"{index} {value:.7g} " for index, value in frame) + "] " for frame in posterior)
        sink.write(("".join(frames) + "\n").encode("ascii"))
        return
    pieces = [_SIZE.pack(4, len(posterior))]
    for frame in posterior:
        pieces.append(_SIZE.pack(4, len(frame)))
        pieces += [_PAIR.pack(4, index, 4, value) for index, value in frame]
    sink.write(b"".join(pieces))
