"""Components on a device, in the operations of nnet3py.gpu.operations.

Each stands for a component of the network on the host, which stays the owner of what a model file has: parameters are
views of one array of all (nnet3py.gpu.change), statistics are gathered on the device and given back by
:meth:`DeviceComponent.give_back`. A component of another type is computed on the host (:class:`OnHost`).
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnet3py.gpu.operations import Array, HostOperations, Labels
from nnet3py.nnet.affine import AffineComponent, LinearComponent
from nnet3py.nnet.batch_norm import BatchNormComponent
from nnet3py.nnet.block_affine import (
    BlockAffineComponent,
    NaturalGradientRepeatedAffineComponent,
    RepeatedAffineComponent,
)
from nnet3py.nnet.component import Component, Layout, Phase
from nnet3py.nnet.dropout import RandomComponent
from nnet3py.nnet.fixed import FixedAffineComponent, FixedBiasComponent, FixedScaleComponent, PermuteComponent
from nnet3py.nnet.no_op import NoOpComponent
from nnet3py.nnet.nonlinear import (
    REPAIR_PROBABILITY,
    UNSET_THRESHOLD,
    LogComponent,
    LogSoftmaxComponent,
    RectifiedLinearComponent,
    SigmoidComponent,
    SoftmaxComponent,
    TanhComponent,
)
from nnet3py.nnet.normalize import NormalizeComponent
from nnet3py.nnet.pnorm import PnormComponent
from nnet3py.nnet.product import ElementwiseProductComponent
from nnet3py.nnet.rows import RowSelection
from nnet3py.nnet.scale import PerElementOffsetComponent, PerElementScaleComponent, ScaleAndOffsetComponent
from nnet3py.nnet.sum_group import SumBlockComponent, SumGroupComponent
from nnet3py.nnet.tdnn import TdnnComponent


@dataclass
class Draws:
    """What is left to chance on a minibatch. The components on the device share the draws, those on the host do not.

    store: whether statistics of values are added; derivative: whether those of derivatives; repair: whether
    nonlinearities are repaired. generator: for components on the host.
    """

    store: bool
    derivative: bool
    repair: bool
    generator: np.random.Generator | None


class DeviceComponent(Component):
    """Stands for ``host``; ``parameters`` are its parameters on the device, by field."""

    recordable = True
    """Whether a pass can be recorded and replayed: nothing in it depends on numbers that only the host knows."""

    def __init__(self, ops: HostOperations, host: Any, parameters: Mapping[str, Array]) -> None:
        self.ops = ops
        self.host = host
        self.arrays = parameters
        self.updatable = host.updatable  # type: ignore[misc]
        self.update_sees_all_nodes = host.update_sees_all_nodes  # type: ignore[misc]
        self.fields_with_role = host.fields_with_role  # type: ignore[method-assign]
        self.start()

    def start(self) -> None:
        """Put on the device what is needed there."""

    @property
    def input_dim(self) -> int:
        return int(self.host.input_dim)

    @property
    def output_dim(self) -> int:
        return int(self.host.output_dim)

    def accumulate_statistics(self, memo: Any) -> None:
        """Nothing, unless a component says otherwise."""

    def give_back(self) -> None:
        """Give the statistics gathered on the device to the component on the host."""


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


class FixedAffine(DeviceComponent):
    """An affine transform that is not trained."""

    def start(self) -> None:
        self.linear, self.bias = self.ops.upload(self.host.linear), self.ops.upload(self.host.bias)

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Any = None) -> tuple[Array, Any]:
        y = self.ops.empty((len(x), self.output_dim))
        return self.ops.product(y, x, self.linear, transpose_right=True, bias=self.bias), None

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Any, want_dx: bool) -> Array | None:
        return self.ops.product(self.ops.empty((len(dy), self.input_dim)), dy, self.linear) if want_dx else None


class FixedScale(DeviceComponent):
    """A scale of each dimension that is not trained."""

    def start(self) -> None:
        self.scales = self.ops.upload(self.host.scales)

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Any = None) -> tuple[Array, Any]:
        return x * self.scales, None

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Any, want_dx: bool) -> Array | None:
        return dy * self.scales if want_dx else None


class FixedBias(DeviceComponent):
    """An offset of each dimension that is not trained."""

    def start(self) -> None:
        self.offsets = self.ops.upload(self.host.bias)

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Any = None) -> tuple[Array, Any]:
        return x + self.offsets, None

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Any, want_dx: bool) -> Array | None:
        return dy if want_dx else None


class NoOp(DeviceComponent):
    """Passes on its input; the derivative may be scaled."""

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Any = None) -> tuple[Array, Any]:
        return x, None

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Any, want_dx: bool) -> Array | None:
        if not want_dx:
            return None
        return dy if self.host.backprop_scale == 1.0 else dy * np.float32(self.host.backprop_scale)


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


class Nonlinear(DeviceComponent):
    """What nonlinearities share: statistics and self-repair."""

    kind: str | None = None
    """Which elementwise nonlinearity; None: not one."""
    default_thresholds = (0.0, 0.0)
    keeps_values = True

    def start(self) -> None:
        host, ops = self.host, self.ops
        self.counters = ops.upload(
            np.array([host.count, host.oderiv_count, host.num_dims_self_repaired, host.num_dims_processed])
        )
        self.sums = {
            name: ops.upload(array if len(array) == host.dim else np.zeros(host.dim))
            for name, array in (
                ("value_sum", host.value_sum),
                ("deriv_sum", host.deriv_sum),
                ("oderiv_sumsq", host.oderiv_sumsq),
            )
        }

    def give_back(self) -> None:
        host = self.host
        count, oderiv_count, host.num_dims_self_repaired, host.num_dims_processed = map(
            float, self.ops.download(self.counters)
        )
        if count > 0.0:
            host.count, host.value_sum = count, self.ops.download(self.sums["value_sum"])
            if self.kind is not None:
                host.deriv_sum = self.ops.download(self.sums["deriv_sum"])
        if oderiv_count > 0.0:
            host.oderiv_count, host.oderiv_sumsq = oderiv_count, self.ops.download(self.sums["oderiv_sumsq"])

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Any = None) -> tuple[Array, Any]:
        y = self.values(x)
        return y, (y, random)

    def values(self, x: Array) -> Array:
        """The output."""
        assert self.kind is not None
        return self.ops.activate(self.kind, x)

    def through(self, y: Array, dy: Array) -> None:
        """From the derivative with respect to the output to that with respect to the input, in place."""
        assert self.kind is not None
        self.ops.times_slope(self.kind, y, dy)

    def accumulate_statistics(self, memo: Any) -> None:
        y, draws = memo
        if self.keeps_values and (draws is None or draws.store or self.kind is None):
            with self.ops.aside(y):
                self.ops.add_statistics(self.kind, y, self.sums["value_sum"], self.sums["deriv_sum"], self.counters)

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Any, want_dx: bool) -> Array | None:
        y, draws = memo
        if draws is not None and draws.derivative:
            self.ops.add_column_squares(dy, self.sums["oderiv_sumsq"], self.counters)
        if not want_dx:
            return None
        self.through(y, dy)
        scale = self.host.self_repair_scale
        if self.kind is not None and scale != 0.0 and draws is not None and draws.repair:
            given = (self.host.self_repair_lower_threshold, self.host.self_repair_upper_threshold)
            thresholds = tuple(
                default if value == UNSET_THRESHOLD else value
                for value, default in zip(given, self.default_thresholds, strict=True)
            )
            self.ops.repair(
                self.kind, y, dy, self.sums["deriv_sum"], self.counters,
                self.host.block_dim if self.kind == "relu" else self.host.dim,
                (thresholds[0], thresholds[1]), scale / REPAIR_PROBABILITY,
            )  # fmt: skip
        return dy


class RectifiedLinear(Nonlinear):
    """``max(x, 0)``."""

    kind = "relu"
    default_thresholds = (0.05, 0.95)


class Sigmoid(Nonlinear):
    """``1 / (1 + exp(-x))``."""

    kind = "sigmoid"
    default_thresholds = (0.05, 0.0)


class Tanh(Nonlinear):
    """``tanh(x)``."""

    kind = "tanh"
    default_thresholds = (0.2, 0.0)


class Softmax(Nonlinear):
    """Softmax of each row."""

    takes_log = False

    def values(self, x: Array) -> Array:
        return self.ops.softmax(x, self.takes_log)

    def through(self, y: Array, dy: Array) -> None:
        self.ops.softmax_backward(y, dy, self.takes_log)


class Log(Nonlinear):
    """Logarithm of what is floored first."""

    keeps_values = False
    floor = np.float32(1.0e-20)

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Any = None) -> tuple[Array, Any]:
        return self.ops.xp.log(self.ops.xp.maximum(x, self.floor)), (x, random)

    def through(self, y: Array, dy: Array) -> None:
        x = y  # of this component it is the input that is kept
        dy /= self.ops.xp.maximum(x, self.floor)
        dy *= x >= self.floor


class LogSoftmax(Softmax):
    """Logarithm of the softmax of each row."""

    takes_log = True
    keeps_values = False
    labels: Labels | None = None
    """Of the objective on this minibatch, where nothing but it uses the output; the derivative is then no matrix."""

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Any, want_dx: bool) -> Array | None:
        labels, self.labels = self.labels, None
        if labels is None:
            return super().backprop(memo, dy, layout, update, want_dx)
        y, draws = memo
        if draws is not None and draws.derivative:
            with self.ops.aside(y):
                self.ops.label_squares(labels, self.sums["oderiv_sumsq"], self.counters)
        return self.ops.log_softmax_label_backward(y, labels) if want_dx else None


class Pnorm(DeviceComponent):
    """Euclidean norms of groups of inputs."""

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Any = None) -> tuple[Array, Any]:
        y = self.ops.pnorm(x, self.output_dim)
        return y, (x, y)

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Any, want_dx: bool) -> Array | None:
        return self.ops.pnorm_backward(memo[0], memo[1], dy) if want_dx else None


class Normalize(DeviceComponent):
    """Rows, or blocks of them, at a fixed root mean square."""

    @property
    def _settings(self) -> tuple[int, float, bool]:
        return self.host.block_dim, self.host.target_rms, self.host.add_log_stddev

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Any = None) -> tuple[Array, Any]:
        y, factors = self.ops.normalize(x, *self._settings)
        return y, (x, factors)

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Any, want_dx: bool) -> Array | None:
        return self.ops.normalize_backward(memo[0], memo[1], dy, *self._settings) if want_dx else None


class BatchNorm(DeviceComponent):
    """Columns at mean zero and a fixed root mean square."""

    fade = 1.0
    """What the statistics are multiplied by when a minibatch has been added; the trainer sets it."""
    storing = True

    def start(self) -> None:
        host = self.host
        self.statistics = self.ops.upload(np.concatenate([[host.count], host.stats_sum, host.stats_sumsq]))
        self.fixed: tuple[Array, Array] | None = None
        if host.test_mode and host.count > 0.0:
            self._fix()

    def _fix(self) -> None:
        statistics = self.ops.download(self.statistics)
        sums, squares = statistics[1:].reshape(2, -1) / statistics[0]
        scale = self.host.target_rms / np.sqrt(np.maximum(squares - sums * sums, 0.0) + self.host.epsilon)
        upload = self.ops.upload
        self.fixed = upload(scale.astype(np.float32)), upload((sums * scale).astype(np.float32))

    def give_back(self) -> None:
        host = self.host
        if not host.test_mode:
            statistics = self.ops.download(self.statistics)
            host.count = float(statistics[0])
            host.stats_sum[...], host.stats_sumsq[...] = statistics[1:].reshape(2, -1)

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Any = None) -> tuple[Array, Any]:
        host = self.host
        rows = x.reshape(-1, host.block_dim)
        if phase is Phase.TEST and self.fixed is None and host.count > 0.0:
            self._fix()
        if self.fixed is not None and (host.test_mode or phase is Phase.TEST):
            scale, offset = self.fixed
            return (rows * scale - offset).reshape(x.shape), (None, scale)
        storing = self.storing and phase is Phase.TRAIN and not host.test_mode
        statistics = self.statistics if storing else None
        z, scale = self.ops.batch_norm(rows, host.epsilon, host.target_rms, statistics, self.fade)
        return z.reshape(x.shape), (z, scale)

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Any, want_dx: bool) -> Array | None:
        if not want_dx:
            return None
        z, scale = memo
        dz = dy.reshape(-1, self.host.block_dim)
        if z is None:
            dz *= scale
        else:
            self.ops.batch_norm_backward(z, scale, dz, self.host.target_rms)
        return dy


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


class Permute(DeviceComponent):
    """The columns in another order."""

    def start(self) -> None:
        columns = np.asarray(self.host.column_map, np.int32)
        self.columns = self.ops.upload(columns)
        self.back = self.ops.upload(np.argsort(columns).astype(np.int32))

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Any = None) -> tuple[Array, Any]:
        return self.ops.take_columns(x, self.columns), None

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Any, want_dx: bool) -> Array | None:
        return self.ops.take_columns(dy, self.back) if want_dx else None


class SumGroup(DeviceComponent):
    """Sums of groups of neighbouring inputs."""

    def start(self) -> None:
        sizes = np.asarray(self.host.sizes, np.int32)
        self.starts = self.ops.upload(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32))
        self.groups = self.ops.upload(np.arange(len(sizes), dtype=np.int32).repeat(sizes))

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Any = None) -> tuple[Array, Any]:
        return self.ops.sum_groups(x, self.starts), None

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Any, want_dx: bool) -> Array | None:
        return self.ops.take_columns(dy, self.groups) if want_dx else None


class _OfParts(DeviceComponent):
    """What takes the input as parts of the output's dimension, side by side."""

    def parts(self, x: Array) -> list[Array]:
        """Views of the parts."""
        width = self.output_dim
        return [x[:, first : first + width] for first in range(0, self.input_dim, width)]


