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

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from nnet3py.errors import UserError
from nnet3py.nnet.component import Array, Component, Layout, Phase, Random, Role, Update
from nnet3py.nnet.descriptor import Descriptor, Offset, ReplaceIndex, Term
from nnet3py.nnet.dropout import RandomComponent
from nnet3py.nnet.network import ComponentNode, DimRangeNode, InputNode, Network, Node, OutputNode, dependencies
from nnet3py.nnet.rows import RowSelection
from nnet3py.nnet.shared_component import collected


class Request:
    """Times at which inputs are given and outputs are wanted, for ``num_sequences`` sequences alike.

    Times are distinct whole numbers; rows of the arrays are in their order (time by time, the sequences within).
    Requests are equal, and hash alike, if they ask for the same.
    """

    def __init__(
        self,
        inputs: Mapping[str, Sequence[int] | Array],
        outputs: Mapping[str, Sequence[int] | Array],
        num_sequences: int = 1,
    ) -> None:
        self.inputs = {name: np.asarray(times, dtype=np.int64) for name, times in inputs.items()}
        self.outputs = {name: np.asarray(times, dtype=np.int64) for name, times in outputs.items()}
        self.num_sequences = int(num_sequences)
        for name, times in [*self.inputs.items(), *self.outputs.items()]:
            if times.ndim != 1 or len(times) == 0 or len(np.unique(times)) != len(times):
                raise UserError(f"Expected distinct times of {name}, at least one; found {_spell(times.ravel())}.")
        self._key = (
            tuple((name, times.tobytes()) for name, times in sorted(self.inputs.items())),
            tuple((name, times.tobytes()) for name, times in sorted(self.outputs.items())),
            self.num_sequences,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Request) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def _spell(times: Array) -> str:
    """Times in few words, for messages."""
    if len(times) > 2 and (np.diff(times) == 1).all():
        return f"{times[0]} to {times[-1]}"
    words = [str(time) for time in times[:8]]
    return ", ".join(words) + (", ..." if len(times) > 8 else "") if words else "none"


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
        order = _topological(network, list(request.outputs))
        wanted = _wanted_times(network, order, request.outputs)
        possible = _possible_times(network, order, wanted, request.inputs)
        _require_outputs(network, request, wanted, possible)
        self._times = _needed_times(network, order, request, possible)
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
            input_times = _input_times(component, times)
            layout = Layout(input_times.tolist(), times.tolist(), self.request.num_sequences)
            return _Step(node, self._compile(node.input, input_times, possible), layout)
        return _Step(node)

    def _compile(self, descriptor: Descriptor, times: Array, possible: Mapping[str, Array]) -> _Expression:
        positions = np.arange(len(times))
        parts: list[_Part] = []
        first = 0
        for piece in descriptor.parts():
            _, terms = piece.resolve(times, positions, _is_in(possible))
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


def required_input_times(network: Network, output: str, times: Iterable[int] | Array) -> dict[str, Array]:
    """By input, the times (ascending) that an output at ``times`` reads, if every input is there at all times."""
    outputs = {output: np.unique(np.asarray(list(times), dtype=np.int64))}
    order = _topological(network, [output])
    wanted = _wanted_times(network, order, outputs)
    given = {node.name: wanted[node.name] for node in order if isinstance(node, InputNode) and node.name in wanted}
    possible = _possible_times(network, order, wanted, given)
    needed = _needed_times(network, order, Request({}, outputs, 1), possible)
    return {name: needed[name] for name in given if name in needed}


_WINDOWS = (40, 80, 160, 320, 640)


def network_context(network: Network) -> tuple[int, int]:
    """Frames of ``input`` before and after an output frame that it needs, the most over all shifts of the time.

    Worked out as Kaldi does it, from the frames at either end of a window that cannot be computed, so that what is
    optional (``IfDefined``) is not counted. Raises UserError if that is 640 frames or more.
    """
    modulus = network.modulus()
    for window in _WINDOWS:
        found = [_context_in_window(network, start, window) for start in range(modulus)]
        if all(found):
            contexts = [context for context in found if context is not None]
            return max(left for left, _ in contexts), max(right for _, right in contexts)
    raise UserError(f"No frame of the network's output can be computed from {_WINDOWS[-1]} frames of input.")


