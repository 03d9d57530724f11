"""Elementwise product of the equal parts of the input, as gates use it.

Source: Kaldi src/nnet3/nnet-simple-component.cc (ElementwiseProductComponent).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nnet3py.errors import UserError
from nnet3py.nnet.component import Array, Component, Field, Kind, Layout, Phase, Random, Update

if TYPE_CHECKING:
    from nnet3py.nnet.configuration import ConfigLine


class ElementwiseProductComponent(Component):
    """``y_j = x_j x_{j+D} x_{j+2D} ...`` with D the output dimension."""

    type_name = "ElementwiseProductComponent"
    fields = (
        Field("<InputDim>", "input_size", Kind.INT),
        Field("<OutputDim>", "output_size", Kind.INT),
    )

    input_size: int
    output_size: int

    @classmethod
    def from_config(cls, config: ConfigLine, random: np.random.Generator) -> ElementwiseProductComponent:
        component = cls()
        component.input_size = config.positive("input-dim")
        component.output_size = config.positive("output-dim")
        if not component._fits():
            raise config.error("input-dim must be a multiple of output-dim, and more than it")
        return component

    def _fits(self) -> bool:
        return 0 < self.output_size < self.input_size and self.input_size % self.output_size == 0

    @property
    def input_dim(self) -> int:
        return self.input_size

    @property
    def output_dim(self) -> int:
        return self.output_size

    def check(self) -> None:
        if not self._fits():
            raise UserError(
                f"{self.type_name}: the input dimension {self.input_size} is not a multiple of the output dimension "
                f"{self.output_size}."
            )

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Random = None) -> tuple[Array, Any]:
        parts = x.reshape(len(x), -1, self.output_size)
        return np.multiply.reduce(parts, axis=1), parts

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Update | None, want_dx: bool) -> Array | None:
        if not want_dx:
            return None
        dx = np.empty_like(memo)
        for part in range(memo.shape[1]):
            np.multiply(dy, np.multiply.reduce(np.delete(memo, part, axis=1), axis=1), out=dx[:, part])
        return dx.reshape(len(dx), self.input_size)
