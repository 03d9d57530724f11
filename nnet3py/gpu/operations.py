"""What a training step on a device is made of, and the same in NumPy.

A training step on a GPU is written once, in terms of these operations (nnet3py.gpu.trainer and what it uses). They come
in two kinds: :class:`nnet3py.gpu.cuda_operations.CudaOperations` runs kernels on the device;
:class:`HostOperations` here defines what they compute, and lets the whole step run, and be tested, where there is no
GPU. All arrays are on the device (for HostOperations: in NumPy), float32 unless said, contiguous unless said. What is
not known on the host without waiting for the device, such as a norm, stays in an array there.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnet3py.train.natural_gradient import NaturalGradientState, forgetting_weight, updated_state

Array = Any
NONLINEARITIES = ("relu", "sigmoid", "tanh")


@dataclass
class Estimate:
    """An estimate of natural gradient on the device, in the letters of nnet3py.train.natural_gradient.

    W: (r, columns), ``ones`` (r,) its last column if ones are appended to the rows, else None. d: (r,) float64. rho:
    (1,) float64. gram: W Wᵀ with that column. J: Hᵀ X and its column ``J_ones``; K: J Jᵀ; L: a (r, r) part of a matrix.
    A: (r, r), ``coefficients`` (r,): scratch. squared_norm: (1,) float64, ‖X‖². alpha, history: its settings.
    """

    W: Array
    ones: Array | None
    d: Array
    rho: Array
    gram: Array
    J: Array
    J_ones: Array | None
    K: Array
    L: Array
    A: Array
    coefficients: Array
    squared_norm: Array
    alpha: float
    history: float
    num_rows: int = 0

    @property
    def rank(self) -> int:
        """r."""
        return int(self.W.shape[0])

    @property
    def dim(self) -> int:
        """Columns of the rows, with the ones."""
        return int(self.W.shape[1]) + (self.ones is not None)

    @property
    def eta(self) -> float:
        """η of (average) for the present number of rows."""
        return forgetting_weight(self.num_rows, self.history)


@dataclass
class Layer:
    """What one update of an affine layer by natural gradient works with; see nnet3py.gpu.natural_gradient."""

    left: Array  # (r_y + r_x, output dim): W_y, then Q
    right: Array  # (r_y + r_x, input dim): P, then W_x
    H: Array  # (N, r_y + r_x)
    G: Array  # Hᵀ H
    h_sums: Array  # (parts, r_y + r_x): sums of some of the rows each
    y_sums: Array  # (parts, output dim)
    squares_x: Array  # float64, partial sums
    squares_y: Array
    sums: Array  # (4,) float64: ‖X‖², ‖Y‖², ‖X̂‖², ‖Ŷ‖²
    factors: Array  # (2,): the step and minus it
    right_ones: Array  # (r_y + r_x,): [p; w]
    x: Estimate
    y: Estimate


@dataclass
class Labels:
    """Supervision: class ``classes[i]`` (int32) has ``weights[i]`` in row ``rows[i]`` (int32). A weight of 0 is none.

    one_per_row: ``rows`` is 0, 1, ...
    """

    rows: Array
    classes: Array
    weights: Array
    one_per_row: bool

    @property
    def form(self) -> tuple[int, bool]:
        """What makes steps with labels differ but for numbers in arrays."""
        return len(self.classes), self.one_per_row


@dataclass
class Chunks:
    """How the parameters of all components lie in one array: chunks of it, none with numbers of two components."""

    component: Array  # int32
    start: Array  # int64
    length: Array  # int32
    first: Array  # int32, (components + 1,): which chunk is a component's first
    partial: Array  # float64, one for each chunk
    spans: list[tuple[int, int]]  # by component, on the host: where its numbers begin and end


class HostOperations:
    """The operations in NumPy."""

    xp: Any = np
    on_device = False

    # Arrays

    def empty(self, shape: Any, dtype: Any = np.float32) -> Array:
        """An array with whatever was in its memory."""
        return np.empty(shape, dtype)

    def zeros(self, shape: Any, dtype: Any = np.float32) -> Array:
        """An array of zeros."""
        return np.zeros(shape, dtype)

    def upload(self, array: np.ndarray) -> Array:
        """A copy on the device."""
        return np.array(array, order="C")

    def download(self, array: Array) -> np.ndarray:
        """A copy on the host, once all that was started is done."""
        return np.array(array)

    def send(self, key: Hashable, array: np.ndarray) -> Array:
        """``array`` on the device, for the next step: under one key and shape always in the same place there."""
        return np.array(array, order="C")

    def record(self, body: Callable[[], None]) -> Any:
        """What ``body`` starts, recorded to be replayed, and not done yet. Only on a device."""
        raise NotImplementedError

    def replay(self, recorded: Any) -> None:
        """Start all that was recorded."""
        raise NotImplementedError

    def download_later(self, array: Array) -> Callable[[], np.ndarray]:
        """Start a copy to the host of ``array`` as it is after all that was started; the result waits for that."""
        found = np.array(array)
        return lambda: found

    @contextlib.contextmanager
    def aside(self, *arrays: Array) -> Iterator[None]:
        """What is started within may run beside what is started after it, until :meth:`join`; it reads ``arrays``."""
        yield

    def join(self) -> None:
        """What is started from now on runs after all that was started aside."""

    # Products

    def product(
        self,
        out: Array,
        left: Array,
        right: Array,
        transpose_left: bool = False,
        transpose_right: bool = False,
        alpha: Any = 1.0,
        beta: float = 0.0,
        bias: Array | None = None,
        exact: bool = False,
    ) -> Array:
        """``out = alpha op(left) op(right) + beta out + bias``; ``alpha`` a number or an array of one.

        With ``exact`` in full single precision whatever precision is set for products.
        """
        found = (left.T if transpose_left else left) @ (right.T if transpose_right else right)
        if not (isinstance(alpha, float) and alpha == 1.0):
            found *= alpha if isinstance(alpha, float) else alpha[0]
        if beta != 0.0:
            found += np.float32(beta) * out
        if bias is not None:
            found += bias
        out[...] = found
        return out

    # Nonlinearities

    def activate(self, kind: str, x: Array) -> Array:
        """max(x, 0), 1 / (1 + exp(-x)) or tanh(x)."""
        if kind == "relu":
            return np.maximum(x, np.float32(0.0))
        if kind == "tanh":
            return np.tanh(x)
        return np.reciprocal(np.exp(np.minimum(-x, np.float32(88.0))) + np.float32(1.0))

    def _slope(self, kind: str, y: Array) -> Array:
        if kind == "relu":
            return (y > 0.0).astype(np.float32)
        return (1.0 - y) * y if kind == "sigmoid" else 1.0 - y * y

    def times_slope(self, kind: str, y: Array, dy: Array) -> None:
        """``dy`` times the slope at the output ``y``, in place."""
        dy *= self._slope(kind, y)

    def add_statistics(self, kind: str | None, y: Array, value_sum: Array, deriv_sum: Array, counters: Array) -> None:
        """Sums of values and (unless ``kind`` is None) slopes by column, float64, and the count of rows."""
        value_sum += y.sum(axis=0, dtype=np.float64)
        if kind is not None:
            deriv_sum += self._slope(kind, y).sum(axis=0, dtype=np.float64)
        counters[0] += len(y)

    def add_column_squares(self, dy: Array, sums: Array, counters: Array) -> None:
        """Sums of squares by column, float64, and the count of rows."""
        sums += np.square(dy, dtype=np.float64).sum(axis=0)
        counters[1] += len(dy)

    def repair(
        self,
        kind: str,
        y: Array,
        dx: Array,
        deriv_sum: Array,
        counters: Array,
        block_dim: int,
        thresholds: tuple[float, float],
        scale: float,
    ) -> None:
        """Self-repair of nnet3py.nnet.nonlinear, for thresholds on the average slope."""
        if counters[0] == 0.0:
            return
        slopes = deriv_sum.reshape(-1, block_dim).mean(axis=0)
        lower, upper = counters[0] * thresholds[0], counters[0] * thresholds[1]
        blocks = dx.reshape(-1, block_dim)
        if kind == "relu":
            push = (slopes <= lower).astype(np.float32) - (slopes > upper)
            blocks += np.float32(scale) * push.astype(np.float32)
        else:
            push = (slopes < lower).astype(np.float32)
            towards = 2.0 * y - 1.0 if kind == "sigmoid" else y
            blocks -= towards.reshape(-1, block_dim) * (np.float32(scale) * push)
        counters[2] += np.count_nonzero(push)
        counters[3] += block_dim

    def softmax(self, x: Array, take_log: bool) -> Array:
        """(Log-)softmax of each row."""
        shifted = x - x.max(axis=1, keepdims=True)
        exponentials = np.exp(shifted)
        total = exponentials.sum(axis=1, keepdims=True)
        if take_log:
            return np.asarray(shifted - np.log(total))
        return np.maximum(exponentials / total, np.float32(1.0e-20))

    def softmax_backward(self, y: Array, dy: Array, took_log: bool) -> None:
        """Through the (log-)softmax whose output is ``y``, in place."""
        if took_log:
            dy -= np.exp(y) * dy.sum(axis=1, keepdims=True)
        else:
            dy -= (y * dy).sum(axis=1, keepdims=True)
            dy *= y

    def label_squares(self, labels: Labels, sums: Array, counters: Array) -> None:
        """As :meth:`add_column_squares` for a derivative that is one weight in each row."""
        sums += np.bincount(labels.classes, labels.weights.astype(np.float64) ** 2, len(sums))
        counters[1] += len(labels.classes)

    def log_softmax_label_backward(self, y: Array, labels: Labels) -> Array:
        """Through the log-softmax whose output is ``y``, for a derivative that is one weight in each row."""
        dx = -np.exp(y) * labels.weights[:, None]
        dx[np.arange(len(y)), labels.classes] += labels.weights
        return dx

    # Columns

    def sum_groups(self, x: Array, starts: Array) -> Array:
        """Sums of groups of neighbouring columns; ``starts`` int32: where each begins, and the number of columns."""
        found: Array = np.add.reduceat(x, starts[:-1], axis=1)
        return found

    def take_columns(self, x: Array, columns: Array) -> Array:
        """The chosen columns (int32) of ``x``, in the order chosen."""
        return np.take(x, columns, axis=1)

    # Norms

    def pnorm(self, x: Array, num_groups: int) -> Array:
        """Euclidean norms (rows, num_groups) of equal groups of neighbouring columns."""
        return np.sqrt(np.square(x.reshape(len(x), num_groups, -1)).sum(axis=2))

    def pnorm_backward(self, x: Array, y: Array, dy: Array) -> Array:
        """The derivative with respect to ``x``."""
        factors = dy / np.where(y == 0.0, np.float32(1.0), y)
        return (x.reshape(*y.shape, -1) * factors[:, :, None]).reshape(x.shape)

    def normalize(self, x: Array, block_dim: int, rms: float, log_stddev: bool) -> tuple[Array, Array]:
        """Blocks of each row at root mean square ``rms``; also the factor of each block."""
        rows = x.reshape(-1, block_dim)
        mean_square = np.square(rows).sum(axis=1) / np.float32(block_dim * rms**2)
        factors = np.reciprocal(np.sqrt(np.maximum(mean_square, np.float32(2.0**-66))))
        y = rows * factors[:, None]
        if log_stddev:
            y = np.concatenate([y, (math.log(rms) - np.log(factors))[:, None]], axis=1)
        return y.reshape(len(x), -1), factors

    def normalize_backward(
        self, x: Array, factors: Array, dy: Array, block_dim: int, rms: float, log_stddev: bool
    ) -> Array:
        """The derivative with respect to ``x``."""
        rows = x.reshape(-1, block_dim)
        by = dy.reshape(len(rows), -1)
        through_norm = by[:, :block_dim]
        towards = np.where(factors >= 2.0**33, 0.0, -(factors**3) / (block_dim * rms**2)).astype(np.float32)
        towards *= (through_norm * rows).sum(axis=1)
        if log_stddev:
            square = np.square(rows).sum(axis=1)
            towards += by[:, -1] / np.maximum(square, np.float32(block_dim * 2.0**-66))
        return (factors[:, None] * through_norm + rows * towards[:, None]).reshape(x.shape)

    def batch_norm(
        self, x: Array, epsilon: float, rms: float, statistics: Array | None, fade: float
    ) -> tuple[Array, Array]:
        """Columns at mean zero and root mean square ``rms``, and the scale of each.

        ``statistics`` (1 + 2 columns,) float64, the count, sums and sums of squares, have this minibatch's added and
        are then multiplied by ``fade``.
        """
        mean = x.mean(axis=0, dtype=np.float64)
        square = np.square(x, dtype=np.float64).mean(axis=0)
        scale = (rms / np.sqrt(np.maximum(square - mean * mean, 0.0) + epsilon)).astype(np.float32)
        if statistics is not None:
            statistics += np.concatenate([[len(x)], len(x) * mean, len(x) * square])
            statistics *= fade
        return (x - mean.astype(np.float32)) * scale, scale

    def batch_norm_backward(self, z: Array, scale: Array, dz: Array, rms: float) -> None:
        """Through the batch normalisation whose output is ``z``, in place."""
        product = (dz * z).sum(axis=0, dtype=np.float64)
        towards_z = (-scale * product / (rms**2 * len(z))).astype(np.float32)
        dz -= dz.mean(axis=0)
        dz *= scale
        dz += z * towards_z

    # Objectives

    def sparse_objective(self, output: Array, labels: Labels, values: Array, slot: Array) -> None:
        """Store the linear objective's value."""
        values[slot[0]] = np.dot(output[labels.rows, labels.classes].astype(np.float64), labels.weights)

    def sparse_derivative(self, output: Array, labels: Labels) -> Array:
        """The linear objective's derivative, the labels as a matrix."""
        derivative = np.zeros_like(output)
        there = labels.weights != 0.0
        derivative[labels.rows[there], labels.classes[there]] = labels.weights[there]
        return derivative

    def dense_objective(self, kind: str, output: Array, targets: Array, values: Array, slot: Array) -> Array:
        """Store the value for dense targets, and return the derivative; ``kind`` is linear or quadratic."""
        if kind == "quadratic":
            difference = targets - output
            values[slot[0]] = -0.5 * float(np.square(difference, dtype=np.float64).sum())
            return difference
        values[slot[0]] = float(np.vdot(output.astype(np.float64), targets))
        return targets.copy()

    def advance(self, slot: Array, capacity: int) -> None:
        """The next slot of a ring."""
        slot[0] = (slot[0] + 1) % capacity

    # The change of all parameters

    def squared_norms(self, delta: Array, parameters: Array, chunks: Chunks, l2_factors: Array) -> None:
        """Add each component's factor times its parameters to its change; partial sums of squares of the changes."""
        for c, (begin, end) in enumerate(chunks.spans):
            if l2_factors[c] != 0.0:
                delta[begin:end] += l2_factors[c] * parameters[begin:end]
            first, last = chunks.first[c], chunks.first[c + 1]
            with np.errstate(over="ignore", invalid="ignore"):
                chunks.partial[first:last] = 0.0
                chunks.partial[first] = np.square(delta[begin:end], dtype=np.float64).sum()

    def limit(
        self,
        chunks: Chunks,
        max_changes: Array,
        max_param_change: float,
        scale: float,
        max_change_scale: float,
        scales: Array,
        counts: Array,
    ) -> None:
        """The factor of each component's change, by nnet3py.train.max_change; 0 if the change is not to be added.

        scales: float64. counts: float64; minibatches, those not finite, limited as a whole, then by component.
        """
        squared = np.array([chunks.partial[a:b].sum() for a, b in zip(chunks.first, chunks.first[1:], strict=False)])
        counts[0] += 1
        if not (squared < 3.0e38).all():
            counts[1] += 1
            scales[:] = 0.0
            return
        norms = np.sqrt(squared)
        limits = max_changes.astype(np.float64) * max_change_scale
        over = (max_changes != 0.0) & (norms * abs(scale) > limits)
        scales[:] = np.where(over, limits / np.where(norms > 0.0, norms * abs(scale), 1.0), 1.0)
        whole = abs(scale) * math.sqrt(float(np.square(scales * norms).sum()))
        counts[3:] += over
        factor = 1.0
        if max_param_change != 0.0 and whole > max_param_change * max_change_scale:
            factor = max_param_change * max_change_scale / whole
            counts[2] += 1
        scales *= factor * scale

    def apply_change(self, delta: Array, parameters: Array, chunks: Chunks, scales: Array, momentum: float) -> None:
        """Add the changes times their factors; what is left of them is ``momentum`` times the change, or nothing."""
        for c, (begin, end) in enumerate(chunks.spans):
            if scales[c] != 0.0:
                parameters[begin:end] += np.float32(scales[c]) * delta[begin:end]
                delta[begin:end] *= np.float32(momentum)
            else:
                delta[begin:end] = 0.0

    # Natural gradient

    def column_sums(self, x: Array, sums: Array | None, squares: Array | None) -> None:
        """Sums of columns, (parts, columns), and partial sums of all squares, float64.

        :meth:`parts_of` says how many parts there are, :meth:`num_squares` how many sums of squares.
        """
        if sums is not None:
            sums[0] = x.sum(axis=0)
        if squares is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                squares[...] = np.square(x, dtype=np.float64).sum()

    def parts_of(self, rows: int) -> int:
        """In how many parts :meth:`column_sums` sums columns."""
        return 1

    def num_squares(self, rows: int, columns: int) -> int:
        """How many sums of squares :meth:`column_sums` gives."""
        return 1

    def add_sum_of_rows(self, target: Array, rows: Array, factor: float) -> None:
        """``target += factor`` times the sum of ``rows``."""
        target += np.float32(factor) * rows.sum(axis=0)

    def add_row(self, x: Array, row: Array) -> None:
        """Add ``row`` to each row of ``x``, a part of the columns of an array."""
        x += row

    def layer_step(self, layer: Layer, dy: Array, x: Array, learning_rate: float) -> None:
        """From H, G, sums and squares: the norms, the step (the rate times both scales), [p; w], J's last column."""
        rank_y = layer.y.rank
        step = learning_rate
        parts = ((layer.x, x, slice(rank_y, None)), (layer.y, dy, slice(0, rank_y)))
        for side, (estimate, rows, columns) in enumerate(parts):
            squared = float((layer.squares_y if side else layer.squares_x).sum())
            if estimate.ones is not None:
                squared += len(rows)
            hat = squared
            if estimate.rank:
                L = layer.G[columns, columns].astype(np.float64)
                hat += float((L * estimate.gram).sum() - 2.0 * np.trace(L))
                if hat < 1.0e-2 * squared:
                    H = layer.H[:, columns]
                    hat = float(np.square(rows - H @ estimate.W, dtype=np.float64).sum())
                    if estimate.ones is not None:
                        hat += float(np.square(1.0 - H @ estimate.ones, dtype=np.float64).sum())
            layer.sums[side], layer.sums[2 + side] = squared, hat
            if squared != 0.0 and hat > 0.0:
                step *= math.sqrt(squared / hat)
            if not math.isfinite(squared):
                step = math.nan
        layer.factors[:] = step, -step
        if layer.x.ones is not None and layer.x.J_ones is not None:
            sums = layer.h_sums.sum(axis=0)
            layer.right_ones[:rank_y] = sums[:rank_y] - layer.G[:rank_y, rank_y:] @ layer.x.ones
            layer.right_ones[rank_y:] = layer.x.ones
            layer.x.J_ones[:] = sums[rank_y:]

    def bias_change(self, delta: Array, layer: Layer) -> None:
        """Add the step times what becomes of the sum of ``dy`` to the change of the bias."""
        delta += layer.factors[0] * (layer.y_sums.sum(axis=0) - layer.right_ones @ layer.left)

    def estimate_table(self, estimates: Sequence[Estimate]) -> Any:
        """What :meth:`renew` takes; it stays right while the arrays and numbers of rows are the same."""
        return list(estimates)

    def renew(self, table: Any, status: Array) -> None:
        """The next estimates from J, L and the squared norms.

        status: int32, one for each; 1 where the numbers are not finite (the estimate stays), 2 where it has lost its
        orthogonality and is to be corrected on the host.
        """
        for i, e in enumerate(table):
            if e.rank == 0:
                continue
            J = e.J if e.J_ones is None else np.concatenate([e.J, e.J_ones[:, None]], axis=1)
            state = self.state_of(e)
            new = updated_state(state, J, e.L, float(e.squared_norm[0]), e.num_rows, e.eta, e.alpha)
            status[i] = new is state
            self.set_state(e, new)

    def state_of(self, e: Estimate) -> NaturalGradientState:
        """An estimate as the host has it, once all that was started is done."""
        W, d, rho, gram = (self.download(array) for array in (e.W, e.d, e.rho, e.gram))
        if e.ones is not None:
            W = np.concatenate([W, self.download(e.ones)[:, None]], axis=1)
        return NaturalGradientState(W, d, float(rho[0]), gram)

    def set_state(self, e: Estimate, state: NaturalGradientState) -> None:
        """Replace an estimate by one from the host."""
        columns = e.W.shape[1]
        e.W[...] = self.upload(state.W[:, :columns])
        if e.ones is not None:
            e.ones[...] = self.upload(state.W[:, columns])
        e.d[...] = self.upload(state.d)
        e.rho.fill(state.rho)
        e.gram[...] = self.upload(state.gram)
