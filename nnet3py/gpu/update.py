"""Where components on a device leave their change: :class:`nnet3py.nnet.component.Update` for all training methods.

Counterpart of nnet3py.train.parameter_update. Affine layers by online natural gradient and by plain SGD are updated on
the device; vectors, whole gradients and the simple natural gradient on the host, with the CPU's own code. Arrays that
are added may be on either.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nnet3py.gpu.natural_gradient import LayerEstimates
from nnet3py.gpu.operations import Array, HostOperations
from nnet3py.nnet.component import Component, NaturalGradientOptions
from nnet3py.train.natural_gradient import NaturalGradientState
from nnet3py.train.parameter_update import Method, ParameterUpdate


class DeviceUpdate:
    """The change of one component's parameters; ``delta``: its arrays on the device, by field.

    ``renewing``: whether the estimates of layers that come new are renewed on this minibatch.
    """

    def __init__(self, ops: HostOperations, component: Component, method: Method, delta: dict[str, Array]) -> None:
        self.ops = ops
        self.learning_rate = component.learning_rate
        self.delta = delta
        self.renewing = False
        self.layers: dict[str, LayerEstimates] = {}
        self._host_delta = {field: np.zeros(array.shape, np.float32) for field, array in component.parameters().items()}
        self._host = ParameterUpdate(component, method, self._host_delta)
        self._options = component.natural_gradient

    @property
    def method(self) -> Method:
        """How gradients become steps, for this component."""
        return self._host.method

    @property
    def recordable(self) -> bool:
        """Whether affine layers are updated on the device, so that a step can be recorded."""
        return self.method is not Method.SIMPLE

    def restore(self, estimates: dict[tuple[str, str], NaturalGradientState], name: str, must_fit: bool) -> None:
        """As :meth:`ParameterUpdate.restore`."""
        self._host.restore(estimates, name, must_fit)

    def estimates(self) -> dict[tuple[str, str], NaturalGradientState]:
        """As :meth:`ParameterUpdate.estimates`."""
        found = self._host.estimates()
        for field, layer in self.layers.items():
            for side in ("in", "out"):
                state = layer.state(side)
                if state is not None:
                    found[side, field] = state
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
            with ops.aside(dy, x):
                ops.product(self.delta[linear], dy, x, transpose_left=True, alpha=float(self.learning_rate), beta=1.0)
                if bias_delta is not None:
                    sums = ops.empty((ops.parts_of(len(dy)), dy.shape[1]))
                    ops.column_sums(dy, sums, None)
                    ops.add_sum_of_rows(bias_delta, sums, self.learning_rate)
            return None
        layer = self._layer(dy, x, linear, bias is not None)
        with ops.aside(dy, x):
            layer.add(self.delta[linear], bias_delta, dy, x, self.learning_rate)
        return None

    def _layer(self, dy: Array, x: Array, linear: str, has_bias: bool) -> LayerEstimates:
        layer = self.layers.get(linear)
        if layer is None:
            options = self._options
            sizes = {"in": x.shape[1] + has_bias, "out": dy.shape[1]}
            if options is None:
                half_in, half_out = max(1, sizes["in"] // 2), max(1, sizes["out"] // 2)
                options = NaturalGradientOptions(rank_in=min(20, half_in), rank_out=min(80, half_out))
            states = {}
            for side, rank in (("in", options.rank_in), ("out", options.rank_out)):
                state = self._host.restored_state(side, linear, min(rank, sizes[side] - 1), sizes[side])
                if state is not None:
                    states[side] = state
            layer = LayerEstimates(self.ops, options, dy.shape[1], x.shape[1], has_bias, states)
            layer.renewing = self.renewing and layer.due()
            self.layers[linear] = layer
        if not layer.started:
            layer.start(dy, x)
        return layer

    def add_gradient(self, gradient: Array, bias_gradient: Array, linear: str, bias: str) -> None:
        """Add a minibatch's gradient, preconditioned by the estimate for inputs alone."""
        self._by_host(self._host.add_gradient, gradient, bias_gradient, linear=linear, bias=bias)

    def add_vector(self, field: str, rows: Array) -> None:
        """Add the sum of ``rows``, preconditioned, to a vector field."""
        self._by_host(lambda on_host: self._host.add_vector(field, on_host), rows)

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
