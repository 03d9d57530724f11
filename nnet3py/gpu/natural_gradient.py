r"""The update of affine layers by online natural gradient on a device: no row is preconditioned by itself.

In the letters of nnet3py.train.natural_gradient a layer's change is ``s Ŷᵀ [X̂ 1̂]`` with ``X̂ = X - H_x W_x`` and
``Ŷ = Y - H_y W_y``. Multiplied out,

    Ŷᵀ X̂ = Yᵀ X - W_yᵀ P - Qᵀ W_x,     P = H_yᵀ X - (H_yᵀ H_x) W_x,     Q = H_xᵀ Y

so that beside the product YᵀX, which plain SGD needs too, there are only products with the few rows or columns of the
estimates, and nothing as large as X or Y is written. [W_y; Q] and [P; W_x] lie in one array each: the two corrections
are one product. The ones that are appended to X make the bias the same with one more column of X and W_x: P has
``p = H_yᵀ 1 - (H_yᵀ H_x) w`` there. Of ``G = HᵀH``, H = [H_y H_x], the blocks on the diagonal are L of both sides,
which give the norms before and after, and s; the block beside it is H_yᵀ H_x.

The estimates of all layers are renewed together after the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nnet3py.gpu.operations import Array, Estimate, HostOperations, Layer
from nnet3py.nnet.component import NaturalGradientOptions
from nnet3py.train.natural_gradient import (
    NaturalGradientState,
    OnlineNaturalGradient,
    is_update_due,
    reorthogonalised,
    smoothed_inverse_diagonal,
)

_NOT_ORTHONORMAL = 2
_NEVER = 1 << 62


class LayerEstimates:
    """The estimates of one layer, for its inputs and its output derivatives, and what an update works with."""

    def __init__(
        self,
        ops: HostOperations,
        options: NaturalGradientOptions,
        output_dim: int,
        input_dim: int,
        has_bias: bool,
        states: Mapping[str, NaturalGradientState],
    ) -> None:
        """``states``: restored ones by side (``in``, ``out``), of the right sizes."""
        self.ops = ops
        self.options = options
        self.minibatches = {side: state.minibatch for side, state in states.items()}
        alpha_out = options.alpha if options.alpha_out is None else options.alpha_out
        rank_x = max(0, min(options.rank_in, input_dim + has_bias - 1))
        rank_y = max(0, min(options.rank_out, output_dim - 1))
        rank = rank_x + rank_y
        left, right = ops.zeros((rank, output_dim)), ops.zeros((rank, input_dim))
        G = ops.zeros((rank, rank))
        sums = ops.zeros(4, np.float64)
        history = options.num_samples_history
        x = self._estimate(right[rank_y:], G[rank_y:, rank_y:], sums[0:1], has_bias, options.alpha, history)
        y = self._estimate(left[:rank_y], G[:rank_y, :rank_y], sums[1:2], False, alpha_out, history)
        self.layer = Layer(
            left=left,
            right=right,
            H=ops.empty((0, rank)),
            G=G,
            h_sums=ops.empty((0, rank)),
            y_sums=ops.empty((0, output_dim)),
            squares_x=ops.empty(0, np.float64),
            squares_y=ops.empty(0, np.float64),
            sums=sums,
            factors=ops.zeros(2),
            right_ones=ops.zeros(rank),
            x=x,
            y=y,
        )
        self._by_rows: dict[int, tuple[Array, ...]] = {}
        self.renewing = True
        self.uses = 0
        """How often something was added in this step."""
        self.most_uses = 1
        for side, state in states.items():
            ops.set_state(self.side(side), state)

    def _estimate(
        self, W: Array, L: Array, squared_norm: Array, has_ones: bool, alpha: float, history: float
    ) -> Estimate:
        zeros, (rank, columns) = self.ops.zeros, W.shape
        return Estimate(
            W=W,
            ones=zeros(rank) if has_ones else None,
            d=zeros(rank, np.float64),
            rho=zeros(1, np.float64),
            gram=zeros((rank, rank)),
            J=zeros((rank, columns)),
            J_ones=zeros(rank) if has_ones else None,
            K=zeros((rank, rank)),
            L=L,
            A=zeros((rank, rank)),
            coefficients=zeros(rank),
            squared_norm=squared_norm,
            alpha=alpha,
            history=history,
        )

    def side(self, side: str) -> Estimate:
        """The estimate of the inputs (``in``) or output derivatives (``out``)."""
        return self.layer.x if side == "in" else self.layer.y

    @property
    def started(self) -> bool:
        """Whether both sides have an estimate."""
        return all(side in self.minibatches for side in ("in", "out"))

    def due(self, ahead: int = 0) -> bool:
        """Whether the estimates are to be renewed on the minibatch at hand, or some minibatches later."""
        return any(is_update_due(count + ahead, self.options.update_period) for count in self._counts())

    def _counts(self) -> list[int]:
        """Minibatches that the sides which have an estimate have seen."""
        return [self.minibatches.get(side, 0) for side in ("in", "out") if self.side(side).rank]

    def start(self, dy: Array, x: Array) -> None:
        """The estimates of a side that has none, from the first minibatch; computed on the host."""
        for side, rows in (("in", x), ("out", dy)):
            if side in self.minibatches:
                continue
            self.minibatches[side] = 0
            estimate = self.side(side)
            if estimate.rank:
                maker = OnlineNaturalGradient(
                    estimate.rank, estimate.alpha, self.options.update_period, self.options.num_samples_history
                )
                state = maker.started(self.ops.download(rows), append_one=estimate.ones is not None)
                self.ops.set_state(estimate, state)

    def add(self, delta: Array, bias_delta: Array | None, dy: Array, x: Array, learning_rate: float) -> None:
        """Add the preconditioned change to ``delta`` and, if there is a bias, ``bias_delta``.

        While ``renewing``, also J and L are made, which the next estimates are made of.
        """
        ops, layer = self.ops, self.layer
        self.uses += 1
        self.most_uses = max(self.most_uses, self.uses)
        rank_y = layer.y.rank
        self._make_room(len(x))
        H_y, H_x = layer.H[:, :rank_y], layer.H[:, rank_y:]
        ops.product(H_x, x, layer.x.W, transpose_right=True)
        if layer.x.ones is not None:
            ops.add_row(H_x, layer.x.ones)
        ops.product(H_y, dy, layer.y.W, transpose_right=True)
        ops.product(layer.G, layer.H, layer.H, transpose_left=True, exact=True)
        ops.column_sums(x, None, layer.squares_x)
        ops.column_sums(dy, layer.y_sums, layer.squares_y)
        if bias_delta is not None:
            ops.column_sums(layer.H, layer.h_sums, None)
        ops.layer_step(layer, dy, x, learning_rate)
        P, Q = layer.right[:rank_y], layer.left[rank_y:]
        ops.product(P, H_y, x, transpose_left=True)
        ops.product(P, layer.G[:rank_y, rank_y:], layer.x.W, alpha=-1.0, beta=1.0)
        ops.product(Q, H_x, dy, transpose_left=True)
        step, minus_step = layer.factors[0:1], layer.factors[1:2]
        ops.product(delta, dy, x, transpose_left=True, alpha=step, beta=1.0)
        ops.product(delta, layer.left, layer.right, transpose_left=True, alpha=minus_step, beta=1.0)
        if bias_delta is not None:
            ops.bias_change(bias_delta, layer)
        if self.renewing:
            ops.product(layer.x.J, H_x, x, transpose_left=True)
            ops.product(layer.y.J, H_y, dy, transpose_left=True)

    def _make_room(self, num_rows: int) -> None:
        """What depends on the number of rows; kept for each, as a recorded step goes on using it."""
        ops, layer = self.ops, self.layer
        if num_rows not in self._by_rows:
            (rank, output_dim), input_dim, parts = layer.left.shape, layer.right.shape[1], ops.parts_of(num_rows)
            self._by_rows[num_rows] = (
                ops.empty((num_rows, rank)),
                ops.zeros((parts, rank)),
                ops.zeros((parts, output_dim)),
                ops.zeros(ops.num_squares(num_rows, input_dim), np.float64),
                ops.zeros(ops.num_squares(num_rows, output_dim), np.float64),
            )
        layer.H, layer.h_sums, layer.y_sums, layer.squares_x, layer.squares_y = self._by_rows[num_rows]
        layer.x.num_rows = layer.y.num_rows = num_rows

    @property
    def starting(self) -> bool:
        """Whether these are the first minibatches, when estimates change much and are renewed every time."""
        return any(is_update_due(count, _NEVER) for count in self._counts())

    def count(self, minibatches: int = 1) -> None:
        """So many more minibatches have been preconditioned."""
        for side in self.minibatches:
            self.minibatches[side] += minibatches

    def state(self, side: str) -> NaturalGradientState | None:
        """The estimate of a side as the host has it; None if there is none."""
        if side not in self.minibatches or not self.side(side).rank:
            return None
        state = self.ops.state_of(self.side(side))
        state.minibatch = self.minibatches[side]
        return state


class Renewal:
    """Renews the estimates of several layers together, and keeps them orthonormal.

    Rounding can cost an estimate its orthogonality, seldom after the first minibatches. The device looks, the host
    corrects when :meth:`correct` is called: at once in the first minibatches, later before the next renewal, so that
    nobody waits.
    """

    def __init__(self, ops: HostOperations, layers: Sequence[LayerEstimates]) -> None:
        self._ops = ops
        sides = [layer.side(side) for layer in layers for side in ("in", "out")]
        self.estimates = [estimate for estimate in sides if estimate.rank]
        self._status = ops.zeros(max(1, len(self.estimates)), np.int32)
        self._tables: dict[tuple[int, ...], Any] = {}
        self._found: Callable[[], np.ndarray] | None = None

    def renew(self) -> None:
        """Start the renewal from what the layers' last :meth:`LayerEstimates.add` left."""
        if not self.estimates:
            return
        rows = tuple(estimate.num_rows for estimate in self.estimates)
        if rows not in self._tables:
            self._tables[rows] = self._ops.estimate_table(self.estimates)
        self._ops.renew(self._tables[rows], self._status)

    def renewed(self) -> None:
        """A renewal was started (or replayed): there is something to look at."""
        if self.estimates:
            self._found = self._ops.download_later(self._status)

    def correct(self) -> None:
        """Wait for the last renewal and correct the estimates that it found to have lost their orthogonality."""
        if self._found is None:
            return
        status = self._found()
        self._found = None
        for i in np.flatnonzero(status[: len(self.estimates)] & _NOT_ORTHONORMAL):
            estimate = self.estimates[i]
            state = self._ops.state_of(estimate)
            e = smoothed_inverse_diagonal(state.d, state.rho, estimate.dim, estimate.alpha)
            state.W = reorthogonalised(state.W, np.sqrt(e))
            state.gram = state.W @ state.W.T
            self._ops.set_state(estimate, state)
