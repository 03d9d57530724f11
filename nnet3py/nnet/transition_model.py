"""Kaldi's transition model: what connects transition ids, as alignments have them, with the pdfs of the network.

It holds a topology (for each phone its states and transitions), the list of tuples (phone, state, pdf on the way
forward, pdf on the self-loop), and the log-probability of every transition. Transition ids count from 1, tuple by
tuple, and within a tuple in the order of the state's transitions.

Source: Kaldi src/hmm/transition-model.cc and hmm-topology.cc.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.nnet.component import Array
from nnet3py.nnet.tree import MOST_PDFS
from nnet3py.tables.basic_types import (
    expect_token,
    peek_token,
    read_float,
    read_header,
    read_int,
    read_token,
    write_float,
    write_int,
    write_token,
)
from nnet3py.tables.matrix import read_int_vector, read_vector, write_int_vector, write_vector
from nnet3py.tables.streams import Sink, Source, open_input
from nnet3py.text.expectation import Expected

NO_PDF = -1
_MARKED_INT = np.dtype([("size", "i1"), ("value", "<i4")])
EXPECTED = Expected(
    "a model that begins with transitions (a .mdl)",
    frozenset({"transition model"}),
    usual_names=("final.mdl",),
    advice={
        "network": "nnet-am-init makes an acoustic model of it and of transitions",
        "HDF5": "an acoustic model is in Kaldi's own form; nnet-am-init makes one of a network and of transitions",
        "tree": "the model is in final.mdl beside it, as a rule",
        "topology": "nnet-am-init makes a model of a tree, a topology and a network",
    },
)
"""What a reader of acoustic models and of transitions tells of other files."""

_TOPOLOGY = Expected("a topology", frozenset({"topology"}), usual_names=("topo",))
_LARGEST_PHONE = 1_000_000
_MOST_TRANSITIONS = 50_000_000


@dataclass
class State:
    """One state of a phone's topology: its pdf classes (-1 for none) and (destination, probability) of transitions."""

    forward_pdf_class: int = NO_PDF
    self_loop_pdf_class: int = NO_PDF
    transitions: list[tuple[int, float]] = field(default_factory=list)


@dataclass
class Topology:
    """``entries`` are lists of states; ``entry_of_phone[phone]`` says which one a phone has (-1: none)."""

    phones: list[int]
    entry_of_phone: list[int]
    entries: list[list[State]]

    def is_hmm(self) -> bool:
        """Whether all states have one pdf class for both ways (not so in "chain" models)."""
        return all(state.forward_pdf_class == state.self_loop_pdf_class for entry in self.entries for state in entry)

    def states(self, phone: int) -> list[State]:
        """The states of a phone. Raises UserError for a phone that the topology lacks."""
        if not 0 <= phone < len(self.entry_of_phone) or self.entry_of_phone[phone] < 0:
            raise UserError(f"The topology of the transition model has no phone {phone}.")
        return self.entries[self.entry_of_phone[phone]]

    def check(self) -> None:
        """Raise UserError for what Kaldi would refuse: see ``HmmTopology::Check``."""
        if not self.entries or not self.phones:
            raise UserError("The topology is empty: expected phones and entries.")
        if self.phones != sorted(set(self.phones)) or self.phones[0] <= 0:
            raise UserError("The phones of the topology are not distinct positive numbers in order.")
        used = set()
        for phone in self.phones:
            if phone >= len(self.entry_of_phone) or not 0 <= self.entry_of_phone[phone] < len(self.entries):
                raise UserError(f"Phone {phone} of the topology has no entry.")
            used.add(self.entry_of_phone[phone])
        for number, entry in enumerate(self.entries):
            if number not in used:
                raise UserError(f"Entry {number} of the topology belongs to no phone.")
            _check_entry(number, entry)


