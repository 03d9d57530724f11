"""What components on a device have in common.

Each stands for a component of the network on the host, which stays the owner of what a model file has: parameters are
views of one array of all (nnet3py.gpu.change), statistics are gathered on the device and given back by
:meth:`DeviceComponent.give_back`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnet3py.gpu.operations import Array, HostOperations
from nnet3py.nnet.component import Component


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
