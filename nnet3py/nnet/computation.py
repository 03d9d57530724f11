"""Evaluation of a network, forwards and backwards.

A :class:`Request` says at which times inputs are given and outputs are wanted. A :class:`Computation` plans it once:
going backwards from the outputs, each node gets the times it is needed at; forwards, the times it can be computed at;
what is left is a list of steps in an order in which everything exists when it is used. Planning depends on times only,
so one plan serves all minibatches of the same structure (:class:`ComputationCache`).

Arrays are time-major, (times * sequences, dim) float32: an ``Offset`` by whole frames is then a slice. They may be of
another library than NumPy that takes NumPy's functions (CuPy), if the network's components compute with such.

Sources: Kaldi src/nnet3/nnet-computation-graph.cc for what can be computed from what; src/nnet3/nnet-utils.cc
(``ComputeSimpleNnetContext``) for the context.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from nnet3py.errors import UserError
from nnet3py.nnet.component import Array, Layout, Phase, Random, Role, Update
from nnet3py.nnet.descriptor import Descriptor, Term
from nnet3py.nnet.dropout import RandomComponent
from nnet3py.nnet.network import Network
from nnet3py.nnet.nodes import ComponentNode, DimRangeNode, InputNode, Node, OutputNode
from nnet3py.nnet.request import Request
from nnet3py.nnet.rows import RowSelection
from nnet3py.nnet.shared_component import collected
from nnet3py.nnet.times import (
    input_times_of,
    is_in,
    needed_times,
    possible_times,
    require_outputs,
    topological,
    wanted_times,
)


@dataclass(frozen=True)
class _CompiledTerm:
    node: str
    selection: RowSelection
    scale: float
    positions: RowSelection | None  # rows of the result; None: all, in order


@dataclass(frozen=True)
class _Part:
    first: int
    last: int
    constant: float
    terms: tuple[_CompiledTerm, ...]


class _Expression:
    """A descriptor at fixed times: where each column range of the result comes from."""

    def __init__(self, parts: list[_Part], num_times: int, num_sequences: int) -> None:
        self.parts = parts
        self.num_times = num_times
        self.num_sequences = num_sequences
        self.dim = parts[-1].last

    @property
    def sources(self) -> set[str]:
        return {term.node for part in self.parts for term in part.terms}

    def _sole_term(self) -> _CompiledTerm | None:
        """The term that the whole value is, if it is one, unscaled."""
        part = self.parts[0]
        if len(self.parts) > 1 or len(part.terms) != 1 or part.constant != 0.0:
            return None
        term = part.terms[0]
        return term if term.positions is None and term.scale == 1.0 else None

    def evaluate(self, values: Mapping[str, Array]) -> Array:
        """The value (times * sequences, dim): a view of a node's value if it can be one."""
        sole = self._sole_term()
        if sole is not None:
            return sole.selection.take(values[sole.node])
        any_array = next(iter(values.values()))
        out = np.empty_like(any_array, shape=(self.num_times, self.num_sequences, self.dim))
        for part in self.parts:
            self._fill(part, out[:, :, part.first : part.last], values)
        return out.reshape(-1, self.dim)

    def _fill(self, part: _Part, out: Array, values: Mapping[str, Array]) -> None:
        terms = list(part.terms)
        if terms and terms[0].positions is None and part.constant == 0.0:
            first = terms.pop(0)
            blocks = first.selection.blocks(values[first.node])
            if first.scale == 1.0:
                out[...] = blocks
            else:
                np.multiply(blocks, np.float32(first.scale), out=out)
        else:
            out[...] = part.constant
        for term in terms:
            blocks = term.selection.blocks(values[term.node])
            if term.scale != 1.0:
                blocks = blocks * np.float32(term.scale)
            if term.positions is None:
                out += blocks
            else:
                out[term.positions.positions] += blocks

    def spread(self, dx: Array, derivatives: _Derivatives) -> None:
        """Give the derivative ``dx`` of the value, which is ours to overwrite, to the nodes that need one."""
        sole = self._sole_term()
        if sole is not None:
            derivatives.add(sole.node, sole.selection, dx, owned=True)
            return
        blocks = dx.reshape(self.num_times, self.num_sequences, self.dim)
        for part in self.parts:
            for term in part.terms:
                if term.node in derivatives.needed:
                    piece = blocks[:, :, part.first : part.last]
                    if term.positions is not None:
                        piece = piece[term.positions.positions]
                    if term.scale != 1.0:
                        piece = piece * np.float32(term.scale)
                    derivatives.add(term.node, term.selection, piece, owned=False)


