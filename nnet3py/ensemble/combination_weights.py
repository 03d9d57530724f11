"""The best weighted sum of several models, with a weight for each model and component, found by L-BFGS.

The parameters θ_nc of component c in model n are added up with weights w_nc, of either sign and not bound to sum to
one. The weights are those that maximise the objective per frame on a subset of the training data:

    θ_c(w) = Σ_n w_nc θ_nc,     F(w) = objective(θ(w)) - r/2 ‖θ(w)‖²                          (r: the regularizer)
    ∂F/∂w_nc = <∂objective/∂θ_c - r θ_c, θ_nc>                           (one backward pass serves all the weights)

With a single model the weights are scales of its components ("shrinking").

The last models of a training differ little, so F is steep where the weights of a component grow together and nearly
flat where one grows at the cost of another: L-BFGS would take many steps in w. It works in coordinates x in which a
step is as long as the parameters of each component move, relative to their size. With the matrix of scalar products
M_c = [<θ_mc, θ_nc>] scaled to the trace N (the number of models), its eigenvalues Λ and eigenvectors V,

    w_c = w_c(start) + s V Λ^-½ x_c

where directions in which the models do not differ (eigenvalues of about zero) are left out. SciPy's L-BFGS-B makes its
first step of length 1; the factor s is such that this step promises a given improvement.

Source: arXiv:1410.7455, appendix C; Kaldi src/nnet2/combine-nnet-fast.cc and shrink-nnet.cc. In the place of M Kaldi
has the scatter of the gradients of small minibatches, which takes a pass over the data and, being of low rank, more
steps after it (docs/method.md has a comparison).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize

from nnet3py import log
from nnet3py.ensemble.average import require_same_structure
from nnet3py.ensemble.combine import recompute_statistics
from nnet3py.errors import UserError
from nnet3py.nnet.batch_norm import BatchNormComponent
from nnet3py.nnet.component import Array
from nnet3py.nnet.model_file import read_network
from nnet3py.nnet.network import Network
from nnet3py.train.compute_prob import ComputeProb, set_test_modes
from nnet3py.train.minibatch import Minibatch
from nnet3py.train.minibatch_stream import minibatches

_PIECE = 1 << 16  # numbers of a parameter that are added up in double precision at a time
_SMALLEST_EIGENVALUE = 1.0e-12  # of the largest; what float32 parameters have below it is rounding
_SMALLEST_IMPROVEMENT = 1.0e-8  # of one step, relative to the objective, which is not computed more exactly
_SMALLEST_SLOPE = 1.0e-4  # relative to that at the start

Function = Callable[[Array], tuple[float, Array]]
"""Weights (models, components) to a value to maximise and its gradient, of the same shape."""


@dataclass(frozen=True)
class WeightOptions:
    """Those options of Kaldi's nnet-combine-fast (nnet2) that have a meaning here, and nnet-combine's test modes.

    ``initial_model``: where to start: the index of a model, or the average from the number of models on; below zero
    the first model or the average, whichever is better. ``num_lbfgs_iters``: most evaluations of the gradient.
    """

    initial_model: int = -1
    num_lbfgs_iters: int = 20
    initial_impr: float = 0.01
    max_lbfgs_dim: int = 10
    regularizer: float = 0.0
    batchnorm_test_mode: bool = False
    dropout_test_mode: bool = True

    def check(self) -> None:
        """Raise UserError for a value that makes no sense."""
        for name, value in (("num-lbfgs-iters", self.num_lbfgs_iters), ("max-lbfgs-dim", self.max_lbfgs_dim)):
            if value < 1:
                raise UserError(f"--{name}={value} is not possible: give a number of at least 1.")
        if not 0.0 < self.initial_impr < math.inf:
            raise UserError(f"--initial-impr={self.initial_impr:g} is not possible: give a number above 0.")
        if not 0.0 <= self.regularizer < math.inf:
            raise UserError(f"--regularizer={self.regularizer:g} is not possible: give a number of at least 0.")


@dataclass(frozen=True)
class Weighted:
    """The best sum that was found.

    ``weights``: by component (models,) float64. ``objective``: the value of F with them, ``initial_objective``: where
    the search started, which is never more.
    """

    network: Network
    weights: dict[str, Array]
    objective: float
    initial_objective: float
    num_evaluations: int


@dataclass(frozen=True)
class Maximum:
    """Weights (models, components) with the largest value that was met, that of the start, evaluations it took."""

    weights: Array
    value: float
    initial_value: float
    num_evaluations: int


class Models:
    """The trained parameters of several models side by side.

    All of them are in memory as float32, 4 bytes a model and parameter, beside one whole network (the first model's);
    of the other models nothing is kept but their parameters. Components whose learning-rate-factor is zero are not
    trained, hence the same in all models, and have no part in it.

    Attributes:
        network: the first model.
        names: the components that have weights, C of them, in the network's order.
        stacks: component -> field -> (models, numbers in the field) float32.
    """

    def __init__(self, rxfilenames: Sequence[str]) -> None:
        """Read the models, one after another.

        Raises UserError if a file cannot be read, if two differ in structure, or if nothing in them is trained.
        """
        self.network = read_network(rxfilenames[0])
        trained = self.network.updatable_components().items()
        self.names = [name for name, component in trained if component.learning_rate_factor != 0.0]
        if not self.names:
            raise UserError(f"The network in {rxfilenames[0]} has no trained component: there is nothing to weigh.")
        self.stacks = {
            name: {
                field: np.empty((len(rxfilenames), array.size), np.float32)
                for field, array in self.network.components[name].parameters().items()
            }
            for name in self.names
        }
        for index, rxfilename in enumerate(rxfilenames):
            network = self.network
            if index > 0:
                network = read_network(rxfilename)
                require_same_structure(self.network, rxfilenames[0], network, rxfilename)
            for name in self.names:
                for field, array in network.components[name].parameters().items():
                    self.stacks[name][field][index] = array.reshape(-1)
            del network  # before the next one is read

    @property
    def shape(self) -> tuple[int, int]:
        """Of the weights: models, components."""
        return len(next(iter(self.stacks[self.names[0]].values()))), len(self.names)

    def add_up(self, weights: Array, network: Network) -> None:
        """Put the sums with ``weights`` (models, C) into the parameters of ``network``."""
        for index, name in enumerate(self.names):
            for field, array in network.components[name].parameters().items():
                flat = array.reshape(-1)
                with np.errstate(over="ignore"):  # the objective shows it
                    for piece, rows in _pieces(self.stacks[name][field]):
                        flat[piece] = weights[:, index] @ rows

    def products(self, vectors: Mapping[str, Mapping[str, Array]]) -> Array:
        """The scalar product of each model's component with a vector of its shape: (models, C) float64.

        ``vectors``: component -> field -> array in the parameter's shape.
        """
        found = np.zeros(self.shape)
        for index, name in enumerate(self.names):
            for field, stack in self.stacks[name].items():
                flat = vectors[name][field].reshape(-1)
                for piece, rows in _pieces(stack):
                    found[:, index] += rows @ flat[piece].astype(np.float64)
        return found

    def scalar_products(self) -> Array:
        """Of each component, those of every model with every other: (C, models, models) float64."""
        models, components = self.shape
        found = np.zeros((components, models, models))
        for index, name in enumerate(self.names):
            for stack in self.stacks[name].values():
                for _, rows in _pieces(stack):
                    found[index] += rows @ rows.T
        return found


def _pieces(stack: Array) -> Iterator[tuple[slice, Array]]:
    """The columns of a stack, some at a time, in double precision."""
    for start in range(0, stack.shape[1], _PIECE):
        piece = slice(start, start + _PIECE)
        yield piece, stack[:, piece].astype(np.float64)


class WeightedObjective:
    """F of the module's docstring: the objective per frame of all outputs together, as a function of the weights.

    Has a network of its own to put sums into, and in an evaluation a gradient of the same size.
    """

    def __init__(self, models: Models, examples: Sequence[Minibatch], options: WeightOptions) -> None:
        """All of the examples are gone through in every evaluation."""
        self._models = models
        self._examples = examples
        self._regularizer = options.regularizer
        self._scalar_products = models.scalar_products()
        self._network = models.network.copy()
        set_test_modes(self._network, options.batchnorm_test_mode, options.dropout_test_mode)

    def value(self, weights: Array) -> float:
        """F without its gradient. Raises UserError if the examples have no weight."""
        prob = self._compute(weights, derivative=False)
        return prob.average_objective() - self._penalty(weights)

    def __call__(self, weights: Array) -> tuple[float, Array]:
        """F at ``weights`` (models, C), and its gradient of the same shape; both may be not finite."""
        prob = self._compute(weights, derivative=True)
        assert prob.gradient is not None
        deltas = {name: prob.gradient.updates[name].delta for name in self._models.names}
        gradient = self._models.products(deltas) / sum(prob.weights.values())
        gradient -= self._regularizer * np.einsum("cmn,nc->mc", self._scalar_products, weights)
        return prob.average_objective() - self._penalty(weights), gradient

    def _compute(self, weights: Array, derivative: bool) -> ComputeProb:
        self._models.add_up(weights, self._network)
        prob = ComputeProb(self._network, compute_derivative=derivative, compute_accuracy=False)
        with np.errstate(over="ignore", invalid="ignore"):  # weights of a step that went too far
            for minibatch in self._examples:
                prob.compute(minibatch)
        if not any(prob.weights.values()):
            raise UserError("All examples have weight zero: there is nothing to judge weights on.")
        return prob

    def _penalty(self, weights: Array) -> float:
        squares = np.einsum("mc,cmn,nc->", weights, self._scalar_products, weights)
        return 0.5 * self._regularizer * float(squares)

    def coordinates(self) -> list[Array]:
        """V Λ^-½ of each component: (models, up to models), by which a step in x becomes one in w."""
        found = []
        for products in self._scalar_products:
            trace = float(np.trace(products))
            if trace == 0.0:  # all zero, as a last layer may start
                found.append(np.zeros((len(products), 0)))
                continue
            values, vectors = np.linalg.eigh(products * (len(products) / trace))
            kept = values > _SMALLEST_EIGENVALUE * values[-1]
            found.append(vectors[:, kept] / np.sqrt(values[kept]))
        return found


class _EnoughEvaluationsError(Exception):
    """Ends the search from within the function that L-BFGS calls."""


class _Search:
    """What L-BFGS minimises: minus the function, in coordinates x that are zero at the start.

    Remembers the best weights that it was asked about.
    """

    def __init__(self, function: Function, start: Array, coordinates: Sequence[Array], options: WeightOptions) -> None:
        self.start = start
        self._function = function
        self._coordinates = coordinates
        self._ends = np.cumsum([basis.shape[1] for basis in coordinates])
        self._most_evaluations = options.num_lbfgs_iters
        self._initial, slope = function(start)
        if not (math.isfinite(self._initial) and np.isfinite(slope).all()):
            raise UserError(
                f"The objective function at the start is {self._initial:g}, or its gradient is not finite: the models "
                "are of no use, or the examples are not theirs."
            )
        self._slope = self._in_coordinates(slope)
        self.steepness = float(np.linalg.norm(self._slope))
        self._scale = options.initial_impr / self.steepness if self.steepness else 0.0
        self.best = Maximum(start, self._initial, self._initial, 1)

    @property
    def dim(self) -> int:
        """Of x."""
        return int(self._ends[-1])

    def _in_coordinates(self, gradient: Array) -> Array:
        return np.concatenate([basis.T @ part for basis, part in zip(self._coordinates, gradient.T, strict=True)])

    def _weights(self, x: Array) -> Array:
        parts = zip(self._coordinates, np.split(x, self._ends[:-1]), strict=True)
        return self.start + self._scale * np.column_stack([basis @ part for basis, part in parts])

    def __call__(self, x: Array) -> tuple[float, Array]:
        if not x.any():  # the start, which is known
            return -self._initial, -self._scale * self._slope
        if self.best.num_evaluations >= self._most_evaluations:
            raise _EnoughEvaluationsError
        weights = self._weights(x)
        value, gradient = self._function(weights)
        finite = math.isfinite(value) and bool(np.isfinite(gradient).all())
        evaluations = self.best.num_evaluations + 1
        log.verbose(2, f"Evaluation {evaluations}: objf is {value:.6g}, weights by component {weights.T.tolist()}")
        if finite and value > self.best.value:
            self.best = replace(self.best, weights=weights, value=value)
        self.best = replace(self.best, num_evaluations=evaluations)
        if not finite:  # so bad that the line search turns back
            return -self._initial + 10.0 * (1.0 + abs(self._initial)), np.zeros_like(x)
        return -value, -self._scale * self._in_coordinates(gradient)


def maximise(function: Function, start: Array, coordinates: Sequence[Array], options: WeightOptions) -> Maximum:
    """The best of the weights that L-BFGS met on its way from ``start`` (models, C), which is one of them.

    ``coordinates``: for each column of the weights a matrix (models, dim) by which a step in the coordinates that
    L-BFGS works in becomes one in the weights.

    Raises:
        UserError: the function is not finite at the start.
    """
    search = _Search(function, start, coordinates, options)
    settings = {
        "maxcor": min(options.max_lbfgs_dim, options.num_lbfgs_iters),  # SciPy makes room for all
        "maxiter": options.num_lbfgs_iters,
        "ftol": _SMALLEST_IMPROVEMENT,
        "gtol": _SMALLEST_SLOPE * options.initial_impr,
    }
    if search.steepness > 0.0:
        with contextlib.suppress(_EnoughEvaluationsError):
            minimize(search, np.zeros(search.dim), jac=True, method="L-BFGS-B", options=settings)
    return search.best


def find_weights(rxfilenames: Sequence[str], examples_rspecifier: str, options: WeightOptions) -> Weighted:
    """The best weighted sum of the models in these files, judged on merged examples, which are kept in memory.

    What is not trained, statistics of nonlinearities among it, is that of the first model; statistics of batch
    normalisation are computed anew on the examples. See :class:`Models` for the memory it takes.

    Raises:
        UserError: for options that make no sense, files that cannot be read, models that differ in structure, a table
            without examples, or an objective function that is not finite to start with.
    """
    options.check()
    models = Models(rxfilenames)
    examples = list(minibatches(examples_rspecifier, models.network))
    log.log(f"Read {len(examples)} examples.")
    if not examples:
        raise UserError(f"The table of examples {examples_rspecifier} is empty: there is nothing to judge weights on.")
    function = WeightedObjective(models, examples, options)
    start = _start(models, function, options.initial_model)
    found = maximise(function, start, function.coordinates(), options)
    models.add_up(found.weights, models.network)
    if any(isinstance(component, BatchNormComponent) for component in models.network.components.values()):
        recompute_statistics(models.network, examples)
    weights = {name: found.weights[:, index] for index, name in enumerate(models.names)}
    return Weighted(models.network, weights, found.value, found.initial_value, found.num_evaluations)


def _start(models: Models, function: WeightedObjective, initial_model: int) -> Array:
    """The weights to start from: 1 for one model, or the same for all (models, C)."""
    count = models.shape[0]
    average = np.full(models.shape, 1.0 / count)
    first = np.zeros(models.shape)
    first[0] = 1.0
    if initial_model >= 0:
        log.log(
            f"Starting from the model with index {initial_model}."
            if initial_model < count
            else "Starting from the average of all models."
        )
        return np.roll(first, initial_model, axis=0) if initial_model < count else average
    if count == 1:
        return first
    alone, together = function.value(first), function.value(average)
    log.log(f"Objective function of the first model is {alone:.6g}, of the average of all models {together:.6g}.")
    return first if alone >= together or not math.isfinite(together) else average
