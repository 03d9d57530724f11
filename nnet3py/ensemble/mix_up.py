"""Mixing up: more softmax units than classes, so that a class can have several regions of its own.

The output layer ``affine -> log-softmax`` of D classes becomes

    affine (M rows) -> softmax over M units -> sums over the units of each class (D) -> logarithm

**How many units a class gets.** Every class has one. Then, M - D times, the class with the largest
``count^power / units`` gets one more, so that units come out about in proportion to ``count^power``. A class is left
alone once one more unit would bring it to ``min_count`` frames a unit or fewer.

**How a unit is split.** Of the units of the class the one with the largest count n gives half of it away. With its
weights w, its bias b, and r drawn from N(0, I):

    w, b, n  ->  w + σ r, b - log 2, n / 2   and   w - σ r, b - log 2, n / 2

Softmax outputs of a class are added, so without the perturbation σ r its probability stays exactly what it was:
``e^(z - log 2) + e^(z - log 2) = e^z``. The perturbation lets the two grow apart. Where a FixedScaleComponent s stands
before the softmax, it is the bias times s that must change by log 2.

A network that was mixed up can be mixed up again; its softmax's statistics then say how the count of a class is divided
among its units.

Source: arXiv:1410.7455, appendix C.3; Kaldi src/nnet2/mixup-nnet.cc, and ``GetSplitTargets`` in
src/gmm/model-common.cc.
"""

from __future__ import annotations

import copy
import dataclasses
import heapq
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.nnet.affine import AffineComponent
from nnet3py.nnet.component import Array, Component
from nnet3py.nnet.descriptor import NodeReference
from nnet3py.nnet.fixed import FixedScaleComponent
from nnet3py.nnet.network import Network
from nnet3py.nnet.nodes import ComponentNode, DimRangeNode, Node, OutputNode, dependencies
from nnet3py.nnet.nonlinear import LogComponent, LogSoftmaxComponent, SoftmaxComponent
from nnet3py.nnet.sum_group import SumGroupComponent
from nnet3py.seed import not_negative

_LARGEST_POWER = 10.0  # of counts that come to 1e12, say
_LOG_SOFTMAX = re.compile(r"log([-_.]?)softmax$")


@dataclass(frozen=True)
class MixUpOptions:
    """nnet2's options, under their names and with their defaults; and the output node to mix up.

    Attributes:
        num_mixtures: softmax units to reach, all classes together.
        power: of the counts, in sharing the units out.
        min_count: a unit must have more frames than this.
        perturb_stddev: σ, of what a split adds to one row of weights and subtracts from the other.
    """

    num_mixtures: int
    power: float = 0.25
    min_count: float = 1000.0
    perturb_stddev: float = 0.01
    output: str = "output"

    def check(self) -> None:
        """Raise UserError for a value that makes no sense."""
        values = {"power": self.power, "min-count": self.min_count, "perturb-stddev": self.perturb_stddev}
        for name, value in values.items():
            if not 0.0 <= value < math.inf:
                raise UserError(f"--{name}={value:g} is not possible: give a number from 0 on.")
        if self.power > _LARGEST_POWER:
            raise UserError(f"--power={self.power:g} is not possible: give a number from 0 to {_LARGEST_POWER:g}.")


def split_targets(counts: Sequence[float] | Array, num_units: int, power: float, min_count: float) -> list[int]:
    """How many units each class should have: see the module; of equals the class that comes first is served.

    counts: (classes,) frames. The sum is ``num_units``, or less where ``min_count`` forbids it, which is warned of.
    """
    units = [1] * len(counts)
    worth = [float(count) ** power for count in counts]
    queue = [(-value, index) for index, value in enumerate(worth)]
    heapq.heapify(queue)
    total = len(units)
    while total < num_units and queue:
        _, index = heapq.heappop(queue)
        if (units[index] + 1) * min_count >= counts[index]:
            continue  # and it does not come back
        units[index] += 1
        total += 1
        heapq.heappush(queue, (-worth[index] / units[index], index))
    if total < num_units:
        log.warning(f"Could not split up to {num_units} units, only to {total}, due to min-count = {min_count:g}.")
    return units


def mix_up(network: Network, options: MixUpOptions, counts: Array | None = None, seed: int = 0) -> tuple[int, int]:
    """Give the output layer more softmax units, in place; returns how many it had and has.

    Args:
        counts: (classes,) frames of each class; None takes the sums of the softmax's outputs that an earlier mixing
            up and the training since have left in the network.
        seed: of the perturbation.

    Raises:
        UserError: the network does not end as the module says, there are no counts or they do not fit, or no more units
            are asked for than there are. The network is then as it was.
    """
    options.check()
    changed = _with_sums(network, options.output)
    layer = _OutputLayer.of(changed, options.output)
    old_dim = layer.affine.output_dim
    if options.num_mixtures <= old_dim:
        raise UserError(
            f"--num-mixtures={options.num_mixtures} must be above the number of softmax units that the network has, "
            f"{old_dim} for {len(layer.sizes)} classes."
        )
    unit_counts = layer.unit_counts(counts)
    class_counts = np.add.reduceat(unit_counts, np.cumsum([0, *layer.sizes[:-1]]))
    targets = split_targets(class_counts, options.num_mixtures, options.power, options.min_count)
    sizes = [max(target, size) for target, size in zip(targets, layer.sizes, strict=True)]
    random = np.random.default_rng(not_negative(seed))
    changed.components.update(layer.split(sizes, unit_counts, options.perturb_stddev, random))
    changed.check()
    network.components, network.nodes = changed.components, changed.nodes
    log.log(f"Mixed up from dimension of {old_dim} to {sum(sizes)} in the softmax layer.")
    return old_dim, sum(sizes)


