"""Elementwise nonlinearities and softmaxes, with the statistics that Kaldi keeps of them.

While a network is trained, the sums of a nonlinearity's value and of its derivative over frames are kept, and the sum
of squares of the objective's derivative. From the average derivative a unit is known to be saturated; *self-repair*
adds a small term to the derivative of such units that leads them back. Kaldi does both on a random part of the
minibatches, and so does this module, with draws from the training pass's generator (see ``Component.propagate``); a
pass without a generator stores statistics whenever it is asked to, repairs nothing and leaves the derivative's
statistics alone.

Source: Kaldi src/nnet3/nnet-component-itf.cc (NonlinearComponent), src/nnet3/nnet-simple-component.cc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from nnet3py.errors import UserError
from nnet3py.kernels.switch import compiled
from nnet3py.nnet.component import Array, Component, Field, Kind, Layout, Phase, Random, Role, Update
from nnet3py.nnet.summary import summarize_vector

if TYPE_CHECKING:
    from nnet3py.nnet.configuration import ConfigLine

UNSET_THRESHOLD = -1000.0
REPAIR_PROBABILITY = 0.5
_LEAST_PROBABILITY = np.float32(1.0e-20)

_Self = TypeVar("_Self", bound="NonlinearComponent")


@dataclass
class NonlinearMemo:
    """What the backward pass and the statistics of a nonlinearity need: its output, and the pass's generator."""

    y: Array
    random: Random
    extra: Any = None


def _no_numbers() -> Array:
    return np.zeros(0)


