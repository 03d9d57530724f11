"""Affine layers over equal blocks of the input: one transform that all blocks share, or one for each block.

With the input cut into N blocks of neighbouring columns, block n of the output is an affine function of block n of the
input alone: the whole is an affine layer whose matrix is block-diagonal.

Source: Kaldi src/nnet3/nnet-simple-component.cc (RepeatedAffine-, NaturalGradientRepeatedAffine-,
BlockAffineComponent).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nnet3py.errors import UserError
from nnet3py.nnet.affine import non_negative, normal
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
from nnet3py.nnet.summary import describe_matrix, describe_vector

if TYPE_CHECKING:
    from nnet3py.nnet.configuration import ConfigLine


def _block_dims(config: ConfigLine, blocks: int, key: str) -> tuple[int, int]:
    """Input and output dimension of a block."""
    dims = config.positive("input-dim"), config.positive("output-dim")
    if any(dim % blocks for dim in dims):
        raise config.error(f"input-dim and output-dim must be multiples of {key}={blocks}")
    return dims[0] // blocks, dims[1] // blocks


class RepeatedAffineComponent(UpdatableComponent):
    """``y_n = x_n Wᵀ + b`` for each block n, the same for all.

    ``linear``: W (output dim of a block, input dim of a block), ``bias``: b (output dim of a block,).
    """

    type_name = "RepeatedAffineComponent"
    fields = (
        *UPDATABLE_FIELDS,
        Field("<NumRepeats>", "num_repeats", Kind.INT),
        Field("<LinearParams>", "linear", Kind.MATRIX, Role.PARAMETER),
        Field("<BiasParams>", "bias", Kind.VECTOR, Role.PARAMETER),
        Field("<IsGradient>", "is_gradient", Kind.BOOL, obsolete=True),
    )

    num_repeats: int
    linear: Array
    bias: Array

    @classmethod
    def from_config(cls, config: ConfigLine, random: np.random.Generator) -> RepeatedAffineComponent:
        component = cls()
        component.read_learning_rates(config)
        component.num_repeats = config.positive("num-repeats")
        input_dim, output_dim = _block_dims(config, component.num_repeats, "num-repeats")
        component.linear = normal(
            random, (output_dim, input_dim), non_negative(config, "param-stddev", input_dim**-0.5)
        )
        component.bias = normal(
            random, output_dim, non_negative(config, "bias-stddev", 0.0), config.number("bias-mean", 0.0)
        )
        return component

    @property
    def input_dim(self) -> int:
        return self.linear.shape[1] * self.num_repeats

    @property
    def output_dim(self) -> int:
        return self.linear.shape[0] * self.num_repeats

    def check(self) -> None:
        super().check()
        if self.linear.size == 0 or self.bias.shape != (len(self.linear),) or self.num_repeats <= 0:
            raise UserError(
                f"{self.type_name}: {self.num_repeats} times {len(self.linear)} rows of linear parameters do not fit "
                f"{self.bias.size} bias parameters."
            )

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Random = None) -> tuple[Array, Any]:
        blocks = x.reshape(-1, self.linear.shape[1])
        return affine(blocks, self.linear, self.bias).reshape(len(x), self.output_dim), blocks

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Update | None, want_dx: bool) -> Array | None:
        blocks = dy.reshape(-1, len(self.linear))
        dx = np.dot(blocks, self.linear).reshape(len(dy), self.input_dim) if want_dx else None
        if update is not None:
            self._update(update, blocks, memo)
        return dx

    def _update(self, update: Update, dy: Array, x: Array) -> None:
        """Hand on derivatives, a row a block: dy (rows * repeats, output), x (rows * repeats, input)."""
        update.add_outer_product(dy, x, "linear", "bias")

    def info(self) -> str:
        return (
            f"{super().info()}, num-repeats={self.num_repeats}"
            + describe_matrix("linear-params", self.linear, norms=False)
            + describe_vector("bias", self.bias)
        )


class NaturalGradientRepeatedAffineComponent(RepeatedAffineComponent):
    """The same, with the minibatch's derivative of [W b] preconditioned: its rows, not those of the minibatch."""

    type_name = "NaturalGradientRepeatedAffineComponent"

    @property
    def natural_gradient(self) -> NaturalGradientOptions:
        return NaturalGradientOptions(rank_in=min(40, max(1, self.linear.shape[1] // 2)))

    def _update(self, update: Update, dy: Array, x: Array) -> None:
        update.add_gradient(np.dot(dy.T, x), dy.sum(axis=0), "linear", "bias")


class BlockAffineComponent(UpdatableComponent):
    """``y_n = x_n W_nᵀ + b_n`` for each block n. Trained by plain gradients.

    ``linear``: the W_n below each other (output dim, input dim of a block); ``bias``: the b_n (output dim,).
    """

    type_name = "BlockAffineComponent"
    fields = (
        *UPDATABLE_FIELDS,
        Field("<NumBlocks>", "num_blocks", Kind.INT),
        Field("<LinearParams>", "linear", Kind.MATRIX, Role.PARAMETER),
        Field("<BiasParams>", "bias", Kind.VECTOR, Role.PARAMETER),
        Field("<IsGradient>", "is_gradient", Kind.BOOL, obsolete=True),
    )

    num_blocks: int
    linear: Array
    bias: Array

    @classmethod
    def from_config(cls, config: ConfigLine, random: np.random.Generator) -> BlockAffineComponent:
        component = cls()
        component.read_learning_rates(config)
        component.num_blocks = blocks = config.positive("num-blocks")
        input_dim, output_dim = _block_dims(config, blocks, "num-blocks")
        stddev = non_negative(config, "param-stddev", input_dim**-0.5)
        component.linear = normal(random, (blocks * output_dim, input_dim), stddev)
        bias_mean, bias_stddev = config.number("bias-mean", 0.0), non_negative(config, "bias-stddev", 1.0)
        component.bias = normal(random, blocks * output_dim, bias_stddev, bias_mean)
        return component

    @classmethod
    def of_repeated(cls, repeated: RepeatedAffineComponent) -> BlockAffineComponent:
        """The layer that computes the same, each block with its own copy of the parameters."""
        component = cls()
        for field in UPDATABLE_FIELDS:
            setattr(component, field.attribute, getattr(repeated, field.attribute))
        component.num_blocks = repeated.num_repeats
        component.linear = np.tile(repeated.linear, (repeated.num_repeats, 1))
        component.bias = np.tile(repeated.bias, repeated.num_repeats)
        return component

    @property
    def input_dim(self) -> int:
        return self.linear.shape[1] * self.num_blocks

    @property
    def output_dim(self) -> int:
        return self.linear.shape[0]

    def check(self) -> None:
        super().check()
        rows = len(self.linear)
        if self.linear.size == 0 or self.bias.shape != (rows,) or self.num_blocks <= 0 or rows % self.num_blocks:
            raise UserError(
                f"{self.type_name}: {rows} rows of linear parameters, {self.bias.size} bias parameters and "
                f"{self.num_blocks} blocks do not fit together."
            )

    def _blocks(self, rows: Array) -> Array:
        """(rows, blocks * dim) as (blocks, rows, dim), a view."""
        return rows.reshape(len(rows), self.num_blocks, -1).swapaxes(0, 1)

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Random = None) -> tuple[Array, Any]:
        y = np.empty((len(x), self.output_dim), x.dtype)
        weights = self.linear.reshape(self.num_blocks, -1, self.linear.shape[1])
        np.matmul(self._blocks(x), weights.swapaxes(1, 2), out=self._blocks(y))
        y += self.bias
        return y, x

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Update | None, want_dx: bool) -> Array | None:
        dx = None
        if want_dx:
            dx = np.empty((len(dy), self.input_dim), dy.dtype)
            weights = self.linear.reshape(self.num_blocks, -1, self.linear.shape[1])
            np.matmul(self._blocks(dy), weights, out=self._blocks(dx))
        if update is not None:
            gradient = np.matmul(self._blocks(dy).swapaxes(1, 2), self._blocks(memo))
            update.delta["linear"] += np.float32(update.learning_rate) * gradient.reshape(self.linear.shape)
            update.delta["bias"] += np.float32(update.learning_rate) * dy.sum(axis=0)
        return dx

    def info(self) -> str:
        return (
            f"{super().info()}, num-blocks={self.num_blocks}"
            + describe_matrix("linear-params", self.linear, norms=False)
            + describe_vector("bias", self.bias)
        )