def _context_in_window(network: Network, start: int, window: int) -> tuple[int, int] | None:
    times = np.arange(start, start + window)
    order = _topological(network, ["output"])
    wanted = _wanted_times(network, order, {"output": times})
    given = {"input": times}
    for node in network.input_nodes():
        if node.name != "input":
            given[node.name] = np.arange(start - network.modulus(), start + window)
    possible = _possible_times(network, order, wanted, given)["output"]
    if len(possible) == 0:
        return None
    gaps = np.flatnonzero(np.diff(possible) != 1)
    last = possible[gaps[0]] if len(gaps) else possible[-1]
    return int(possible[0] - start), int(start + window - 1 - last)


def _require_names(network: Network, request: Request) -> None:
    for name in request.inputs:
        if not network.has_input(name):
            names = ", ".join(node.name for node in network.input_nodes())
            raise UserError(f"The data have an input {name}, but the network has none of that name (only {names}).")
    for name in request.outputs:
        if not network.has_output(name):
            names = ", ".join(node.name for node in network.output_nodes())
            raise UserError(f"The data have an output {name}, but the network has none of that name (only {names}).")


def _topological(network: Network, outputs: list[str]) -> list[Node]:
    """The nodes that the outputs depend on, each after those it reads. Raises UserError for a recurrent network."""
    nodes = {node.name: node for node in network.nodes}
    order: list[Node] = []
    state: dict[str, str] = {}
    stack: list[tuple[str, bool]] = [(name, False) for name in reversed(outputs)]
    while stack:
        name, done = stack.pop()
        if done:
            state[name] = "done"
            order.append(nodes[name])
        elif name not in state:
            state[name] = "open"
            stack.append((name, True))
            for source in reversed(list(dependencies(nodes[name]))):
                if state.get(source) == "open":
                    raise UserError(f"The network is recurrent, which is not supported: a cycle runs through {source}.")
                stack.append((source, False))
    return order


def _input_times(component: Component, times: Array) -> Array:
    if type(component).input_times is Component.input_times:
        return times
    return np.asarray(component.input_times(times.tolist()), dtype=np.int64)


def _wanted_times(network: Network, order: list[Node], outputs: Mapping[str, Array]) -> dict[str, Array]:
    """By node, the times (ascending) that it may be read at, optional uses included."""
    collected: dict[str, list[Array]] = {name: [times] for name, times in outputs.items()}
    wanted: dict[str, Array] = {}
    for node in reversed(order):
        if node.name not in collected:
            continue
        times = wanted[node.name] = np.unique(np.concatenate(collected[node.name]))
        if isinstance(node, DimRangeNode):
            collected.setdefault(node.input_node, []).append(times)
        elif isinstance(node, (ComponentNode, OutputNode)):
            _require_no_x(node)
            if isinstance(node, ComponentNode):
                times = _input_times(network.components[node.component], times)
            for source, source_times in node.input.dependencies(times):
                collected.setdefault(source, []).append(source_times)
    return wanted


def _require_no_x(node: ComponentNode | OutputNode) -> None:
    waiting = [node.input]
    while waiting:
        descriptor = waiting.pop()
        replaces_x = isinstance(descriptor, ReplaceIndex) and descriptor.variable != "t"
        if replaces_x or (isinstance(descriptor, Offset) and descriptor.x):
            raise UserError(f"Node {node.name}: {descriptor} uses the index x, which nnet3py does not support.")
        waiting.extend(descriptor.children())


def _is_in(possible: Mapping[str, Array]) -> Any:
    nothing = np.zeros(0, np.int64)
    return lambda node, times: _among(times, possible.get(node, nothing))


def _among(times: Array, ascending: Array) -> Array:
    """Which of ``times`` are in ``ascending`` (bool); several times as fast as numpy.isin on a few hundred."""
    if len(ascending) == 0:
        return np.zeros(len(times), bool)
    nearest = np.searchsorted(ascending, times)
    found: Array = ascending[np.minimum(nearest, len(ascending) - 1)] == times
    return found


