"""Paths through a training graph: the most probable one (Viterbi), and a random one of equal steps to start with.

A path is an array of transition-ids, one a frame. In each visit to an HMM state the transition that leaves the state
comes first, then its self-loops: the order in which Kaldi's aligner writes them ("reordered").

Source: Kaldi src/decoder/decoder-wrappers.cc, ``AlignUtteranceWrapper``; src/fstext/fstext-utils-inl.h, ``EqualAlign``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nnet3py.alignment.training_graph import Ints, TrainingGraph

_ATTEMPTS = 10


def best_paths(
    graph: TrainingGraph, transition_costs: NDArray[np.float64], frame_costs: NDArray[np.float32], lengths: Ints
) -> list[tuple[Ints, float] | None]:
    """The cheapest path of each of several utterances that have the same transcript. Exact: nothing is pruned.

    Args:
        transition_costs: (transition-ids + 1,), see :func:`nnet3py.alignment.training_graph.transition_costs`.
        frame_costs: (frames of the longest, utterances, nodes), the negative scaled log-likelihoods.
        lengths: (utterances,) frames of each.

    Returns:
        For each utterance its path and the path's cost, or None if it is too short for any path.
    """
    longest, num_utterances, num_nodes = frame_costs.shape
    # A node that nothing inside the graph leads to gets an arc that is never taken, so that every node has a group.
    targets = np.concatenate([graph.targets, np.arange(num_nodes, dtype=np.int32)])
    order = np.argsort(targets, kind="stable")
    targets = targets[order]
    sources = np.concatenate([graph.sources, np.arange(num_nodes, dtype=np.int32)])[order]
    arc_costs = np.concatenate([graph.costs + transition_costs[graph.transitions], np.full(num_nodes, np.inf)])[order]
    transitions = np.concatenate([graph.transitions, np.zeros(num_nodes, np.int32)])[order]
    groups = np.searchsorted(targets, np.arange(num_nodes))
    numbers = np.arange(len(targets), dtype=np.int32)

    costs = np.full((num_utterances, num_nodes), np.inf)
    for node, cost in zip(graph.entry_nodes.tolist(), graph.entry_costs.tolist(), strict=True):
        costs[:, node] = np.minimum(costs[:, node], cost)
    costs += frame_costs[0]
    arrived_by = np.zeros((longest, num_utterances, num_nodes), np.int32)
    last_costs = costs.copy()
    for frame in range(1, longest):
        candidates = costs[:, sources] + arc_costs
        best = np.minimum.reduceat(candidates, groups, axis=1)
        is_best = candidates <= best[:, targets]
        arrived_by[frame] = np.minimum.reduceat(np.where(is_best, numbers, len(numbers)), groups, axis=1)
        costs = best + frame_costs[frame]
        going_on = lengths > frame
        last_costs[going_on] = costs[going_on]

    ending = last_costs[:, graph.exit_nodes] + graph.exit_costs + transition_costs[graph.exit_transitions]
    exits = np.argmin(ending, axis=1)
    totals = ending[np.arange(num_utterances), exits]
    nodes = graph.exit_nodes[exits]
    taken = np.zeros((longest, num_utterances), np.int32)
    taken[lengths - 1, np.arange(num_utterances)] = graph.exit_transitions[exits]
    for frame in range(longest - 1, 0, -1):
        inside = np.flatnonzero((lengths > frame) & np.isfinite(totals))
        arcs = arrived_by[frame, inside, nodes[inside]]
        taken[frame - 1, inside] = transitions[arcs]
        nodes[inside] = sources[arcs]
    loops = _self_loops(graph)
    return [
        (_reordered(taken[:length, utterance], loops), float(totals[utterance]))
        if np.isfinite(totals[utterance])
        else None
        for utterance, length in enumerate(lengths.tolist())
    ]


def equal_path(graph: TrainingGraph, num_frames: int, rng: np.random.Generator) -> Ints | None:
    """A random path whose self-loops are spread evenly over its states; None if the utterance is too short.

    Every way on from a state is as probable as any other, whatever its cost.
    """
    for _ in range(_ATTEMPTS):
        states = _random_states(graph, rng, num_frames)
        if states is not None:
            break
    else:
        return None
    nodes, leaving = states
    edges = np.arange(len(nodes) + 1) * num_frames // len(nodes)
    loop_of = np.zeros(len(graph.pdfs), np.int32)
    is_loop = graph.sources == graph.targets
    loop_of[graph.sources[is_loop]] = graph.transitions[is_loop]
    path = np.repeat(loop_of[nodes], np.diff(edges)).astype(np.int32)
    path[edges[:-1]] = leaving
    return path if (path > 0).all() else None


def _random_states(graph: TrainingGraph, rng: np.random.Generator, most: int) -> tuple[Ints, Ints] | None:
    """Nodes of a random path without self-loops and the transitions that leave them; None if more than ``most``."""
    nodes, leaving = [int(rng.choice(graph.entry_nodes))], []
    while len(nodes) <= most:
        onward = np.flatnonzero((graph.sources == nodes[-1]) & (graph.targets != nodes[-1]))
        outward = np.flatnonzero(graph.exit_nodes == nodes[-1])
        choice = int(rng.integers(len(onward) + len(outward)))
        if choice >= len(onward):
            leaving.append(int(graph.exit_transitions[outward[choice - len(onward)]]))
            return np.array(nodes, np.int32), np.array(leaving, np.int32)
        leaving.append(int(graph.transitions[onward[choice]]))
        nodes.append(int(graph.targets[onward[choice]]))
    return None


def _self_loops(graph: TrainingGraph) -> set[int]:
    return set(graph.transitions[graph.sources == graph.targets].tolist())


def _reordered(transitions: Ints, self_loops: set[int]) -> Ints:
    """Each state's leaving transition, which ends its visit, moved before its self-loops."""
    ends = np.flatnonzero(~np.isin(transitions, list(self_loops)))
    starts = np.concatenate([[0], ends[:-1] + 1])
    reordered = np.concatenate([transitions[:1], transitions[:-1]])
    reordered[starts] = transitions[ends]
    return reordered.astype(np.int32)
