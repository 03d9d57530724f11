"""The p-norm nonlinearity with p = 2: each output is the Euclidean norm of a group of neighbouring inputs.

    y_j = sqrt(sum over i in group j of x_i²),    dx_i = dy_j x_i / y_j   (0 where y_j is 0)

Source: Kaldi src/nnet3/nnet-simple-component.cc (PnormComponent).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nnet3py.errors import UserError
from nnet3py.kernels.switch import compiled
from nnet3py.nnet.component import Array, Component, Field, Kind, Layout, Phase, Random, Update

if TYPE_CHECKING:
    from nnet3py.nnet.configuration import ConfigLine

_BLOCK = 1 << 16
"""Elements that are squared at a time: they stay in the processor's second-level cache while they are added up."""

_LARGE_GROUP = 7
"""Columns; above it a product that broadcasts is faster than one column of all groups after the other."""


def group_norms(x: Array, num_groups: int) -> Array:
    """Euclidean norms (rows, num_groups) of equal groups of neighbouring columns of ``x``."""
    size = x.shape[1] // num_groups
    y = np.empty((len(x), num_groups), x.dtype)
    rows = max(1, _BLOCK // x.shape[1])
    scratch = np.empty((min(rows, len(x)), x.shape[1]), x.dtype)
    for first in range(0, len(x), rows):
        block = x[first : first + rows]
        squares = np.multiply(block, block, out=scratch[: len(block)]).reshape(len(block), num_groups, size)
        sums = y[first : first + rows]
        np.copyto(sums, squares[:, :, 0])
        for i in range(1, size):
            np.add(sums, squares[:, :, i], out=sums)
    return np.sqrt(y, out=y)


def times_group_factors(x: Array, factors: Array) -> Array:
    """``x`` with each column multiplied by its group's column of ``factors`` (rows, num_groups).

    np.repeat would be as fast, but it keeps Python's interpreter lock, so that no other thread could run meanwhile.
    """
    num_rows, num_groups = factors.shape
    size = x.shape[1] // num_groups
    if size > _LARGE_GROUP:
        return (x.reshape(num_rows, num_groups, size) * factors[:, :, None]).reshape(x.shape)
    out = np.empty(x.shape, x.dtype)
    rows = max(1, _BLOCK // x.shape[1])
    for first in range(0, num_rows, rows):
        block = out[first : first + rows]
        groups = block.reshape(len(block), num_groups, size)
        for i in range(size):
            groups[:, :, i] = factors[first : first + rows]
        block *= x[first : first + rows]
    return out


class PnormComponent(Component):
    """``input_size`` inputs in ``output_size`` groups of equal size."""

    type_name = "PnormComponent"
    fields = (
        Field("<InputDim>", "input_size", Kind.INT),
        Field("<OutputDim>", "output_size", Kind.INT),
    )

    input_size: int
    output_size: int

    @classmethod
    def from_config(cls, config: ConfigLine, random: np.random.Generator) -> PnormComponent:
        component = cls()
        component.input_size = config.positive("input-dim")
        component.output_size = config.positive("output-dim")
        if component.input_size % component.output_size:
            raise config.error("input-dim must be a multiple of output-dim")
        return component

    @property
    def input_dim(self) -> int:
        return self.input_size

    @property
    def output_dim(self) -> int:
        return self.output_size

    def check(self) -> None:
        if self.output_size <= 0 or self.input_size <= 0 or self.input_size % self.output_size:
            raise UserError(
                f"{self.type_name}: the input dimension {self.input_size} is not a multiple of the output dimension "
                f"{self.output_size}."
            )

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Random = None) -> tuple[Array, Any]:
        kernels = compiled()
        if kernels is not None and kernels.fit(x):
            y = kernels.group_norms(x, self.output_size)
        else:
            y = group_norms(x, self.output_size)
        return y, (x, y)

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Update | None, want_dx: bool) -> Array | None:
        if not want_dx:
            return None
        x, y = memo
        kernels = compiled()
        if kernels is not None and kernels.fit(x, y, dy):
            dx: Array = kernels.group_norms_backward(x, y, dy)
            return dx
        factor = dy / (y + (y == 0.0))  # where y is 0 so is x, and the factor is of no consequence
        return times_group_factors(x, factor)