class _Derivatives:
    """Derivatives with respect to node values, as far as they are known."""

    def __init__(self, needed: set[str], shapes: Mapping[str, tuple[int, int]]) -> None:
        self.needed = needed
        self._shapes = shapes
        self._arrays: dict[str, Array] = {}

    def add(self, node: str, selection: RowSelection, piece: Array, owned: bool) -> None:
        """Add ``piece`` to the chosen rows of the node's; ``owned`` arrays may be kept and overwritten."""
        if node not in self.needed:
            return
        found = self._arrays.get(node)
        if found is not None:
            selection.add_to(found, piece)
        elif selection.whole:
            piece = piece.reshape(self._shapes[node])
            self._arrays[node] = piece if owned and piece.flags.c_contiguous else piece.copy()
        else:
            found = self._arrays[node] = np.zeros_like(piece, shape=self._shapes[node])
            selection.add_to(found, piece)

    def add_columns(self, node: str, first: int, piece: Array) -> None:
        """Add ``piece`` to some columns of the node's, from ``first`` on."""
        if node in self.needed:
            if node not in self._arrays:
                self._arrays[node] = np.zeros_like(piece, shape=self._shapes[node])
            found = self._arrays[node]
            found[:, first : first + piece.shape[1]] += piece

    def pop(self, node: str) -> Array | None:
        """The derivative of a node, complete by now; None if there is none."""
        return self._arrays.pop(node, None)


@dataclass
class _Step:
    """How one node is computed."""

    node: Node
    expression: _Expression | None = None
    layout: Layout | None = None
    last_uses: tuple[str, ...] = ()
    """Nodes whose values nothing after this step reads."""


@dataclass
class Trace:
    """What a forward pass leaves for the backward pass. It goes back once."""

    memos: dict[str, Any] = field(default_factory=dict)
    used: bool = False


