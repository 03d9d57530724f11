"""The output of a network for training examples, in the rows of the example.

Source: Kaldi src/nnet3bin/nnet3-compute-from-egs.cc.
"""

from __future__ import annotations

import numpy as np

from nnet3py.egs.example import EXAMPLE, Example
from nnet3py.errors import UserError
from nnet3py.nnet.component import Array, Phase
from nnet3py.nnet.computation import ComputationCache, Computations
from nnet3py.nnet.network import Network
from nnet3py.nnet.utterance import check_output
from nnet3py.tables.holders import MATRIX
from nnet3py.tables.table import SequentialReader, TableWriter
from nnet3py.train.minibatch import Minibatch


def compute_examples(
    network: Network,
    examples: str,
    outputs: str,
    output_name: str = "output",
    apply_exp: bool = False,
    phase: Phase = Phase.TEST,
    computations: Computations | None = None,
) -> int:
    """Write ``output_name`` of each example of the rspecifier ``examples`` to the wspecifier ``outputs``; their number.

    ``computations`` compute, by default the network on the CPU.
    Raises UserError for examples that are corrupt or do not fit the network, if there are none, and for an output that
    is NaN or infinite (log-probabilities may be minus infinity).
    """
    random = np.random.default_rng(0)
    network.output_dim(output_name)
    names = [node.name for node in network.input_nodes()], [node.name for node in network.output_nodes()]
    plans = computations or ComputationCache(network)
    count = 0
    with TableWriter(outputs, MATRIX) as writer, SequentialReader(examples, EXAMPLE) as reader:
        for key, example in reader:
            minibatch = Minibatch.from_example(example, *names, where=f"example {key}")
            if output_name not in minibatch.times:
                raise UserError(f"Example {key} has no supervision named {output_name}, whose rows are to be computed.")
            try:
                plan = plans.get(minibatch.request)
                computed, _ = plan.forward(minibatch.inputs, phase, random=random, keep_trace=False)
            except UserError as problem:
                raise UserError(f"Cannot use example {key}: {problem}") from problem
            output = computed[output_name][_rows_of_example(example, minibatch, output_name)]
            check_output(output, f"Example {key}")
            writer.write(key, np.exp(output, out=output) if apply_exp else output)
            count += 1
        if count == 0:
            raise UserError(f"There are no examples in {examples}; nothing is written.")
    return count


def _rows_of_example(example: Example, minibatch: Minibatch, name: str) -> Array:
    """Where in time-major order the rows of the example's supervision are."""
    supervision = example.io(name)
    assert supervision is not None
    sequences, frames = supervision.indexes[:, 0], supervision.indexes[:, 1]
    time_index = np.searchsorted(np.asarray(minibatch.times[name]), frames)
    sequence_index = np.searchsorted(np.unique(sequences), sequences)
    return time_index * minibatch.num_sequences + sequence_index