def _check_entry(number: int, entry: list[State]) -> None:
    where = f"Entry {number} of the topology"
    if len(entry) < 2:
        raise UserError(f"{where} has {len(entry)} states: expected at least one with a pdf, and the final one.")
    if entry[-1].transitions or entry[-1].forward_pdf_class != NO_PDF:
        raise UserError(f"{where}: its last state must have neither a pdf nor transitions.")
    for index, state in enumerate(entry[:-1]):
        targets = [target for target, _ in state.transitions]
        if not targets or len(set(targets)) != len(targets) or not all(0 <= t < len(entry) for t in targets):
            raise UserError(f"{where}, state {index}: expected transitions to different states, found {targets}.")
        probabilities = [probability for _, probability in state.transitions]
        if not all(0.0 < probability < math.inf for probability in probabilities):
            raise UserError(f"{where}, state {index}: expected probabilities above 0, found {min(probabilities):g}.")
        if abs(sum(probabilities) - 1.0) > 0.01:
            log.warning(f"{where}, state {index}: the probabilities of its transitions sum to {sum(probabilities):g}.")
        if index in targets and state.self_loop_pdf_class == NO_PDF:
            raise UserError(f"{where}, state {index}: it has a self-loop but no pdf.")
        if len(entry) - 1 in targets and state.forward_pdf_class == NO_PDF:
            raise UserError(f"{where}, state {index}: a state before the end of the phone must have a pdf.")
    reached = {target for state in entry for target, _ in state.transitions}
    if unreached := sorted(set(range(1, len(entry))) - reached):
        raise UserError(f"{where}: no transition goes to state {unreached[0]}.")
    emitting = [state for state in entry if state.forward_pdf_class != NO_PDF]
    classes = sorted({pdf_class for s in emitting for pdf_class in (s.forward_pdf_class, s.self_loop_pdf_class)})
    if classes != list(range(len(classes))):
        raise UserError(f"{where}: expected pdf classes that count from 0 without gaps, found {classes}.")


