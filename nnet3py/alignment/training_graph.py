"""All the ways to say a transcript, as a graph of HMM states, for alignment.

The graph is what Kaldi's compile-train-graphs makes for a model without phonetic context: every word's pronunciations
side by side, an optional silence at the beginning and after each word. Its nodes are HMM states (a node emits a frame);
its arcs are transitions. An arc has the cost of the lexicon (pronunciations, silence), which is fixed, and that of its
transition, which is looked up in the model each time:

    stay:   -self_loop_scale * log p
    leave:  -self_loop_scale * log(1 - p) - transition_scale * log(p_arc / (1 - p)),    p the probability of staying.

Source: Kaldi src/decoder/training-graph-compiler.cc; src/hmm/hmm-utils.cc, ``AddTransitionProbs``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnet3py.alignment.lexicon import Pronunciation
from nnet3py.nnet.transition_model import TransitionModel

Ints = NDArray[np.int32]
_START = -1


@dataclass(frozen=True)
class TrainingGraph:
    """Nodes 0 ... n-1 with their pdfs; arcs, sorted by target, first into the graph, then inside it, then out of it.

    ``pdfs``: (n,). ``entry_nodes``, ``entry_costs``: where a path may begin. ``sources``, ``targets``, ``transitions``
    (transition-ids) and ``costs`` (of the lexicon): the arcs inside. ``exit_nodes``, ``exit_transitions``,
    ``exit_costs``: where a path may end, after the frame of that node.
    """

    pdfs: Ints
    entry_nodes: Ints
    entry_costs: NDArray[np.float64]
    sources: Ints
    targets: Ints
    transitions: Ints
    costs: NDArray[np.float64]
    exit_nodes: Ints
    exit_transitions: Ints
    exit_costs: NDArray[np.float64]


# A place from which a phone may follow: the node left (or _START), the transition that leaves it, the lexicon's cost.
_Exit = tuple[int, int, float]


class _Builder:
    def __init__(self, model: TransitionModel) -> None:
        self.model = model
        self.first_transition: dict[tuple[int, int], int] = {}
        self.pdf: dict[tuple[int, int], int] = {}
        transition = 1
        for phone, state, pdf, _ in model.tuples.tolist():
            self.first_transition[phone, state] = transition
            self.pdf[phone, state] = pdf
            transition += len(model.topology.states(phone)[state].transitions)
        self.node_pdfs: list[int] = []
        self.arcs: list[tuple[int, int, int, float]] = []  # target, source, transition, cost

    def phone(self, exits: list[_Exit], phone: int, cost: float) -> list[_Exit]:
        """Add a phone after the given places; the places after it."""
        states = self.model.topology.states(phone)[:-1]
        base = len(self.node_pdfs)
        self.node_pdfs += [self.pdf[phone, state] for state in range(len(states))]
        self.arcs += [(base, source, transition, before + cost) for source, transition, before in exits]
        after = []
        for number, state in enumerate(states):
            for offset, (target, _) in enumerate(state.transitions):
                transition = self.first_transition[phone, number] + offset
                if target == len(states):
                    after.append((base + number, transition, 0.0))
                else:
                    self.arcs.append((base + target, base + number, transition, 0.0))
        return after

    def optional_silence(self, exits: list[_Exit], phone: int, probability: float) -> list[_Exit]:
        """Add a silence that may be left out."""
        if probability == 0.0:
            return exits
        skipped = [(source, transition, before - math.log1p(-probability)) for source, transition, before in exits]
        return skipped + self.phone(exits, phone, -math.log(probability))

    def graph(self, exits: list[_Exit]) -> TrainingGraph:
        """The finished graph, ``exits`` being the places after its last word."""
        exits = [place for place in exits if place[0] != _START]  # an empty transcript is silence, never no frame
        arcs = sorted(self.arcs)
        inside = [arc for arc in arcs if arc[1] != _START]
        entries = [arc for arc in arcs if arc[1] == _START]

        def column(rows: Sequence[tuple[float, ...]], index: int) -> Ints:
            return np.array([row[index] for row in rows], np.int32)

        return TrainingGraph(
            pdfs=np.array(self.node_pdfs, np.int32),
            entry_nodes=column(entries, 0),
            entry_costs=np.array([arc[3] for arc in entries]),
            sources=column(inside, 1),
            targets=column(inside, 0),
            transitions=column(inside, 2),
            costs=np.array([arc[3] for arc in inside]),
            exit_nodes=column(exits, 0),
            exit_transitions=column(exits, 1),
            exit_costs=np.array([place[2] for place in exits]),
        )


def training_graph(
    pronunciations: Sequence[Sequence[Pronunciation]],
    phones: dict[str, int],
    model: TransitionModel,
    *,
    silence_phone: int,
    silence_probability: float,
) -> TrainingGraph:
    """The graph of a transcript.

    Args:
        pronunciations: for each word of the transcript, in order, the ways to say it.
        phones: phone -> number.
        silence_probability: of a silence at each place where one may be.
    """
    builder = _Builder(model)
    exits: list[_Exit] = builder.optional_silence([(_START, 0, 0.0)], silence_phone, silence_probability)
    for ways in pronunciations:
        after: list[_Exit] = []
        for way in ways:
            branch, cost = exits, -math.log(way.probability)
            for phone in way.phones:
                branch, cost = builder.phone(branch, phones[phone], cost), 0.0
            after += branch
        exits = builder.optional_silence(after, silence_phone, silence_probability)
    return builder.graph(exits)


def transition_costs(
    model: TransitionModel, *, transition_scale: float = 1.0, self_loop_scale: float = 0.1
) -> NDArray[np.float64]:
    """The scaled cost of each transition-id; element 0 is unused."""
    costs = np.zeros(model.num_transition_ids + 1)
    transition = 1
    for phone, state, _, _ in model.tuples.tolist():
        targets = [target for target, _ in model.topology.states(phone)[state].transitions]
        log_probs = model.log_probs[transition : transition + len(targets)].astype(np.float64)
        stay = math.exp(log_probs[targets.index(state)]) if state in targets else 0.0
        leave = math.log(max(1.0 - stay, 1e-10))
        for target, log_prob in zip(targets, log_probs.tolist(), strict=True):
            if target == state:
                costs[transition] = -self_loop_scale * log_prob
            else:
                costs[transition] = -self_loop_scale * leave - transition_scale * (log_prob - leave)
            transition += 1
    return costs
