"""Sums in place: against NumPy's, and what other threads may do meanwhile."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nnet3py.nnet.in_place import add_product, add_scaled, affine


def _rows(seed: int, count: int, dim: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def _strided(array: np.ndarray) -> list[np.ndarray]:
    """The same numbers as rows, as columns, as rows with a gap between, and in every second place."""
    gap = np.zeros((len(array), array.shape[1] + 3), np.float32)
    gap[:, : array.shape[1]] = array
    return [
        array,
        np.asfortranarray(array),
        gap[:, : array.shape[1]],
        np.repeat(array, 2, axis=1)[:, ::2],
        array[::-1].copy()[::-1],
        array.astype(np.float64),
    ]


@pytest.mark.parametrize("shape", [(9, 20, 7), (1, 20, 7), (9, 1, 7), (9, 20, 1), (1, 1, 1)])
def test_products_are_added_whatever_the_memory_layout(shape: tuple[int, int, int]) -> None:
    rows, inner, columns = shape
    left, right, start = _rows(0, rows, inner), _rows(1, inner, columns), _rows(2, rows, columns)
    expected = start + 0.3 * left.astype(float) @ right
    for a in _strided(left):
        for b in _strided(right):
            for out in _strided(start.copy()):
                add_product(out, 0.3, a, b)
                np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
                out[...] = start


def test_rows_that_are_one_row_again_and_again() -> None:
    row, right, out = _rows(0, 1, 20), _rows(1, 20, 7), np.zeros((9, 7), np.float32)
    add_product(out, 1.0, np.broadcast_to(row, (9, 20)), right)
    np.testing.assert_allclose(out, np.repeat(row @ right, 9, axis=0), rtol=1e-5, atol=1e-6)


def test_a_product_of_nothing_adds_nothing() -> None:
    for rows, p, q in ((0, 4, 3), (5, 0, 3), (5, 4, 0)):
        out = np.ones((p, q), np.float32)
        add_product(out, 0.3, np.ones((rows, p), np.float32).T, np.ones((rows, q), np.float32))
        np.testing.assert_array_equal(out, np.ones((p, q)))


def test_an_affine_transform_is_the_product_and_the_bias() -> None:
    x, linear, bias = _rows(0, 6, 50), _rows(1, 4, 50), _rows(2, 1, 4)[0]
    for rows in (x, x[:0], x[::2], np.asfortranarray(x)):
        np.testing.assert_allclose(affine(rows, linear, bias), rows @ linear.T + bias, rtol=1e-5, atol=1e-5)


def test_scaled_arrays_are_added_in_place_whatever_the_memory_layout() -> None:
    addend = _rows(0, 9, 7)
    for target in (_rows(1, 9, 7), _rows(1, 9, 14)[:, ::2], _rows(1, 7, 9).T):
        expected = target.astype(float) + 0.3 * addend.astype(float)
        add_scaled(target, 0.3, addend)
        np.testing.assert_allclose(target, expected, rtol=1e-5, atol=1e-6)
    vector = np.ones(5, np.float32)
    add_scaled(vector, -2.0, np.arange(5, dtype=np.float32))
    np.testing.assert_array_equal(vector, [1, -1, -3, -5, -7])


def test_without_numpys_own_blas_scipys_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from nnet3py.nnet import in_place

    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    spec = importlib.util.spec_from_file_location("in_place_of_scipy", in_place.__file__)
    assert spec is not None
    assert spec.loader is not None
    other = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(other)
    assert other._integer is ctypes.c_int
    left, right, delta = _rows(0, 20, 9), _rows(1, 20, 7), np.ones((9, 7), np.float32)
    other.add_product(delta, 0.3, left.T, right)
    np.testing.assert_allclose(delta, 1.0 + 0.3 * left.T @ right, rtol=1e-5)
    target, addend = _rows(2, 9, 7), _rows(3, 9, 7)
    expected = target + np.float32(0.3) * addend
    other.add_scaled(target, 0.3, addend)
    np.testing.assert_allclose(target, expected, rtol=1e-5, atol=1e-6)


def _sum() -> Callable[[], None]:
    target, addend = np.zeros(20_000_000, np.float32), np.ones(20_000_000, np.float32)
    return lambda: add_scaled(target, 1.0, addend)


def _product() -> Callable[[], None]:
    delta, rows = np.zeros((1000, 1000), np.float32), np.ones((1000, 1000), np.float32)
    return lambda: add_product(delta, 1.0, rows, rows)


@pytest.mark.parametrize("make", [_sum, _product])
def test_another_thread_runs_meanwhile(make: Callable[[], Callable[[], None]]) -> None:
    work, turns, seen = make(), [0], []
    work()  # pages and code are there
    before = sys.getswitchinterval()
    sys.setswitchinterval(60.0)  # a thread has the interpreter until it lets go of it by itself

    def measured() -> None:
        start = turns[0]
        work()
        seen.append(turns[0] - start)

    thread = threading.Thread(target=measured)
    try:
        thread.start()
        while thread.is_alive():
            turns[0] += 1
            time.sleep(1.0e-4)  # lets go of the interpreter
    finally:
        sys.setswitchinterval(before)
    assert seen[0] > 0
