"""Objective and frame accuracy of a network on examples, and the derivative of the objective if asked for.

Source: Kaldi src/nnet3/nnet-diagnostics.cc, NnetComputeProb.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from nnet3py import log
from nnet3py.nnet.batch_norm import BatchNormComponent
from nnet3py.nnet.component import Array, Phase
from nnet3py.nnet.computation import ComputationCache
from nnet3py.nnet.dropout import RandomComponent
from nnet3py.nnet.network import Network
from nnet3py.train.minibatch import Minibatch
from nnet3py.train.objective import accuracy, objective

if TYPE_CHECKING:
    from nnet3py.train.trainer import ParameterChange

_PLACE = "PrintTotalStats():nnet-diagnostics.cc:1"  # of the lines in Kaldi, by which its reports know them


def set_test_modes(network: Network, batchnorm: bool, dropout: bool) -> None:
    """Mark batch normalisation (use the stored statistics) or dropout (none) in ``network`` as in test mode."""
    for component in network.components.values():
        is_batchnorm = batchnorm and isinstance(component, BatchNormComponent)
        is_dropout = dropout and isinstance(component, RandomComponent)
        if is_batchnorm or is_dropout:
            component.test_mode = True  # type: ignore[attr-defined]


class ComputeProb:
    """Totals over minibatches, by output.

    weights, objectives: name -> sum. class_weights, class_accuracies: name -> (dim,) sums by class. ``gradient``: the
    derivative of the sum of all objectives, if it was asked for.
    """

    def __init__(
        self,
        network: Network,
        compute_derivative: bool = False,
        store_component_stats: bool = False,
        compute_accuracy: bool = True,
    ) -> None:
        self.network = network
        self.weights: dict[str, float] = {}
        self.objectives: dict[str, float] = {}
        self.class_weights: dict[str, Array] = {}
        self.class_accuracies: dict[str, Array] = {}
        self.gradient: ParameterChange | None = None
        if compute_derivative:
            from nnet3py.train.parameter_update import Method  # here: most runs need no trainer
            from nnet3py.train.trainer import ParameterChange

            self.gradient = ParameterChange(network, Method.SGD, every_component=True)
            for update in self.gradient.updates.values():
                update.learning_rate = 1.0
        self._store_statistics = store_component_stats
        self._compute_accuracy = compute_accuracy
        self._kinds = {node.name: node.objective for node in network.output_nodes()}
        self._computations = ComputationCache(network)
        # For dropout that was not put into test mode; nothing else here is random.
        self._random = np.random.default_rng(0)

    def compute(self, minibatch: Minibatch) -> None:
        """Add one minibatch to the totals."""
        computation = self._computations.get(minibatch.request)
        outputs, trace = computation.forward(
            minibatch.inputs,
            Phase.TRAIN,
            random=self._random,
            self_repair=False,
            store_statistics=self._store_statistics,
            keep_trace=self.gradient is not None,
        )
        derivatives = {}
        for name, supervision in minibatch.outputs.items():
            want = self.gradient is not None
            found = objective(self._kinds[name], name, outputs[name], supervision, want)
            self.weights[name] = self.weights.get(name, 0.0) + found.weight
            self.objectives[name] = self.objectives.get(name, 0.0) + found.value
            if found.derivative is not None:
                derivatives[name] = found.derivative
            if self._compute_accuracy:
                weight, right = accuracy(outputs[name], supervision)
                self.class_weights[name] = self.class_weights.get(name, 0.0) + weight
                self.class_accuracies[name] = self.class_accuracies.get(name, 0.0) + right
        if self.gradient is not None:
            computation.backward(trace, derivatives, self.gradient.updates)

    def average_objective(self, name: str | None = None) -> float:
        """Objective per frame of one output, or of all together; NaN without frames."""
        names = list(self.weights) if name is None else [name]
        weight = sum(self.weights.get(each, 0.0) for each in names)
        return sum(self.objectives.get(each, 0.0) for each in names) / weight if weight else math.nan

    def report(self, per_dim_accuracy: bool = False) -> bool:
        """Kaldi's lines; False if no output had any weight."""
        for name, weight in self.weights.items():
            what = "log-likelihood" if self._kinds[name] == "linear" else "objective"
            average = self.average_objective(name)
            log.log(f"Overall {what} for '{name}' is {average:.6g} per frame, over {weight:.6g} frames.", _PLACE)
        for name, by_class in self.class_weights.items():
            right, weight = self.class_accuracies[name], float(by_class.sum())
            average = float(right.sum()) / weight if weight else math.nan
            log.log(f"Overall accuracy for '{name}' is {average:.6g} per frame, over {weight:.6g} frames.", _PLACE)
            if per_dim_accuracy:
                values = np.divide(right, by_class, out=np.full(len(right), -1.0), where=by_class != 0.0)
                text = " ".join(f"{value:.6g}" for value in values)
                log.log(
                    f"Overall per-dim accuracy vector for '{name}' is [ {text} ] per frame, over {weight:.6g} frames.",
                    _PLACE,
                )
        return any(weight != 0.0 for weight in self.weights.values())
