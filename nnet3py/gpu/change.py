"""The parameters of a network on a device, and the change that a minibatch makes of them.

Parameters and changes lie in one array each, a component after the other, every field at a multiple of 64 numbers: what
is done to all of them is done at once. Counterpart of nnet3py.train.trainer.ParameterChange.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from nnet3py.gpu.operations import Array, Chunks, HostOperations
from nnet3py.nnet.component import Component
from nnet3py.train.max_change import MaxChangeCounts

_ALIGNMENT = 64
_CHUNK = 8192


class DeviceParameters:
    """The parameters of components, by name and field, on the device; and arrays for their changes."""

    def __init__(self, ops: HostOperations, components: Mapping[str, Component]) -> None:
        self.ops = ops
        self.names = list(components)
        self.max_changes = ops.upload(np.array([c.max_change for c in components.values()], np.float32))
        self._components = components
        places: dict[tuple[str, str], tuple[int, tuple[int, ...]]] = {}
        spans, start = [], 0
        for name, component in components.items():
            begin = start
            for field, parameter in component.parameters().items():
                places[name, field] = (start, parameter.shape)
                start += math.ceil(parameter.size / _ALIGNMENT) * _ALIGNMENT
            spans.append((begin, start))
        self.flat = ops.zeros(start)
        self.delta_flat = ops.zeros(start)
        self.parameters: dict[str, dict[str, Array]] = {name: {} for name in components}
        self.delta: dict[str, dict[str, Array]] = {name: {} for name in components}
        for (name, field), (begin, shape) in places.items():
            span = slice(begin, begin + math.prod(shape))
            self.parameters[name][field] = self.flat[span].reshape(shape)
            self.delta[name][field] = self.delta_flat[span].reshape(shape)
        self.upload()
        self.chunks = _chunks(ops, spans)
        self._scales = ops.zeros(max(1, len(spans)), np.float64)
        self._counts = ops.zeros(3 + len(spans), np.float64)
        self._l2: dict[float, Array] = {}

    def upload(self) -> None:
        """Take the parameters of the components on the host."""
        for name, fields in self.parameters.items():
            of_host = self._components[name].parameters()
            for field, array in fields.items():
                array[...] = self.ops.upload(of_host[field])

    def download(self) -> None:
        """Give the components on the host the parameters of the device."""
        for name, fields in self.parameters.items():
            of_host = self._components[name].parameters()
            for field, array in fields.items():
                of_host[field][...] = self.ops.download(array)

    def l2_factors(self, weight: float) -> Array:
        """By component, what its parameters are multiplied by and added to the change; kept for each ``weight``."""
        if weight not in self._l2:
            factors = [-2.0 * weight * c.learning_rate * c.l2_regularize for c in self._components.values()]
            self._l2[weight] = self.ops.upload(np.array(factors, np.float32))
        return self._l2[weight]

    def apply(
        self, l2_weight: float, max_param_change: float, scale: float, max_change_scale: float, momentum: float
    ) -> None:
        """Regularise the change, limit it, add ``scale`` times it, and leave ``momentum`` times it.

        A change that is not finite is not added, and nothing of it is left.
        """
        if not self.names:
            return
        ops = self.ops
        ops.squared_norms(self.delta_flat, self.flat, self.chunks, self.l2_factors(l2_weight))
        ops.limit(self.chunks, self.max_changes, max_param_change, scale, max_change_scale, self._scales, self._counts)
        ops.apply_change(self.delta_flat, self.flat, self.chunks, self._scales, momentum)

    def counts(self) -> MaxChangeCounts:
        """How often the limits were reached so far."""
        counts = self.ops.download(self._counts)
        per_component = {name: int(count) for name, count in zip(self.names, counts[3:], strict=True)}
        return MaxChangeCounts(int(counts[0]), per_component, int(counts[2]), int(counts[1]))


def _chunks(ops: HostOperations, spans: list[tuple[int, int]]) -> Chunks:
    component, start, length, first = [], [], [], [0]
    for c, (begin, end) in enumerate(spans):
        for at in range(begin, end, _CHUNK):
            component.append(c)
            start.append(at)
            length.append(min(_CHUNK, end - at))
        first.append(len(component))
    return Chunks(
        component=ops.upload(np.array(component, np.int32)),
        start=ops.upload(np.array(start, np.int64)),
        length=ops.upload(np.array(length, np.int32)),
        first=ops.upload(np.array(first, np.int32)),
        partial=ops.zeros(max(1, len(component)), np.float64),
        spans=spans,
    )
