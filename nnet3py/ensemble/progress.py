"""How far one model is from the next, by component, and how much each component's change did for the objective.

To first order the objective changes by the gradient times the parameters' change; taken at the middle of the line
from the old model to the new one (or of each of several segments of it), the sum over components is exact to second
order, so it says which layers the progress came from.

Source: Kaldi src/nnet3bin/nnet3-show-progress.cc.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.nnet.component import Component
from nnet3py.nnet.network import Network
from nnet3py.train.compute_prob import ComputeProb, set_test_modes
from nnet3py.train.minibatch import Minibatch


def parameter_differences(old: Network, new: Network) -> dict[str, float]:
    """By component, the Euclidean norm of the difference of all its parameters."""
    olds, news = old.updatable_components(), new.updatable_components()
    return {
        name: math.sqrt(
            sum(
                _squared(news[name].parameters()[field].astype(np.float64) - array)
                for field, array in component.parameters().items()
            )
        )
        for name, component in olds.items()
    }


def parameter_norms(network: Network) -> dict[str, float]:
    """By component, the Euclidean norm of all its parameters."""
    return {
        name: math.sqrt(sum(_squared(array.astype(np.float64)) for array in component.parameters().values()))
        for name, component in network.updatable_components().items()
    }


def _squared(array: np.ndarray) -> float:
    return float(np.vdot(array, array))


def objective_changes(
    old: Network,
    new: Network,
    examples: Sequence[Minibatch],
    num_segments: int = 1,
    accuracy: bool = False,
    per_dim_accuracy: bool = False,
) -> dict[str, float]:
    """By component, the change of the objective per frame that its change brought about, to second order.

    Logs the objective at the middle of each segment, and the accuracy there if asked. Raises UserError without
    examples.
    """
    if num_segments < 1:
        raise UserError("--num-segments must be at least 1.")
    if not examples:
        raise UserError("No examples were read: there is nothing to compute the objective on.")
    totals = dict.fromkeys(old.updatable_components(), 0.0)
    for segment in range(num_segments):
        middle = (segment + 0.5) / num_segments
        between = new.copy()
        between.scale(middle)
        between.add(1.0 - middle, old)
        set_test_modes(between, batchnorm=False, dropout=True)  # a mask would be a different one for each model
        prob = _gradient(between, examples, accuracy or per_dim_accuracy)
        name = "output" if "output" in prob.weights else next(iter(prob.weights))
        prob.report(per_dim_accuracy)
        log.log(f"At position {middle:g}, objf per frame is {prob.average_objective(name):.6g}")
        assert prob.gradient is not None
        for component, update in prob.gradient.updates.items():
            totals[component] += (
                _dot_change(update.delta, old.components[component], new.components[component])
                / prob.weights[name]
                / num_segments
            )
        log.verbose(1, f"By segment {segment}, objf change is {by_component(totals)}")
    return totals


def _gradient(network: Network, examples: Iterable[Minibatch], accuracy: bool) -> ComputeProb:
    prob = ComputeProb(network, compute_derivative=True, compute_accuracy=accuracy)
    for minibatch in examples:
        prob.compute(minibatch)
    return prob


def _dot_change(gradient: Mapping[str, np.ndarray], old: Component, new: Component) -> float:
    olds, news = old.parameters(), new.parameters()
    return sum(
        float(np.vdot(array.astype(np.float64), news[field].astype(np.float64) - olds[field]))
        for field, array in gradient.items()
    )


def by_component(values: Mapping[str, float]) -> str:
    """``[ affine1:0.5 affine2:0.25 ]``."""
    return "[ " + "".join(f"{name}:{value:.6g} " for name, value in values.items()) + "]"
