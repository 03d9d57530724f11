"""A network on a device: the same nodes, with components that compute there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnet3py import log
from nnet3py.gpu.change import DeviceParameters
from nnet3py.gpu.component import DeviceComponent, Draws
from nnet3py.gpu.components import OnHost, device_component
from nnet3py.gpu.operations import HostOperations
from nnet3py.nnet.component import Component, Phase
from nnet3py.nnet.computation import Computation, ComputationCache
from nnet3py.nnet.network import Network
from nnet3py.nnet.request import Request


class DeviceNetwork:
    """``network`` on a device; ``on_device`` is the network that computes there, for nnet3py.nnet.computation."""

    def __init__(self, ops: HostOperations, network: Network) -> None:
        self.ops = ops
        self.network = network
        self.parameters = DeviceParameters(ops, network.updatable_components())
        self.components: dict[str, DeviceComponent] = {
            name: device_component(ops, component, self.parameters.parameters.get(name, {}))
            for name, component in network.components.items()
        }
        components: dict[str, Component] = dict(self.components)
        self.on_device = Network(components, network.nodes)
        elsewhere = sorted({c.host.type_name for c in self.components.values() if isinstance(c, OnHost)})
        if elsewhere:
            log.log(f"Computed on the CPU, for want of a version for the GPU: {', '.join(elsewhere)}.")

    @property
    def recordable(self) -> bool:
        """Whether all components can be recorded in a graph."""
        return all(component.recordable for component in self.components.values())

    def give_back(self) -> None:
        """Bring the parameters and statistics of the network on the host up to date."""
        self.parameters.download()
        for component in self.components.values():
            component.give_back()


class DeviceComputations:
    """Computations of a network on a device, for arrays on the host: in place of a ``ComputationCache``."""

    def __init__(self, ops: HostOperations, network: Network, capacity: int = 64) -> None:
        self._ops = ops
        self._plans = ComputationCache(DeviceNetwork(ops, network).on_device, capacity)

    def get(self, request: Request) -> ForwardOnDevice:
        """The computation of a request. Raises UserError as :class:`Computation` does."""
        return ForwardOnDevice(self._ops, self._plans.get(request))


class ForwardOnDevice:
    """The forward pass of a computation on a device, from and to the host."""

    def __init__(self, ops: HostOperations, computation: Computation) -> None:
        self._ops = ops
        self._computation = computation

    def forward(
        self,
        inputs: Mapping[str, np.ndarray],
        phase: Phase,
        *,
        random: np.random.Generator | None = None,
        keep_trace: bool = False,
    ) -> tuple[dict[str, np.ndarray], None]:
        """As :meth:`Computation.forward`; there is no trace to go back."""
        draws: Any = Draws(store=False, derivative=False, repair=False, generator=random)
        uploaded = {name: self._ops.upload(np.asarray(array, np.float32)) for name, array in inputs.items()}
        outputs, _ = self._computation.forward(uploaded, phase, random=draws, keep_trace=False)
        return {name: self._ops.download(array) for name, array in outputs.items()}, None


def computations(ops: HostOperations | None, network: Network) -> ComputationCache | DeviceComputations:
    """Computations of ``network`` on a device, or on the CPU if ``ops`` is None."""
    return ComputationCache(network) if ops is None else DeviceComputations(ops, network)
