"""A network on a device: the same nodes, with components that compute there."""

from __future__ import annotations

from nnet3py import log
from nnet3py.gpu.change import DeviceParameters
from nnet3py.gpu.components import DeviceComponent, OnHost, device_component
from nnet3py.gpu.operations import HostOperations
from nnet3py.nnet.component import Component
from nnet3py.nnet.network import Network


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