def _possible_times(
    network: Network, order: list[Node], wanted: Mapping[str, Array], inputs: Mapping[str, Array]
) -> dict[str, Array]:
    """By node, which of its wanted times it can be computed at, given the inputs' times."""
    possible: dict[str, Array] = {}
    for node in order:
        times = wanted.get(node.name)
        if times is None:
            continue
        if isinstance(node, InputNode):
            mask = _among(times, np.sort(inputs.get(node.name, np.zeros(0, np.int64))))
        elif isinstance(node, DimRangeNode):
            mask = _among(times, possible[node.input_node])
        else:
            mask = _computable(network, node, times, possible)
        possible[node.name] = times[mask]
    return possible


def _computable(
    network: Network, node: ComponentNode | OutputNode, times: Array, possible: Mapping[str, Array]
) -> Array:
    """Which of ``times`` a node's value can be computed at."""
    component = network.components[node.component] if isinstance(node, ComponentNode) else None
    own_times = component is not None and type(component).input_times is not Component.input_times
    inner = _input_times(component, times) if component is not None else times
    mask = np.ones(len(inner), bool)
    for piece in node.input.parts():
        mask &= piece.resolve(inner, np.arange(len(inner)), _is_in(possible))[0]
    if component is None or not own_times:
        return mask
    available = set(inner[mask].tolist())
    return np.array([available.issuperset(component.input_times([time])) for time in times.tolist()], dtype=bool)


def _require_outputs(
    network: Network, request: Request, wanted: Mapping[str, Array], possible: Mapping[str, Array]
) -> None:
    for name, times in request.outputs.items():
        missing = times[~np.isin(times, possible[name])]
        if len(missing) == 0:
            continue
        for node in network.input_nodes():
            if node.name not in request.inputs and len(wanted.get(node.name, ())):
                raise UserError(
                    f"Output {name} cannot be computed: the network needs the input '{node.name}', of dimension "
                    f"{node.dim}, and what is given has only {', '.join(request.inputs)}. Are they of this network?"
                )
        for source, given in request.inputs.items():
            lacking = wanted.get(source, given)
            lacking = lacking[~np.isin(lacking, given)]
            if len(lacking):
                raise UserError(
                    f"Output {name} at time {_spell(missing)} cannot be computed: input {source} is given at times "
                    f"{_spell(given)}, and {_spell(lacking)} are missing. Give more context."
                )
        raise UserError(f"Output {name} at time {_spell(missing)} cannot be computed from {', '.join(request.inputs)}.")


def _needed_times(
    network: Network, order: list[Node], request: Request, possible: Mapping[str, Array]
) -> dict[str, Array]:
    """By node, the times (ascending) that are computed; inputs have all the times they are given at."""
    collected: dict[str, list[Array]] = {name: [times] for name, times in request.outputs.items()}
    needed: dict[str, Array] = {}
    for node in reversed(order):
        if node.name not in collected:
            continue
        times = np.unique(np.concatenate(collected[node.name]))
        if isinstance(node, InputNode) and node.name in request.inputs:
            times = np.sort(request.inputs[node.name])
        if len(times) == 0:
            continue
        needed[node.name] = times
        if isinstance(node, DimRangeNode):
            collected.setdefault(node.input_node, []).append(times)
        elif isinstance(node, (ComponentNode, OutputNode)):
            if isinstance(node, ComponentNode):
                times = _input_times(network.components[node.component], times)
            for piece in node.input.parts():
                for term in piece.resolve(times, np.arange(len(times)), _is_in(possible))[1]:
                    collected.setdefault(term.node, []).append(term.times)
    for node in order:
        if isinstance(node, DimRangeNode) and node.name in needed:
            needed[node.name] = needed[node.input_node]  # columns of all its rows: there is nothing to compute
    return needed


def _sources(step: _Step) -> set[str]:
    if isinstance(step.node, DimRangeNode):
        return {step.node.input_node}
    return step.expression.sources if step.expression is not None else set()
