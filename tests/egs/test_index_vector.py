"""Kaldi's encoding of index vectors."""

from __future__ import annotations

import numpy as np
import pytest

from nnet3py.egs import index_vector
from nnet3py.egs.incomplete import Incomplete
from nnet3py.errors import UserError

HEADER = len(index_vector.TOKEN) + 5


def _round_trip(indexes: np.ndarray) -> np.ndarray:
    encoded = index_vector.encode(indexes)
    assert index_vector.end_of(encoded, HEADER, len(indexes)) == len(encoded)
    return index_vector.decode(encoded[HEADER:], len(indexes))


def test_a_chunk_takes_one_byte_a_frame() -> None:
    encoded = index_vector.encode(index_vector.consecutive(-2, 4))
    assert encoded == b"<I1V> \x04\x04\x00\x00\x00" + bytes([0xFE, 1, 1, 1])


def test_the_second_sequence_starts_with_an_explicit_index() -> None:
    encoded = index_vector.encode(np.array([[0, 0, 0], [1, -3, 0]], dtype=np.int32))
    explicit = b"\x7f" + b"\x04\x01\x00\x00\x00" + b"\x04\xfd\xff\xff\xff" + b"\x04\x00\x00\x00\x00"
    assert encoded[HEADER:] == b"\x00" + explicit


@pytest.mark.parametrize("step", [124, -124, 125, -125, 127, 1000000, -1000000])
def test_large_steps_in_time_survive(step: int) -> None:
    indexes = np.array([[0, 5, 0], [0, 5 + step, 0], [0, 6 + step, 0]], dtype=np.int32)
    assert (_round_trip(indexes) == indexes).all()


def test_random_indexes_survive() -> None:
    random = np.random.default_rng(3)
    for _ in range(50):
        indexes = random.integers(-200, 200, (random.integers(1, 40), 3)).astype(np.int32)
        indexes[:, [0, 2]] //= 100
        assert (_round_trip(indexes) == indexes).all()


def test_extreme_numbers_survive() -> None:
    limits = np.iinfo(np.int32)
    indexes = np.array([[0, limits.min, 0], [0, limits.max, 0], [limits.max, limits.min, limits.min]], dtype=np.int32)
    assert (_round_trip(indexes) == indexes).all()


def test_elements_cut_off_are_incomplete() -> None:
    encoded = index_vector.encode(np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0]], dtype=np.int32))
    for size in range(HEADER, len(encoded)):
        with pytest.raises(Incomplete):
            index_vector.end_of(encoded[:size], HEADER, 3)


@pytest.mark.parametrize("byte", [125, 126, 128, 131])
def test_a_byte_that_is_no_step_is_damage(byte: int) -> None:
    with pytest.raises(UserError, match="damaged vector of indexes"):
        index_vector.end_of(bytes([0, byte, 0]), 0, 3)


def test_an_explicit_index_without_integer_sizes_is_damage() -> None:
    with pytest.raises(UserError, match="4-byte integers"):
        index_vector.end_of(b"\x7f" + bytes(15), 0, 1)


def test_a_time_beyond_32_bits_is_damage() -> None:
    start = b"\x7f" + b"\x04" + bytes(4) + b"\x04\xff\xff\xff\x7f" + b"\x04" + bytes(4)
    with pytest.raises(UserError, match="beyond 32 bits"):
        index_vector.decode(start + b"\x01", 2)


def test_text_form() -> None:
    assert index_vector.encode_text(index_vector.consecutive(0, 2)) == b"<I1V> 2 <I1> 0 0 0 <I1> 0 1 0 "