@dataclass
class TransitionModel:
    """The topology, tuples (n, 4) int32 of phone, state, forward pdf and self-loop pdf, and log-probabilities.

    ``log_probs[i]`` belongs to transition id i; element 0 is unused.
    """

    topology: Topology
    tuples: Array
    log_probs: Array
    pdf_of_transition: Array = field(init=False, repr=False)
    phone_of_transition: Array = field(init=False, repr=False)
    num_pdfs: int = field(init=False)

    def __post_init__(self) -> None:
        """Derive the map from transition ids. Raises UserError if the parts do not fit together."""
        self._check_tuples()
        pdfs, phones = [-1], [-1]
        for phone, state, forward, self_loop in self.tuples.tolist():
            for target, _ in self.topology.states(phone)[state].transitions:
                pdfs.append(self_loop if target == state else forward)
                phones.append(phone)
        self.pdf_of_transition = np.array(pdfs, np.int32)
        self.phone_of_transition = np.array(phones, np.int32)
        self.num_pdfs = int(self.tuples[:, 2:].max()) + 1 if len(self.tuples) else 0
        if not self.num_transition_ids:
            raise UserError("The transition model has no transitions.")
        if self.log_probs.shape != (len(pdfs),):
            raise UserError(
                f"The transition model has {len(self.log_probs)} log-probabilities, expected {len(pdfs)}: one for each "
                f"of its transitions, and one unused."
            )
        if not (np.isfinite(self.log_probs[1:]).all() and (self.log_probs[1:] <= 0).all()):
            raise UserError("A log-probability of the transition model is above zero or not finite.")

    def _check_tuples(self) -> None:
        rows = self.tuples.tolist()
        if rows != sorted(rows) or any(row == following for row, following in pairwise(rows)):
            raise UserError("The tuples of the transition model are not distinct and in order.")
        total = 0
        for phone, state, forward, self_loop in rows:
            states = self.topology.states(phone)
            if not 0 <= state < len(states) - 1:
                raise UserError(f"A tuple of the transition model has state {state} of phone {phone}, which has none.")
            if forward < 0 or self_loop < 0:
                raise UserError(f"A tuple of the transition model has a pdf below zero, for phone {phone}.")
            if max(forward, self_loop) >= MOST_PDFS:
                raise UserError(f"A tuple of the transition model has a pdf above {MOST_PDFS}, for phone {phone}.")
            total += len(states[state].transitions)
        if total > _MOST_TRANSITIONS:
            raise UserError(f"The transition model has {total} transitions, more than {_MOST_TRANSITIONS}.")

    @property
    def num_transition_ids(self) -> int:
        """Transition ids are 1 to this."""
        return len(self.pdf_of_transition) - 1

    def pdfs(self, transition_ids: Array) -> Array:
        """Pdf ids (int32) of an alignment of transition ids. Raises UserError for one out of range."""
        found: Array = self.pdf_of_transition[self.known(transition_ids)]
        return found

    def first_break(self, transition_ids: Array) -> int | None:
        """Where a sequence of known transition ids stops being a path through the HMMs; None if it is one all along.

        Self-loops may come before or after the transition that leaves their state, as Kaldi has them; a path may begin
        and end anywhere, and repeat a transition (a lower frame rate that was turned into a higher one). An alignment
        of another model, whose ids mean other states here, breaks soon.

        Returns:
            The place of the first transition that cannot follow the one before it.
        """
        ids = np.asarray(transition_ids, np.int64)
        broken = np.flatnonzero(~self.may_follow(ids[:-1], ids[1:]))
        return int(broken[0]) + 1 if len(broken) else None

    def may_follow(self, before: Array, after: Array) -> Array:
        """Whether each of ``after`` may come next after its fellow in ``before``, known transition ids both; (n,) bool.

        See :meth:`first_break`.
        """
        state_of, following = self._paths
        one, other, rows = state_of[before], state_of[after], self.tuples
        inside = (rows[one, 0] == rows[other, 0]) & following[one, rows[other, 1]]
        across = following[one, -1] & self._entries[other]
        found: Array = (one == other) | inside | across
        return found

    @cached_property
    def _paths(self) -> tuple[Array, Array]:
        """The row of ``tuples`` of each transition id; of each row, the states that may follow, last: another phone."""
        state_of = [0]
        widest = max(len(self.topology.states(phone)) for phone in self.topology.phones)
        following = np.zeros((len(self.tuples), widest), bool)
        for row, (phone, number, _, _) in enumerate(self.tuples.tolist()):
            states = self.topology.states(phone)
            state_of += [row] * len(states[number].transitions)
            for target in _emitting(states, [target for target, _ in states[number].transitions]):
                following[row, -1 if target == len(states) - 1 else target] = True
        return np.array(state_of), following

    @cached_property
    def _entries(self) -> Array:
        """Whether the state of each row of ``tuples`` is one that its phone may begin with."""
        first = {phone: _emitting(self.topology.states(phone), [0]) for phone in self.topology.phones}
        return np.array([state in first[phone] for phone, state, _, _ in self.tuples.tolist()])

    def known(self, transition_ids: Array) -> Array:
        """The same transition ids. Raises UserError if one is out of range."""
        ids = np.asarray(transition_ids)
        if ids.size and (ids.min() < 1 or ids.max() > self.num_transition_ids):
            bad = int(ids.min()) if ids.min() < 1 else int(ids.max())
            raise UserError(
                f"transition id {bad} is not in the transition model, which has 1 to {self.num_transition_ids} "
                f"(is the alignment from another model, or are these pdf ids already?)"
            )
        return ids


def _emitting(states: list[State], reached: list[int]) -> set[int]:
    """The states with a pdf, or the end, that are reached by way of states without one."""
    found, left = set[int](), list(reached)
    while left:
        number = left.pop()
        if number in found:
            continue
        found.add(number)
        if number < len(states) - 1 and states[number].forward_pdf_class == NO_PDF:
            left += [target for target, _ in states[number].transitions]
    return {n for n in found if n == len(states) - 1 or states[n].forward_pdf_class != NO_PDF}


def read_transition_model(rxfilename: str) -> TransitionModel:
    """The transition model at the start of a file: alone, or of an acoustic model (GMM or network) that follows.

    Raises:
        UserError: the file cannot be read or does not start with a transition model.
    """
    with open_input(rxfilename, EXPECTED) as source:
        return read_transition_model_from(source, read_header(source))


def read_transition_model_from(source: Source, binary: bool) -> TransitionModel:
    """The transition model at the start of a stream that may go on after it. Raises UserError."""
    expect_token(source, binary, "<TransitionModel>")
    try:
        topology = _read_topology(source, binary)
        tuples = _read_tuples(source, binary)
        expect_token(source, binary, "<LogProbs>")
        log_probs = read_vector(source, binary).astype(np.float32, copy=False)
        expect_token(source, binary, "</LogProbs>")
        expect_token(source, binary, "</TransitionModel>")
        return TransitionModel(topology, tuples, log_probs)
    except UserError as problem:
        if str(problem).startswith(source.name):
            raise
        raise source.error(str(problem)) from problem


