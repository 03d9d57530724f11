"""Where components on a device leave their change: :class:`nnet3py.nnet.component.Update` for all training methods.

Counterpart of nnet3py.train.parameter_update. Online natural gradient and plain SGD are computed on the device, the
simple natural gradient on the host, with the CPU's own code. Arrays that are added may be on either.

What is preconditioned on one side only takes the form of an affine layer, so that it is the same products and kernels:
a vector's change ``s Σ ŷ`` is that of a layer with output derivatives ŷ and the input 1; a gradient whose rows are
preconditioned, ``s X̂ = s Iᵀ X̂``, that of a layer with inputs X̂ and the rows of the identity for derivatives. The other
side then has an estimate of rank 0.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np

from nnet3py.gpu.natural_gradient import LayerEstimates, Renewal
from nnet3py.gpu.operations import Array, HostOperations
from nnet3py.nnet.component import Component, NaturalGradientOptions
from nnet3py.train.natural_gradient import NaturalGradientState
from nnet3py.train.parameter_update import Method, ParameterUpdate


class DeviceUpdate:
    """The change of one component's parameters; ``delta``: its arrays on the device, by field.

    ``renewing``: whether estimates are renewed where that is due. ``touched``: the fields that something was added to
    in this step. ``between``: renewals that were started within this step: as on the CPU, each of the nodes that use a
    component whose update does not wait for all of them brings a minibatch of its own.
    """

    def __init__(self, ops: HostOperations, component: Component, method: Method, delta: dict[str, Array]) -> None:
        self.ops = ops
        self.learning_rate = component.learning_rate
        self.delta = delta
        self.renewing = False
        self.touched: set[str] = set()
        self.between: list[Renewal] = []
        self.layers: dict[str, LayerEstimates] = {}
        self._host_delta = {field: np.zeros(array.shape, np.float32) for field, array in component.parameters().items()}
        self._host = ParameterUpdate(component, method, self._host_delta)
        self._options = component.natural_gradient
        self._sides: dict[str, dict[str, str]] = {}
        self._constants: dict[tuple[str, int], Array] = {}
        self._renewals: dict[str, Renewal] = {}

    @property
    def method(self) -> Method:
        """How gradients become steps, for this component."""
        return self._host.method

    @property
    def recordable(self) -> bool:
        """Whether all is computed on the device, so that a step can be recorded."""
        return self.method is not Method.SIMPLE

    def restore(self, estimates: dict[tuple[str, str], NaturalGradientState], name: str, must_fit: bool) -> None:
        """As :meth:`ParameterUpdate.restore`."""
        self._host.restore(estimates, name, must_fit)

    def begin_step(self) -> None:
        """Nothing has been added in this step yet, whatever a recording that failed has left."""
        self.touched.clear()
        self.between.clear()
        for layer in self.layers.values():
            layer.uses, layer.renewing = 0, self.renewing and layer.due()

    def estimates(self) -> dict[tuple[str, str], NaturalGradientState]:
        """As :meth:`ParameterUpdate.estimates`."""
        found = self._host.estimates()
        for field, layer in self.layers.items():
            for side, name in self._sides[field].items():
                state = layer.state(side)
                if state is not None:
                    found[name, field] = state
        return found

    def add_outer_product(self, dy: Array, x: Array, linear: str, bias: str | None) -> None:
        """Add ``learning_rate * dyᵀ [x 1]``, preconditioned; see :class:`nnet3py.nnet.component.Update`."""
        ops, bias_delta = self.ops, None if bias is None else self.delta[bias]
        if self.method is Method.SIMPLE:
            return self._by_host(self._host.add_outer_product, dy, x, linear=linear, bias=bias)
        if len(x) == 0:
            return None
        dy, x = self._on_device(dy), self._on_device(x)
        if self.method is Method.SGD:
            with self._aside(linear, dy, x):
                ops.product(self.delta[linear], dy, x, transpose_left=True, alpha=float(self.learning_rate), beta=1.0)
                if bias_delta is not None:
                    self._add_sum(bias_delta, dy)
            return None
        sizes = x.shape[1] + (bias is not None), dy.shape[1]
        options = self._options
        if options is None:
            rank_in, rank_out = (min(most, max(1, size // 2)) for most, size in zip((20, 80), sizes, strict=True))
            options = NaturalGradientOptions(rank_in=rank_in, rank_out=rank_out)
        layer = self._layer(dy, x, linear, bias is not None, options, {"in": "in", "out": "out"})
        with self._aside(linear, dy, x):
            layer.add(self.delta[linear], bias_delta, dy, x, self.learning_rate)
        return None

    def _aside(self, field: str, *arrays: Array) -> AbstractContextManager[None]:
        """Beside what follows, but after what was started for the same field before: they share their memory."""
        if field in self.touched:
            self.ops.join()
        self.touched.add(field)
        return self.ops.aside(*arrays)

    def _add_sum(self, delta: Array, rows: Array) -> None:
        sums = self.ops.empty((self.ops.parts_of(len(rows)), rows.shape[1]))
        self.ops.column_sums(rows, sums, None)
        self.ops.add_sum_of_rows(delta, sums, self.learning_rate)

    def _layer(
        self,
        dy: Array,
        x: Array,
        field: str,
        has_bias: bool,
        options: NaturalGradientOptions,
        sides: dict[str, str],
    ) -> LayerEstimates:
        """The estimates of a field. ``sides``: which of the two have one, and what the CPU calls it."""
        layer = self.layers.get(field)
        if layer is None:
            sizes = {"in": x.shape[1] + has_bias, "out": dy.shape[1]}
            ranks = {"in": options.rank_in, "out": options.rank_out}
            states = {}
            for side, name in sides.items():
                state = self._host.restored_state(name, field, min(ranks[side], sizes[side] - 1), sizes[side])
                if state is not None:
                    states[side] = state
            layer = LayerEstimates(self.ops, options, dy.shape[1], x.shape[1], has_bias, states)
            layer.renewing = self.renewing and layer.due()
            self.layers[field] = layer
            self._sides[field] = sides
        if not layer.started:
            layer.start(dy, x)
        if layer.uses:
            self._renew(field, layer)
        return layer

    def _renew(self, field: str, layer: LayerEstimates) -> None:
        """Renew the estimates of a field from what was added in this step, before more is added."""
        self.ops.join()
        if layer.renewing:
            if field not in self._renewals:
                self._renewals[field] = Renewal(self.ops, [layer])
            renewal = self._renewals[field]
            renewal.renew()
            self.between.append(renewal)
            if layer.starting:
                renewal.renewed()
                renewal.correct()
        layer.renewing = self.renewing and layer.due(layer.uses)

    def _one_sided(self, dim: int, side: str) -> NaturalGradientOptions:
        """The options for inputs, of dimension ``dim``, for one side of a layer; the other has no estimate."""
        options = self._options
        rank = min(20, max(1, dim // 2)) if options is None else options.rank_in
        options = NaturalGradientOptions() if options is None else options
        return replace(
            options, rank_in=rank if side == "in" else 0, rank_out=rank if side == "out" else 0, alpha_out=None
        )

    def add_gradient(self, gradient: Array, bias_gradient: Array, linear: str, bias: str) -> None:
        """Add ``learning_rate * [gradient bias_gradient]``, its rows preconditioned as those of inputs are."""
        if self.method is Method.SIMPLE:
            return self._by_host(self._host.add_gradient, gradient, bias_gradient, linear=linear, bias=bias)
        ops = self.ops
        gradient, bias_gradient = self._on_device(gradient), self._on_device(bias_gradient)
        if self.method is Method.SGD:
            with self._aside(linear, gradient, bias_gradient):
                self.delta[linear] += gradient * np.float32(self.learning_rate)
                self.delta[bias] += bias_gradient * np.float32(self.learning_rate)
            return None
        size, columns = gradient.shape
        rows = ops.empty((size, columns + 1))
        rows[:, :columns], rows[:, columns] = gradient, bias_gradient
        identity = self._constant("identity", size)
        layer = self._layer(identity, rows, linear, False, self._one_sided(columns + 1, "in"), {"in": "in"})
        with self._aside(linear, rows):
            change = ops.zeros(rows.shape)
            layer.add(change, None, identity, rows, self.learning_rate)
            self.delta[linear] += change[:, :columns]
            self.delta[bias] += change[:, columns]
        return None

    def add_vector(self, field: str, rows: Array) -> None:
        """Add ``learning_rate`` times the sum of ``rows``, preconditioned, to a vector field."""
        if self.method is Method.SIMPLE:
            return self._by_host(lambda on_host: self._host.add_vector(field, on_host), rows)
        if len(rows) == 0:
            return None
        rows = self._on_device(rows)
        if self.method is Method.SGD:
            with self._aside(field, rows):
                self._add_sum(self.delta[field], rows)
            return None
        ones = self._constant("ones", len(rows))
        layer = self._layer(rows, ones, field, False, self._one_sided(rows.shape[1], "out"), {"out": "in"})
        with self._aside(field, rows):
            layer.add(self.delta[field].reshape(-1, 1), None, rows, ones, self.learning_rate)
        return None

    def _constant(self, kind: str, size: int) -> Array:
        """The identity matrix, or a column of ones."""
        if (kind, size) not in self._constants:
            made = np.eye(size, dtype=np.float32) if kind == "identity" else np.ones((size, 1), np.float32)
            self._constants[kind, size] = self.ops.upload(made)
        return self._constants[kind, size]

    def _by_host(self, add: Any, *arrays: Array, **names: Any) -> None:
        add(*(array if isinstance(array, np.ndarray) else self.ops.download(array) for array in arrays), **names)
        self._take_host_delta()

    def _on_device(self, array: Array) -> Array:
        """An array there; one of a component that is computed on the host is sent."""
        return self.ops.upload(array) if self.ops.on_device and isinstance(array, np.ndarray) else array

    def _take_host_delta(self) -> None:
        """Add to the change what the host's code has added to its own; what is not finite spoils all of it."""
        for field, change in self._host_delta.items():
            if not self._host.finite:
                change.fill(np.nan)
            self.delta[field] += self.ops.upload(change)
            change.fill(0.0)
        self._host.finite = True