def _chain(network: Network, output: str) -> list[ComponentNode]:
    """The component nodes below an output node, the last one first, as long as each reads one node as it is."""
    node = network.node(output)
    names = set(node.input.node_names()) if isinstance(node, OutputNode) else set()
    name = names.pop() if len(names) == 1 else ""
    found: list[ComponentNode] = []
    while name:
        below = network.node(name)
        if not isinstance(below, ComponentNode):
            break
        found.append(below)
        plain = isinstance(below.input, NodeReference) and below.input.scale == 1.0
        name = next(below.input.node_names()) if plain else ""
    return found


def _with_sums(network: Network, output: str) -> Network:
    """The network with softmax, sums over one unit each and logarithm in the place of a log-softmax that is its last.

    Components are shared with ``network``; one that ends otherwise is returned as it is.
    """
    chain = _chain(network, output)
    if not chain or not isinstance(network.components[chain[0].component], LogSoftmaxComponent):
        return Network(network.components, network.nodes)
    last = chain[0]
    _require_sole_user(network, last)
    dim = network.components[last.component].output_dim
    softmax, sums, logarithm = SoftmaxComponent(), SumGroupComponent(), LogComponent()
    softmax.dim = softmax.block_dim = logarithm.dim = logarithm.block_dim = dim
    sums.sizes = [1] * dim
    component_names, node_names = _names(last.component), _names(last.name)
    taken = network.components.keys() & set(component_names) | {node.name for node in network.nodes} & set(node_names)
    if taken:
        raise UserError(f"The network has something called {min(taken)} already, a name that mixing up needs.")
    components: dict[str, Component] = {}
    for name, component in network.components.items():
        new = zip(component_names, (softmax, sums, logarithm), strict=True) if name == last.component else None
        components.update(new or {name: component})
    nodes: list[Node] = []
    for node in network.nodes:
        if node.name == last.name:
            inputs = [last.input, *map(NodeReference, node_names[:2])]
            nodes += [ComponentNode(*words) for words in zip(node_names, component_names, inputs, strict=True)]
        else:
            nodes.append(_reading(node, last.name, node_names[2]))
    return Network(components, nodes)


def _names(old: str) -> list[str]:
    """Names for softmax, sums and logarithm, after a log-softmax's: x.softmax, x.sum-group, x.log of x.log-softmax."""
    match = _LOG_SOFTMAX.search(old)
    stem, between = (old[: match.start()], match[1]) if match else (f"{old}.", "-")
    return [f"{stem}softmax", f"{stem}sum{between}group", f"{stem}log"]


def _reading(node: Node, old: str, new: str) -> Node:
    """The node, reading ``new`` where it read ``old``."""
    if isinstance(node, DimRangeNode) and node.input_node == old:
        return dataclasses.replace(node, input_node=new)
    if isinstance(node, (ComponentNode, OutputNode)) and old in node.input.node_names():
        return dataclasses.replace(node, input=node.input.renamed(old, new))
    return node


def _require_sole_user(network: Network, node: ComponentNode) -> None:
    """Raise UserError where another node applies the same component."""
    users = [n.name for n in network.nodes if isinstance(n, ComponentNode) and n.component == node.component]
    if len(users) > 1:
        raise UserError(f"The component {node.component} cannot be mixed up: it serves {', '.join(users)}.")