def read_topology(rxfilename: str) -> Topology:
    """The topology in a file of its own, a language directory's ``topo``.

    Raises:
        UserError: the file cannot be read or is not a topology.
    """
    with open_input(rxfilename, _TOPOLOGY) as source:
        return _read_topology(source, read_header(source))


def _read_topology(source: Source, binary: bool) -> Topology:
    expect_token(source, binary, "<Topology>")
    topology = _read_binary_topology(source) if binary else _read_text_topology(source)
    topology.check()
    return topology


def _read_binary_topology(source: Source) -> Topology:
    phones = read_int_vector(source, True).tolist()
    entry_of_phone = read_int_vector(source, True).tolist()
    count = read_int(source, True)
    is_hmm = count != -1  # models with two pdf classes a state mark themselves so
    if not is_hmm:
        count = read_int(source, True)
    entries = []
    for _ in range(count):
        entry = []
        for _ in range(read_int(source, True)):
            forward = read_int(source, True)
            state = State(forward, forward if is_hmm else read_int(source, True))
            for _ in range(read_int(source, True)):
                state.transitions.append((read_int(source, True), read_float(source, True)))
            entry.append(state)
        entries.append(entry)
    expect_token(source, True, "</Topology>")
    return Topology(phones, entry_of_phone, entries)


def _read_text_topology(source: Source) -> Topology:
    entries: list[list[State]] = []
    entry_of: dict[int, int] = {}
    while (token := _one_of(source, "<TopologyEntry>", "</Topology>")) == "<TopologyEntry>":
        expect_token(source, False, "<ForPhones>")
        while peek_token(source, False) != "</ForPhones>":
            place = source.tell()
            phone = read_int(source, False)
            if phone in entry_of or not 0 < phone <= _LARGEST_PHONE:
                raise source.error(f"expected a phone above zero that no other entry has, found {phone}.", place)
            entry_of[phone] = len(entries)
        expect_token(source, False, "</ForPhones>")
        entries.append(_read_text_states(source))
    assert token == "</Topology>"
    entry_of_phone = [entry_of.get(phone, -1) for phone in range(max(entry_of, default=-1) + 1)]
    return Topology(sorted(entry_of), entry_of_phone, entries)


def _read_text_states(source: Source) -> list[State]:
    states: list[State] = []
    while _one_of(source, "<State>", "</TopologyEntry>") == "<State>":
        place = source.tell()
        number = read_int(source, False)
        if number != len(states):
            raise source.error(f"expected state {len(states)}, found state {number}.", place)
        state = State()
        token = _one_of(source, "<PdfClass>", "<ForwardPdfClass>", "<Transition>", "</State>")
        if token == "<PdfClass>":
            state.forward_pdf_class = state.self_loop_pdf_class = read_int(source, False)
        elif token == "<ForwardPdfClass>":
            state.forward_pdf_class = read_int(source, False)
            expect_token(source, False, "<SelfLoopPdfClass>")
            state.self_loop_pdf_class = read_int(source, False)
        if token.endswith("PdfClass>"):
            token = _one_of(source, "<Transition>", "</State>")
        while token == "<Transition>":
            state.transitions.append((read_int(source, False), read_float(source, False)))
            token = _one_of(source, "<Transition>", "</State>")
        states.append(state)
    return states


def _one_of(source: Source, *tokens: str) -> str:
    place = source.tell()
    found = read_token(source, False)
    if found not in tokens:
        raise source.error(f"expected {' or '.join(tokens)}, found {found[:60]!r}.", place)
    return found


