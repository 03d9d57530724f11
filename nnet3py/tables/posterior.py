"""Posteriors: for each frame, pairs of a class and its weight.

Binary: the number of frames, and for each frame the number of pairs and the pairs. Text: ``[ 7 0.5 8 0.5 ] [ 8 1 ]`` on
one line.

Source: Kaldi src/hmm/posterior.cc, ``ReadPosterior`` and ``WritePosterior``.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnet3py.tables.basic_types import read_float, read_int, shown
from nnet3py.tables.row_records import PAIR, interleaved, pairs_at, pairs_of
from nnet3py.tables.streams import Sink, Source

_MOST_FRAMES = 10_000_000  # Kaldi's own limit
_LARGEST_AT_ONCE = 1 << 24
_SIZE = struct.Struct("<bi")
_FRAME = np.dtype([("mark", "u1"), ("size", "<i4")])
_FRAME_OF_ONE = np.dtype([("frame", _FRAME), ("pair", PAIR)])
_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True, eq=False)
class Posterior:
    """Pairs of a class and its weight, frame by frame.

    Attributes:
        sizes: (frames,) int64, how many pairs each frame has.
        classes: (pairs,) int32, of the first frame, then the second and so on.
        weights: (pairs,) float32.
    """

    sizes: NDArray[np.int64]
    classes: NDArray[np.int32]
    weights: NDArray[np.float32]

    @classmethod
    def of_frames(cls, frames: Iterable[Iterable[tuple[int, float]]]) -> Posterior:
        """A posterior of (class, weight) pairs in frames. Raises OverflowError for a class beyond 32 bits."""
        listed = [list(frame) for frame in frames]
        pairs = list(itertools.chain.from_iterable(listed))
        with np.errstate(over="ignore"):  # a weight too large for single precision is infinite
            weights = np.array([pair[1] for pair in pairs], np.float64).astype(np.float32)
        classes = np.array([pair[0] for pair in pairs], np.int32)
        return cls(np.array([len(frame) for frame in listed], np.int64), classes, weights)

    @classmethod
    def of_alignment(cls, classes: Sequence[int] | NDArray[np.int32]) -> Posterior:
        """Each frame with one class, of weight 1."""
        return cls(np.ones(len(classes), np.int64), np.asarray(classes, np.int32), np.ones(len(classes), np.float32))

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[list[tuple[int, float]]]:
        """The pairs of each frame."""
        pairs = zip(self.classes.tolist(), self.weights.tolist(), strict=True)
        return (list(itertools.islice(pairs, size)) for size in self.sizes.tolist())

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Posterior)
            and np.array_equal(self.sizes, other.sizes)
            and np.array_equal(self.classes, other.classes)
            and np.array_equal(self.weights, other.weights)
        )

    __hash__ = None  # type: ignore[assignment]


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
    for read_at_once in (_read_frames_of_one, _read_frames):
        posterior = read_at_once(source, frames)
        if posterior is not None:
            return posterior
    return Posterior.of_frames([_read_frame(source) for _ in range(frames)])


def _read_frames_of_one(source: Source, frames: int) -> Posterior | None:
    """All frames at once if each has one pair, as from an alignment; otherwise nothing is consumed."""
    size = frames * _FRAME_OF_ONE.itemsize
    data = source.peek(size if size <= _LARGEST_AT_ONCE else 0)
    if frames == 0 or len(data) < size:
        return None
    table = np.frombuffer(data, _FRAME_OF_ONE)
    frame, pair = table["frame"], table["pair"]
    if not ((frame["mark"] == 4) & (frame["size"] == 1) & (pair["mark1"] == 4) & (pair["mark2"] == 4)).all():
        return None
    source.read(size)
    return Posterior(np.ones(frames, np.int64), pair["index"].copy(), pair["value"].copy())


def _read_frames(source: Source, frames: int) -> Posterior | None:
    """All frames at once if numbers have four bytes, as Kaldi writes them; otherwise nothing is consumed."""
    data, end, sizes = b"", 0, np.empty(frames, np.int64)
    for number in range(frames):
        if end + _SIZE.size > len(data):
            wanted = max(4096, 2 * (end + _SIZE.size))
            data = source.peek(wanted) if wanted <= _LARGEST_AT_ONCE else b""
        if end + _SIZE.size > len(data):
            return None
        mark, size = _SIZE.unpack_from(data, end)
        if mark != 4 or size < 0:
            return None
        sizes[number] = size
        end += _SIZE.size + PAIR.itemsize * size
    if end > len(data):
        data = source.peek(end) if end <= _LARGEST_AT_ONCE else b""
    if end > len(data):
        return None
    pairs = pairs_at(data[:end], _SIZE.size, sizes)
    if not ((pairs["mark1"] == 4) & (pairs["mark2"] == 4)).all():
        return None
    source.read(end)
    return Posterior(sizes, pairs["index"].copy(), pairs["value"].copy())


def _read_frame(source: Source) -> list[tuple[int, float]]:
    place = source.tell()
    size = read_int(source, True)
    if size < 0:
        raise source.error(f"expected the number of classes of a frame, found {size}.", place)
    return [(read_int(source, True), read_float(source, True)) for _ in range(size)]


def _read_text(source: Source) -> Posterior:
    place = source.tell()
    words = source.readline().replace(b"]", b" ] ").split()
    frames: list[list[tuple[int, float]]] = []
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
            frames.append(_pairs_of_words(inside))
        except ValueError:
            text = shown(b" ".join(inside))
            raise source.error(f"expected pairs of a class and a weight, found {text}.", place) from None
        position = end + 1
    return Posterior.of_frames(frames)


def _pairs_of_words(words: list[bytes]) -> list[tuple[int, float]]:
    """Raises ValueError for what is not pairs of an integer of 32 bits and a number."""
    if len(words) % 2 or any(b"_" in word for word in words):  # Python reads 1_000 as a number, Kaldi does not
        raise ValueError
    pairs = [(int(index), float(value)) for index, value in zip(words[::2], words[1::2], strict=True)]
    if not all(_INT32.min <= index <= _INT32.max for index, _ in pairs):
        raise ValueError
    return pairs


def write_posterior(sink: Sink, posterior: Posterior, binary: bool) -> None:
    """The counterpart of :func:`read_posterior`."""
    if not binary:
        frames = ("[ " + "".join(f"{index} {value:.7g} " for index, value in frame) + "] " for frame in posterior)
        sink.write(("".join(frames) + "\n").encode("ascii"))
        return
    heads = np.empty(len(posterior), _FRAME)
    heads["mark"], heads["size"] = 4, posterior.sizes
    pairs = pairs_of(posterior.classes, posterior.weights)
    sink.write(_SIZE.pack(4, len(posterior)) + interleaved(heads, pairs, posterior.sizes))