class Computation:
    """A plan of how to compute a request with a network.

    Raises:
        UserError: an output cannot be computed from the inputs, or a name is not one of the network's.
    """

    def __init__(self, network: Network, request: Request) -> None:
        self.network = network
        self.request = request
        _require_names(network, request)
        order = topological(network, list(request.outputs))
        wanted = wanted_times(network, order, request.outputs)
        possible = possible_times(network, order, wanted, request.inputs)
        require_outputs(network, request, wanted, possible)
        self._times = needed_times(network, order, request, possible)
        self._shapes = {
            name: (len(times) * request.num_sequences, network.node_dim(name)) for name, times in self._times.items()
        }
        self._steps = [self._step(node, possible) for node in order if node.name in self._times]
        self._mark_last_uses()

    def _step(self, node: Node, possible: Mapping[str, Array]) -> _Step:
        times = self._times[node.name]
        if isinstance(node, OutputNode):
            return _Step(node, self._compile(node.input, self.request.outputs[node.name], possible))
        if isinstance(node, ComponentNode):
            component = self.network.components[node.component]
            input_times = input_times_of(component, times)
            layout = Layout(input_times.tolist(), times.tolist(), self.request.num_sequences)
            return _Step(node, self._compile(node.input, input_times, possible), layout)
        return _Step(node)

    def _compile(self, descriptor: Descriptor, times: Array, possible: Mapping[str, Array]) -> _Expression:
        positions = np.arange(len(times))
        parts: list[_Part] = []
        first = 0
        for piece in descriptor.parts():
            _, terms = piece.resolve(times, positions, is_in(possible))
            last = first + piece.dim(self.network.node_dim)
            compiled = tuple(self._compile_term(term, positions) for term in terms)
            parts.append(_Part(first, last, piece.constant(), compiled))
            first = last
        return _Expression(parts, len(times), self.request.num_sequences)

    def _compile_term(self, term: Term, positions: Array) -> _CompiledTerm:
        selection = RowSelection.of_times(term.times, self._times[term.node])
        everywhere = np.array_equal(term.positions, positions)
        rows = None if everywhere else RowSelection(term.positions, len(positions))
        return _CompiledTerm(term.node, selection, term.scale, rows)

    def _mark_last_uses(self) -> None:
        seen: set[str] = set()
        for step in reversed(self._steps):
            used = _sources(step)
            step.last_uses = tuple(sorted(used - seen))
            seen |= used

    def node_times(self, name: str) -> Array:
        """The times that a node is computed at (of an input: those it is given at), ascending; empty if not at all."""
        return self._times.get(name, np.zeros(0, np.int64))

    def component_of_output(self, output: str) -> str:
        """The component whose value an output is, if it is all of that and nothing else uses the value; else ""."""
        step = next((step for step in self._steps if step.node.name == output), None)
        sole = step.expression._sole_term() if step is not None and step.expression is not None else None
        if sole is None or not sole.selection.whole:
            return ""
        users = sum(sole.node in _sources(other) for other in self._steps)
        node = next(step.node for step in self._steps if step.node.name == sole.node)
        return node.component if isinstance(node, ComponentNode) and users == 1 else ""

    def forward(
        self,
        inputs: Mapping[str, Array],
        phase: Phase,
        *,
        random: Random = None,
        self_repair: bool = True,
        store_statistics: bool = False,
        keep_trace: bool = True,
    ) -> tuple[dict[str, Array], Trace]:
        """Outputs of the network, by name, and the trace that :meth:`backward` needs.

        Args:
            inputs: for each input of the request an array (times * sequences, dim), its rows in the request's order.
            random: the generator of a training pass, for dropout and for self-repair of nonlinearities; a network
                without dropout also runs without.
            self_repair: when false, only dropout has the generator, and :meth:`backward` gives the plain derivative.
            store_statistics: add this minibatch to the components' activation statistics.
            keep_trace: when false, what only the backward pass needs is freed at once.

        Outputs may share memory with the trace. Raises UserError for a missing input or one of another shape.
        """
        values = {name: self._input(name, inputs) for name in self.request.inputs if name in self._times}
        outputs: dict[str, Array] = {}
        trace = Trace()
        for step in self._steps:
            node = step.node
            if isinstance(node, ComponentNode):
                component = self.network.components[node.component]
                assert step.expression is not None
                assert step.layout is not None
                x = step.expression.evaluate(values)
                own = random if self_repair or isinstance(component, RandomComponent) else None
                values[node.name], memo = component.propagate(x, step.layout, phase, own)
                if store_statistics and component.fields_with_role(Role.STATISTIC):
                    component.accumulate_statistics(memo)
                if keep_trace:
                    trace.memos[node.name] = memo
                del x, memo
            elif isinstance(node, OutputNode):
                assert step.expression is not None
                outputs[node.name] = step.expression.evaluate(values)
            elif isinstance(node, DimRangeNode):
                columns = values[node.input_node][:, node.dim_offset : node.dim_offset + node.dim]
                values[node.name] = columns if columns.flags.c_contiguous else columns.copy()
            for name in step.last_uses:
                del values[name]
        return outputs, trace

    def _input(self, name: str, inputs: Mapping[str, Array]) -> Array:
        if name not in inputs:
            raise UserError(f"The network needs data for its input {name}, which were not given.")
        array = _rows(inputs[name])
        if array.shape != self._shapes[name]:
            raise UserError(
                f"The network's input node {name} expects {self._shapes[name][0]} rows of dimension "
                f"{self._shapes[name][1]}, found {' by '.join(map(str, array.shape))}."
            )
        given = self.request.inputs[name]
        if (np.diff(given) < 0).any():
            return RowSelection(np.argsort(given), len(given)).take(array)
        return array

    def backward(
        self,
        trace: Trace,
        derivatives: Mapping[str, Array],
        updates: Mapping[str, Update],
        want_input_derivs: bool = False,
    ) -> dict[str, Array]:
        """Propagate derivatives of an objective with respect to outputs back, adding to each component's update.

        Args:
            trace: of the forward pass; it goes back once.
            derivatives: by output name (times * sequences, dim); may be overwritten. Absent ones are zero.
            updates: by component name; components without one are not trained.
            want_input_derivs: whether to return derivatives with respect to the inputs, by name, in the order of the
                request's times; else nothing is returned.
        """
        if trace.used:
            raise ValueError("a trace goes back once: run forward again")
        trace.used = True
        needed = self._nodes_with_derivative(updates, want_input_derivs)
        known = _Derivatives(needed, self._shapes)
        shared = collected(self.network, updates)
        updates = {**updates, **shared}
        for step in reversed(self._steps):
            node = step.node
            if isinstance(node, OutputNode):
                if node.name in derivatives:
                    assert step.expression is not None
                    step.expression.spread(self._output_derivative(node.name, derivatives[node.name]), known)
            elif isinstance(node, ComponentNode):
                self._backward_component(step, node, trace, known, updates)
            elif isinstance(node, DimRangeNode):
                dy = known.pop(node.name)
                if dy is not None:
                    known.add_columns(node.input_node, node.dim_offset, dy)
        for update in shared.values():
            update.finish()
        return self._input_derivatives(known) if want_input_derivs else {}

    def _output_derivative(self, name: str, derivative: Array) -> Array:
        shape = (len(self.request.outputs[name]) * self.request.num_sequences, self._shapes[name][1])
        array = _rows(derivative)
        if array.shape != shape:
            raise ValueError(f"derivative of {name} has the shape {array.shape}, expected {shape}")
        return array

    def _backward_component(
        self, step: _Step, node: ComponentNode, trace: Trace, known: _Derivatives, updates: Mapping[str, Update]
    ) -> None:
        memo = trace.memos.pop(node.name)
        dy = known.pop(node.name)
        if dy is None:
            return
        assert step.expression is not None
        assert step.layout is not None
        component = self.network.components[node.component]
        want_dx = bool(step.expression.sources & known.needed)
        dx = component.backprop(memo, dy, step.layout, updates.get(node.component), want_dx)
        if dx is not None:
            step.expression.spread(dx, known)

    def _nodes_with_derivative(self, updates: Mapping[str, Update], of_inputs: bool) -> set[str]:
        """Nodes below which, or in which, something wants a derivative."""
        needed: set[str] = set()
        for step in self._steps:
            node = step.node
            trained = isinstance(node, ComponentNode) and node.component in updates
            asked_for = isinstance(node, InputNode) and of_inputs
            if trained or asked_for or _sources(step) & needed:
                needed.add(node.name)
        return needed

    def _input_derivatives(self, known: _Derivatives) -> dict[str, Array]:
        found = {}
        for name, given in self.request.inputs.items():
            derivative = known.pop(name) if name in self._times else None
            if derivative is None:
                shape = (len(given) * self.request.num_sequences, self.network.input_dim(name))
                derivative = np.zeros(shape, np.float32)
            elif (np.diff(given) < 0).any():
                derivative = RowSelection(np.argsort(np.argsort(given)), len(given)).take(derivative)
            found[name] = derivative
        return found


