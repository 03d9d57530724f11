"""A component that passes its input on: a name for a descriptor's value, or a scale on derivatives only.

Source: Kaldi src/nnet3/nnet-simple-component.cc (NoOpComponent).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nnet3py.errors import UserError
from nnet3py.nnet.component import Array, Component, Field, Kind, Layout, Phase, Random, Update

if TYPE_CHECKING:
    from nnet3py.nnet.configuration import ConfigLine


class NoOpComponent(Component):
    """``y = x``; the derivative is multiplied by ``backprop_scale``."""

    type_name = "NoOpComponent"
    fields = (
        Field("<Dim>", "dim", Kind.INT),
        Field("<BackpropScale>", "backprop_scale", Kind.FLOAT, default=1.0, always=True),
        Field("<ValueAvg>", "", Kind.VECTOR, obsolete=True),
        Field("<DerivAvg>", "", Kind.VECTOR, obsolete=True),
        Field("<Count>", "", Kind.FLOAT, obsolete=True),
        Field("<OderivRms>", "", Kind.VECTOR, obsolete=True),
        Field("<OderivCount>", "", Kind.FLOAT, obsolete=True),
        Field("<NumDimsSelfRepaired>", "", Kind.FLOAT, obsolete=True),
        Field("<NumDimsProcessed>", "", Kind.FLOAT, obsolete=True),
    )

    dim: int
    backprop_scale: float = 1.0

    @classmethod
    def from_config(cls, config: ConfigLine, random: np.random.Generator) -> NoOpComponent:
        component = cls()
        component.dim = config.positive("dim")
        component.backprop_scale = config.number("backprop-scale", 1.0)
        return component

    @property
    def input_dim(self) -> int:
        return self.dim

    @property
    def output_dim(self) -> int:
        return self.dim

    def check(self) -> None:
        if self.dim <= 0:
            raise UserError(f"{self.type_name}: the dimension {self.dim} is not above zero.")

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Random = None) -> tuple[Array, Any]:
        return x, None

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Update | None, want_dx: bool) -> Array | None:
        if not want_dx:
            return None
        if self.backprop_scale != 1.0:
            dy *= np.float32(self.backprop_scale)
        return dy

    def info(self) -> str:
        text = f"{self.type_name}, dim={self.dim}"
        return text if self.backprop_scale == 1.0 else f"{text}, backprop-scale={self.backprop_scale:g}"