class SumBlock(_OfParts):
    """The scaled sum of the parts."""

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Any = None) -> tuple[Array, Any]:
        y, *others = self.parts(x)
        y = y.copy()
        for other in others:
            y += other
        y *= np.float32(self.host.scale)
        return y, None

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Any, want_dx: bool) -> Array | None:
        if not want_dx:
            return None
        dy *= np.float32(self.host.scale)
        dx = self.ops.empty((len(dy), self.input_dim))
        for part in self.parts(dx):
            part[...] = dy
        return dx


class ElementwiseProduct(_OfParts):
    """The product of the parts."""

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Any = None) -> tuple[Array, Any]:
        return functools.reduce(operator.mul, self.parts(x)), x

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Any, want_dx: bool) -> Array | None:
        if not want_dx:
            return None
        dx, parts = self.ops.empty(memo.shape), self.parts(memo)
        for i, part in enumerate(self.parts(dx)):
            part[...] = functools.reduce(operator.mul, [dy, *parts[:i], *parts[i + 1 :]])
        return dx


class OnHost(DeviceComponent):
    """A component that there is no version of for the device: its input comes to the host, its output goes back."""

    recordable = False

    def input_times(self, output_times: Sequence[int]) -> list[int]:
        return list(self.host.input_times(output_times))

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Any = None) -> tuple[Array, Any]:
        for field, array in self.arrays.items():
            self.host.parameters()[field][...] = self.ops.download(array)
        generator = random.generator if isinstance(random, Draws) else random
        y, memo = self.host.propagate(self.ops.download(x), layout, phase, generator)
        return self.ops.upload(y), memo

    def accumulate_statistics(self, memo: Any) -> None:
        self.host.accumulate_statistics(memo)

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Any, want_dx: bool) -> Array | None:
        dx = self.host.backprop(memo, self.ops.download(dy), layout, update, want_dx)
        return None if dx is None else self.ops.upload(dx)


