"""The update of a component that several nodes use: all their rows are given to it as one minibatch.

Natural gradient rescales what it is given and keeps an estimate of it, so it matters whether two nodes' rows come
together or one after the other.

Source: Kaldi src/nnet3/nnet-optimize-utils.cc (``ModelUpdateConsolidator``), which does this for all components but
those that see times, such as TdnnComponent.
"""

from __future__ import annotations

import functools
import operator
from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from nnet3py.nnet.component import Array, Update
from nnet3py.nnet.network import Network
from nnet3py.nnet.nodes import ComponentNode


class CollectedUpdate:
    """Keeps what the nodes of one component add, and adds it to ``update`` in one piece at :meth:`finish`."""

    def __init__(self, update: Update) -> None:
        self._update = update
        self.learning_rate = update.learning_rate
        self.delta = update.delta
        self._products: dict[tuple[str, str | None], list[tuple[Array, Array]]] = defaultdict(list)
        self._vectors: dict[str, list[Array]] = defaultdict(list)
        self._gradients: dict[tuple[str, str], list[tuple[Array, Array]]] = defaultdict(list)

    def add_outer_product(self, dy: Array, x: Array, linear: str, bias: str | None) -> None:
        """See :class:`nnet3py.nnet.component.Update`; the rows are copied, for their buffers go on being used."""
        self._products[linear, bias].append((dy.copy(), x.copy()))

    def add_vector(self, field: str, rows: Array) -> None:
        """See :class:`nnet3py.nnet.component.Update`."""
        self._vectors[field].append(rows.copy())

    def add_gradient(self, gradient: Array, bias_gradient: Array, linear: str, bias: str) -> None:
        """See :class:`nnet3py.nnet.component.Update`; the gradient of all rows is the sum of those of each node's."""
        self._gradients[linear, bias].append((gradient.copy(), bias_gradient.copy()))

    def finish(self) -> None:
        """Add everything to the component's update."""
        for (linear, bias), parts in self._products.items():
            dy, x = (np.concatenate(side) for side in zip(*parts, strict=True))
            self._update.add_outer_product(dy, x, linear, bias)
        for field, rows in self._vectors.items():
            self._update.add_vector(field, np.concatenate(rows))
        for (weights, offset), sums in self._gradients.items():
            gradient, bias_gradient = (functools.reduce(operator.add, side) for side in zip(*sums, strict=True))
            self._update.add_gradient(gradient, bias_gradient, weights, offset)


def collected(network: Network, updates: Mapping[str, Update]) -> dict[str, CollectedUpdate]:
    """Collecting stand-ins for the updates of the components that more than one node uses."""
    users: dict[str, int] = defaultdict(int)
    for node in network.nodes:
        if isinstance(node, ComponentNode):
            users[node.component] += 1
    return {
        name: CollectedUpdate(updates[name])
        for name, count in users.items()
        if count > 1 and name in updates and network.components[name].update_sees_all_nodes
    }
