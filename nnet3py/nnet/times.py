"""At which times a network's nodes are wanted, can be computed, and are needed; how much context that makes.

Going backwards from the outputs, each node gets the times it may be read at; forwards, those of them it can be computed
at; backwards again, what is really needed.

Sources: Kaldi src/nnet3/nnet-computation-graph.cc for what can be computed from what; src/nnet3/nnet-utils.cc
(``ComputeSimpleNnetContext``) for the context.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from nnet3py.errors import UserError
from nnet3py.nnet.component import Array, Component
from nnet3py.nnet.descriptor import Offset, ReplaceIndex
from nnet3py.nnet.network import Network
from nnet3py.nnet.nodes import ComponentNode, DimRangeNode, InputNode, Node, OutputNode, dependencies
from nnet3py.nnet.request import Request, spell


def required_input_times(network: Network, output: str, times: Iterable[int] | Array) -> dict[str, Array]:
    """By input, the times (ascending) that an output at ``times`` reads, if every input is there at all times."""
    outputs = {output: np.unique(np.asarray(list(times), dtype=np.int64))}
    order = topological(network, [output])
    wanted = wanted_times(network, order, outputs)
    given = {node.name: wanted[node.name] for node in order if isinstance(node, InputNode) and node.name in wanted}
    possible = possible_times(network, order, wanted, given)
    needed = needed_times(network, order, Request({}, outputs, 1), possible)
    return {name: needed[name] for name in given if name in needed}


_WINDOWS = (40, 80, 160, 320, 640)


def network_context(network: Network) -> tuple[int, int]:
    """Frames of ``input`` before and after an output frame that it needs, the most over all shifts of the time.

    Worked out as Kaldi does it, from the frames at either end of a window that cannot be computed, so that what is
    optional (``IfDefined``) is not counted (Kaldi ``ComputeSimpleNnetContext``).

    Raises:
        UserError: the network is not simple (:meth:`Network.is_simple`), or needs 640 frames or more.
    """
    if not network.is_simple():
        raise UserError(
            "The context of a network is defined for one with an input named input (and perhaps ivector) and an "
            "output named output; this one has the nodes " + ", ".join(n.name for n in network.nodes) + "."
        )
    modulus = network.modulus()
    for window in _WINDOWS:
        found = [_context_in_window(network, start, window) for start in range(modulus)]
        if all(found):
            contexts = [context for context in found if context is not None]
            return max(left for left, _ in contexts), max(right for _, right in contexts)
    raise UserError(f"No frame of the network's output can be computed from {_WINDOWS[-1]} frames of input.")


def _context_in_window(network: Network, start: int, window: int) -> tuple[int, int] | None:
    times = np.arange(start, start + window)
    order = topological(network, ["output"])
    wanted = wanted_times(network, order, {"output": times})
    given = {"input": times}
    for node in network.input_nodes():
        if node.name != "input":
            given[node.name] = np.arange(start - network.modulus(), start + window)
    possible = possible_times(network, order, wanted, given)["output"]
    if len(possible) == 0:
        return None
    gaps = np.flatnonzero(np.diff(possible) != 1)
    last = possible[gaps[0]] if len(gaps) else possible[-1]
    return int(possible[0] - start), int(start + window - 1 - last)


def topological(network: Network, outputs: list[str]) -> list[Node]:
    """The nodes that the outputs depend on, each after those it reads. Raises UserError for a recurrent network."""
    nodes = {node.name: node for node in network.nodes}
    order: list[Node] = []
    state: dict[str, str] = {}
    stack: list[tuple[str, bool]] = [(name, False) for name in reversed(outputs)]
    while stack:
        name, done = stack.pop()
        if done:
            state[name] = "done"
            order.append(nodes[name])
        elif name not in state:
            state[name] = "open"
            stack.append((name, True))
            for source in reversed(list(dependencies(nodes[name]))):
                if state.get(source) == "open":
                    raise UserError(f"The network is recurrent, which is not supported: a cycle runs through {source}.")
                stack.append((source, False))
    return order


def input_times_of(component: Component, times: Array) -> Array:
    if type(component).input_times is Component.input_times:
        return times
    return np.asarray(component.input_times(times.tolist()), dtype=np.int64)


def wanted_times(network: Network, order: list[Node], outputs: Mapping[str, Array]) -> dict[str, Array]:
    """By node, the times (ascending) that it may be read at, optional uses included."""
    collected: dict[str, list[Array]] = {name: [times] for name, times in outputs.items()}
    wanted: dict[str, Array] = {}
    for node in reversed(order):
        if node.name not in collected:
            continue
        times = wanted[node.name] = np.unique(np.concatenate(collected[node.name]))
        if isinstance(node, DimRangeNode):
            collected.setdefault(node.input_node, []).append(times)
        elif isinstance(node, (ComponentNode, OutputNode)):
            _require_no_x(node)
            if isinstance(node, ComponentNode):
                times = input_times_of(network.components[node.component], times)
            for source, source_times in node.input.dependencies(times):
                collected.setdefault(source, []).append(source_times)
    return wanted


def _require_no_x(node: ComponentNode | OutputNode) -> None:
    waiting = [node.input]
    while waiting:
        descriptor = waiting.pop()
        replaces_x = isinstance(descriptor, ReplaceIndex) and descriptor.variable != "t"
        if replaces_x or (isinstance(descriptor, Offset) and descriptor.x):
            raise UserError(f"Node {node.name}: {descriptor} uses the index x, which nnet3py does not support.")
        waiting.extend(descriptor.children())


def is_in(possible: Mapping[str, Array]) -> Any:
    nothing = np.zeros(0, np.int64)
    return lambda node, times: _among(times, possible.get(node, nothing))


def _among(times: Array, ascending: Array) -> Array:
    """Which of ``times`` are in ``ascending`` (bool); several times as fast as numpy.isin on a few hundred."""
    if len(ascending) == 0:
        return np.zeros(len(times), bool)
    nearest = np.searchsorted(ascending, times)
    found: Array = ascending[np.minimum(nearest, len(ascending) - 1)] == times
    return found


def possible_times(
    network: Network, order: list[Node], wanted: Mapping[str, Array], inputs: Mapping[str, Array]
) -> dict[str, Array]:
    """By node, which of its wanted times it can be computed at, given the inputs' times."""
    possible: dict[str, Array] = {}
    for node in order:
        times = wanted.get(node.name)
        if times is None:
            continue
        if isinstance(node, InputNode):
            mask = _among(times, np.sort(inputs.get(node.name, np.zeros(0, np.int64))))
        elif isinstance(node, DimRangeNode):
            mask = _among(times, possible[node.input_node])
        else:
            mask = _computable(network, node, times, possible)
        possible[node.name] = times[mask]
    return possible


