"""Nonlinearities on a device, with their statistics and self-repair (nnet3py.nnet.nonlinear)."""

from __future__ import annotations

from typing import Any

import numpy as np

from nnet3py.gpu.component import DeviceComponent
from nnet3py.gpu.operations import Array, Labels
from nnet3py.nnet.component import Layout, Phase
from nnet3py.nnet.nonlinear import REPAIR_PROBABILITY, UNSET_THRESHOLD


class Nonlinear(DeviceComponent):
    """What nonlinearities share: statistics and self-repair."""

    kind: str | None = None
    """Which elementwise nonlinearity; None: not one."""
    default_thresholds = (0.0, 0.0)
    keeps_values = True

    def start(self) -> None:
        host, ops = self.host, self.ops
        sums = {"value_sum": host.value_sum, "deriv_sum": host.deriv_sum, "oderiv_sumsq": host.oderiv_sumsq}
        known = {name: len(array) == host.dim for name, array in sums.items()}
        # Sums that an old file does not have begin anew, with their count: values and derivatives have one count.
        if not known["value_sum"] or (self.kind is not None and not known["deriv_sum"]):
            known["value_sum"] = known["deriv_sum"] = False
        count = host.count if known["value_sum"] else 0.0
        oderiv_count = host.oderiv_count if known["oderiv_sumsq"] else 0.0
        self.counters = ops.upload(
            np.array([count, oderiv_count, host.num_dims_self_repaired, host.num_dims_processed])
        )
        self.sums = {name: ops.upload(array if known[name] else np.zeros(host.dim)) for name, array in sums.items()}

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
