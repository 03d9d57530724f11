"""Components with parameters, on a device: affine layers of all kinds, scales and offsets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nnet3py.gpu.component import DeviceComponent
from nnet3py.gpu.operations import Array
from nnet3py.nnet.component import Layout, Phase
from nnet3py.nnet.rows import RowSelection


class Affine(DeviceComponent):
    """``y = x Wᵀ + b``."""

    def start(self) -> None:
        self.linear, self.bias = self.arrays["linear"], self.arrays["bias"]

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Any = None) -> tuple[Array, Any]:
        y = self.ops.empty((len(x), self.output_dim))
        return self.ops.product(y, x, self.linear, transpose_right=True, bias=self.bias), x

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Any, want_dx: bool) -> Array | None:
        if update is not None:
            update.add_outer_product(dy, memo, "linear", "bias")
        return self.ops.product(self.ops.empty((len(dy), self.input_dim)), dy, self.linear) if want_dx else None


class Linear(DeviceComponent):
    """``y = x Wᵀ``."""

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Any = None) -> tuple[Array, Any]:
        y = self.ops.empty((len(x), self.output_dim))
        return self.ops.product(y, x, self.arrays["params"], transpose_right=True), x

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Any, want_dx: bool) -> Array | None:
        if update is not None:
            update.add_outer_product(dy, memo, "params", None)
        if not want_dx:
            return None
        return self.ops.product(self.ops.empty((len(dy), self.input_dim)), dy, self.arrays["params"])


class Tdnn(DeviceComponent):
    """An affine layer over its input at several times."""

    def input_times(self, output_times: Sequence[int]) -> list[int]:
        return list(self.host.input_times(output_times))

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Any = None) -> tuple[Array, Any]:
        rows, dim = len(layout.output_times) * layout.num_sequences, self.input_dim
        spliced = self.ops.empty((rows, dim * len(self.host.time_offsets)))
        blocks = spliced.reshape(len(layout.output_times), layout.num_sequences, -1)
        for k, selection in enumerate(self._selections(layout)):
            blocks[:, :, k * dim : (k + 1) * dim] = selection.blocks(x)
        bias = self.arrays["bias"] if self.host.bias.size else None
        y = self.ops.empty((rows, self.output_dim))
        return self.ops.product(y, spliced, self.arrays["linear"], transpose_right=True, bias=bias), spliced

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Any, want_dx: bool) -> Array | None:
        if update is not None:
            update.add_outer_product(dy, memo, "linear", "bias" if self.host.bias.size else None)
        if not want_dx:
            return None
        dim = self.input_dim
        dx = self.ops.zeros((len(layout.input_times) * layout.num_sequences, dim))
        for k, selection in enumerate(self._selections(layout)):
            part = self.ops.empty((len(dy), dim))
            selection.add_to(dx, self.ops.product(part, dy, self.arrays["linear"][:, k * dim : (k + 1) * dim]))
        return dx

    def _selections(self, layout: Layout) -> list[RowSelection]:
        times = np.asarray(layout.output_times)
        return [RowSelection.of_times(times + offset, layout.input_times) for offset in self.host.time_offsets]


class RepeatedAffine(DeviceComponent):
    """One affine transform of all blocks of the input: an affine layer with a row for each block."""

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Any = None) -> tuple[Array, Any]:
        linear = self.arrays["linear"]
        blocks = x.reshape(-1, linear.shape[1])
        y = self.ops.empty((len(blocks), len(linear)))
        self.ops.product(y, blocks, linear, transpose_right=True, bias=self.arrays["bias"])
        return y.reshape(len(x), self.output_dim), blocks

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Any, want_dx: bool) -> Array | None:
        linear = self.arrays["linear"]
        blocks = dy.reshape(-1, len(linear))
        if update is not None:
            self._update(update, blocks, memo)
        if not want_dx:
            return None
        dx = self.ops.product(self.ops.empty((len(blocks), linear.shape[1])), blocks, linear)
        return dx.reshape(len(dy), self.input_dim)

    def _update(self, update: Any, dy: Array, x: Array) -> None:
        update.add_outer_product(dy, x, "linear", "bias")


class NaturalGradientRepeatedAffine(RepeatedAffine):
    """The same; what is preconditioned are the rows of the minibatch's gradient."""

    def _update(self, update: Any, dy: Array, x: Array) -> None:
        ops = self.ops
        gradient, bias_gradient = ops.empty((dy.shape[1], x.shape[1])), ops.zeros(dy.shape[1])
        ops.product(gradient, dy, x, transpose_left=True)
        sums = ops.empty((ops.parts_of(len(dy)), dy.shape[1]))
        ops.column_sums(dy, sums, None)
        ops.add_sum_of_rows(bias_gradient, sums, 1.0)
        update.add_gradient(gradient, bias_gradient, "linear", "bias")


