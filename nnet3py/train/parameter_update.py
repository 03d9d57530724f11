"""Where a component's backward pass leaves its parameter change, preconditioned by the training method.

The three methods of the paper's comparison (arXiv:1410.7455): plain SGD, natural gradient by the simple per-minibatch
estimate, and natural gradient by the online estimate. Gradients are summed over the rows of a minibatch, not averaged.

The product of preconditioned derivatives and inputs, ŷᵀx̂, is most of the cost of an update. For derivatives of a high
dimension ŷ = y - H W is not formed: ``ŷᵀx̂ = yᵀx̂ - Wᵀ (Hᵀ x̂)`` is less work and spares a pass over memory.
"""

from __future__ import annotations

import enum
import math

import numpy as np

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.nnet.component import Array, Component, NaturalGradientOptions
from nnet3py.nnet.in_place import add_product
from nnet3py.train.natural_gradient import (
    NaturalGradientState,
    OnlineNaturalGradient,
    Preconditioned,
    simple_natural_gradient,
)


class Method(enum.Enum):
    """How gradients become steps; ``AS_MODEL`` takes each component's own type for it."""

    AS_MODEL = "as-model"
    ONLINE = "online-ng"
    SIMPLE = "simple-ng"
    SGD = "sgd"


class ParameterUpdate:
    """The change of one component's parameters: :class:`nnet3py.nnet.component.Update` for the three methods.

    ``preconditioners`` are the online estimates, by side (``in`` or ``out``) and field, made when they are first
    needed. Several objects, one for each thread that trains the component, may have the same dictionary.
    ``delta`` has a float32 array for each trained field. ``finite`` turns False when derivatives or inputs came that
    are not finite: what they would have added is left out, and the caller is to discard ``delta``.
    """

    def __init__(self, component: Component, method: Method, delta: dict[str, Array]) -> None:
        """``delta`` must have the shapes of ``component.parameters()``; it is added to in place."""
        options = component.natural_gradient
        if method is Method.AS_MODEL:
            method = Method.SGD if options is None else Method.ONLINE
        self.method = method
        self.learning_rate = component.learning_rate
        self.delta = delta
        self.finite = True
        self._options = options
        self._restored: dict[tuple[str, str], NaturalGradientState] = {}
        self._name, self._must_fit = "", True
        self.preconditioners: dict[tuple[str, str], OnlineNaturalGradient] = {}
        self._frozen = False
        self._scratch: dict[str, Array] = {}

    def restore(self, estimates: dict[tuple[str, str], NaturalGradientState], name: str, must_fit: bool) -> None:
        """Go on from estimates of an earlier run, before anything is added; ``name`` is the component's, for messages.

        Whether one fits is known when its rows come: one that does not is a UserError then or, unless it ``must_fit``,
        is forgotten.
        """
        self._restored, self._name, self._must_fit = estimates, name, must_fit

    def share_estimates(self, other: ParameterUpdate) -> None:
        """Use and update the estimates of ``other``, which another thread adds to."""
        self.preconditioners = other.preconditioners
        self.restore(other._restored, other._name, other._must_fit)

    def estimates(self) -> dict[tuple[str, str], NaturalGradientState]:
        """The estimates as they are, by side and field, to be restored in another run."""
        found = dict(self._restored)
        for key, preconditioner in self.preconditioners.items():
            if preconditioner.state is not None:
                found[key] = preconditioner.state
        return found

    def freeze(self, frozen: bool) -> None:
        """While frozen, the online estimates are applied and not updated; one that is new is only started."""
        self._frozen = frozen
        for preconditioner in self.preconditioners.values():
            preconditioner.frozen = frozen

    def add_outer_product(self, dy: Array, x: Array, linear: str, bias: str | None) -> None:
        """Add ``learning_rate * dyᵀ [x 1]``, preconditioned; see :class:`nnet3py.nnet.component.Update`."""
        if self.method is Method.SGD:
            add_product(self.delta[linear], self.learning_rate, dy.T, x)
            if bias is not None:
                self.delta[bias] += self.learning_rate * dy.sum(axis=0)
        elif self.method is Method.SIMPLE:
            self._add_simple(dy, x, linear, bias)
        else:
            self._add_online(dy, x, linear, bias)

    def add_gradient(self, gradient: Array, bias_gradient: Array, linear: str, bias: str) -> None:
        """Add ``learning_rate * [gradient bias_gradient]``, its rows preconditioned as those of inputs are."""
        rows = np.concatenate([gradient, bias_gradient[:, None]], axis=1)
        scale = 1.0
        if self.method is Method.SIMPLE:
            rows = simple_natural_gradient(rows, self._alpha)
        elif self.method is not Method.SGD:
            rows, scale = self._preconditioner("in", linear, rows.shape[1]).precondition(rows)
        if not (math.isfinite(scale) and np.isfinite(rows).all()):
            self.finite = False
            return
        rows *= np.float32(self.learning_rate * scale)
        self.delta[linear] += rows[:, :-1]
        self.delta[bias] += rows[:, -1]

    def add_vector(self, field: str, rows: Array) -> None:
        """Add ``learning_rate`` times the sum of ``rows``, preconditioned, to a vector field."""
        if self.method is Method.SGD:
            total, scale = rows.sum(axis=0), 1.0
        elif self.method is Method.SIMPLE:
            total, scale = simple_natural_gradient(rows, self._alpha).sum(axis=0), 1.0
        else:
            factors = self._preconditioner("in", field, rows.shape[1]).factors(rows)
            total, scale = rows.sum(axis=0), factors.scale
            if factors.H is not None and factors.W is not None:
                total -= factors.H.sum(axis=0) @ factors.W
        if not (math.isfinite(scale) and np.isfinite(total).all()):
            self.finite = False
            return
        self.delta[field] += np.float32(self.learning_rate * scale) * total

    @property
    def _alpha(self) -> float:
        return NaturalGradientOptions.alpha if self._options is None else self._options.alpha

    def _preconditioner(self, side: str, field: str, dim: int) -> OnlineNaturalGradient:
        """The estimate for the inputs or output derivatives of a field; the default ranks are Kaldi's."""
        key = (side, field)
        if key not in self.preconditioners:
            options = self._options
            if options is None:
                half = max(1, dim // 2)
                options = NaturalGradientOptions(rank_in=min(20, half), rank_out=min(80, half))
            alpha = options.alpha
            if side == "out" and options.alpha_out is not None:
                alpha = options.alpha_out
            rank = options.rank_in if side == "in" else options.rank_out
            made = OnlineNaturalGradient(rank, alpha, options.update_period, options.num_samples_history)
            made.frozen = self._frozen
            made.state = self.restored_state(side, field, min(rank, dim - 1), dim)
            self.preconditioners.setdefault(key, made)  # another thread may have been quicker
        return self.preconditioners[key]

    def restored_state(self, side: str, field: str, rank: int, dim: int) -> NaturalGradientState | None:
        """The restored estimate of a side and field, if there is one and it is of this size; see :meth:`restore`."""
        key = (side, field)
        state = self._restored.get(key)
        if state is None or state.W.shape == (rank, dim):
            return state
        found = f"{self._name}: the restored estimate for {'inputs' if key[0] == 'in' else 'output derivatives'} "
        found += f"({'/'.join(key)}) has rank {state.W.shape[0]} and dimension {state.W.shape[1]}"
        if self._must_fit:
            raise UserError(
                f"{found}, the network wants rank {rank} and dimension {dim}: give the state that belongs to this "
                "model, or let what does not fit start afresh (--optimizer-state-must-fit=false)."
            )
        log.log(f"{found}, not rank {rank} and dimension {dim}: it starts afresh.")
        return None

    def _add_simple(self, dy: Array, x: Array, linear: str, bias: str | None) -> None:
        columns = x.shape[1]
        if bias is not None:
            x = np.concatenate([x, np.ones((len(x), 1), np.float32)], axis=1)
        y_hat, x_hat = simple_natural_gradient(dy, self._alpha), simple_natural_gradient(x, self._alpha)
        if len(dy) and (np.isnan(y_hat[0, 0]) or np.isnan(x_hat[0, 0])):
            self.finite = False
            return
        add_product(self.delta[linear], self.learning_rate, y_hat.T, x_hat[:, :columns])
        if bias is not None:
            self.delta[bias] += np.float32(self.learning_rate) * (x_hat[:, columns] @ y_hat)

    def _add_online(self, dy: Array, x: Array, linear: str, bias: str | None) -> None:
        has_bias = bias is not None
        x_factors = self._preconditioner("in", linear, x.shape[1] + has_bias).factors(x, append_one=has_bias)
        y_factors = self._preconditioner("out", linear, dy.shape[1]).factors(dy)
        step = self.learning_rate * x_factors.scale * y_factors.scale
        if not math.isfinite(step):
            self.finite = False
            return
        x_hat = self._formed("x", x_factors)
        ones_hat = x_factors.form_ones() if has_bias else None
        num_rows, output_dim = dy.shape
        form_y = (
            y_factors.H is None
            or y_factors.formed is not None
            or num_rows * output_dim <= x.shape[1] * (num_rows + output_dim)
        )
        parts = [(step, self._formed("y", y_factors) if form_y else dy, x_hat, ones_hat)]
        if not form_y:
            H, W = y_factors.H, y_factors.W
            assert H is not None
            assert W is not None
            parts.append((-step, W, H.T @ x_hat, None if ones_hat is None else ones_hat @ H))
        for factor, left, right, right_ones in parts:
            add_product(self.delta[linear], factor, left.T, right)
            if bias is not None:
                self.delta[bias] += np.float32(factor) * (right_ones @ left)

    def _formed(self, side: str, factors: Preconditioned) -> Array:
        """X̂, in a buffer that is kept from minibatch to minibatch."""
        formed = factors.form(self._scratch.get(side))
        if factors.H is not None:
            self._scratch[side] = formed
        return formed