class NonlinearComponent(Component):
    """What the nonlinearities share: fields, statistics, self-repair. Statistics are float64, empty until stored."""

    fields = (
        Field("<Dim>", "dim", Kind.INT),
        Field("<BlockDim>", "block_dim", Kind.INT, default_from="dim"),
        Field("<ValueAvg>", "value_sum", Kind.AVERAGE, Role.STATISTIC, count="count"),
        Field("<DerivAvg>", "deriv_sum", Kind.AVERAGE, Role.STATISTIC, count="count"),
        Field("<Count>", "count", Kind.DOUBLE, Role.STATISTIC),
        Field("<OderivRms>", "oderiv_sumsq", Kind.RMS, Role.STATISTIC, count="oderiv_count", default=(), always=True),
        Field("<OderivCount>", "oderiv_count", Kind.DOUBLE, Role.STATISTIC, default=0.0, always=True),
        Field("<NumDimsSelfRepaired>", "num_dims_self_repaired", Kind.DOUBLE, Role.STATISTIC, default=0.0, always=True),
        Field("<NumDimsProcessed>", "num_dims_processed", Kind.DOUBLE, Role.STATISTIC, default=0.0, always=True),
        Field("<SelfRepairLowerThreshold>", "self_repair_lower_threshold", Kind.FLOAT, default=UNSET_THRESHOLD),
        Field("<SelfRepairUpperThreshold>", "self_repair_upper_threshold", Kind.FLOAT, default=UNSET_THRESHOLD),
        Field("<SelfRepairScale>", "self_repair_scale", Kind.FLOAT, default=0.0),
    )

    dim: int
    block_dim: int
    value_sum: Array
    deriv_sum: Array
    count: float = 0.0
    oderiv_sumsq: Array
    oderiv_count: float = 0.0
    num_dims_self_repaired: float = 0.0
    num_dims_processed: float = 0.0
    self_repair_lower_threshold: float = UNSET_THRESHOLD
    self_repair_upper_threshold: float = UNSET_THRESHOLD
    self_repair_scale: float = 0.0

    statistics_probability: ClassVar[float] = 0.5
    """The part of the minibatches whose value and derivative are added to the statistics."""

    def __init__(self) -> None:
        self.value_sum, self.deriv_sum, self.oderiv_sumsq = _no_numbers(), _no_numbers(), _no_numbers()

    @classmethod
    def from_config(cls: type[_Self], config: ConfigLine, random: np.random.Generator) -> _Self:
        component = cls()
        component.dim = config.positive("dim")
        component.block_dim = config.positive("block-dim", component.dim)
        if component.dim % component.block_dim:
            raise config.error("dim must be a multiple of block-dim")
        component.self_repair_lower_threshold = config.number("self-repair-lower-threshold", UNSET_THRESHOLD)
        component.self_repair_upper_threshold = config.number("self-repair-upper-threshold", UNSET_THRESHOLD)
        component.self_repair_scale = config.number("self-repair-scale", 0.0)
        if not 0.0 <= component.self_repair_scale < 0.1:
            raise config.error("self-repair-scale must be from 0 to below 0.1")
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
        for name in ("value_sum", "deriv_sum", "oderiv_sumsq"):
            if len(getattr(self, name)) not in (0, self.dim):
                raise UserError(
                    f"{self.type_name}: expected statistics of dimension {self.dim}, found {len(getattr(self, name))}."
                )

    def propagate(self, x: Array, layout: Layout, phase: Phase, random: Random = None) -> tuple[Array, Any]:
        y, extra = self._values(x)
        return y, NonlinearMemo(y, random, extra)

    def backprop(self, memo: Any, dy: Array, layout: Layout, update: Update | None, want_dx: bool) -> Array | None:
        self._store_derivative(dy, memo.random)
        if not want_dx:
            return None
        dx = self._derivative(memo, dy)
        if memo.random is not None:
            self._repair(memo.y, dx, memo.random)
        return dx

    def _values(self, x: Array) -> tuple[Array, Any]:
        """The output, and what :meth:`_derivative` needs beside it."""
        raise NotImplementedError

    def _derivative(self, memo: NonlinearMemo, dy: Array) -> Array:
        """The derivative with respect to the input; may be written into ``dy``."""
        raise NotImplementedError

    def _slope(self, y: Array) -> Array | None:
        """The derivative of each output by its input, for the statistics; None where none are kept."""
        return None

    def _repair(self, y: Array, dx: Array, random: np.random.Generator) -> None:
        """Add to ``dx`` what leads saturated units back. Nothing, unless a nonlinearity says otherwise."""

    def accumulate_statistics(self, memo: NonlinearMemo) -> None:
        if memo.random is not None and self.count != 0.0 and memo.random.random() >= self.statistics_probability:
            return
        slope = self._slope(memo.y)
        if len(self.value_sum) != self.dim or (slope is not None and len(self.deriv_sum) != self.dim):
            self.value_sum, self.count = np.zeros(self.dim), 0.0
            self.deriv_sum = self.deriv_sum if slope is None else np.zeros(self.dim)
        self.count += len(memo.y)
        self.value_sum += memo.y.sum(axis=0)
        if slope is not None:
            self.deriv_sum += slope.sum(axis=0)

    def _store_derivative(self, dy: Array, random: Random) -> None:
        if random is None or (self.oderiv_count != 0.0 and random.integers(4) == 0):
            return
        if len(self.oderiv_sumsq) != self.dim:
            self.oderiv_sumsq, self.oderiv_count = np.zeros(self.dim), 0.0
        self.oderiv_sumsq += np.einsum("ij,ij->j", dy, dy)
        self.oderiv_count += len(dy)

    def _threshold(self, given: float, default: float) -> float:
        """A threshold on the sum of derivatives, from one on their average."""
        return self.count * (default if given == UNSET_THRESHOLD else given)

    def _can_repair(self) -> bool:
        return self.self_repair_scale != 0.0 and self.count != 0.0 and len(self.deriv_sum) == self.dim

    def _saturated(self, random: np.random.Generator, default_lower: float) -> Array | None:
        """1 where the average derivative is below the lower threshold, else 0 (dim,); None on other minibatches."""
        self.num_dims_processed += self.dim
        if not self._can_repair() or random.random() > REPAIR_PROBABILITY:
            return None
        saturated = self.deriv_sum < self._threshold(self.self_repair_lower_threshold, default_lower)
        self.num_dims_self_repaired += int(np.count_nonzero(saturated))
        return saturated.astype(np.float32) if saturated.any() else None

    def info(self) -> str:
        text = f"{self.type_name}, dim={self.dim}"
        if self.block_dim != self.dim:
            text += f", block-dim={self.block_dim}"
        if self.self_repair_lower_threshold != UNSET_THRESHOLD:
            text += f", self-repair-lower-threshold={self.self_repair_lower_threshold:g}"
        if self.self_repair_upper_threshold != UNSET_THRESHOLD:
            text += f", self-repair-upper-threshold={self.self_repair_upper_threshold:g}"
        if self.self_repair_scale != 0.0:
            text += f", self-repair-scale={self.self_repair_scale:g}"
        if self.count > 0 and len(self.value_sum) == self.dim:
            repaired = self.num_dims_self_repaired / self.num_dims_processed if self.num_dims_processed > 0 else 0
            text += f", count={self.count:.3g}, self-repaired-proportion={repaired:g}"
            text += f", value-avg={summarize_vector(self.value_sum / self.count)}"
            if len(self.deriv_sum) == self.dim:
                text += f", deriv-avg={summarize_vector(self.deriv_sum / self.count)}"
        if self.oderiv_count > 0 and len(self.oderiv_sumsq) == self.dim:
            rms = np.sqrt(np.maximum(self.oderiv_sumsq / self.oderiv_count, 0.0))
            text += f", oderiv-rms={summarize_vector(rms)}, oderiv-count={self.oderiv_count:g}"
        return text


class SigmoidComponent(NonlinearComponent):
    """``y = 1 / (1 + exp(-x))``. Self-repair: units of average derivative below 0.05 (the largest is 0.25)."""

    type_name = "SigmoidComponent"

    def _values(self, x: Array) -> tuple[Array, Any]:
        y = np.negative(x)
        np.minimum(y, np.float32(88.0), out=y)  # exp stays finite in float32
        np.exp(y, out=y)
        y += np.float32(1.0)
        return np.reciprocal(y, out=y), None

    def _slope(self, y: Array) -> Array:
        slope = 1.0 - y
        slope *= y
        return slope

    def _derivative(self, memo: NonlinearMemo, dy: Array) -> Array:
        dy *= self._slope(memo.y)
        return dy

    def _repair(self, y: Array, dx: Array, random: np.random.Generator) -> None:
        saturated = self._saturated(random, 0.05)
        if saturated is not None:
            saturated *= np.float32(self.self_repair_scale / REPAIR_PROBABILITY)
            dx -= (2.0 * y - 1.0) * saturated