class BlockAffine(DeviceComponent):
    """An affine transform for each block of the input, trained by plain gradients."""

    def _blocks(self) -> list[tuple[slice, slice]]:
        """The columns of each block of the input and of the output."""
        count = self.host.num_blocks
        widths = self.input_dim // count, self.output_dim // count
        return [
            (slice(n * widths[0], (n + 1) * widths[0]), slice(n * widths[1], (n + 1) * widths[1])) for n in range(count)
        ]

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Any = None) -> tuple[Array, Any]:
        y = self.ops.empty((len(x), self.output_dim))
        for of_x, of_y in self._blocks():
            self.ops.product(y[:, of_y], x[:, of_x], self.arrays["linear"][of_y], transpose_right=True)
        self.ops.add_row(y, self.arrays["bias"])
        return y, x

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Any, want_dx: bool) -> Array | None:
        ops, x = self.ops, memo
        dx = ops.empty((len(dy), self.input_dim)) if want_dx else None
        if update is not None:
            sums = ops.empty((ops.parts_of(len(dy)), self.output_dim))
            ops.column_sums(dy, sums, None)
            ops.add_sum_of_rows(update.delta["bias"], sums, update.learning_rate)
        for of_x, of_y in self._blocks():
            if dx is not None:
                ops.product(dx[:, of_x], dy[:, of_y], self.arrays["linear"][of_y])
            if update is not None:
                ops.product(
                    update.delta["linear"][of_y], dy[:, of_y], x[:, of_x], transpose_left=True,
                    alpha=float(update.learning_rate), beta=1.0,
                )  # fmt: skip
        return dx


class PerElementScale(DeviceComponent):
    """A trained scale of each dimension."""

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Any = None) -> tuple[Array, Any]:
        return x * self.arrays["scales"], x

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Any, want_dx: bool) -> Array | None:
        if update is not None:
            update.add_vector("scales", memo * dy)
        return dy * self.arrays["scales"] if want_dx else None


class PerElementOffset(DeviceComponent):
    """A trained offset of each dimension, or of each of a block that is repeated."""

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Any = None) -> tuple[Array, Any]:
        return (x.reshape(-1, self.host.block_dim) + self.arrays["offsets"]).reshape(x.shape), None

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Any, want_dx: bool) -> Array | None:
        if update is not None:
            rows = dy.reshape(-1, self.host.block_dim)
            update.add_vector("offsets", rows.copy() if want_dx else rows)  # who gets dy writes into it
        return dy if want_dx else None


class ScaleAndOffset(DeviceComponent):
    """A trained scale and offset of each dimension, or of each of a block that is repeated."""

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Any = None) -> tuple[Array, Any]:
        scales, least, xp = self.arrays["scales"], np.finfo(np.float32).eps, self.ops.xp
        away_from_zero = xp.where(scales >= 0.0, xp.maximum(scales, least), xp.minimum(scales, -least))
        rows = x.reshape(-1, len(scales))
        return (rows * away_from_zero + self.arrays["offsets"]).reshape(x.shape), rows

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Any, want_dx: bool) -> Array | None:
        rows = dy.reshape(memo.shape)
        if update is not None:
            update.add_vector("offsets", rows)
            update.add_vector("scales", memo * rows)
        return (rows * self.arrays["scales"]).reshape(dy.shape) if want_dx else None
