"""Units that are saturated, or never leave the linear part of their nonlinearity, are led back into their range.

A sigmoid or tanh unit whose input is always large has a derivative of about zero and stops learning; one whose input is
always near zero does nothing that a linear layer could not. Which is the case shows in the average of the derivative
over the frames of training, which the model's statistics have. With a the average divided by the largest derivative
possible (sigmoid 1/4, tanh and rectified linear 1), and p the ``parameter_factor``, the unit's row of the affine
component before it, bias included, is multiplied by

    max(a / min_average_deriv, 1 / p)      where a < min_average_deriv
    min(a / max_average_deriv, p)          where a > max_average_deriv

A rectified linear unit's derivative is 1 or 0, so a is the part of the frames it is active on: those below
``min_average_deriv`` have ``relu_bias_change`` added to their bias, those above ``max_average_deriv`` subtracted.

The statistics stay as they are: they describe the model before the change, until training accumulates new ones.

Source: Kaldi src/nnet2/nnet-fix.cc.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.nnet.affine import AffineComponent
from nnet3py.nnet.component import Array
from nnet3py.nnet.descriptor import NodeReference
from nnet3py.nnet.network import Network
from nnet3py.nnet.nodes import ComponentNode, dependencies
from nnet3py.nnet.nonlinear import NonlinearComponent, RectifiedLinearComponent, SigmoidComponent, TanhComponent
from nnet3py.nnet.tdnn import TdnnComponent

_LARGEST_DERIVATIVE: dict[type[NonlinearComponent], float] = {
    SigmoidComponent: 0.25,
    TanhComponent: 1.0,
    RectifiedLinearComponent: 1.0,
}


@dataclass(frozen=True)
class FixOptions:
    """nnet-am-fix's options of Kaldi's nnet2, under their names and with their defaults."""

    min_average_deriv: float = 0.1
    max_average_deriv: float = 0.75
    parameter_factor: float = 2.0
    relu_bias_change: float = 1.0

    def check(self) -> None:
        """Raise UserError for a value that makes no sense."""
        if not 0.0 <= self.min_average_deriv < self.max_average_deriv <= math.inf:
            raise UserError(
                f"--min-average-deriv={self.min_average_deriv:g} must be at least 0 and below "
                f"--max-average-deriv={self.max_average_deriv:g}."
            )
        if not 1.0 < self.parameter_factor < math.inf:
            raise UserError(f"--parameter-factor={self.parameter_factor:g} must be above 1, and finite.")
        if not 0.0 <= self.relu_bias_change < math.inf:
            raise UserError(f"--relu-bias-change={self.relu_bias_change:g} must be at least 0, and finite.")


@dataclass(frozen=True)
class Fixed:
    """What was done for one nonlinearity: units whose average derivative was too small, too large; units in all."""

    nonlinearity: str
    affine: str
    num_small: int
    num_large: int
    num_units: int


def fix(network: Network, options: FixOptions) -> list[Fixed]:
    """Change the rows of units out of range in place; an entry for each nonlinearity that could be looked at.

    Looked at are sigmoid, tanh and rectified-linear components that read a trained affine component which nothing else
    reads. Those without statistics are warned of.

    Raises:
        UserError: options that make no sense, or an average derivative that the nonlinearity cannot have.
    """
    options.check()
    found = []
    for name, nonlinearity, affine_name, affine in _pairs(network):
        if nonlinearity.count <= 0.0 or len(nonlinearity.deriv_sum) != nonlinearity.dim:
            log.warning(
                f"Cannot fix the units of component {name}: the model has no statistics of its derivatives. Those of "
                "the model that nnet-train-shard wrote are needed (--store-component-stats=true)."
            )
            continue
        average = _relative_average_derivative(name, nonlinearity)
        if isinstance(nonlinearity, RectifiedLinearComponent) and not affine.bias.size:
            log.warning(f"Cannot fix the units of component {name}: {affine_name} has no bias to change.")
            continue
        small, large = average < options.min_average_deriv, average > options.max_average_deriv
        if isinstance(nonlinearity, RectifiedLinearComponent):
            affine.bias += np.float32(options.relu_bias_change) * (small.astype(np.float32) - large)
        else:
            _scale_rows(affine, _factors(average, small, large, options))
        found.append(Fixed(name, affine_name, int(small.sum()), int(large.sum()), nonlinearity.dim))
        log.log(_report(found[-1], isinstance(nonlinearity, RectifiedLinearComponent)))
    return found


def _pairs(network: Network) -> list[tuple[str, NonlinearComponent, str, AffineComponent | TdnnComponent]]:
    """Nonlinearities and the affine components that feed them alone, each with its name."""
    nodes = {node.name: node for node in network.nodes}
    uses = Counter(node.component for node in network.nodes if isinstance(node, ComponentNode))
    readers = Counter(source for node in network.nodes for source in dependencies(node))
    found = []
    for node in network.nodes:
        if not (isinstance(node, ComponentNode) and isinstance(node.input, NodeReference)):
            continue
        nonlinearity, source = network.components[node.component], nodes[node.input.name]
        if type(nonlinearity) not in _LARGEST_DERIVATIVE or not isinstance(source, ComponentNode):
            continue
        affine = network.components[source.component]
        if not isinstance(affine, (AffineComponent, TdnnComponent)):
            continue
        if node.input.scale != 1.0 or max(uses[node.component], uses[source.component], readers[source.name]) > 1:
            log.log(f"Component {node.component} is passed over: others read {source.component}, or share one of them.")
            continue
        if affine.learning_rate_factor == 0.0:
            log.log(f"Component {node.component} is passed over: {source.component} is not to be trained.")
            continue
        assert isinstance(nonlinearity, NonlinearComponent)
        found.append((node.component, nonlinearity, source.component, affine))
    return found


def _relative_average_derivative(name: str, nonlinearity: NonlinearComponent) -> Array:
    """The average derivative of each unit over the largest one possible: (dim,) float64, from 0 to 1."""
    average: Array = nonlinearity.deriv_sum / (nonlinearity.count * _LARGEST_DERIVATIVE[type(nonlinearity)])
    if not (average.min() >= 0.0 and average.max() < 1.01):  # also for NaN
        raise UserError(
            f"Component {name} ({nonlinearity.type_name}) has statistics that it cannot have: average derivatives from "
            f"{average.min():g} to {average.max():g} of the largest possible. Use a model that training wrote, or an "
            "average of such models."
        )
    return average


def _factors(average: Array, small: Array, large: Array, options: FixOptions) -> Array:
    """What the row of each unit is multiplied by (dim,)."""
    factors = np.ones(len(average))
    factors[small] = np.maximum(average[small] / options.min_average_deriv, 1.0 / options.parameter_factor)
    factors[large] = np.minimum(average[large] / options.max_average_deriv, options.parameter_factor)
    return factors


def _scale_rows(affine: AffineComponent | TdnnComponent, factors: Array) -> None:
    affine.linear *= factors[:, None].astype(np.float32)
    if affine.bias.size:
        affine.bias *= factors.astype(np.float32)


def _report(fixed: Fixed, is_relu: bool) -> str:
    where = f"For component {fixed.nonlinearity} (after {fixed.affine})"
    if is_relu:
        return (
            f"{where}, increased bias for {fixed.num_small} indexes and decreased it for {fixed.num_large}, out of a "
            f"total of {fixed.num_units}"
        )
    return (
        f"{where}, decreased parameters for {fixed.num_small} indexes, and increased them for {fixed.num_large} out of "
        f"a total of {fixed.num_units}"
    )