def _computable(
    network: Network, node: ComponentNode | OutputNode, times: Array, possible: Mapping[str, Array]
) -> Array:
    """Which of ``times`` a node's value can be computed at."""
    component = network.components[node.component] if isinstance(node, ComponentNode) else None
    own_times = component is not None and type(component).input_times is not Component.input_times
    inner = input_times_of(component, times) if component is not None else times
    mask = np.ones(len(inner), bool)
    for piece in node.input.parts():
        mask &= piece.resolve(inner, np.arange(len(inner)), is_in(possible))[0]
    if component is None or not own_times:
        return mask
    available = set(inner[mask].tolist())
    return np.array([available.issuperset(component.input_times([time])) for time in times.tolist()], dtype=bool)


def require_outputs(
    network: Network, request: Request, wanted: Mapping[str, Array], possible: Mapping[str, Array]
) -> None:
    for name, times in request.outputs.items():
        missing = times[~np.isin(times, possible[name])]
        if len(missing) == 0:
            continue
        for node in network.input_nodes():
            if node.name not in request.inputs and len(wanted.get(node.name, ())):
                raise UserError(
                    f"Output {name} cannot be computed: the network needs the input '{node.name}', of dimension "
                    f"{node.dim}, and what is given has only {', '.join(request.inputs)}. Are they of this network?"
                )
        for source, given in request.inputs.items():
            lacking = wanted.get(source, given)
            lacking = lacking[~np.isin(lacking, given)]
            if len(lacking):
                raise UserError(
                    f"Output {name} at time {spell(missing)} cannot be computed: input {source} is given at times "
                    f"{spell(given)}, and {spell(lacking)} are missing. Give more context."
                )
        raise UserError(f"Output {name} at time {spell(missing)} cannot be computed from {', '.join(request.inputs)}.")


def needed_times(
    network: Network, order: list[Node], request: Request, possible: Mapping[str, Array]
) -> dict[str, Array]:
    """By node, the times (ascending) that are computed; inputs have all the times they are given at."""
    collected: dict[str, list[Array]] = {name: [times] for name, times in request.outputs.items()}
    needed: dict[str, Array] = {}
    for node in reversed(order):
        if node.name not in collected:
            continue
        times = np.unique(np.concatenate(collected[node.name]))
        if isinstance(node, InputNode) and node.name in request.inputs:
            times = np.sort(request.inputs[node.name])
        if len(times) == 0:
            continue
        needed[node.name] = times
        if isinstance(node, DimRangeNode):
            collected.setdefault(node.input_node, []).append(times)
        elif isinstance(node, (ComponentNode, OutputNode)):
            if isinstance(node, ComponentNode):
                times = input_times_of(network.components[node.component], times)
            for piece in node.input.parts():
                for term in piece.resolve(times, np.arange(len(times)), is_in(possible))[1]:
                    collected.setdefault(term.node, []).append(term.times)
    for node in order:
        if isinstance(node, DimRangeNode) and node.name in needed:
            needed[node.name] = needed[node.input_node]  # columns of all its rows: there is nothing to compute
    return needed
