"""Passes over activations, compiled by Numba; each has a twin in NumPy that it equals to the bit.

So sums are not reordered and products not fused with additions here (``fastmath`` is off). Arrays are float32 and
C-contiguous. Python's interpreter lock is free meanwhile. Machine code is kept beside this file, or where
NUMBA_CACHE_DIR says, for the next process.
"""

from __future__ import annotations

import numpy as np
from numba import njit

Array = np.ndarray

_kernel = njit(nogil=True, cache=True)
"""Marks a function that writes its result into its arguments. It is compiled, or loaded, when it is first called."""


@_kernel
def _group_norms(x: Array, y: Array, size: int) -> None:
    for row in range(y.shape[0]):
        if size == 5:  # a number that the compiler knows lets it take several groups at a time
            for j in range(y.shape[1]):
                total = x[row, 5 * j] * x[row, 5 * j]
                for i in range(1, 5):
                    total += x[row, 5 * j + i] * x[row, 5 * j + i]
                y[row, j] = np.sqrt(total)
        elif size == 10:
            for j in range(y.shape[1]):
                total = x[row, 10 * j] * x[row, 10 * j]
                for i in range(1, 10):
                    total += x[row, 10 * j + i] * x[row, 10 * j + i]
                y[row, j] = np.sqrt(total)
        else:
            for j in range(y.shape[1]):
                total = x[row, size * j] * x[row, size * j]
                for i in range(1, size):
                    total += x[row, size * j + i] * x[row, size * j + i]
                y[row, j] = np.sqrt(total)


@_kernel
def _group_norms_backward(x: Array, y: Array, dy: Array, dx: Array, size: int) -> None:
    factors = np.empty(y.shape[1], np.float32)
    for row in range(y.shape[0]):
        for j in range(y.shape[1]):
            norm = y[row, j]
            factors[j] = dy[row, j] / (norm + (np.float32(1.0) if norm == np.float32(0.0) else np.float32(0.0)))
        if size == 5:
            for j in range(y.shape[1]):
                for i in range(5):
                    dx[row, 5 * j + i] = factors[j] * x[row, 5 * j + i]
        elif size == 10:
            for j in range(y.shape[1]):
                for i in range(10):
                    dx[row, 10 * j + i] = factors[j] * x[row, 10 * j + i]
        else:
            for j in range(y.shape[1]):
                for i in range(size):
                    dx[row, size * j + i] = factors[j] * x[row, size * j + i]


@_kernel
def _normalize_backward(x: Array, factors: Array, dy: Array, towards_x: Array) -> None:
    for row in range(x.shape[0]):
        factor, towards = factors[row], towards_x[row]
        for i in range(x.shape[1]):
            dy[row, i] = x[row, i] * towards + dy[row, i] * factor


@_kernel
def _centre_and_scale(x: Array, mean: Array, scale: Array, z: Array) -> None:
    for row in range(x.shape[0]):
        for i in range(x.shape[1]):
            z[row, i] = (x[row, i] - mean[i]) * scale[i]


@_kernel
def _batch_norm_backward(dz: Array, z: Array, mean: Array, scale: Array, towards_z: Array) -> None:
    for row in range(z.shape[0]):
        for i in range(z.shape[1]):
            dz[row, i] = (dz[row, i] - mean[i]) * scale[i] + z[row, i] * towards_z[i]


@_kernel
def _rectifier_backward(y: Array, dy: Array) -> None:
    for row in range(y.shape[0]):
        for i in range(y.shape[1]):
            dy[row, i] = dy[row, i] * (np.float32(1.0) if y[row, i] > np.float32(0.0) else np.float32(0.0))


def fit(*arrays: Array) -> bool:
    """Whether arrays are such as the kernels take."""
    return all(array.dtype == np.float32 and array.flags.c_contiguous for array in arrays)


def group_norms(x: Array, num_groups: int) -> Array:
    """Twin: :func:`nnet3py.nnet.pnorm.group_norms`."""
    y = np.empty((len(x), num_groups), np.float32)
    _group_norms(x, y, x.shape[1] // num_groups)
    return y


def group_norms_backward(x: Array, y: Array, dy: Array) -> Array:
    """Twin: ``PnormComponent.backprop``."""
    dx = np.empty_like(x)
    _group_norms_backward(x, y, dy, dx, x.shape[1] // y.shape[1])
    return dx


normalize_backward = _normalize_backward
centre_and_scale = _centre_and_scale
batch_norm_backward = _batch_norm_backward
rectifier_backward = _rectifier_backward


def prepare() -> None:
    """Compile all kernels and keep their machine code, so that no training has to wait for it."""
    x, y, vector = np.ones((2, 4), np.float32), np.ones((2, 2), np.float32), np.ones(4, np.float32)
    group_norms_backward(x, group_norms(x, 2), y)
    normalize_backward(x, vector[:2].copy(), x.copy(), vector[:2].copy())
    centre_and_scale(x, vector, vector, x.copy())
    batch_norm_backward(x.copy(), x, vector, vector, vector)
    rectifier_backward(x, x.copy())
