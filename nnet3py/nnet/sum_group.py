"""Sums of groups of neighbouring inputs: the mixture components of a class, after a softmax over all of them.

Also sums of the equal blocks of the input, column by column.

Source: Kaldi src/nnet3/nnet-simple-component.cc (SumGroup-, SumBlockComponent); mixing up: arXiv:1410.7455, appendix
C.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nnet3py.errors import UserError
from nnet3py.nnet.component import Array, Component, Field, Kind, Layout, Phase, Random, Update

if TYPE_CHECKING:
    from nnet3py.nnet.configuration import ConfigLine


class SumGroupComponent(Component):
    """``sizes``: how many inputs each output adds up."""

    type_name = "SumGroupComponent"
    fields = (Field("<Sizes>", "sizes", Kind.INT_VECTOR),)

    sizes: list[int]

    @classmethod
    def from_config(cls, config: ConfigLine, random: np.random.Generator) -> SumGroupComponent:
        component = cls()
        if "sizes" in config:
            component.sizes = config.integers("sizes")
            if min(component.sizes) <= 0:
                raise config.error("sizes must be above zero")
            return component
        input_dim, output_dim = config.positive("input-dim"), config.positive("output-dim")
        if input_dim % output_dim:
            raise config.error("input-dim must be a multiple of output-dim")
        component.sizes = [input_dim // output_dim] * output_dim
        return component

    @property
    def input_dim(self) -> int:
        return int(sum(self.sizes))

    @property
    def output_dim(self) -> int:
        return len(self.sizes)

    def check(self) -> None:
        if len(self.sizes) == 0 or min(self.sizes) <= 0:
            raise UserError(f"{self.type_name}: the sizes of the groups must be above zero.")

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Random = None) -> tuple[Array, Any]:
        starts = np.cumsum([0, *self.sizes[:-1]])
        return np.add.reduceat(x, starts, axis=1), None

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Update | None, want_dx: bool) -> Array | None:
        return np.repeat(dy, self.sizes, axis=1) if want_dx else None


class SumBlockComponent(Component):
    """``y_j = scale (x_j + x_{j+D} + x_{j+2D} + ...)`` with D the output dimension."""

    type_name = "SumBlockComponent"
    fields = (
        Field("<InputDim>", "input_size", Kind.INT),
        Field("<OutputDim>", "output_size", Kind.INT),
        Field("<Scale>", "scale", Kind.FLOAT),
    )

    input_size: int
    output_size: int
    scale: float = 1.0

    @classmethod
    def from_config(cls, config: ConfigLine, random: np.random.Generator) -> SumBlockComponent:
        component = cls()
        component.input_size, component.output_size = config.positive("input-dim"), config.positive("output-dim")
        if component.input_size % component.output_size:
            raise config.error("input-dim must be a multiple of output-dim")
        component.scale = config.number("scale", 1.0)
        return component

    @property
    def input_dim(self) -> int:
        return self.input_size

    @property
    def output_dim(self) -> int:
        return self.output_size

    def check(self) -> None:
        if self.input_size <= 0 or self.output_size <= 0 or self.input_size % self.output_size:
            raise UserError(
                f"{self.type_name}: the input dimension {self.input_size} is not a multiple of the output dimension "
                f"{self.output_size}."
            )

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Random = None) -> tuple[Array, Any]:
        y = x.reshape(len(x), -1, self.output_size).sum(axis=1)
        y *= np.float32(self.scale)
        return y, None

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Update | None, want_dx: bool) -> Array | None:
        if not want_dx:
            return None
        dy *= np.float32(self.scale)
        return np.tile(dy, (1, self.input_size // self.output_size))

    def info(self) -> str:
        return f"{super().info()}, scale={self.scale:g}"