@dataclass(frozen=True)
class _OutputLayer:
    """What a network with sums ends with; ``names`` are the components': affine, perhaps scale, softmax, sums."""

    names: list[str]
    affine: AffineComponent
    scale: FixedScaleComponent | None
    softmax: SoftmaxComponent
    sizes: list[int]

    @classmethod
    def of(cls, network: Network, output: str) -> _OutputLayer:
        """The output layer below an output node. Raises UserError where it is not one that can be mixed up."""
        chain = _chain(network, output)
        components = [network.components[node.component] for node in chain]
        scaled = len(components) > 3 and isinstance(components[3], FixedScaleComponent)
        wanted = [LogComponent, SumGroupComponent, SoftmaxComponent, *[FixedScaleComponent] * scaled, AffineComponent]
        if len(components) < len(wanted) or not all(map(isinstance, components, wanted)):
            found = " <- ".join(f"{n.component} ({c.type_name})" for n, c in zip(chain, components, strict=True))
            raise UserError(
                "Mixing up needs an output that is an affine component, perhaps a FixedScaleComponent, and a "
                "LogSoftmaxComponent, or softmax, sums and logarithm in its place; the node "
                f"{output} of this network reads {found or 'no component'}."
            )
        nodes, components = chain[1 : len(wanted)], components[1 : len(wanted)]
        for node in nodes:
            _require_sole_user(network, node)
            readers = [other.name for other in network.nodes if node.name in dependencies(other)]
            if len(readers) > 1:
                raise UserError(f"The node {node.name} cannot be mixed up: {', '.join(readers)} read it.")
        sums, softmax, affine = components[0], components[1], components[-1]
        scale = components[2] if scaled else None
        assert isinstance(sums, SumGroupComponent)
        assert isinstance(softmax, SoftmaxComponent)
        assert isinstance(affine, AffineComponent)
        assert scale is None or isinstance(scale, FixedScaleComponent)
        return cls([node.component for node in reversed(nodes)], affine, scale, softmax, list(sums.sizes))

    def unit_counts(self, counts: Array | None) -> Array:
        """Frames of each unit (units,), float64: those of its class, divided as the softmax's statistics say."""
        statistics = self.softmax.value_sum
        known = len(statistics) == self.affine.output_dim and statistics.sum() > 0.0
        if counts is None:
            if not known:
                raise UserError(
                    "Mixing up needs to know how often each class occurs, and this network has no statistics of a "
                    "softmax from an earlier mixing up: give a vector of counts (--counts)."
                )
            return np.array(statistics, np.float64)
        if counts.shape != (len(self.sizes),):
            raise UserError(f"The counts are of {counts.size} classes, but the network has {len(self.sizes)}.")
        if not (np.isfinite(counts).all() and (counts >= 0.0).all() and counts.any()):
            raise UserError("The counts of the classes must be finite, none below zero and not all of them zero.")
        parts = statistics if known else np.ones(self.affine.output_dim)
        sums = np.add.reduceat(parts, np.cumsum([0, *self.sizes[:-1]]))
        evenly = 1.0 / np.repeat(self.sizes, self.sizes)
        totals = np.repeat(sums, self.sizes)
        shares = np.divide(parts, totals, out=evenly, where=totals > 0.0)
        return np.repeat(counts.astype(np.float64), self.sizes) * shares

    def split(
        self, sizes: list[int], unit_counts: Array, stddev: float, random: np.random.Generator
    ) -> dict[str, Component]:
        """New components, by name, that give class i ``sizes[i]`` units."""
        splits = _splits(self.sizes, sizes, unit_counts, random, self.affine.input_dim)
        scales = np.ones(len(unit_counts)) if self.scale is None else self.scale.scales.astype(np.float64)
        if not scales[splits.sources[splits.halvings > 0]].all():
            raise UserError("A class that is to be split has the scale zero before the softmax: it cannot be.")
        affine, softmax, sums = copy.copy(self.affine), copy.copy(self.softmax), SumGroupComponent()
        lowered = math.log(2.0) * splits.halvings / np.where(splits.halvings > 0, scales[splits.sources], 1.0)
        affine.linear = self.affine.linear[splits.sources] + (stddev * splits.moves).astype(np.float32)
        affine.bias = self.affine.bias[splits.sources] - lowered.astype(np.float32)
        softmax.dim = softmax.block_dim = len(splits.sources)
        softmax.zero_statistics()
        softmax.value_sum = unit_counts[splits.sources] * 0.5**splits.halvings
        softmax.count = float(unit_counts.sum())
        softmax.oderiv_sumsq = np.zeros(0)
        sums.sizes = sizes
        parts: list[Component] = [affine, softmax, sums]
        if self.scale is not None:
            scale = FixedScaleComponent()
            scale.scales = self.scale.scales[splits.sources]
            parts.insert(1, scale)
        return dict(zip(self.names, parts, strict=True))


@dataclass(frozen=True)
class _Splits:
    """Of each new unit: the old one it comes from (units,), how it is moved (units, dim), its halvings (units,)."""

    sources: Array
    moves: Array
    halvings: Array


def _splits(
    old_sizes: list[int], new_sizes: list[int], counts: Array, random: np.random.Generator, dim: int
) -> _Splits:
    """Split the unit with the largest count of a class, again and again, until each class has its new size."""
    sources: list[int] = []
    moves: list[Array] = []
    halvings: list[int] = []
    start = 0
    for old, new in zip(old_sizes, new_sizes, strict=True):
        units = list(range(start, start + old))
        left = [float(counts[unit]) for unit in units]
        moved = [np.zeros(dim) for _ in units]
        halved = [0] * old
        while len(units) < new:
            largest = left.index(max(left))
            step = random.standard_normal(dim)
            left[largest] *= 0.5
            halved[largest] += 1
            units.append(units[largest])
            left.append(left[largest])
            halved.append(halved[largest])
            moved.append(moved[largest] - step)
            moved[largest] = moved[largest] + step
        sources += units
        moves += moved
        halvings += halved
        start += old
    return _Splits(np.array(sources), np.array(moves), np.array(halvings))