class Masked(DeviceComponent, RandomComponent):
    """Dropout of any kind: the masks are drawn on the host and sent before the step that uses them."""

    def start(self) -> None:
        self._request: Hashable = None
        self._layouts: dict[Hashable, list[Layout]] = {}
        self._masks: list[Array | None] = []

    def draw(self, request: Hashable, random: np.random.Generator | None) -> None:
        """Make the masks of a step of this request ready, if one has run before; else :meth:`propagate` makes them."""
        self._request = request
        self._masks = [self._sent(layout, random, i) for i, layout in enumerate(self._layouts.get(request, []))]

    def _sent(self, layout: Layout, random: np.random.Generator | None, number: int) -> Array | None:
        mask = self.host.mask(layout, Phase.TRAIN, random)
        return mask if mask is None or not np.ndim(mask) else self.ops.send(("mask", id(self), number), mask)

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Any = None) -> tuple[Array, Any]:
        if phase is Phase.TEST:
            mask = self.host.mask(layout, phase, None)
        elif self._masks:
            mask = self._masks.pop(0)
        else:
            layouts = self._layouts.setdefault(self._request, [])
            mask = self._sent(layout, random.generator if isinstance(random, Draws) else random, len(layouts))
            if self._request is not None:
                layouts.append(layout)
        return (x, None) if mask is None else (x * mask, mask)


