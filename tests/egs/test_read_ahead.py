"""The background reader."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from nnet3py.egs.read_ahead import read_ahead


@pytest.mark.parametrize("depth", [0, 1, 3, 100])
def test_items_come_in_order(depth: int) -> None:
    assert list(read_ahead(range(50), depth)) == list(range(50))


def test_items_are_made_before_they_are_asked_for() -> None:
    made = []

    def items() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number

    reader = read_ahead(items(), 4)
    assert next(reader) == 0
    deadline = time.monotonic() + 5
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert 5 <= len(made) <= 6  # four wait, one is in the producer's hand
    reader.close()


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    reader = read_ahead(items(), 2)
    assert next(reader) == 1
    with pytest.raises(ValueError, match="broken"):
        next(reader)


def test_an_abandoned_iteration_ends_its_thread() -> None:
    before = threading.active_count()
    reader = read_ahead(iter(int, 1), 2)  # endless zeros
    assert next(reader) == 0
    reader.close()
    assert threading.active_count() == before
