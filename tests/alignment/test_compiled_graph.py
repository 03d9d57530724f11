"""Compiled training graphs against an enumeration of all ways to say a transcript, and against the other graphs."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nnet3py.alignment.compiled_alignment import best_path
from nnet3py.alignment.compiled_graph import GraphCompiler
from nnet3py.alignment.lexicon import Pronunciation
from nnet3py.alignment.paths import best_paths
from nnet3py.alignment.timed_phones import monophone_transition_model, monophone_tree_text
from nnet3py.alignment.training_graph import training_graph, transition_costs
from nnet3py.errors import UserError
from nnet3py.nnet.transition_model import State, Topology, TransitionModel, write_transition_model_to
from nnet3py.tables.basic_types import write_header
from nnet3py.tables.holders import INT_VECTOR
from nnet3py.tables.streams import open_output
from nnet3py.tables.table import SequentialReader, TableWriter
from nnet3py.tables.transducer import TRANSDUCER, Transducer

SIL, X, Y = 1, 2, 3
WORD_A, WORD_B = 1, 2
P_SIL = 0.3


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


def _lexicon(disambiguation: int = 0) -> Transducer:
    """a: X Y (0.9) or Y (0.1); b: X; a silence may be before the first word and after each (probability 0.3).

    State 0 is the start, 1 between words, 2 where the silence after a word begins, 3 the middle of "a"; with
    ``disambiguation``, this label follows the second way to say "a".
    """
    no, yes = -np.log1p(-P_SIL), -np.log(P_SIL)
    arcs = [(0, 1, 0, 0, no), (0, 1, SIL, 0, yes), (2, 1, SIL, 0, 0.0)]
    for end, cost in ((1, no), (2, yes)):
        arcs += [(3, end, Y, 0, cost), (1, end, X, WORD_B, cost)]
        if disambiguation:
            arcs += [(4, end, disambiguation, 0, cost)]
        else:
            arcs += [(1, end, Y, WORD_A, -np.log(0.1) + cost)]
    arcs.append((1, 3, X, WORD_A, -np.log(0.9)))
    finals = [np.inf, 0.0, np.inf, np.inf]
    if disambiguation:
        arcs.append((1, 4, Y, WORD_A, -np.log(0.1)))
        finals.append(np.inf)
    return Transducer.of(0, finals, arcs)


def _ways_to_say(words: list[int]) -> Iterator[tuple[list[int], float]]:
    """Every string of phones that says the words, and its cost; from the definition, not from the transducer."""
    phones_of = {WORD_A: [([X, Y], 0.9), ([Y], 0.1)], WORD_B: [([X], 1.0)]}
    for choice in itertools.product(*(phones_of[word] for word in words)):
        for silences in itertools.product([False, True], repeat=len(words) + 1):
            phones = [SIL] if silences[0] else []
            probability = P_SIL if silences[0] else 1 - P_SIL
            for (spoken, weight), silence in zip(choice, silences[1:], strict=True):
                phones += spoken + ([SIL] if silence else [])
                probability *= weight * (P_SIL if silence else 1 - P_SIL)
            yield phones, -np.log(probability)


def _state_paths(model: TransitionModel, phones: list[int]) -> Iterator[list[tuple[int, int]]]:
    """Every way through the states of the phones' HMMs: for each state visited, its loop and how it was left (ids)."""
    first, transition_id = {}, 1
    for phone, state, _, _ in model.tuples.tolist():
        first[phone, state] = transition_id
        transition_id += len(model.topology.states(phone)[state].transitions)

    def onward(position: int, state: int, passed: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
        if position == len(phones):
            yield passed
            return
        phone = phones[position]
        states = model.topology.states(phone)
        targets = [target for target, _ in states[state].transitions]
        loop = first[phone, state] + targets.index(state)
        for target in targets:
            if target != state:
                step = [*passed, (loop, first[phone, state] + targets.index(target))]
                if target == len(states) - 1:
                    yield from onward(position + 1, 0, step)
                else:
                    yield from onward(position, target, step)

    yield from onward(0, 0, [])


def _all_paths(model: TransitionModel, words: list[int], length: int) -> Iterator[tuple[list[int], float]]:
    """Transition-ids of every path of a length, the leaving transition of a visit first, and the lexicon's cost."""
    for phones, cost in _ways_to_say(words):
        for visits in _state_paths(model, phones):
            if len(visits) > length:
                continue
            for cuts in itertools.combinations(range(1, length), len(visits) - 1):
                bounds = [0, *cuts, length]
                path: list[int] = []
                for (loop, leave), begin, end in zip(visits, bounds, bounds[1:], strict=False):
                    path += [leave] + [loop] * (end - begin - 1)
                yield path, cost


def _accepted(graph: Transducer, length: int) -> dict[tuple[int, ...], float]:
    """Every string of input labels of a length that the graph accepts, with its least cost."""
    reached: dict[tuple[int, tuple[int, ...]], float] = {(graph.start, ()): 0.0}
    for _ in range(length):
        following: dict[tuple[int, tuple[int, ...]], float] = {}
        for (state, labels), cost in reached.items():
            for arc in np.flatnonzero(graph.sources == state):
                place = (int(graph.targets[arc]), (*labels, int(graph.ilabels[arc])))
                following[place] = min(following.get(place, np.inf), cost + float(graph.weights[arc]))
        reached = following
    found: dict[tuple[int, ...], float] = {}
    for (state, labels), cost in reached.items():
        if np.isfinite(graph.finals[state]):
            found[labels] = min(found.get(labels, np.inf), cost + float(graph.finals[state]))
    return found


@pytest.mark.parametrize("words", [[WORD_B], [WORD_A], [WORD_A, WORD_B], [WORD_B, WORD_B]])
@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_graph_accepts_exactly_the_paths_of_the_ways_to_say_the_words(words: list[int], length: int) -> None:
    model = _model()
    graph = GraphCompiler(_lexicon(), model).compile(words)
    assert graph is not None
    expected: dict[tuple[int, ...], float] = {}
    for path, cost in _all_paths(model, words, length):
        expected[tuple(path)] = min(expected.get(tuple(path), np.inf), cost)
    found = _accepted(graph, length)
    assert set(found) == set(expected)
    for path, cost in expected.items():
        assert found[path] == pytest.approx(cost, abs=1e-5)


def test_disambiguation_symbols_of_the_lexicon_are_passed_over() -> None:
    plain = GraphCompiler(_lexicon(), _model()).compile([WORD_A])
    marked = GraphCompiler(_lexicon(disambiguation=9), _model(), disambiguation=[9]).compile([WORD_A])
    assert plain is not None
    assert marked is not None
    found, expected = _accepted(marked, 4), _accepted(plain, 4)
    assert found == pytest.approx(expected, abs=1e-5)


def test_costs_of_transitions_can_be_put_into_the_graph() -> None:
    model, words = _model(), [WORD_A]
    costs = transition_costs(model, transition_scale=0.7, self_loop_scale=0.2)
    graph = GraphCompiler(_lexicon(), model, transition_costs=costs).compile(words)
    plain = GraphCompiler(_lexicon(), model).compile(words)
    assert graph is not None
    assert plain is not None
    without = _accepted(plain, 4)
    for path, cost in _accepted(graph, 4).items():
        assert cost == pytest.approx(without[path] + costs[list(path)].sum(), abs=1e-5)


def test_words_are_on_the_first_transition_of_their_first_phone() -> None:
    graph = GraphCompiler(_lexicon(), _model()).compile([WORD_A, WORD_B])
    assert graph is not None
    model = _model()
    phones = model.phone_of_transition[graph.ilabels]
    assert set(zip(graph.olabels.tolist(), phones.tolist(), strict=True)) == {
        (0, SIL), (0, X), (0, Y), (WORD_A, X), (WORD_A, Y), (WORD_B, X)
    }  # fmt: skip


def test_the_best_path_is_that_of_the_graphs_that_align_gmm_makes() -> None:
    model = _model()
    ways = [[Pronunciation("a", 0.9, ("X", "Y")), Pronunciation("a", 0.1, ("Y",))], [Pronunciation("b", 1.0, ("X",))]]
    other = training_graph(ways, {"SIL": 1, "X": 2, "Y": 3}, model, silence_phone=1, silence_probability=P_SIL)
    costs = transition_costs(model)
    graph = GraphCompiler(_lexicon(), model).compile([WORD_A, WORD_B])
    assert graph is not None
    random = np.random.default_rng(5)
    for frames in (3, 8, 40):
        likelihoods = random.normal(scale=3.0, size=(frames, model.num_pdfs)).astype(np.float32)
        frame_costs = -0.1 * likelihoods[:, other.pdfs][:, None, :]
        (expected,) = best_paths(other, costs, frame_costs, np.array([frames], np.int32))
        found = best_path(graph, model, likelihoods, costs, 0.1)
        assert expected is not None
        assert found is not None
        assert found.cost == pytest.approx(expected[1], abs=1e-4)
        np.testing.assert_array_equal(found.transitions, expected[0])


def test_what_the_lexicon_cannot_say_has_no_graph() -> None:
    compiler = GraphCompiler(_lexicon(), _model())
    assert compiler.compile([7]) is None
    silence_alone = compiler.compile([])
    assert silence_alone is not None  # no word: a silence, or nothing, which is no path of frames
    assert {int(phone) for phone in _model().phone_of_transition[silence_alone.ilabels]} == {SIL}


def test_a_phone_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(UserError, match="The lexicon has phone 4, the model does not"):
        GraphCompiler(Transducer.of(0, [0.0], [(0, 0, 4, 1, 0.0)]), _model())


def test_a_model_that_depends_on_neighbouring_phones_is_refused() -> None:
    model = _model()
    twice = np.array([[1, 0, 0, 0], [1, 0, 5, 5], *model.tuples.tolist()[1:]], np.int32)
    log_probs = np.concatenate([model.log_probs[:4], model.log_probs[1:]])
    dependent = TransitionModel(model.topology, twice, log_probs)
    with pytest.raises(UserError, match=r"several pdfs for its state 0.*Kaldi's compile-train-graphs"):
        GraphCompiler(_lexicon(), dependent)


def test_a_lexicon_that_goes_in_circles_without_a_phone_is_refused() -> None:
    lexicon = Transducer.of(0, [np.inf, 0.0], [(0, 1, X, WORD_A, 0.0), (1, 0, 0, 0, 0.0), (0, 1, 0, 0, 0.0)])
    with pytest.raises(UserError, match="in circles without a phone"):
        GraphCompiler(lexicon, _model()).compile([WORD_A])


@pytest.fixture
def files(tmp_path: Path) -> Path:
    model = _model()
    with open_output(str(tmp_path / "model")) as sink:
        write_header(sink, True)
        write_transition_model_to(sink, model, True)
    (tmp_path / "tree").write_text(monophone_tree_text(model.topology))
    with open_output(str(tmp_path / "L.fst")) as sink:
        TRANSDUCER.write(sink, _lexicon(disambiguation=9), True)
    (tmp_path / "disambig.int").write_text("9\n10\n")
    return tmp_path


def _compile(folder: Path, *options: str, tree: str = "tree") -> subprocess.CompletedProcess[str]:
    words = ["compile-train-graphs", *options, tree, "model", "L.fst", "ark,t:text.int", "ark:graphs"]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True)