def _read_tuples(source: Source, binary: bool) -> Array:
    """(n, 4) int32; ``<Triples>`` have one pdf for both ways."""
    place = source.tell()
    token = read_token(source, binary)
    if token not in ("<Tuples>", "<Triples>"):
        raise source.error(f"expected <Tuples> or <Triples>, found {token[:60]!r}.", place)
    width = 4 if token == "<Tuples>" else 3
    place = source.tell()
    count = read_int(source, binary)
    if count < 0:
        raise source.error(f"expected the number of tuples, found {count}.", place)
    if binary:
        marked = source.read_array(_MARKED_INT, count * width)
        if (marked["size"] != 4).any():
            raise source.error(f"expected {count} tuples of integers of 4 bytes.", place)
        values = marked["value"].reshape(count, width)
    else:
        values = np.array([[read_int(source, False) for _ in range(width)] for _ in range(count)], np.int32).reshape(
            count, width
        )
    place = source.tell()
    token = read_token(source, binary)
    if token not in ("</Tuples>", "</Triples>"):
        raise source.error(f"expected </Tuples> or </Triples>, found {token[:60]!r}.", place)
    return np.ascontiguousarray(values[:, [0, 1, 2, 2]] if width == 3 else values, np.int32)


def write_transition_model_to(sink: Sink, model: TransitionModel, binary: bool) -> None:
    """Write in Kaldi's form, from ``<TransitionModel>`` to ``</TransitionModel>``."""

    def token(word: str, ends_line: bool = True) -> None:
        write_token(sink, binary, word)
        if ends_line and not binary:
            sink.write(b"\n")

    is_hmm = model.topology.is_hmm()
    token("<TransitionModel>")
    if binary:
        _write_binary_topology(sink, model.topology, is_hmm)
    else:
        _write_text_topology(sink, model.topology, is_hmm)
    name = "Triples" if is_hmm else "Tuples"
    token(f"<{name}>", ends_line=False)
    write_int(sink, binary, len(model.tuples))
    _write_tuples(sink, model.tuples[:, : 3 if is_hmm else 4], binary)
    token(f"</{name}>")
    token("<LogProbs>")
    write_vector(sink, model.log_probs, binary)
    token("</LogProbs>")
    token("</TransitionModel>")


def _write_tuples(sink: Sink, values: Array, binary: bool) -> None:
    if binary:
        marked = np.empty(values.shape, _MARKED_INT)
        marked["size"] = 4
        marked["value"] = values
        sink.write(marked.tobytes())
    else:
        sink.write(("\n" + "".join(" ".join(map(str, row)) + " \n" for row in values.tolist())).encode())


def _write_binary_topology(sink: Sink, topology: Topology, is_hmm: bool) -> None:
    write_token(sink, True, "<Topology>")
    write_int_vector(sink, topology.phones, True)
    write_int_vector(sink, topology.entry_of_phone, True)
    if not is_hmm:
        write_int(sink, True, -1)
    write_int(sink, True, len(topology.entries))
    for entry in topology.entries:
        write_int(sink, True, len(entry))
        for state in entry:
            write_int(sink, True, state.forward_pdf_class)
            if not is_hmm:
                write_int(sink, True, state.self_loop_pdf_class)
            write_int(sink, True, len(state.transitions))
            for target, probability in state.transitions:
                write_int(sink, True, target)
                write_float(sink, True, probability)
    write_token(sink, True, "</Topology>")


def _write_text_topology(sink: Sink, topology: Topology, is_hmm: bool) -> None:
    sink.write(b"<Topology> \n")
    for number, entry in enumerate(topology.entries):
        phones = [phone for phone, owner in enumerate(topology.entry_of_phone) if owner == number]
        sink.write(b"<TopologyEntry> \n<ForPhones> \n")
        sink.write(("".join(f"{phone} " for phone in phones) + "\n</ForPhones> \n").encode())
        for index, state in enumerate(entry):
            _write_text_state(sink, index, state, is_hmm)
        sink.write(b"</TopologyEntry> \n")
    sink.write(b"</Topology> \n")


def _write_text_state(sink: Sink, index: int, state: State, is_hmm: bool) -> None:
    sink.write(f"<State> {index} ".encode())
    if state.forward_pdf_class != NO_PDF:
        if is_hmm:
            sink.write(f"<PdfClass> {state.forward_pdf_class} ".encode())
        else:
            sink.write(f"<ForwardPdfClass> {state.forward_pdf_class} ".encode())
            sink.write(f"<SelfLoopPdfClass> {state.self_loop_pdf_class} ".encode())
    for target, probability in state.transitions:
        sink.write(f"<Transition> {target} ".encode())
        write_float(sink, False, probability)
    sink.write(b"</State> \n")