class TanhComponent(NonlinearComponent):
    """``y = tanh(x)``. Self-repair: units of average derivative below 0.2 (the largest is 1)."""

    type_name = "TanhComponent"

    def _values(self, x: Array) -> tuple[Array, Any]:
        return np.tanh(x), None

    def _slope(self, y: Array) -> Array:
        slope = np.square(y)
        return np.subtract(np.float32(1.0), slope, out=slope)

    def _derivative(self, memo: NonlinearMemo, dy: Array) -> Array:
        dy *= self._slope(memo.y)
        return dy

    def _repair(self, y: Array, dx: Array, random: np.random.Generator) -> None:
        saturated = self._saturated(random, 0.2)
        if saturated is not None:
            saturated *= np.float32(self.self_repair_scale / REPAIR_PROBABILITY)
            dx -= y * saturated


class RectifiedLinearComponent(NonlinearComponent):
    """``y = max(x, 0)``. Self-repair: units active on less than 5 % or more than 95 % of the frames."""

    type_name = "RectifiedLinearComponent"

    def _values(self, x: Array) -> tuple[Array, Any]:
        return np.maximum(x, np.float32(0.0)), None

    def _slope(self, y: Array) -> Array:
        return (y > 0.0).astype(np.float32)

    def _derivative(self, memo: NonlinearMemo, dy: Array) -> Array:
        kernels = compiled()
        if kernels is not None and kernels.fit(memo.y, dy):
            kernels.rectifier_backward(memo.y, dy)
        else:
            dy *= memo.y > 0.0
        return dy

    def _repair(self, y: Array, dx: Array, random: np.random.Generator) -> None:
        if not self._can_repair() or random.random() > REPAIR_PROBABILITY:
            return
        self.num_dims_processed += self.block_dim
        slopes = self.deriv_sum.reshape(-1, self.block_dim).mean(axis=0)
        push = (slopes <= self._threshold(self.self_repair_lower_threshold, 0.05)).astype(np.float32)
        push -= slopes > self._threshold(self.self_repair_upper_threshold, 0.95)
        self.num_dims_self_repaired += int(np.count_nonzero(push))
        if push.any():
            push *= np.float32(self.self_repair_scale / REPAIR_PROBABILITY)
            blocks = dx.reshape(-1, self.block_dim)
            blocks += push


class SoftmaxComponent(NonlinearComponent):
    """``y_i = exp(x_i) / sum_j exp(x_j)``, floored at 1e-20 as Kaldi has it."""

    type_name = "SoftmaxComponent"
    statistics_probability = 1.0

    def _values(self, x: Array) -> tuple[Array, Any]:
        y = x - x.max(axis=1, keepdims=True)
        np.exp(y, out=y)
        y *= np.reciprocal(np.einsum("ij->i", y))[:, None]
        return np.maximum(y, _LEAST_PROBABILITY, out=y), None

    def _derivative(self, memo: NonlinearMemo, dy: Array) -> Array:
        dy -= np.einsum("ij,ij->i", memo.y, dy)[:, None]
        dy *= memo.y
        return dy


class LogSoftmaxComponent(NonlinearComponent):
    """``y_i = x_i - log sum_j exp(x_j)``; backward ``dx = dy - exp(y) sum_j dy_j``."""

    type_name = "LogSoftmaxComponent"

    def _values(self, x: Array) -> tuple[Array, Any]:
        y = x - x.max(axis=1, keepdims=True)
        exponentials = np.exp(y)
        total = np.einsum("ij->i", exponentials)  # a third of the time of sum(axis=1)
        y -= np.log(total)[:, None]
        return y, (exponentials, total)

    def _derivative(self, memo: NonlinearMemo, dy: Array) -> Array:
        exponentials, total = memo.extra
        exponentials *= (np.einsum("ij->i", dy) / total)[:, None]  # in place: a trace goes back once
        return np.subtract(dy, exponentials, out=dy)

    def accumulate_statistics(self, memo: NonlinearMemo) -> None:
        """Kaldi keeps none of the values of a log-softmax."""


class LogComponent(NonlinearComponent):
    """``y = log(max(x, 1e-20))``: log-probabilities of sums of softmax units. Kaldi's nnet3 has no such component.

    The floor is that of :class:`SoftmaxComponent`; below it there is no derivative.
    """

    type_name = "LogComponent"

    def _values(self, x: Array) -> tuple[Array, Any]:
        floored = np.maximum(x, _LEAST_PROBABILITY)
        return np.log(floored), (x, floored)

    def _derivative(self, memo: NonlinearMemo, dy: Array) -> Array:
        x, floored = memo.extra
        dy /= floored
        dy *= x >= floored
        return dy

    def accumulate_statistics(self, memo: NonlinearMemo) -> None:
        """None, as of a log-softmax."""
