"""Sums of groups of neighbouring inputs: the mixture components of a class, after a softmax over all of them.

Source: Kaldi src/nnet3/nnet-simple-component.cc (SumGroupComponent); mixing up: arXiv:1410.7455, appendix C.3.
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
