"""Normalisation of each row (or each block of a row) to a fixed root mean square.

With D the dimension of a block and rms the target,

    p = xᵀx / (D rms²),   f = 1 / sqrt(max(2^-66, p)),   y = f x
    dx = f dy - (f³ / (D rms²)) (dyᵀx) x,   the second term absent where p was floored

and, with ``add_log_stddev``, one more output per block: log(rms / f), whose derivative is dy_last x / xᵀx.

Source: Kaldi src/nnet3/nnet-normalize-component.cc, src/cudamatrix/cu-math.cc (``NormalizePerRow``).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from nnet3py.errors import UserError
from nnet3py.kernels.switch import compiled
from nnet3py.nnet.affine import positive_number
from nnet3py.nnet.component import Array, Component, Field, Kind, Layout, OldForm, Phase, Random, Update

if TYPE_CHECKING:
    from nnet3py.nnet.configuration import ConfigLine

SQUARED_NORM_FLOOR = np.float32(2.0**-66)


class NormalizeComponent(Component):
    """``dim`` inputs, normalised in blocks of ``block_dim``."""

    type_name = "NormalizeComponent"
    fields = (
        Field("<InputDim>", "dim", Kind.INT, old_forms=(OldForm("<Dim>", Kind.INT),)),
        Field("<BlockDim>", "block_dim", Kind.INT, default_from="dim"),
        Field("<TargetRms>", "target_rms", Kind.FLOAT, default=1.0, always=True),
        Field("<AddLogStddev>", "add_log_stddev", Kind.BOOL, default=False, always=True),
        Field("<ValueAvg>", "", Kind.VECTOR, obsolete=True),
        Field("<DerivAvg>", "", Kind.VECTOR, obsolete=True),
        Field("<Count>", "", Kind.DOUBLE, obsolete=True),
    )

    dim: int
    block_dim: int
    target_rms: float = 1.0
    add_log_stddev: bool = False

    @classmethod
    def from_config(cls, config: ConfigLine, random: np.random.Generator) -> NormalizeComponent:
        component = cls()
        component.dim = config.positive("dim") if "dim" in config else config.positive("input-dim")
        component.block_dim = config.positive("block-dim", component.dim)
        if component.dim % component.block_dim:
            raise config.error("the dimension must be a multiple of block-dim")
        component.target_rms = positive_number(config, "target-rms", 1.0)
        component.add_log_stddev = config.switch("add-log-stddev", False)
        return component

    @property
    def input_dim(self) -> int:
        return self.dim

    @property
    def output_dim(self) -> int:
        return self.dim + (self.dim // self.block_dim if self.add_log_stddev else 0)

    def check(self) -> None:
        if self.dim <= 0 or self.block_dim <= 0 or self.dim % self.block_dim or not self.target_rms > 0.0:
            raise UserError(
                f"{self.type_name}: dimension {self.dim}, block dimension {self.block_dim} and target rms "
                f"{self.target_rms:g} do not fit together."
            )

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Random = None) -> tuple[Array, Any]:
        rows = x.reshape(-1, self.block_dim)
        factor = np.einsum("ij,ij->i", rows, rows)
        factor *= np.float32(1.0 / (self.block_dim * self.target_rms**2))
        np.maximum(factor, SQUARED_NORM_FLOOR, out=factor)
        np.sqrt(factor, out=factor)
        np.reciprocal(factor, out=factor)
        if not self.add_log_stddev:
            return (rows * factor[:, None]).reshape(x.shape), (rows, factor)
        y = np.empty((len(rows), self.block_dim + 1), x.dtype)
        np.multiply(rows, factor[:, None], out=y[:, :-1])
        y[:, -1] = math.log(self.target_rms) - np.log(factor)
        return y.reshape(len(x), -1), (rows, factor)

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Update | None, want_dx: bool) -> Array | None:
        if not want_dx:
            return None
        rows, factor = memo
        through_norm = dy.reshape(len(rows), -1)[:, : self.block_dim]
        # What multiplies x: minus (f³ / (D rms²)) dyᵀx, nothing where the norm was floored.
        towards_x = np.einsum("ij,ij->i", through_norm, rows)
        cubed = factor**3
        cubed[factor == 1.0 / np.sqrt(SQUARED_NORM_FLOOR)] = 0.0
        towards_x *= cubed
        towards_x *= np.float32(-1.0 / (self.block_dim * self.target_rms**2))
        if self.add_log_stddev:
            square = np.einsum("ij,ij->i", rows, rows)
            np.maximum(square, self.block_dim * SQUARED_NORM_FLOOR, out=square)
            towards_x += dy.reshape(len(rows), -1)[:, -1] / square
        kernels = compiled()
        if kernels is not None and kernels.fit(rows, factor, through_norm, towards_x):
            kernels.normalize_backward(rows, factor, through_norm, towards_x)
            return dy
        dx = rows * towards_x[:, None]
        np.multiply(through_norm, factor[:, None], out=through_norm)
        dx += through_norm
        return dx.reshape(-1, self.dim)

    def info(self) -> str:
        text = (
            f"{super().info()}, target-rms={self.target_rms:g}, "
            f"add-log-stddev={'true' if self.add_log_stddev else 'false'}"
        )
        return text if self.block_dim == self.dim else f"{text}, block-dim={self.block_dim}"
