"""Posteriors of every shape, beside an encoding pair by pair."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest

from nnet3py.errors import UserError
from nnet3py.tables.posterior import Posterior, read_posterior, write_posterior
from nnet3py.tables.streams import Sink, Source

Frames = list[list[tuple[int, float]]]


def _encoded(frames: Frames, of_eight_bytes: bool = False) -> bytes:
    """As Kaldi's WritePosterior has it, number by number; a build with double precision writes weights of 8 bytes."""
    words = [struct.pack("<bi", 4, len(frames))]
    for frame in frames:
        words.append(struct.pack("<bi", 4, len(frame)))
        for pdf, weight in frame:
            words.append(struct.pack("<bi", 4, pdf))
            words.append(struct.pack("<bd", 8, weight) if of_eight_bytes else struct.pack("<bf", 4, weight))
    return b"".join(words)


def _frames(num_frames: int, most: int, seed: int = 0) -> Frames:
    random = np.random.default_rng(seed)
    sizes = random.integers(0, most + 1, num_frames)
    return [[(int(random.integers(0, 5000)), float(np.float32(random.random()))) for _ in range(n)] for n in sizes]


def _read(data: bytes, at_a_time: int = 1 << 16) -> tuple[Posterior, bytes]:
    """The posterior and what is left after it, from a stream that gives only so many bytes at once."""

    class Slow(io.RawIOBase):
        def __init__(self) -> None:
            self._left = io.BytesIO(data)

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1) -> bytes:
            return self._left.read(min(size, at_a_time) if size >= 0 else -1)

    source = Source(Slow(), "data")
    return read_posterior(source, True), source.read(4)


@pytest.mark.parametrize("of_eight_bytes", [False, True])
@pytest.mark.parametrize(("num_frames", "most"), [(0, 1), (1, 0), (1, 1), (7, 3), (500, 1), (500, 12), (3, 2000)])
def test_frames_of_any_size_are_read_and_what_follows_is_left(num_frames: int, most: int, of_eight_bytes: bool) -> None:
    frames = _frames(num_frames, most)
    for at_a_time in (1, 1 << 16) if most < 100 else (1 << 16,):
        posterior, after = _read(_encoded(frames, of_eight_bytes) + b"next", at_a_time)
        assert list(posterior) == frames
        assert len(posterior) == num_frames
        assert after == b"next"


@pytest.mark.parametrize("frames", [[], [[]], [[(3, 1.0)]] * 9, _frames(50, 4), [[], [(1, 0.5)], []]])
def test_written_bytes_are_those_of_number_by_number(frames: Frames) -> None:
    memory = io.BytesIO()
    write_posterior(Sink(memory, "memory"), Posterior.of_frames(frames), True)
    assert memory.getvalue() == _encoded(frames)


def test_damage_anywhere_is_an_error_or_another_posterior() -> None:
    """A byte that is changed is in a number, which may be another then, or one that tells a size."""
    frames = _frames(20, 3)
    data, errors = _encoded(frames), 0
    for place in range(len(data)):
        try:
            posterior, _ = _read(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :] + b"next")
            assert posterior != Posterior.of_frames(frames)
        except UserError:
            errors += 1
    assert errors > 4 * 20
    for size in range(len(data)):
        with pytest.raises(UserError):
            _read(data[:size])


def test_posteriors_are_equal_if_all_their_parts_are() -> None:
    one = Posterior.of_frames([[(1, 0.5)], [(2, 1.0)]])
    assert one == Posterior.of_frames([[(1, 0.5)], [(2, 1.0)]])
    assert one != Posterior.of_frames([[(1, 0.5), (2, 1.0)]])
    assert one != Posterior.of_frames([[(1, 0.5)], [(3, 1.0)]])
    assert one != Posterior.of_frames([[(1, 0.5)], [(2, 0.9)]])
    assert one != [[(1, 0.5)], [(2, 1.0)]]
