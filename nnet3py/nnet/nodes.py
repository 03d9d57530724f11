"""The nodes of a network: what its configuration lines name, and what each reads.

Source: Kaldi src/nnet3/nnet-nnet.h (``NetworkNode``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from nnet3py.errors import UserError
from nnet3py.nnet.configuration import ConfigLine
from nnet3py.nnet.descriptor import Descriptor, parse_descriptor

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_OBJECTIVES = ("linear", "quadratic")


@dataclass(frozen=True)
class InputNode:
    """Data from outside, ``dim`` columns."""

    name: str
    dim: int


@dataclass(frozen=True)
class ComponentNode:
    """The component named ``component`` applied to what ``input`` describes."""

    name: str
    component: str
    input: Descriptor


@dataclass(frozen=True)
class DimRangeNode:
    """Columns ``dim_offset`` to ``dim_offset + dim`` of the node ``input_node``."""

    name: str
    input_node: str
    dim_offset: int
    dim: int


@dataclass(frozen=True)
class OutputNode:
    """What leaves the network; ``objective`` is ``linear`` or ``quadratic``."""

    name: str
    input: Descriptor
    objective: str = "linear"


Node = InputNode | ComponentNode | DimRangeNode | OutputNode


def is_valid_name(name: str) -> bool:
    """Whether a node or component may be called so: a letter or ``_``, then letters, digits, ``_``, ``-``, ``.``."""
    return _NAME.fullmatch(name) is not None


def dependencies(node: Node) -> Iterator[str]:
    """Names of the nodes that a node reads directly."""
    if isinstance(node, DimRangeNode):
        yield node.input_node
    elif isinstance(node, (ComponentNode, OutputNode)):
        yield from node.input.node_names()


def node_of_line(line: ConfigLine) -> Node:
    """The node that a configuration line defines. Raises UserError if it defines none."""
    name = line.text_value("name")
    node: Node
    if line.first_word == "input-node":
        node = InputNode(name, line.positive("dim"))
    elif line.first_word == "component-node":
        node = ComponentNode(name, line.text_value("component"), _descriptor(line))
    elif line.first_word == "dim-range-node":
        node = DimRangeNode(name, line.text_value("input-node"), line.integer("dim-offset"), line.positive("dim"))
    elif line.first_word == "output-node":
        objective = line.text_value("objective", "linear")
        if objective not in _OBJECTIVES:
            raise line.error(f"objective={objective} is neither linear nor quadratic")
        node = OutputNode(name, _descriptor(line), objective)
    else:
        raise line.error(
            "expected a line that starts with component, input-node, component-node, dim-range-node or output-node"
        )
    line.finish()
    return node


def _descriptor(line: ConfigLine) -> Descriptor:
    text = line.text_value("input")
    try:
        return parse_descriptor(text)
    except UserError as problem:
        raise line.error(str(problem).rstrip(".")) from problem
