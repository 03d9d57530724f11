"""A network: named components, and the nodes that say what each is applied to.

The nodes are Kaldi's: ``input-node``, ``component-node``, ``dim-range-node`` and ``output-node``, in the order in which
the configuration lines name them; a component may serve several nodes. Their inputs are descriptors
(:mod:`nnet3py.nnet.descriptor`).

Source: Kaldi src/nnet3/nnet-nnet.cc.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable

import numpy as np

from nnet3py.errors import UserError
from nnet3py.nnet.arithmetic import add_component, scale_component
from nnet3py.nnet.component import Component, Role
from nnet3py.nnet.configuration import ConfigLine, config_lines
from nnet3py.nnet.families import component_class
from nnet3py.nnet.nodes import (
    ComponentNode,
    DimRangeNode,
    InputNode,
    Node,
    OutputNode,
    dependencies,
    is_valid_name,
    node_of_line,
)
from nnet3py.seed import not_negative
from nnet3py.text.lines import lines_of


class Network:
    """Components by name and nodes, each in the order of the model file.

    Attributes:
        components: name to component; the objects themselves, to be trained in place.
        nodes: what is computed from what. Replace the list only through methods, or call :meth:`check` after.
    """

    def __init__(self, components: dict[str, Component] | None = None, nodes: Iterable[Node] = ()) -> None:
        self.components: dict[str, Component] = dict(components or {})
        self.nodes: list[Node] = list(nodes)

    @classmethod
    def from_config(cls, text: str, seed: int = 0, where: str = "") -> Network:
        """A network of configuration lines, its parameters drawn with ``seed``; ``where`` names their file in errors.

        Raises:
            UserError: a line that is not understood, dimensions that disagree, a name that is missing.
        """
        network = cls()
        network.apply_config(text, seed, where)
        return network

    def apply_config(self, text: str, seed: int = 0, where: str = "") -> None:
        """Add what the lines define, or put it in the place of what has the same name, as ``nnet3-init`` does.

        A node that is defined anew moves to the end. On an error the network is as it was.

        Raises:
            UserError: as :meth:`from_config`.
        """
        random = np.random.default_rng(not_negative(seed))
        components = dict(self.components)
        nodes = {node.name: node for node in self.nodes}
        seen: set[tuple[str, str]] = set()
        for line in config_lines(lines_of(text), where):
            name = line.text_value("name")
            if not is_valid_name(name):
                raise line.error(f"{name!r} is not a name: expected a letter, then letters, digits and any of _-.")
            kind = "component" if line.first_word == "component" else "node"
            if (kind, name) in seen:
                raise line.error(f"the {kind} {name} is defined twice")
            seen.add((kind, name))
            if kind == "component":
                components[name] = _component_of_line(line, random)
            else:
                nodes.pop(name, None)
                nodes[name] = node_of_line(line)
        changed = Network(components, nodes.values())
        changed.check(where)
        self.components, self.nodes = changed.components, changed.nodes

    def config_lines(self, include_dims: bool = False) -> list[str]:
        """One line a node, as model files have them; with ``include_dims`` as ``nnet-info`` shows them."""
        return [self._config_line(node, include_dims) for node in self.nodes]

    def _config_line(self, node: Node, include_dims: bool) -> str:
        if isinstance(node, InputNode):
            return f"input-node name={node.name} dim={node.dim}"
        if isinstance(node, DimRangeNode):
            return (
                f"dim-range-node name={node.name} input-node={node.input_node} "
                f"dim-offset={node.dim_offset} dim={node.dim}"
            )
        if isinstance(node, OutputNode):
            dim = f" dim={self.node_dim(node.name)}" if include_dims else ""
            return f"output-node name={node.name} input={node.input}{dim} objective={node.objective}"
        dims = ""
        if include_dims:
            component = self.components[node.component]
            dims = f" input-dim={component.input_dim} output-dim={component.output_dim}"
        return f"component-node name={node.name} component={node.component} input={node.input}{dims}"

    def node(self, name: str) -> Node:
        """The node of that name. Raises UserError if there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise UserError(f"The network has no node named {name} (it has {', '.join(n.name for n in self.nodes)}).")

    def input_nodes(self) -> list[InputNode]:
        """The input nodes, in order."""
        return [node for node in self.nodes if isinstance(node, InputNode)]

    def output_nodes(self) -> list[OutputNode]:
        """The output nodes, in order."""
        return [node for node in self.nodes if isinstance(node, OutputNode)]

    def has_input(self, name: str) -> bool:
        """Whether there is an input node of that name (``ivector``, say)."""
        return any(node.name == name for node in self.input_nodes())

    def has_output(self, name: str) -> bool:
        """Whether there is an output node of that name."""
        return any(node.name == name for node in self.output_nodes())

    def input_dim(self, name: str = "input") -> int:
        """Columns of an input. Raises UserError if there is no such input node."""
        return self._checked(name, InputNode, "input")

    def output_dim(self, name: str = "output") -> int:
        """Columns of an output. Raises UserError if there is no such output node."""
        return self._checked(name, OutputNode, "output")

    def _checked(self, name: str, kind: type[Node], word: str) -> int:
        if not any(node.name == name and isinstance(node, kind) for node in self.nodes):
            names = ", ".join(node.name for node in self.nodes if isinstance(node, kind))
            raise UserError(f"The network has no {word} named {name} (its {word}s: {names}).")
        return self.node_dim(name)

    def node_dim(self, name: str) -> int:
        """Columns of what a node computes. Raises UserError for an unknown name or a descriptor of unequal parts."""
        node = self.node(name)
        if isinstance(node, (InputNode, DimRangeNode)):
            return node.dim
        if isinstance(node, OutputNode):
            return node.input.dim(self.node_dim)
        return self.components[node.component].output_dim

    def updatable_components(self) -> dict[str, Component]:
        """The trained components, in order."""
        return {name: component for name, component in self.components.items() if component.updatable}

    def num_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(component.num_parameters() for component in self.components.values())

    def modulus(self) -> int:
        """The shift of all times under which the computation is the same (1 unless a descriptor rounds times)."""
        found = [node.input.modulus() for node in self.nodes if isinstance(node, (ComponentNode, OutputNode))]
        return math.lcm(1, *found)

    def is_simple(self) -> bool:
        """Whether it has an ``input`` and an ``output``, and no input besides but ``ivector`` (Kaldi IsSimpleNnet)."""
        inputs = {node.name for node in self.input_nodes()}
        return self.has_output("output") and "input" in inputs and (len(inputs) == 1 or "ivector" in inputs)

    def copy(self) -> Network:
        """A network with its own parameters."""
        return Network(copy.deepcopy(self.components), self.nodes)

    def sharing_parameters(self) -> Network:
        """A network with the same arrays of parameters, for another thread to train; its statistics are copies."""
        components = {name: copy.copy(component) for name, component in self.components.items()}
        for component in components.values():
            for field in component.fields_with_role(Role.STATISTIC):
                setattr(component, field.attribute, copy.copy(getattr(component, field.attribute)))
        return Network(components, self.nodes)

    def scale(self, scale: float) -> None:
        """Multiply parameters and statistics (Kaldi ``ScaleNnet``)."""
        for component in self.components.values():
            scale_component(component, scale)

    def add(self, alpha: float, other: Network) -> None:
        """Add ``alpha`` times the parameters and statistics of ``other`` (Kaldi ``AddNnet``).

        Raises:
            UserError: the two differ in structure (:meth:`difference`).
        """
        difference = self.difference(other)
        if difference:
            raise UserError(f"The networks differ in structure: {difference}.")
        for name, component in self.components.items():
            add_component(component, alpha, other.components[name])

    def difference(self, other: Network) -> str:
        """Empty if components have equal names, types and parameter shapes; else the first difference, in words."""
        if list(self.components) != list(other.components):
            mine, theirs = set(self.components), set(other.components)
            odd = sorted(mine ^ theirs)
            return f"component {odd[0]} is in one only" if odd else "their components have another order"
        for name, component in self.components.items():
            rival = other.components[name]
            if component.type_name != rival.type_name:
                return f"component {name} is {component.type_name} in one, {rival.type_name} in the other"
            shapes = [(key, array.shape) for key, array in component.parameters().items()]
            rivals = [(key, array.shape) for key, array in rival.parameters().items()]
            if shapes != rivals:
                return f"component {name} has parameters of the shapes {shapes} in one, {rivals} in the other"
        return ""

    def check(self, where: str = "") -> None:
        """Raise UserError unless all names exist, dimensions agree and no node depends on itself."""
        try:
            self._check_names()
            for node in self.nodes:
                self._check_node(node)
            self._check_no_recurrence()
        except UserError as problem:
            raise UserError(f"{where}: {problem}" if where else str(problem)) from problem

    def _check_names(self) -> None:
        names = [node.name for node in self.nodes]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"The network has two nodes named {twice}.")
        implied = {f"{node.name}_input" for node in self.nodes if isinstance(node, ComponentNode)}
        for name in names:
            if name in implied:
                raise UserError(f"The node name {name} is taken by the input of the node {name[: -len('_input')]}.")
        if not self.input_nodes() or not self.output_nodes():
            missing = "output-node" if self.input_nodes() else "input-node"
            raise UserError(f"The network has no {missing}: expected at least one.")

    def _check_node(self, node: Node) -> None:
        kinds = {other.name: type(other) for other in self.nodes}
        for source in dependencies(node):
            if source not in kinds:
                raise UserError(f"Node {node.name}: its input names {source}, but there is no such node.")
            if kinds[source] is OutputNode:
                raise UserError(f"Node {node.name}: its input names the output node {source}; name what feeds it.")
        if isinstance(node, InputNode):
            if node.dim <= 0:
                raise UserError(f"Input node {node.name}: its dimension is {node.dim}, expected one above 0.")
        elif isinstance(node, DimRangeNode):
            self._check_dim_range(node, kinds)
        elif isinstance(node, OutputNode):
            self._descriptor_dim(node)
        else:
            if node.component not in self.components:
                raise UserError(f"Node {node.name}: there is no component named {node.component}.")
            component = self.components[node.component]
            given = self._descriptor_dim(node)
            if given != component.input_dim:
                raise UserError(
                    f"Node {node.name}: its input {node.input} has dimension {given}, but the component "
                    f"{node.component} ({component.type_name}) expects {component.input_dim}."
                )

    def _check_dim_range(self, node: DimRangeNode, kinds: dict[str, type[Node]]) -> None:
        if kinds[node.input_node] not in (InputNode, ComponentNode):
            raise UserError(f"Node {node.name}: expected an input or component node, found {node.input_node}.")
        dim = self.node_dim(node.input_node)
        if node.dim <= 0 or node.dim_offset < 0 or node.dim_offset + node.dim > dim:
            raise UserError(
                f"Node {node.name}: columns {node.dim_offset} to {node.dim_offset + node.dim} are not within "
                f"the {dim} of {node.input_node}."
            )

    def _descriptor_dim(self, node: ComponentNode | OutputNode) -> int:
        try:
            return node.input.dim(self.node_dim)
        except UserError as problem:
            raise UserError(f"Node {node.name}: {problem}") from problem

    def _check_no_recurrence(self) -> None:
        waiting = {node.name: set(dependencies(node)) for node in self.nodes}
        while waiting:
            ready = {name for name, sources in waiting.items() if not sources & waiting.keys()}
            if not ready:
                names = ", ".join(list(waiting)[:5])
                raise UserError(f"The network is recurrent, which is not supported: a cycle runs through {names}.")
            for name in ready:
                del waiting[name]

    def orphan_nodes(self) -> list[str]:
        """Nodes that no output depends on, in order."""
        needed: set[str] = set()
        queue = [node.name for node in self.output_nodes()]
        while queue:
            name = queue.pop()
            if name not in needed:
                needed.add(name)
                queue.extend(dependencies(self.node(name)))
        return [node.name for node in self.nodes if node.name not in needed]

    def orphan_components(self) -> list[str]:
        """Components that no node uses, in order."""
        used = {node.component for node in self.nodes if isinstance(node, ComponentNode)}
        return [name for name in self.components if name not in used]


def _component_of_line(line: ConfigLine, random: np.random.Generator) -> Component:
    type_name = line.text_value("type")
    try:
        component = component_class(type_name).from_config(line, random)
    except UserError as problem:
        if line.text in str(problem):
            raise
        raise line.error(str(problem).rstrip(".")) from problem
    line.finish()
    return component


def build_network(lines: Iterable[str], components: dict[str, Component], where: str) -> Network:
    """A network of the node lines of a model file and its components, checked.

    Raises:
        UserError: a line is not understood, or the parts do not fit. Component lines are refused: a model file
            must not make components of other files, or start the commands that such lines may name.
    """
    nodes = []
    for line in config_lines(lines, f"{where}, configuration line"):
        if line.first_word == "component":
            raise line.error("a model file defines nodes only here")
        nodes.append(node_of_line(line))
        if not is_valid_name(nodes[-1].name):
            raise line.error(f"{nodes[-1].name!r} is not a valid name")
    network = Network(components, nodes)
    network.check(where)
    return network