def test_the_program_compiles_a_table_and_warns_of_what_cannot_be_said(files: Path) -> None:
    (files / "text.int").write_text("u1 1 2\nu2 7\nu3 2\n")
    done = _compile(files, "--read-disambig-syms=disambig.int")
    assert done.returncode == 0, done.stderr
    assert "Empty graph for utterance u2" in done.stderr
    assert "succeeded for 2 graphs, failed for 1" in done.stderr
    with SequentialReader(f"ark:{files}/graphs", TRANSDUCER) as reader:
        found = dict(reader)
    assert list(found) == ["u1", "u3"]
    expected = GraphCompiler(_lexicon(disambiguation=9), _model(), disambiguation=[9]).compile([1, 2])
    assert expected is not None
    assert _accepted(found["u1"], 5) == pytest.approx(_accepted(expected, 5), abs=1e-5)


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("u1 7\n", ["--read-disambig-syms=disambig.int"], "None of the 1 transcripts in ark,t:text.int can be said"),
        ("u1 1\n", [], "The lexicon has phone 9, the model does not"),
        ("u1 1\n", ["--read-disambig-syms=text.int"], "text.int:1: expected a label"),
        ("", ["--read-disambig-syms=disambig.int"], "There are no transcripts"),
    ],
)
def test_the_program_refuses_bad_input_in_one_line(files: Path, text: str, options: list[str], says: str) -> None:
    (files / "text.int").write_text(text)
    (files / "graphs").write_text("as it was")
    done = _compile(files, *options)
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    assert done.returncode == 1
    assert len(errors) == 1
    assert says in errors[0]
    assert (files / "graphs").read_text() == "as it was"


def test_a_tree_of_another_system_is_refused(files: Path) -> None:
    (files / "text.int").write_text("u1 1\n")
    topology = Topology([1], [-1, 0], [_chain(0.5)])
    (files / "other").write_text(monophone_tree_text(topology))
    done = _compile(files, "--read-disambig-syms=disambig.int", tree="other")
    assert done.returncode == 1
    assert "other has 1 pdfs, model has 6: they are of two systems" in done.stderr


def test_an_integer_vector_table_is_what_transcripts_are_read_from(files: Path) -> None:
    with TableWriter(f"ark,t:{files}/text.int", INT_VECTOR) as writer:
        writer.write("u9", np.array([2, 1], np.int32))
    done = _compile(files, "--read-disambig-syms=disambig.int")
    assert done.returncode == 0, done.stderr