def _rows(array: Array) -> Array:
    """An array of NumPy's as contiguous float32; one of another library, on a device, is that already."""
    return np.ascontiguousarray(array, dtype=np.float32) if isinstance(array, np.ndarray) else array


class Forward(Protocol):
    """What computes outputs from inputs: a :class:`Computation`, or one on another device."""

    def forward(
        self, inputs: Mapping[str, Array], phase: Phase, *, random: Random = None, keep_trace: bool = True
    ) -> tuple[dict[str, Array], Any]:
        """See :meth:`Computation.forward`."""


class Computations(Protocol):
    """Where computations come from: a :class:`ComputationCache`, or one for another device."""

    def get(self, request: Request) -> Forward:
        """The computation of a request. Raises UserError as :class:`Computation` does."""


class ComputationCache:
    """Computations of one network, planned once per request; the most recently used ``capacity`` are kept."""

    def __init__(self, network: Network, capacity: int = 64) -> None:
        self.network = network
        self._capacity = capacity
        self._plans: dict[Request, Computation] = {}

    def get(self, request: Request) -> Computation:
        """The computation of a request. Raises UserError as :class:`Computation` does."""
        plan = self._plans.pop(request, None) or Computation(self.network, request)
        self._plans[request] = plan
        if len(self._plans) > self._capacity:
            del self._plans[next(iter(self._plans))]
        return plan


def _require_names(network: Network, request: Request) -> None:
    for name in request.inputs:
        if not network.has_input(name):
            names = ", ".join(node.name for node in network.input_nodes())
            raise UserError(f"The data have an input {name}, but the network has none of that name (only {names}).")
    for name in request.outputs:
        if not network.has_output(name):
            names = ", ".join(node.name for node in network.output_nodes())
            raise UserError(f"The data have an output {name}, but the network has none of that name (only {names}).")


def _sources(step: _Step) -> set[str]:
    if isinstance(step.node, DimRangeNode):
        return {step.node.input_node}
    return step.expression.sources if step.expression is not None else set()
