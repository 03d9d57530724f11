"""Affine layers of fewer parameters or lower rank, by singular value decomposition.

With W = U S Vᵀ (singular values s_1 >= s_2 >= ... on the diagonal of S), the best approximation of W of rank k keeps
the first k of them. Written as a product of two matrices, ``(U S^½) (S^½ Vᵀ)``, it is a linear layer of k outputs and
an affine layer above it.

Source: Kaldi src/nnet3/nnet-utils.cc, ``SvdApplier`` and ``ReduceRankOfComponents``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.nnet.affine import AffineComponent, LinearComponent, NaturalGradientAffineComponent
from nnet3py.nnet.component import UPDATABLE_FIELDS, Array, UpdatableComponent
from nnet3py.nnet.descriptor import Descriptor, NodeReference
from nnet3py.nnet.network import Network
from nnet3py.nnet.nodes import ComponentNode, DimRangeNode, InputNode, Node, OutputNode


@dataclass(frozen=True)
class Bottleneck:
    """How many singular values a layer keeps when it is split in two, and when it is left whole.

    Attributes:
        dim: how many; not used if ``energy`` is above zero.
        energy: keep the fewest whose squares add up to this part of all squares; zero or less: ``dim`` decides.
        shrinkage: leave a layer whole if the two matrices would have more than this times its parameters.
    """

    dim: int = -1
    energy: float = -1.0
    shrinkage: float = 1.0


def split_layers(network: Network, names: list[str], bottleneck: Bottleneck) -> int:
    """Replace affine components by pairs ``NAME_a``, a linear layer, and ``NAME_b``, an affine one, and their nodes.

    What read a node reads ``NODE_b`` afterwards. Nodes and components that nothing uses are removed, as in Kaldi, also
    those that were unused before. A component of another kind, or that would not become smaller, is left as it is with
    a message.

    Returns:
        How many components were split.

    Raises:
        UserError: a name with ``_a`` or ``_b`` is taken; the network is then as it was.
    """
    components = dict(network.components)
    split: set[str] = set()
    for name in names:
        component = network.components[name]
        if not isinstance(component, AffineComponent):
            log.warning(f"Not decomposing component {name} as it is not an AffineComponent.")
            continue
        parts = _parts(name, component, bottleneck)
        if parts is None:
            continue
        for suffix, part in zip(("_a", "_b"), parts, strict=True):
            if name + suffix in components:
                raise UserError(f"the network has a component named {name + suffix} already")
            components[name + suffix] = part
        split.add(name)
    if split:
        changed = Network(components, _split_nodes(network.nodes, split))
        changed.check()
        orphans = set(changed.orphan_nodes()) - {node.name for node in changed.input_nodes()}
        changed.nodes = [node for node in changed.nodes if node.name not in orphans]
        for name in changed.orphan_components():
            del changed.components[name]
        network.components, network.nodes = changed.components, changed.nodes
    return len(split)


def _parts(
    name: str, layer: AffineComponent, bottleneck: Bottleneck
) -> tuple[LinearComponent, NaturalGradientAffineComponent] | None:
    """The two layers that stand for one, or None if it stays whole."""
    output_dim, input_dim = layer.linear.shape
    if bottleneck.energy <= 0.0 and min(input_dim, output_dim) <= bottleneck.dim:
        log.warning(
            f"Not decomposing component {name} with SVD to rank {bottleneck.dim} because its dimension is "
            f"{input_dim} -> {output_dim}"
        )
        return None
    left, values, right = _svd(layer.linear)
    energies = np.cumsum(np.square(values))
    dim = bottleneck.dim
    if bottleneck.energy > 0.0:
        dim = min(int(np.searchsorted(energies, bottleneck.energy * energies[-1])) + 1, len(values))
    ratio = dim * (input_dim + output_dim) / (input_dim * output_dim)
    if ratio > bottleneck.shrinkage:
        log.log(
            f"Shrinkage ratio {ratio:.6g} greater than threshold : {bottleneck.shrinkage:g} Skipping SVD for the "
            f"component {name}."
        )
        return None
    log.log(
        f"For component {name} singular value squared sum changed by {energies[-1] - energies[dim - 1]:.6g} (from "
        f"{energies[-1]:.6g} to {energies[dim - 1]:.6g})"
    )
    log.log(
        f"For component {name} dimension reduced from ({input_dim},{output_dim}) to [({input_dim},{dim}), "
        f"({dim},{output_dim})], shrinkage ratio : {ratio:.6g}"
    )
    roots = np.sqrt(values[:dim])
    first, second = LinearComponent(), NaturalGradientAffineComponent()
    first.params = (roots[:, None] * right[:dim]).astype(np.float32)
    first.ranks = (40, 80)
    second.linear, second.bias = (left[:, :dim] * roots).astype(np.float32), layer.bias
    for part in (first, second):
        _copy_settings(layer, part)
    return first, second


def _copy_settings(source: UpdatableComponent, target: UpdatableComponent) -> None:
    """Learning rate, its factor, max-change and so on."""
    for field in UPDATABLE_FIELDS:
        setattr(target, field.attribute, getattr(source, field.attribute))


def _split_nodes(nodes: list[Node], split: set[str]) -> list[Node]:
    """The nodes, inputs first, with two in the place of each that uses a split component."""
    halved = {node.name for node in nodes if isinstance(node, ComponentNode) and node.component in split}
    found: list[Node] = [node for node in nodes if isinstance(node, InputNode)]
    for node in nodes:
        if isinstance(node, DimRangeNode):
            source = node.input_node
            found.append(dataclasses.replace(node, input_node=f"{source}_b") if source in halved else node)
        elif isinstance(node, OutputNode):
            found.append(dataclasses.replace(node, input=_of_second_halves(node.input, halved)))
        elif isinstance(node, ComponentNode):
            source_of = _of_second_halves(node.input, halved)
            if node.name in halved:
                first = ComponentNode(f"{node.name}_a", f"{node.component}_a", source_of)
                second = ComponentNode(f"{node.name}_b", f"{node.component}_b", NodeReference(first.name))
                found += [first, second]
            else:
                found.append(dataclasses.replace(node, input=source_of))
    return found


def _of_second_halves(descriptor: Descriptor, halved: set[str]) -> Descriptor:
    """The descriptor with ``NODE_b`` for each node that was split."""
    for name in sorted(halved & set(descriptor.node_names()), key=len, reverse=True):  # x_b before x, which becomes x_b
        descriptor = descriptor.renamed(name, f"{name}_b")
    return descriptor


def reduce_ranks(network: Network, names: list[str], rank: int) -> int:
    """Replace the matrices of affine components by their best approximations of that rank; returns how many.

    A component of another kind, or with no more than ``rank`` rows or columns, is left as it is with a message.
    """
    changed = 0
    for name in names:
        component = network.components[name]
        if not isinstance(component, AffineComponent):
            log.warning(f"Not reducing rank of component {name} as it is not an AffineComponent.")
            continue
        output_dim, input_dim = component.linear.shape
        if min(input_dim, output_dim) <= rank:
            log.warning(
                f"Not reducing rank of component {name} with SVD to rank {rank} because its dimension is "
                f"{input_dim} -> {output_dim}"
            )
            continue
        left, values, right = _svd(component.linear)
        component.linear = np.dot(left[:, :rank] * values[:rank], right[:rank]).astype(np.float32)
        whole, kept = values.sum(), values[:rank].sum()
        log.log(
            f"For component {name} singular value sum changed by reduce-rank command {whole - kept:.6g} (from "
            f"{whole:.6g} to {kept:.6g})"
        )
        changed += 1
    return changed


def _svd(matrix: Array) -> tuple[Array, Array, Array]:
    """U (rows, r), the singular values (r,), largest first, and Vᵀ (r, columns), in float64."""
    left, values, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    return left, values, right