_KINDS: tuple[tuple[type[Component], type[DeviceComponent]], ...] = (
    (AffineComponent, Affine),
    (LinearComponent, Linear),
    (TdnnComponent, Tdnn),
    (FixedAffineComponent, FixedAffine),
    (FixedScaleComponent, FixedScale),
    (FixedBiasComponent, FixedBias),
    (NoOpComponent, NoOp),
    (RectifiedLinearComponent, RectifiedLinear),
    (SigmoidComponent, Sigmoid),
    (TanhComponent, Tanh),
    (SoftmaxComponent, Softmax),
    (LogSoftmaxComponent, LogSoftmax),
    (PnormComponent, Pnorm),
    (NormalizeComponent, Normalize),
    (BatchNormComponent, BatchNorm),
    (RandomComponent, Masked),
    (NaturalGradientRepeatedAffineComponent, NaturalGradientRepeatedAffine),
    (RepeatedAffineComponent, RepeatedAffine),
    (BlockAffineComponent, BlockAffine),
    (PerElementScaleComponent, PerElementScale),
    (PerElementOffsetComponent, PerElementOffset),
    (ScaleAndOffsetComponent, ScaleAndOffset),
    (PermuteComponent, Permute),
    (SumGroupComponent, SumGroup),
    (SumBlockComponent, SumBlock),
    (ElementwiseProductComponent, ElementwiseProduct),
    (LogComponent, Log),
)


def device_component(ops: HostOperations, host: Component, parameters: Mapping[str, Array]) -> DeviceComponent:
    """What stands for ``host`` on the device; its ``parameters`` there, by field."""
    for kind, of_device in _KINDS:
        if isinstance(host, kind):
            return of_device(ops, host, parameters)
    return OnHost(ops, host, parameters)
