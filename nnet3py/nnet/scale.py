"""Trained scales and offsets of single dimensions.

Source: Kaldi src/nnet3/nnet-simple-component.cc (PerElementScale-, NaturalGradientPerElementScale-,
PerElementOffset-, ScaleAndOffsetComponent).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nnet3py.errors import UserError
from nnet3py.nnet.affine import non_negative, normal, positive_number
from nnet3py.nnet.component import (
    UPDATABLE_FIELDS,
    Array,
    Field,
    Kind,
    Layout,
    NaturalGradientOptions,
    Phase,
    Random,
    Role,
    UpdatableComponent,
    Update,
)
from nnet3py.nnet.parameter_file import read_vector_file
from nnet3py.nnet.summary import describe_vector

if TYPE_CHECKING:
    from nnet3py.nnet.configuration import ConfigLine


def _initial(config: ConfigLine, random: np.random.Generator, dim: int, mean: float) -> Array:
    mean = config.number("param-mean", mean)
    return normal(random, dim, non_negative(config, "param-stddev", 0.0), mean)


class PerElementScaleComponent(UpdatableComponent):
    """``y = x * scales``; ``scales``: (dim,)."""

    type_name = "PerElementScaleComponent"
    fields = (
        *UPDATABLE_FIELDS,
        Field("<Params>", "scales", Kind.VECTOR, Role.PARAMETER),
        Field("<IsGradient>", "is_gradient", Kind.BOOL, obsolete=True),
    )

    scales: Array

    @classmethod
    def from_config(cls, config: ConfigLine, random: np.random.Generator) -> PerElementScaleComponent:
        component = cls()
        component.read_learning_rates(config)
        file = next((key for key in ("vector", "scales") if key in config), None)
        if file is None:
            component.scales = _initial(config, random, config.positive("dim"), 1.0)
        else:
            component.scales = read_vector_file(config.text_value(file))
            if config.integer("dim", component.input_dim) != component.input_dim:
                raise config.error(f"dim= differs from the file's dimension {component.input_dim}")
        return component

    @property
    def input_dim(self) -> int:
        return len(self.scales)

    @property
    def output_dim(self) -> int:
        return len(self.scales)

    def check(self) -> None:
        super().check()
        if self.scales.size == 0:
            raise UserError(f"{self.type_name}: has no scales.")

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Random = None) -> tuple[Array, Any]:
        return x * self.scales, x

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Update | None, want_dx: bool) -> Array | None:
        if update is not None:
            update.add_vector("scales", memo * dy)
        return np.multiply(dy, self.scales, out=dy) if want_dx else None

    def info(self) -> str:
        return (
            f"{super().info()}, scales-min={self.scales.min():g}, scales-max={self.scales.max():g}"
            f"{describe_vector('scales', self.scales)}"
        )


class NaturalGradientPerElementScaleComponent(PerElementScaleComponent):
    """Scales whose update is preconditioned."""

    type_name = "NaturalGradientPerElementScaleComponent"
    fields = (
        *UPDATABLE_FIELDS,
        Field("<Params>", "scales", Kind.VECTOR, Role.PARAMETER),
        Field("<IsGradient>", "is_gradient", Kind.BOOL),  # Kaldi writes it here a second time, always
        Field("<Rank>", "rank", Kind.INT),
        Field("<UpdatePeriod>", "update_period", Kind.INT),
        Field("<NumSamplesHistory>", "num_samples_history", Kind.FLOAT),
        Field("<Alpha>", "alpha", Kind.FLOAT),
        Field("<MaxChangePerMinibatch>", "", Kind.FLOAT, obsolete=True),
    )

    rank: int = 8
    update_period: int = 10
    num_samples_history: float = 2000.0
    alpha: float = 4.0

    @classmethod
    def from_config(cls, config: ConfigLine, random: np.random.Generator) -> NaturalGradientPerElementScaleComponent:
        component = super().from_config(config, random)
        assert isinstance(component, NaturalGradientPerElementScaleComponent)
        component.rank = config.positive("rank", 8)
        component.update_period = config.positive("update-period", 10)
        component.num_samples_history = positive_number(config, "num-samples-history", 2000.0)
        component.alpha = positive_number(config, "alpha", 4.0)
        return component

    @property
    def natural_gradient(self) -> NaturalGradientOptions:
        return NaturalGradientOptions(self.rank, self.rank, self.alpha, self.update_period, self.num_samples_history)

    def info(self) -> str:
        return (
            f"{super().info()}, rank={self.rank}, update-period={self.update_period}, "
            f"num-samples-history={self.num_samples_history:g}, alpha={self.alpha:g}"
        )


class PerElementOffsetComponent(UpdatableComponent):
    """``y = x + offsets``; ``offsets`` (block dim,) repeat along the ``dim`` columns."""

    type_name = "PerElementOffsetComponent"
    fields = (
        *UPDATABLE_FIELDS,
        Field("<Offsets>", "offsets", Kind.VECTOR, Role.PARAMETER),
        Field("<IsGradient>", "is_gradient", Kind.BOOL, obsolete=True),
        Field("<Dim>", "dim", Kind.INT, default=0, always=True),  # absent from old files: see check
        Field("<UseNaturalGradient>", "use_natural_gradient", Kind.BOOL, default=True, always=True),
    )

    offsets: Array
    dim: int
    use_natural_gradient: bool = True

    @classmethod
    def from_config(cls, config: ConfigLine, random: np.random.Generator) -> PerElementOffsetComponent:
        component = cls()
        component.read_learning_rates(config)
        if "vector" in config:
            component.offsets = read_vector_file(config.text_value("vector"))
            component.dim = config.positive("dim", len(component.offsets))
        else:
            component.dim = config.positive("dim")
            component.offsets = _initial(config, random, config.positive("block-dim", component.dim), 0.0)
        if component.dim % len(component.offsets):
            raise config.error(f"dim={component.dim} is not a multiple of the {len(component.offsets)} offsets")
        component.use_natural_gradient = config.switch("use-natural-gradient", True)
        return component

    @property
    def block_dim(self) -> int:
        """How many offsets there are; the dimension is a multiple of it."""
        return len(self.offsets)

    @property
    def input_dim(self) -> int:
        return self.dim

    @property
    def output_dim(self) -> int:
        return self.dim

    @property
    def natural_gradient(self) -> NaturalGradientOptions | None:
        return NaturalGradientOptions(20, 20) if self.use_natural_gradient else None

    def check(self) -> None:
        super().check()
        self.dim = self.dim or self.offsets.size
        if self.offsets.size == 0 or self.dim <= 0 or self.dim % self.offsets.size:
            raise UserError(f"{self.type_name}: {self.offsets.size} offsets do not fit the dimension {self.dim}.")

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Random = None) -> tuple[Array, Any]:
        return (x.reshape(-1, self.block_dim) + self.offsets).reshape(x.shape), None

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Update | None, want_dx: bool) -> Array | None:
        if update is not None:
            rows = dy.reshape(-1, self.block_dim)
            update.add_vector("offsets", rows.copy() if want_dx else rows)
        return dy if want_dx else None

    def info(self) -> str:
        return (
            f"{super().info()}, offsets-min={self.offsets.min():g}, offsets-max={self.offsets.max():g}, "
            f"block-dim={self.block_dim}, use-natural-gradient={'true' if self.use_natural_gradient else 'false'}"
            f"{describe_vector('offsets', self.offsets)}"
        )


class ScaleAndOffsetComponent(UpdatableComponent):
    """``y = x * scales + offsets``; both (block dim,) repeat along the ``dim`` columns.

    A scale nearer to zero than float32's epsilon acts as plus or minus epsilon.
    """

    type_name = "ScaleAndOffsetComponent"
    fields = (
        *UPDATABLE_FIELDS,
        Field("<Dim>", "dim", Kind.INT),
        Field("<Scales>", "scales", Kind.VECTOR, Role.PARAMETER),
        Field("<Offsets>", "offsets", Kind.VECTOR, Role.PARAMETER),
        Field("<UseNaturalGradient>", "use_natural_gradient", Kind.BOOL),
        Field("<Rank>", "rank", Kind.INT),
    )

    dim: int
    scales: Array
    offsets: Array
    use_natural_gradient: bool = True
    rank: int = 20

    @classmethod
    def from_config(cls, config: ConfigLine, random: np.random.Generator) -> ScaleAndOffsetComponent:
        component = cls()
        component.read_learning_rates(config)
        component.dim = config.positive("dim")
        block_dim = config.positive("block-dim", component.dim)
        if component.dim % block_dim:
            raise config.error("dim must be a multiple of block-dim")
        component.scales = np.ones(block_dim, np.float32)
        component.offsets = np.zeros(block_dim, np.float32)
        component.use_natural_gradient = config.switch("use-natural-gradient", True)
        component.rank = config.positive("rank", 20)
        return component

    @property
    def input_dim(self) -> int:
        return self.dim

    @property
    def output_dim(self) -> int:
        return self.dim

    @property
    def natural_gradient(self) -> NaturalGradientOptions | None:
        return NaturalGradientOptions(self.rank, self.rank) if self.use_natural_gradient else None

    def check(self) -> None:
        super().check()
        if self.scales.size == 0 or self.scales.shape != self.offsets.shape or self.dim % self.scales.size:
            raise UserError(
                f"{self.type_name}: {self.scales.size} scales and {self.offsets.size} offsets do not fit the "
                f"dimension {self.dim}."
            )

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Random = None) -> tuple[Array, Any]:
        epsilon = np.finfo(np.float32).eps
        away_from_zero = np.where(self.scales >= 0, np.maximum(self.scales, epsilon), np.minimum(self.scales, -epsilon))
        rows = x.reshape(-1, len(self.scales))
        y = rows * away_from_zero
        y += self.offsets
        return y.reshape(x.shape), rows

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Update | None, want_dx: bool) -> Array | None:
        rows = dy.reshape(memo.shape)
        if update is not None:
            update.add_vector("offsets", rows.copy())
            update.add_vector("scales", memo * rows)
        return np.multiply(rows, self.scales, out=rows).reshape(dy.shape) if want_dx else None

    def info(self) -> str:
        text = f"{super().info()}, rank={self.rank}"
        if self.dim != len(self.scales):
            text += f", block-size={len(self.scales)}"
        return text + describe_vector("scales", self.scales) + describe_vector("offsets", self.offsets)
