"""Minibatches out of an archive of merged examples, prepared in a thread while the previous ones are in use."""

from __future__ import annotations

from collections.abc import Iterator

from nnet3py.egs.example import EXAMPLE
from nnet3py.egs.minibatch import Minibatch
from nnet3py.egs.read_ahead import read_ahead
from nnet3py.errors import UserError
from nnet3py.nnet.network import Network
from nnet3py.tables.table import SequentialReader


def minibatches(rspecifier: str, network: Network, depth: int = 8) -> Iterator[Minibatch]:
    """The merged examples of a table, laid out for ``network``; up to ``depth`` are decoded ahead.

    Raises UserError, naming table and key, for an example that cannot be read, that holds numbers which are not
    finite, or that does not fit the network's inputs and outputs.
    """
    return read_ahead(_decoded(rspecifier, network), depth)


def _decoded(rspecifier: str, network: Network) -> Iterator[Minibatch]:
    inputs = {node.name: node.dim for node in network.input_nodes()}
    outputs = {node.name: network.output_dim(node.name) for node in network.output_nodes()}
    with SequentialReader(rspecifier, EXAMPLE) as examples:
        for key, example in examples:
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
