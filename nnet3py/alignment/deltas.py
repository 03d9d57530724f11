"""Derivatives of features over time, appended to them.

The first derivative of frame t is the slope of a line fitted to the frames around it,

    d_t = sum_j j x_{t+j} / sum_j j^2,    j = -window ... window,

the second is the derivative of the first, and so on, each as one filter on the features themselves, whose ends repeat.

Source: Kaldi src/feat/feature-functions.cc, ``DeltaFeatures``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def add_deltas(features: NDArray[np.float32], order: int = 2, window: int = 2) -> NDArray[np.float32]:
    """Features with their derivatives up to ``order``: (frames, dim) -> (frames, dim * (order + 1)) float32."""
    slope = np.arange(-window, window + 1, dtype=np.float64)
    slope /= np.sum(slope**2)
    parts = []
    filter_ = np.ones(1)
    for _ in range(order + 1):
        reach = len(filter_) // 2
        padded = np.pad(features.astype(np.float64), ((reach, reach), (0, 0)), mode="edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded, len(filter_), axis=0)
        parts.append(windows @ filter_)
        filter_ = np.convolve(filter_, slope)
    return np.hstack(parts).astype(np.float32)
