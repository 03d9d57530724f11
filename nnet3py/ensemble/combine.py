"""The best running average of the last models of a training run, judged on examples.

The models come newest first. The mean of the first n is kept up to date as each is read, its objective computed, and
the mean with the best objective wins. Two means and one model are in memory, however many models there are.

Source: Kaldi src/nnet3bin/nnet3-combine.cc.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nnet3py import log
from nnet3py.ensemble.average import require_same_structure
from nnet3py.errors import UserError
from nnet3py.nnet.batch_norm import BatchNormComponent
from nnet3py.nnet.model_file import read_network
from nnet3py.nnet.network import Network
from nnet3py.train.compute_prob import ComputeProb, set_test_modes
from nnet3py.train.minibatch import Minibatch
from nnet3py.train.minibatch_stream import minibatches


@dataclass(frozen=True)
class CombineOptions:
    """nnet3-combine's options, under their names and with their defaults."""

    max_objective_evaluations: int = 30
    batchnorm_test_mode: bool = False
    dropout_test_mode: bool = True


@dataclass(frozen=True)
class Combined:
    """The best mean, of how many models it is, and its objective beside that of the newest model alone."""

    network: Network
    num_models: int
    objective: float
    initial_objective: float


def combine(rxfilenames: Sequence[str], examples_rspecifier: str, options: CombineOptions) -> Combined:
    """The best mean of the first n of these models, for the n that are tried.

    Raises UserError for files that cannot be read, models that differ in structure, or a table without examples.
    """
    if options.max_objective_evaluations < 1:
        raise UserError("--max-objective-evaluations must be at least 1.")
    mean = read_network(rxfilenames[0])
    examples = list(minibatches(examples_rspecifier, mean))
    log.log(f"Read {len(examples)} examples.")
    if not examples:
        raise UserError(f"The table of examples {examples_rspecifier} is empty: there is nothing to judge models on.")
    initial = best_objective = _objective(mean, examples, options)
    log.log(f"objective function using the last model is {initial:.6g}")
    best, best_count = mean.copy(), 1
    count = len(rxfilenames)
    step = -(-count // options.max_objective_evaluations)  # models to add before each evaluation
    for n in range(1, count):
        network = read_network(rxfilenames[n])
        require_same_structure(mean, rxfilenames[0], network, rxfilenames[n])
        mean.scale(n / (n + 1))
        mean.add(1.0 / (n + 1), network)
        if (n - 1) % step != step - 1 and n != count - 1:
            continue
        objective = _objective(mean, examples, options)
        log.log(f"Combining last {n + 1} models, objective function is {objective:.6g}")
        if objective > best_objective:
            best, best_count, best_objective = mean.copy(), n + 1, objective
    log.log(f"Combining {best_count} nnets, objective function changed from {initial:.6g} to {best_objective:.6g}")
    if any(isinstance(component, BatchNormComponent) for component in best.components.values()):
        recompute_statistics(best, examples)
    return Combined(best, best_count, best_objective, initial)


def recompute_statistics(network: Network, examples: Iterable[Minibatch]) -> None:
    """Replace stored statistics by those of ``examples``: those of a mean are not the mean of those (batch norm)."""
    log.log("Recomputing stats on nnet (affects batch-norm)")
    for component in network.components.values():
        component.zero_statistics()
    prob = ComputeProb(network, store_component_stats=True)
    for minibatch in examples:
        prob.compute(minibatch)
    prob.report()
    log.log("Done recomputing stats.")


def _objective(network: Network, examples: Iterable[Minibatch], options: CombineOptions) -> float:
    """The objective per frame of all outputs together; minus infinity if it is not finite."""
    if options.batchnorm_test_mode or options.dropout_test_mode:
        network = network.copy()
        set_test_modes(network, options.batchnorm_test_mode, options.dropout_test_mode)
    prob = ComputeProb(network, compute_accuracy=False)
    for minibatch in examples:
        prob.compute(minibatch)
    objective = prob.average_objective()
    return objective if math.isfinite(objective) else -math.inf
