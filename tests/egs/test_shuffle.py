"""Random orders and random parts of examples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from nnet3py.egs import index_vector
from nnet3py.egs.example import Example, NnetIo
from nnet3py.egs.shuffle import random_subset, shuffled
from nnet3py.errors import UserError


def _examples(count: int) -> list[tuple[str, Example]]:
    part = [NnetIo("input", index_vector.consecutive(0, 1), np.full((1, 1), n, np.float32)) for n in range(count)]
    return [(f"k{n}", Example([part[n]])) for n in range(count)]


@pytest.mark.parametrize("buffer_size", [0, 1, 7, 1000])
def test_a_shuffle_loses_and_changes_nothing(buffer_size: int) -> None:
    result = list(shuffled(_examples(100), 3, buffer_size))
    assert sorted(key for key, _ in result) == sorted(key for key, _ in _examples(100))
    for key, example in result:
        assert example.ios[0].features[0, 0] == int(key[1:])


@pytest.mark.parametrize("buffer_size", [0, 20])
def test_the_order_is_that_of_the_seed(buffer_size: int) -> None:
    orders = [[key for key, _ in shuffled(_examples(100), seed, buffer_size)] for seed in (1, 1, 2)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != [key for key, _ in _examples(100)]


def test_a_buffer_bounds_what_is_held() -> None:
    taken = 0

    def counted() -> Iterator[tuple[str, Example]]:
        nonlocal taken
        for entry in _examples(200):
            taken += 1
            yield entry

    stream = shuffled(counted(), 0, 10)
    for given in range(1, 151):
        next(stream)
        assert taken - given <= 10


def test_every_example_is_equally_likely_to_be_kept() -> None:
    kept = np.zeros(20)
    for seed in range(2000):
        chosen, count = random_subset(_examples(20), 5, seed)
        assert count == 20
        for key, _ in chosen:
            kept[int(key[1:])] += 1
    assert abs(kept / 2000 - 0.25).max() < 0.05


def test_a_subset_of_more_than_there_are_is_everything() -> None:
    chosen, count = random_subset(_examples(5), 10, 1, randomize_order=False)
    assert count == 5
    assert [key for key, _ in chosen] == ["k0", "k1", "k2", "k3", "k4"]


def test_a_subset_of_none_is_empty_and_counts() -> None:
    assert random_subset(_examples(5), 0, 1) == ([], 5)


def test_sizes_must_make_sense() -> None:
    with pytest.raises(UserError, match="--n must be at least 0"):
        random_subset([], -1, 0)
    with pytest.raises(UserError, match="--buffer-size cannot be negative"):
        list(shuffled([], 0, -1))
