"""Minibatches out of an archive of examples, prepared in a thread while the previous ones are in use.

The archive has minibatches (nnet-merge-egs), or single examples that are shuffled and merged here: the same minibatches
as nnet-shuffle-egs and nnet-merge-egs before it would give, byte for byte, without their processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nnet3py.egs.example import EXAMPLE, Example
from nnet3py.egs.merge import ExampleMerger, MinibatchSizes
from nnet3py.egs.read_ahead import read_ahead
from nnet3py.egs.shuffle import shuffled
from nnet3py.errors import UserError
from nnet3py.nnet.network import Network
from nnet3py.tables.table import SequentialReader
from nnet3py.train.minibatch import Minibatch


@dataclass(frozen=True)
class Arrangement:
    """What is done with a table's examples before they are minibatches; by default nothing, for they are merged.

    Attributes:
        minibatch_size: rules as nnet-merge-egs has them; empty: the table has minibatches.
        shuffle_buffer_size: as nnet-shuffle-egs has it, 0 for all examples; negative: they stay in order.
        shuffle_srand: the seed of the order.
    """

    minibatch_size: str = ""
    shuffle_buffer_size: int = -1
    shuffle_srand: int = 0

    def arrange(self, examples: Iterable[tuple[str, Example]], source: str) -> Iterator[tuple[str, Example]]:
        """The examples in their order and in minibatches; ``source`` names in messages where they are from.

        Raises:
            UserError: the rules are none, examples do not go together, or are too few for a minibatch.
        """
        if self.shuffle_buffer_size >= 0:
            examples = shuffled(examples, self.shuffle_srand, self.shuffle_buffer_size)
        if not self.minibatch_size:
            yield from examples
            return
        ready: list[tuple[str, Example]] = []
        merger = ExampleMerger(MinibatchSizes.parse(self.minibatch_size), lambda key, one: ready.append((key, one)))
        for key, example in examples:
            merger.accept(example, key)
            yield from ready
            ready.clear()
        merger.finish()
        merger.require_minibatches(source)
        yield from ready


def minibatches(
    rspecifier: str, network: Network, depth: int = 8, arrangement: Arrangement | None = None
) -> Iterator[Minibatch]:
    """The examples of a table in minibatches, laid out for ``network``; up to ``depth`` are decoded ahead.

    Raises UserError, naming table and key, for an example that cannot be read, that holds numbers which are not
    finite, or that does not fit the network's inputs and outputs.
    """
    return read_ahead(_decoded(rspecifier, network, arrangement or Arrangement()), depth)


def _decoded(rspecifier: str, network: Network, arrangement: Arrangement) -> Iterator[Minibatch]:
    inputs = {node.name: node.dim for node in network.input_nodes()}
    outputs = {node.name: network.output_dim(node.name) for node in network.output_nodes()}
    with SequentialReader(rspecifier, EXAMPLE) as examples:
        for key, example in arrangement.arrange(examples, rspecifier):
            where = f"example {key} of {rspecifier}"
            minibatch = Minibatch.from_example(example, list(inputs), list(outputs), where)
            _check_dims(minibatch, inputs, where)
            yield minibatch


def _check_dims(minibatch: Minibatch, dims: dict[str, int], where: str) -> None:
    for name, rows in minibatch.inputs.items():
        if rows.shape[1] != dims[name]:
            raise UserError(
                f"Cannot use {where}: its input {name!r} has dimension {rows.shape[1]}, but the network expects "
                f"{dims[name]}. Make examples from features of that dimension, or a network for these."
            )
    if not minibatch.outputs:
        raise UserError(f"Cannot use {where}: it has no output to train or evaluate on.")
