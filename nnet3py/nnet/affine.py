"""Affine and linear layers, ``y = W x + b``, trained by plain or natural gradient.

Sources: Kaldi src/nnet3/nnet-simple-component.cc (AffineComponent, NaturalGradientAffineComponent, LinearComponent);
arXiv:1410.7455 section 4 for the natural gradient, which is in nnet3py.train.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from nnet3py.errors import UserError
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
from nnet3py.nnet.in_place import affine
from nnet3py.nnet.parameter_file import read_matrix_file
from nnet3py.nnet.summary import describe_matrix, describe_vector

if TYPE_CHECKING:
    from nnet3py.nnet.configuration import ConfigLine

_MOST_PARAMETERS = 1 << 40  # more than any memory holds; NumPy gives other errors for arrays that are larger still


def normal(random: np.random.Generator, shape: int | tuple[int, int], stddev: float, mean: float = 0.0) -> Array:
    """Random float32 numbers of a normal distribution: where parameters start."""
    if math.prod(np.atleast_1d(shape).tolist()) > _MOST_PARAMETERS:
        raise MemoryError
    return (random.standard_normal(shape) * stddev + mean).astype(np.float32)


def non_negative(config: ConfigLine, key: str, default: float) -> float:
    """A number of a configuration line that must not be below zero, such as a standard deviation."""
    value = config.number(key, default)
    if value < 0.0:
        raise config.error(f"{key}={value:g} must not be negative")
    return value


def default_ranks(config: ConfigLine, input_dim: int, output_dim: int) -> tuple[int, int]:
    """Ranks of the two preconditioners: rank-in and rank-out, by default 20 and 80 or half the dimension if less."""
    rank_in, rank_out = config.integer("rank-in", -1), config.integer("rank-out", -1)
    if rank_in == 0 or rank_out == 0:
        raise config.error("rank-in and rank-out must be above zero, or negative for the default")
    return (
        rank_in if rank_in >= 0 else min(20, (input_dim + 1) // 2),
        rank_out if rank_out >= 0 else min(80, (output_dim + 1) // 2),
    )


class AffineComponent(UpdatableComponent):
    """``y = x Wᵀ + b``; ``linear``: W (output dim, input dim), ``bias``: b (output dim,)."""

    type_name = "AffineComponent"
    fields = (
        *UPDATABLE_FIELDS,
        Field("<LinearParams>", "linear", Kind.MATRIX, Role.PARAMETER),
        Field("<BiasParams>", "bias", Kind.VECTOR, Role.PARAMETER),
        Field("<IsGradient>", "is_gradient", Kind.BOOL, obsolete=True),
        Field("<OrthonormalConstraint>", "orthonormal_constraint", Kind.FLOAT, default=0.0),
    )

    linear: Array
    bias: Array
    orthonormal_constraint: float = 0.0

    @classmethod
    def from_config(cls, config: ConfigLine, random: np.random.Generator) -> AffineComponent:
        component = cls()
        component.read_learning_rates(config)
        if "matrix" in config:
            matrix = read_matrix_file(config.text_value("matrix"), min_columns=2)
            component.linear = np.ascontiguousarray(matrix[:, :-1])
            component.bias = matrix[:, -1].copy()
            check_given_dims(config, component.input_dim, component.output_dim)
        else:
            input_dim, output_dim = config.positive("input-dim"), config.positive("output-dim")
            stddev = non_negative(config, "param-stddev", input_dim**-0.5)
            component.linear = normal(random, (output_dim, input_dim), stddev)
            component.bias = normal(
                random, output_dim, non_negative(config, "bias-stddev", 1.0), component._bias_mean(config)
            )
        component.orthonormal_constraint = config.number("orthonormal-constraint", 0.0)
        return component

    def _bias_mean(self, config: ConfigLine) -> float:
        return 0.0

    @property
    def input_dim(self) -> int:
        return self.linear.shape[1]

    @property
    def output_dim(self) -> int:
        return self.linear.shape[0]

    def check(self) -> None:
        super().check()
        if self.linear.size == 0 or self.bias.shape != (self.output_dim,):
            raise UserError(
                f"{self.type_name}: {self.output_dim} rows of linear parameters of dimension {self.input_dim} do not "
                f"fit {self.bias.size} bias parameters."
            )

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Random = None) -> tuple[Array, Any]:
        return affine(x, self.linear, self.bias), x

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Update | None, want_dx: bool) -> Array | None:
        dx = np.dot(dy, self.linear) if want_dx else None
        if update is not None:
            update.add_outer_product(dy, memo, "linear", "bias")
        return dx

    def info(self) -> str:
        text = super().info()
        if self.orthonormal_constraint != 0.0:
            text += f", orthonormal-constraint={self.orthonormal_constraint:g}"
        return text + describe_matrix("linear-params", self.linear) + describe_vector("bias", self.bias)


class NaturalGradientAffineComponent(AffineComponent):
    """An affine layer whose update is preconditioned on both sides."""

    type_name = "NaturalGradientAffineComponent"
    fields = (
        *UPDATABLE_FIELDS,
        Field("<LinearParams>", "linear", Kind.MATRIX, Role.PARAMETER),
        Field("<BiasParams>", "bias", Kind.VECTOR, Role.PARAMETER),
        Field("<RankIn>", "rank_in", Kind.INT),
        Field("<RankOut>", "rank_out", Kind.INT),
        Field("<OrthonormalConstraint>", "orthonormal_constraint", Kind.FLOAT, default=0.0),
        Field("<UpdatePeriod>", "update_period", Kind.INT),
        Field("<NumSamplesHistory>", "num_samples_history", Kind.FLOAT),
        Field("<Alpha>", "alpha", Kind.FLOAT),
        Field("<MaxChangePerSample>", "", Kind.FLOAT, obsolete=True),
        Field("<IsGradient>", "is_gradient", Kind.BOOL, obsolete=True),
        Field("<UpdateCount>", "", Kind.DOUBLE, obsolete=True),
        Field("<ActiveScalingCount>", "", Kind.DOUBLE, obsolete=True),
        Field("<MaxChangeScaleStats>", "", Kind.DOUBLE, obsolete=True),
    )

    rank_in: int = 20
    rank_out: int = 80
    update_period: int = 4
    num_samples_history: float = 2000.0
    alpha: float = 4.0

    @classmethod
    def from_config(cls, config: ConfigLine, random: np.random.Generator) -> NaturalGradientAffineComponent:
        component = super().from_config(config, random)
        assert isinstance(component, NaturalGradientAffineComponent)
        component.rank_in, component.rank_out = default_ranks(config, component.input_dim, component.output_dim)
        component.update_period = config.positive("update-period", 4)
        component.num_samples_history = positive_number(config, "num-samples-history", 2000.0)
        component.alpha = positive_number(config, "alpha", 4.0)
        return component

    def _bias_mean(self, config: ConfigLine) -> float:
        return config.number("bias-mean", 0.0)

    @property
    def natural_gradient(self) -> NaturalGradientOptions:
        return NaturalGradientOptions(
            self.rank_in, self.rank_out, self.alpha, self.update_period, self.num_samples_history
        )

    def info(self) -> str:
        return (
            f"{super().info()}, rank-in={self.rank_in}, rank-out={self.rank_out}, "
            f"num-samples-history={self.num_samples_history:g}, update-period={self.update_period}, "
            f"alpha={self.alpha:g}"
        )


class LinearComponent(UpdatableComponent):
    """``y = x Wᵀ``; ``params``: W (output dim, input dim)."""

    type_name = "LinearComponent"
    fields = (
        *UPDATABLE_FIELDS,
        Field("<Params>", "params", Kind.MATRIX, Role.PARAMETER),
        Field("<OrthonormalConstraint>", "orthonormal_constraint", Kind.FLOAT, default=0.0),
        Field("<UseNaturalGradient>", "use_natural_gradient", Kind.BOOL),
        Field("<RankInOut>", "ranks", Kind.INT_PAIR),
        Field("<Alpha>", "alpha", Kind.FLOAT),
        Field("<NumSamplesHistory>", "num_samples_history", Kind.FLOAT),
        Field("<UpdatePeriod>", "update_period", Kind.INT),
    )

    params: Array
    orthonormal_constraint: float = 0.0
    use_natural_gradient: bool = True
    ranks: tuple[int, int] = (20, 80)
    alpha: float = 4.0
    num_samples_history: float = 2000.0
    update_period: int = 4

    @classmethod
    def from_config(cls, config: ConfigLine, random: np.random.Generator) -> LinearComponent:
        component = cls()
        component.read_learning_rates(config)
        if "matrix" in config:
            component.params = read_matrix_file(config.text_value("matrix"))
            check_given_dims(config, component.input_dim, component.output_dim)
        else:
            input_dim, output_dim = config.positive("input-dim"), config.positive("output-dim")
            stddev = non_negative(config, "param-stddev", input_dim**-0.5)
            component.params = normal(random, (output_dim, input_dim), stddev)
        component.orthonormal_constraint = config.number("orthonormal-constraint", 0.0)
        component.use_natural_gradient = config.switch("use-natural-gradient", True)
        component.ranks = default_ranks(config, component.input_dim, component.output_dim)
        component.alpha = positive_number(config, "alpha", 4.0)
        component.num_samples_history = positive_number(config, "num-samples-history", 2000.0)
        component.update_period = config.positive("update-period", 4)
        return component

    @property
    def input_dim(self) -> int:
        return self.params.shape[1]

    @property
    def output_dim(self) -> int:
        return self.params.shape[0]

    @property
    def natural_gradient(self) -> NaturalGradientOptions:
        # Kaldi stores use-natural-gradient and prints it, but LinearComponent::Backprop does not look at it.
        return NaturalGradientOptions(*self.ranks, self.alpha, self.update_period, self.num_samples_history)

    def check(self) -> None:
        super().check()
        if self.params.size == 0:
            raise UserError(f"{self.type_name}: has no parameters.")

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Random = None) -> tuple[Array, Any]:
        return np.dot(x, self.params.T), x

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Update | None, want_dx: bool) -> Array | None:
        dx = np.dot(dy, self.params) if want_dx else None
        if update is not None:
            update.add_outer_product(dy, memo, "params", None)
        return dx

    def info(self) -> str:
        text = super().info() + describe_matrix("params", self.params)
        if self.orthonormal_constraint != 0.0:
            text += f", orthonormal-constraint={self.orthonormal_constraint:g}"
        return (
            f"{text}, use-natural-gradient={'true' if self.use_natural_gradient else 'false'}, "
            f"rank-in={self.ranks[0]}, rank-out={self.ranks[1]}, num-samples-history={self.num_samples_history:g}, "
            f"update-period={self.update_period}, alpha={self.alpha:g}"
        )


def positive_number(config: ConfigLine, key: str, default: float) -> float:
    """A number of a configuration line that must be above zero."""
    value = config.number(key, default)
    if value <= 0.0:
        raise config.error(f"{key}={value:g} must be above zero")
    return value


def check_given_dims(config: ConfigLine, input_dim: int, output_dim: int) -> None:
    """Raise UserError if input-dim or output-dim is given beside a matrix and differs from the matrix's."""
    for key, found in (("input-dim", input_dim), ("output-dim", output_dim)):
        if config.integer(key, found) != found:
            raise config.error(f"{key}={config.integer(key)} but the matrix has {found}")
