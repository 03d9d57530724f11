"""A network in words, as ``nnet3-info`` prints it."""

from __future__ import annotations

from nnet3py.nnet.network import Network
from nnet3py.nnet.times import network_context


def network_info(network: Network) -> str:
    """Several lines of text: context, size, nodes, components."""
    lines = []
    if network.is_simple():
        left, right = network_context(network)
        lines += [f"left-context: {left}", f"right-context: {right}"]
    lines += [f"num-parameters: {network.num_parameters()}", f"modulus: {network.modulus()}"]
    lines += network.config_lines(include_dims=True)
    lines += [f"component name={name} type={component.info()}" for name, component in network.components.items()]
    return "\n".join(lines) + "\n"
