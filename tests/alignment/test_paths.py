"""Training graphs, and the paths through them, against an enumeration of all paths."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from nnet3py.alignment.lexicon import Pronunciation
from nnet3py.alignment.paths import best_paths, equal_path
from nnet3py.alignment.timed_phones import monophone_transition_model
from nnet3py.alignment.training_graph import TrainingGraph, training_graph, transition_costs
from nnet3py.nnet.transition_model import State, Topology, TransitionModel

_PHONES = {"SIL": 1, "X": 2, "Y": 3}


def _chain(*stay: float) -> list[State]:
    states = [State(n, n, [(n, p), (n + 1, 1.0 - p)]) for n, p in enumerate(stay)]
    return [*states, State()]


def _model() -> TransitionModel:
    silence = [
        State(0, 0, [(0, 0.5), (1, 0.25), (2, 0.25)]),
        State(1, 1, [(1, 0.6), (2, 0.4)]),
        State(2, 2, [(2, 0.7), (3, 0.3)]),
        State(),
    ]
    topology = Topology([1, 2, 3], [-1, 0, 1, 2], [silence, _chain(0.75, 0.4), _chain(0.2)])
    return monophone_transition_model(topology)


def _graph(probability: float = 0.3) -> TrainingGraph:
    ways = [
        [Pronunciation("a", 0.9, ("X", "Y")), Pronunciation("a", 0.1, ("Y",))],
        [Pronunciation("b", 1.0, ("X",))],
    ]
    return training_graph(ways, _PHONES, _model(), silence_phone=1, silence_probability=probability)


def _all_paths(graph: TrainingGraph, length: int) -> Iterator[tuple[list[int], list[int], float]]:
    """Nodes, transitions (each leaving the node of its frame) and the lexicon's cost of every path of a length."""

    def onward(nodes: list[int], transitions: list[int], cost: float) -> Iterator[tuple[list[int], list[int], float]]:
        if len(nodes) == length:
            for node, transition, last in zip(graph.exit_nodes, graph.exit_transitions, graph.exit_costs, strict=True):
                if node == nodes[-1]:
                    yield nodes, [*transitions, int(transition)], cost + float(last)
            return
        for arc in np.flatnonzero(graph.sources == nodes[-1]):
            step = (int(graph.targets[arc]), int(graph.transitions[arc]), float(graph.costs[arc]))
            yield from onward([*nodes, step[0]], [*transitions, step[1]], cost + step[2])

    for node, cost in zip(graph.entry_nodes, graph.entry_costs, strict=True):
        yield from onward([int(node)], [], float(cost))


def test_transition_costs_weigh_staying_and_leaving_apart() -> None:
    model = _model()
    costs = transition_costs(model, transition_scale=0.5, self_loop_scale=0.1)
    assert costs[1] == pytest.approx(-0.1 * math.log(0.5))
    assert costs[2] == pytest.approx(-0.1 * math.log(0.5) - 0.5 * math.log(0.25 / 0.5), rel=1e-6)
    plain = transition_costs(model, transition_scale=1.0, self_loop_scale=1.0)
    np.testing.assert_allclose(plain[1:], -model.log_probs[1:], rtol=1e-6)


def test_the_probabilities_of_all_ways_to_say_a_transcript_sum_to_one() -> None:
    # With the scales at 1 and no acoustics a graph is a distribution over paths; longer and longer ones exhaust it.
    graph, costs = _graph(), transition_costs(_model(), transition_scale=1.0, self_loop_scale=1.0)
    nodes = len(graph.pdfs)
    step, start, finish = np.zeros((nodes, nodes)), np.zeros(nodes), np.zeros(nodes)
    np.add.at(step, (graph.sources, graph.targets), np.exp(-graph.costs - costs[graph.transitions]))
    np.add.at(start, graph.entry_nodes, np.exp(-graph.entry_costs))
    np.add.at(finish, graph.exit_nodes, np.exp(-graph.exit_costs - costs[graph.exit_transitions]))
    total = start @ np.linalg.solve(np.eye(nodes) - step, finish)
    assert total == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("silence_probability", [0.3, 0.0])
def test_the_best_path_is_the_cheapest_of_all(silence_probability: float) -> None:
    graph, costs = _graph(silence_probability), transition_costs(_model())
    rng = np.random.default_rng(3)
    lengths = np.array([4, 9, 6, 2], np.int32)
    frame_costs = rng.normal(scale=2.0, size=(9, 4, len(graph.pdfs))).astype(np.float32)
    found = best_paths(graph, costs, frame_costs, lengths)
    for utterance, length in enumerate(lengths.tolist()):
        paths = [
            (
                cost + costs[transitions].sum() + frame_costs[np.arange(length), utterance, nodes].sum(),
                nodes,
                transitions,
            )
            for nodes, transitions, cost in _all_paths(graph, length)
        ]
        if length == 2:
            assert not paths
            assert found[utterance] is None
            continue
        cheapest = min(paths)
        result = found[utterance]
        assert result is not None
        path, total = result
        assert total == pytest.approx(cheapest[0], rel=1e-5)
        assert _model().pdfs(path).tolist() == graph.pdfs[cheapest[1]].tolist()
        assert sorted(path.tolist()) == sorted(
            cheapest[2]
        )  # in each state the leaving transition is moved to the front


def test_a_state_is_left_first_and_then_looped_in() -> None:
    model = _model()
    graph = training_graph(
        [[Pronunciation("a", 1.0, ("X",))]], _PHONES, model, silence_phone=1, silence_probability=0.0
    )
    rng = np.random.default_rng(0)
    path = equal_path(graph, 6, rng)
    stay, leave, stay2, leave2 = 8, 9, 10, 11  # silence has transitions 1 to 7
    assert path is not None
    assert path.tolist() == [leave, stay, stay, leave2, stay2, stay2]
    best = best_paths(graph, transition_costs(model), np.zeros((2, 1, 2), np.float32), np.array([2], np.int32))[0]
    assert best is not None
    assert best[0].tolist() == [leave, leave2]


def test_an_equal_path_spreads_frames_evenly_over_a_path_of_the_graph() -> None:
    graph, model = _graph(), _model()
    chosen = set()
    for seed in range(20):
        path = equal_path(graph, 23, np.random.default_rng(seed))
        assert path is not None
        assert len(path) == 23
        pdfs = model.pdfs(path)
        changes = np.flatnonzero(np.diff(pdfs)) + 1
        durations = np.diff([0, *changes, 23])
        chosen.add(tuple(pdfs[[0, *changes]].tolist()))
        assert durations.max() - durations.min() <= 1
    assert len(chosen) > 3  # silences and pronunciations are chosen at random


def test_an_utterance_shorter_than_its_states_has_no_equal_path() -> None:
    assert equal_path(_graph(), 2, np.random.default_rng(0)) is None


def test_an_empty_transcript_is_silence() -> None:
    graph = training_graph([], _PHONES, _model(), silence_phone=1, silence_probability=0.5)
    best = best_paths(graph, transition_costs(_model()), np.zeros((5, 1, 3), np.float32), np.array([5], np.int32))[0]
    assert best is not None
    assert set(_model().phone_of_transition[best[0]].tolist()) == {1}
