"""Rows of a time-major array at chosen times: a view where the times allow it, an indexed copy elsewhere.

An array holds ``len(times)`` blocks of ``N`` rows, one row a sequence. Chosen times that are neighbours in ``times``
are a slice; times at a fixed stride (frame subsampling) are a strided view; a single repeated time (an iVector) is
broadcast; anything else is an index array.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnet3py.nnet.component import Array


class RowSelection:
    """The blocks ``positions`` of an array of ``available`` blocks."""

    def __init__(self, positions: Sequence[int] | Array, available: int) -> None:
        self.positions = np.asarray(positions, dtype=np.int64)
        self.available = available
        steps = np.diff(self.positions)
        self.step = int(steps[0]) if len(steps) else 1
        self.regular = bool(self.step >= 1 and (steps == self.step).all())
        self.repeated = bool(len(steps) and not steps.any())
        self.distinct = self.regular or len(np.unique(self.positions)) == len(self.positions)
        self.whole = self.regular and self.step == 1 and len(self.positions) == available

    @classmethod
    def of_times(cls, wanted: Sequence[int] | Array, times: Sequence[int] | Array) -> RowSelection:
        """The blocks at the times ``wanted``, of an array whose blocks are at ``times`` (ascending)."""
        return cls(np.searchsorted(np.asarray(times), np.asarray(wanted)), len(times))

    def blocks(self, x: Array) -> Array:
        """The chosen blocks of ``x`` (available * N, dim) as (chosen, N, dim): a view where it can be one."""
        blocks = x.reshape(self.available, -1, x.shape[1])
        if self.whole:
            return blocks
        if self.regular:
            return blocks[self._slice()]
        if self.repeated:
            one = blocks[self.positions[0]]
            return np.broadcast_to(one, (len(self.positions), *one.shape))
        return blocks[self.positions]

    def take(self, x: Array) -> Array:
        """The chosen rows as (chosen * N, dim), a view of ``x`` if they are a slice, otherwise a copy."""
        return x if self.whole else self.blocks(x).reshape(-1, x.shape[1])

    def add_to(self, dx: Array, dy: Array) -> None:
        """Add ``dy`` (chosen * N, dim) to the chosen rows of ``dx`` (available * N, dim)."""
        to = dx.reshape(self.available, -1, dx.shape[1])
        what = dy.reshape(len(self.positions), -1, dx.shape[1])
        if self.regular:
            to[self._slice()] += what
        elif self.repeated:
            to[self.positions[0]] += what.sum(axis=0)
        elif self.distinct:
            to[self.positions] += what
        else:
            np.add.at(to, self.positions, what)

    def _slice(self) -> slice:
        return (
            slice(int(self.positions[0]), int(self.positions[-1]) + 1, self.step) if len(self.positions) else slice(0)
        )
