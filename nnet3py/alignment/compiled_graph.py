"""Training graphs as Kaldi's tables hold them: of a transcript and a lexicon transducer, all the ways to say it.

The lexicon L (phones to words) is composed with the transcript, which leaves an acyclic graph of phones; each of its
arcs is then replaced by the states of that phone's HMM, for models whose states do not depend on neighbouring phones.
A state of the result stands for a transition just taken: the one that leaves an HMM state is taken on its first frame,
the self-loop afterwards, in the order that Kaldi calls "reordered". Arcs have transition-ids as input labels and words
as output labels, and the costs of the lexicon; those of the transitions are usually left to whoever aligns, since they
change with the model.

Source: Kaldi src/decoder/training-graph-compiler.cc; src/hmm/hmm-utils.cc, ``AddSelfLoops``. There the graph is also
determinised and minimised, which makes it smaller; where two ways to say a transcript have the same phones, their
probabilities are added up there, and the more probable one counts here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.nnet.transition_model import TransitionModel
from nnet3py.tables.holders import INT_VECTOR
from nnet3py.tables.table import SequentialReader, TableWriter
from nnet3py.tables.transducer import EPSILON, NO_STATE, TRANSDUCER, Transducer
from nnet3py.text.lines import fields, read_lines

Phones = list[tuple[int, int, int, int, float]]
"""Arcs of a graph of phones: source, target, phone, word, cost."""


@dataclass(frozen=True)
class _Transition:
    """One transition of an HMM state; ``target`` is a state of the phone, or ``None`` past its end."""

    transition_id: int
    target: int | None


@dataclass(frozen=True)
class _HmmState:
    """The transition-id of its self-loop, 0 if it has none, and the transitions that leave it."""

    self_loop: int
    leaving: list[_Transition]


class GraphCompiler:
    """A lexicon and a model, ready to compile transcripts. ``words``: the numbers that the lexicon has."""

    def __init__(
        self,
        lexicon: Transducer,
        model: TransitionModel,
        *,
        disambiguation: Collection[int] = (),
        transition_costs: NDArray[np.float64] | None = None,
    ) -> None:
        """
        Args:
            lexicon: phones to words.
            disambiguation: input labels of the lexicon that are no phones (#0, #1, ...), passed over as if empty.
            transition_costs: (transition-ids + 1,), added to the arcs; ``None`` adds nothing.

        Raises:
            UserError: a phone of the lexicon is not in the model, or its states depend on neighbouring phones.
        """
        self._lexicon = lexicon
        self._model = model
        self._costs = transition_costs
        silent = {EPSILON, *disambiguation}
        self._phones = [EPSILON if label in silent else label for label in lexicon.ilabels.tolist()]
        self._hmms = _hmms(model, sorted(set(self._phones) - {EPSILON}))
        self.words = frozenset(lexicon.olabels.tolist())
        self._arcs_of: dict[tuple[int, int], list[int]] = {}
        for arc, (source, word) in enumerate(zip(lexicon.sources.tolist(), lexicon.olabels.tolist(), strict=True)):
            self._arcs_of.setdefault((source, word), []).append(arc)

    def compile(self, words: Sequence[int]) -> Transducer | None:
        """The graph of a transcript, or None if the lexicon cannot say it.

        Raises:
            UserError: the lexicon says some word without a phone and goes on in circles.
        """
        arcs, finals = self._compose(words)
        arcs, finals = _without_silent_arcs(arcs, finals)
        arcs, finals = _connected(arcs, finals)
        return self._expand(arcs, finals) if arcs else None

    def _compose(self, words: Sequence[int]) -> tuple[Phones, dict[int, float]]:
        """The part of the lexicon that says the words: arcs, and costs of ending by state; 0 is the state to start."""
        lexicon = self._lexicon
        if lexicon.start == NO_STATE:
            return [], {}
        number: dict[tuple[int, int], int] = {(lexicon.start, 0): 0}
        waiting = [(lexicon.start, 0)]
        arcs: Phones = []
        finals: dict[int, float] = {}
        while waiting:
            place = waiting.pop()
            state, said = place
            if said == len(words) and np.isfinite(lexicon.finals[state]):
                finals[number[place]] = float(lexicon.finals[state])
            following = [(arc, said) for arc in self._arcs_of.get((state, EPSILON), [])]
            if said < len(words):
                following += [(arc, said + 1) for arc in self._arcs_of.get((state, int(words[said])), [])]
            for arc, then_said in following:
                target = (int(lexicon.targets[arc]), then_said)
                if target not in number:
                    number[target] = len(number)
                    waiting.append(target)
                cost, word = float(lexicon.weights[arc]), int(lexicon.olabels[arc])
                arcs.append((number[place], number[target], self._phones[arc], word, cost))
        return arcs, finals

    def _expand(self, arcs: Phones, finals: dict[int, float]) -> Transducer:
        """Every arc of phones replaced by its HMM; ``arcs`` are connected and have a phone each."""
        leaving: dict[int, list[int]] = {}
        for index, (source, *_) in enumerate(arcs):
            leaving.setdefault(source, []).append(index)
        # A state of the result is a transition taken on the way through one arc: (arc, transition-id).
        number: dict[tuple[int, int], int] = {}
        out: list[tuple[int, int, int, int, float]] = []
        out_finals = [np.inf]  # of the state to start from, 0
        waiting: list[tuple[int, int, _Transition]] = []  # the arc, the HMM state left, and how

        def take(source: int, arc: int, state: int, word: int, cost: float) -> None:
            """Arcs from ``source`` by every transition that leaves an HMM state of an arc's phone."""
            for transition in self._hmms[arcs[arc][2]][state].leaving:
                place = (arc, transition.transition_id)
                if place not in number:
                    number[place] = len(out_finals)
                    out_finals.append(np.inf)
                    waiting.append((arc, state, transition))
                out.append((source, number[place], transition.transition_id, word, cost + self._cost(transition)))

        def enter(source: int, place: int) -> None:
            """Arcs from ``source`` into every phone that follows a place of the graph of phones."""
            for arc in leaving.get(place, []):
                take(source, arc, 0, arcs[arc][3], arcs[arc][4])

        enter(0, 0)
        while waiting:
            arc, state, transition = waiting.pop()
            here = number[arc, transition.transition_id]
            self_loop = self._hmms[arcs[arc][2]][state].self_loop
            if self_loop:
                cost = 0.0 if self._costs is None else float(self._costs[self_loop])
                out.append((here, here, self_loop, EPSILON, cost))
            if transition.target is not None:
                take(here, arc, transition.target, EPSILON, 0.0)
                continue
            out_finals[here] = finals.get(arcs[arc][1], np.inf)
            enter(here, arcs[arc][1])
        return Transducer.of(0, out_finals, out)

    def _cost(self, transition: _Transition) -> float:
        return 0.0 if self._costs is None else float(self._costs[transition.transition_id])


def _hmms(model: TransitionModel, phones: Iterable[int]) -> dict[int, list[_HmmState]]:
    """The states of each phone's HMM. Raises UserError for a phone that has none, or several sets of them."""
    states_of: dict[int, dict[int, _HmmState]] = {}
    transition_id = 1
    for phone, state, _, _ in model.tuples.tolist():
        transitions = model.topology.states(phone)[state].transitions
        end = len(model.topology.states(phone)) - 1
        known = states_of.setdefault(phone, {})
        if state in known:
            raise UserError(
                f"Phone {phone} has several pdfs for its state {state}: the model depends on neighbouring phones, and "
                "graphs are compiled here for models that do not. Kaldi's compile-train-graphs makes them for this one."
            )
        self_loop, leaving = 0, []
        for offset, (target, _) in enumerate(transitions):
            if target == state:
                self_loop = transition_id + offset
            else:
                leaving.append(_Transition(transition_id + offset, None if target == end else target))
        known[state] = _HmmState(self_loop, leaving)
        transition_id += len(transitions)
    hmms = {}
    for phone in phones:
        known = states_of.get(phone, {})
        if not known:
            raise UserError(f"The lexicon has phone {phone}, the model does not: they are of different languages.")
        if sorted(known) != list(range(len(model.topology.states(phone)) - 1)):
            raise UserError(f"Phone {phone} has states without pdfs, which cannot be aligned.")
        hmms[phone] = [known[state] for state in range(len(known))]
    return hmms


def _without_silent_arcs(arcs: Phones, finals: dict[int, float]) -> tuple[Phones, dict[int, float]]:
    """The same phones and words without arcs that have no phone: each is joined to the arcs that follow it."""
    silent: dict[int, list[tuple[int, int, float]]] = {}
    spoken: dict[int, Phones] = {}
    for arc in arcs:
        if arc[2] == EPSILON:
            silent.setdefault(arc[0], []).append((arc[1], arc[3], arc[4]))
        else:
            spoken.setdefault(arc[0], []).append(arc)
    if not silent:
        return arcs, finals
    joined: Phones = []
    joined_finals: dict[int, float] = {}
    for state in sorted({arc[0] for arc in arcs} | set(finals)):
        for place, word, cost in _silently_reached(state, silent):
            for _, target, phone, other, weight in spoken.get(place, []):
                if word and other:
                    raise UserError(f"The lexicon says the word {word} without a phone before the word {other}.")
                joined.append((state, target, phone, word or other, cost + weight))
            if place in finals:
                joined_finals[state] = min(joined_finals.get(state, np.inf), cost + finals[place])
    return joined, joined_finals


def _silently_reached(state: int, silent: dict[int, list[tuple[int, int, float]]]) -> list[tuple[int, int, float]]:
    """Every way on without a phone, as the place it leads to, its word and its cost; first to stay."""
    reached = [(state, EPSILON, 0.0)]
    ways: list[tuple[int, int, float, frozenset[int]]] = [(state, EPSILON, 0.0, frozenset([state]))]
    while ways:
        place, word, cost, passed = ways.pop()
        for target, other, weight in silent.get(place, []):
            if target in passed:
                raise UserError("The lexicon goes in circles without a phone.")
            if word and other:
                raise UserError(f"The lexicon says the words {word} and {other} without a phone.")
            ways.append((target, word or other, cost + weight, passed | {target}))
            reached.append((target, word or other, cost + weight))
    return reached


def _connected(arcs: Phones, finals: dict[int, float]) -> tuple[Phones, dict[int, float]]:
    """The arcs that lie on a way from state 0 to an end."""
    forward: dict[int, list[int]] = {}
    backward: dict[int, list[int]] = {}
    for source, target, *_ in arcs:
        forward.setdefault(source, []).append(target)
        backward.setdefault(target, []).append(source)
    useful = _reachable([0], forward) & _reachable(finals, backward)
    kept = [arc for arc in arcs if arc[0] in useful and arc[1] in useful]
    return kept, {state: cost for state, cost in finals.items() if state in useful}


def _reachable(start: Iterable[int], following: dict[int, list[int]]) -> set[int]:
    found = set(start)
    waiting = list(found)
    while waiting:
        for state in following.get(waiting.pop(), []):
            if state not in found:
                found.add(state)
                waiting.append(state)
    return found


def read_labels(path: str) -> list[int]:
    """The labels that a file lists, one a line, such as a language directory's ``phones/disambig.int``.

    Raises:
        UserError: the file cannot be read, or a line is not a label.
    """
    labels = []
    for number, line in enumerate(read_lines(path), 1):
        words = fields(line)
        if len(words) != 1 or not (words[0].isascii() and words[0].isdigit()):
            raise UserError(f"{path}:{number}: expected a label, a number of 0 or above, found {line!r}.")
        labels.append(int(words[0]))
    return labels


def compile_table(compiler: GraphCompiler, transcripts: str, graphs: str) -> tuple[int, int]:
    """Compile a table of transcripts (vectors of word numbers); how many graphs were made, and how many could not be.

    ``transcripts``: rspecifier. ``graphs``: wspecifier.

    Raises:
        UserError: no graph could be made, or a table cannot be read or written.
    """
    done = failed = 0
    with SequentialReader(transcripts, INT_VECTOR) as reader, TableWriter(graphs, TRANSDUCER) as writer:
        for utterance, words in reader:
            try:
                graph = compiler.compile(words.tolist())
            except UserError as problem:
                raise UserError(f"Utterance {utterance}: {problem}") from problem
            if graph is None:
                unknown = sorted({*words.tolist()} - compiler.words)
                what = f"its word {unknown[0]}" if unknown else "its words"
                log.warning(f"Empty graph for utterance {utterance}: the lexicon cannot say {what}.")
                failed += 1
                continue
            writer.write(utterance, graph)
            done += 1
        if done == 0:  # raised here, it leaves an earlier output as it was
            what = f"None of the {failed} transcripts in {transcripts} can be said" if failed else (
                f"There are no transcripts in {transcripts}"
            )  # fmt: skip
            raise UserError(f"{what}; nothing is written.")
    return done, failed
