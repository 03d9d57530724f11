"""Which component of a network becomes which on a device; here also those that are neither trained nor a nonlinearity.

A component of a type that is not listed is computed on the host (:class:`OnHost`).
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from nnet3py.gpu.component import DeviceComponent, Draws
from nnet3py.gpu.nonlinearities import Log, LogSoftmax, RectifiedLinear, Sigmoid, Softmax, Tanh
from nnet3py.gpu.operations import Array, HostOperations
from nnet3py.gpu.trained_components import (
    Affine,
    BlockAffine,
    Linear,
    NaturalGradientRepeatedAffine,
    PerElementOffset,
    PerElementScale,
    RepeatedAffine,
    ScaleAndOffset,
    Tdnn,
)
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
from nnet3py.nnet.scale import PerElementOffsetComponent, PerElementScaleComponent, ScaleAndOffsetComponent
from nnet3py.nnet.sum_group import SumBlockComponent, SumGroupComponent
from nnet3py.nnet.tdnn import TdnnComponent


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
