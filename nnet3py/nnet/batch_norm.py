"""Batch normalisation: each dimension to zero mean and a fixed root mean square.

In training, over the I rows of the minibatch, with mean m and variance v of each dimension:

    scale = rms / sqrt(v + epsilon),   z = (x - m) scale
    dx = scale (dz - mean(dz)) - z scale mean(dz z) / rms²

(the derivative goes through m and v). At test time m and v are those of the stored statistics.

Source: Kaldi src/nnet3/nnet-normalize-component.cc (BatchNormComponent, comment BATCHNORM_MATH).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.kernels.switch import compiled
from nnet3py.nnet.affine import positive_number
from nnet3py.nnet.component import Array, Component, Field, Kind, Layout, Phase, Random, Role, Update
from nnet3py.nnet.summary import summarize_vector

if TYPE_CHECKING:
    from nnet3py.nnet.configuration import ConfigLine


@dataclass
class BatchNormMemo:
    """``z`` (rows, block dim); of the minibatch ``mean``, uncentred ``square`` and ``scale``, or None at test time."""

    z: Array
    mean: Array | None
    square: Array | None
    scale: Array


class BatchNormComponent(Component):
    """``dim`` inputs in blocks of ``block_dim`` that share statistics."""

    type_name = "BatchNormComponent"
    fields = (
        Field("<Dim>", "dim", Kind.INT),
        Field("<BlockDim>", "block_dim", Kind.INT),
        Field("<Epsilon>", "epsilon", Kind.FLOAT),
        Field("<TargetRms>", "target_rms", Kind.FLOAT),
        Field("<TestMode>", "test_mode", Kind.BOOL),
        Field("<Count>", "count", Kind.DOUBLE, Role.STATISTIC),
        Field("<StatsMean>", "stats_sum", Kind.AVERAGE, Role.STATISTIC, count="count"),
        Field("<StatsVar>", "stats_sumsq", Kind.VARIANCE, Role.STATISTIC, count="count", mean="stats_sum"),
    )

    dim: int
    block_dim: int
    epsilon: float = 0.001
    target_rms: float = 1.0
    test_mode: bool = False
    count: float = 0.0
    stats_sum: Array
    stats_sumsq: Array

    @classmethod
    def from_config(cls, config: ConfigLine, random: np.random.Generator) -> BatchNormComponent:
        component = cls()
        component.dim = config.positive("dim")
        component.block_dim = config.integer("block-dim", -1)
        if component.block_dim == -1:
            component.block_dim = component.dim
        if component.block_dim <= 0 or component.dim % component.block_dim:
            raise config.error("dim must be a multiple of block-dim")
        component.epsilon = positive_number(config, "epsilon", 0.001)
        component.target_rms = positive_number(config, "target-rms", 1.0)
        component.test_mode = config.switch("test-mode", False)
        component.stats_sum = np.zeros(component.block_dim)
        component.stats_sumsq = np.zeros(component.block_dim)
        return component

    @property
    def input_dim(self) -> int:
        return self.dim

    @property
    def output_dim(self) -> int:
        return self.dim

    def check(self) -> None:
        if self.dim <= 0 or self.block_dim <= 0 or self.dim % self.block_dim:
            raise UserError(f"{self.type_name}: dimension {self.dim} and block dimension {self.block_dim} do not fit.")
        if not (self.epsilon > 0.0 and self.target_rms > 0.0):
            raise UserError(f"{self.type_name}: epsilon and target rms must be above zero.")
        if len(self.stats_sum) != self.block_dim or len(self.stats_sumsq) != self.block_dim:
            raise UserError(
                f"{self.type_name}: expected statistics of dimension {self.block_dim}, found {len(self.stats_sum)} and "
                f"{len(self.stats_sumsq)}."
            )

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Random = None) -> tuple[Array, Any]:
        rows = x.reshape(-1, self.block_dim)
        testing = self.test_mode or phase is Phase.TEST
        if testing and self.count <= 0.0:
            log.warning(
                f"{self.type_name} has no statistics yet: normalising by those of the data at hand. Only right for a "
                "network that has not been trained."
            )
            testing = False
        memo = self._with_stored_statistics(rows) if testing else self._with_own_statistics(rows)
        return memo.z.reshape(x.shape), memo

    def _with_own_statistics(self, rows: Array) -> BatchNormMemo:
        mean = rows.mean(axis=0)
        square = np.einsum("ij,ij->j", rows, rows)
        square /= np.float32(len(rows))
        scale = self._scale(square - mean * mean)
        kernels = compiled()
        if kernels is not None and kernels.fit(rows, mean, scale):
            z = np.empty_like(rows)
            kernels.centre_and_scale(rows, mean, scale, z)
        else:
            z = rows - mean
            z *= scale
        return BatchNormMemo(z, mean, square, scale)

    def _with_stored_statistics(self, rows: Array) -> BatchNormMemo:
        mean = self.stats_sum / self.count
        scale = self._scale(self.stats_sumsq / self.count - mean * mean)
        z = rows * scale.astype(np.float32)
        z -= (mean * scale).astype(np.float32)
        return BatchNormMemo(z, None, None, scale.astype(np.float32))

    def _scale(self, variance: Array) -> Array:
        return self.target_rms / np.sqrt(np.maximum(variance, 0.0) + variance.dtype.type(self.epsilon))

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Update | None, want_dx: bool) -> Array | None:
        if not want_dx:
            return None
        dz = dy.reshape(memo.z.shape)
        if memo.mean is None:
            dz *= memo.scale
            return dy
        through_variance = np.einsum("ij,ij->j", dz, memo.z)
        through_variance *= memo.scale
        through_variance *= np.float32(-1.0 / (self.target_rms**2 * len(dz)))
        mean = dz.mean(axis=0)
        kernels = compiled()
        if kernels is not None and kernels.fit(dz, memo.z, mean, memo.scale, through_variance):
            kernels.batch_norm_backward(dz, memo.z, mean, memo.scale, through_variance)
        else:
            dz -= mean
            dz *= memo.scale
            dz += memo.z * through_variance
        return dz.reshape(dy.shape)

    def accumulate_statistics(self, memo: BatchNormMemo) -> None:
        if memo.mean is None or memo.square is None or self.test_mode:
            return
        self.count += len(memo.z)
        self.stats_sum += len(memo.z) * memo.mean.astype(np.float64)
        self.stats_sumsq += len(memo.z) * memo.square.astype(np.float64)

    def zero_statistics(self) -> None:
        """Forget the statistics, unless in test mode, where they are the transform."""
        if not self.test_mode:
            super().zero_statistics()

    def info(self) -> str:
        text = (
            f"{self.type_name}, dim={self.dim}, block-dim={self.block_dim}, epsilon={self.epsilon:g}, "
            f"target-rms={self.target_rms:g}, count={self.count:g}, test-mode={'true' if self.test_mode else 'false'}"
        )
        if self.count > 0:
            mean = self.stats_sum / self.count
            deviation = np.sqrt(np.maximum(self.stats_sumsq / self.count - mean * mean, 0.0))
            text += f", data-mean={summarize_vector(mean)}, data-stddev={summarize_vector(deviation)}"
        return text
