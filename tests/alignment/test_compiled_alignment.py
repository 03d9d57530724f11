"""The best path through a compiled graph against an enumeration of all paths; equal paths; the programs."""

from __future__ import annotations

import itertools
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tiny_language import make_language, make_spoken_corpus

from nnet3py.alignment.compiled_alignment import best_path, equal_path, without_silent_arcs
from nnet3py.errors import UserError
from nnet3py.nnet.transition_model import TransitionModel, read_transition_model
from nnet3py.tables.holders import FLOAT, INT_VECTOR, MATRIX
from nnet3py.tables.table import SequentialReader, TableWriter
from nnet3py.tables.transducer import TRANSDUCER, Transducer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TransitionModel:
    """Two phones of three states: transition-ids 2 p + 1 (stay) and 2 p + 2 (leave) of pdf p."""
    folder = tmp_path_factory.mktemp("model")
    make_spoken_corpus(folder, utterances=1)
    return read_transition_model(str(folder / "true_ali/final.mdl"))


def _random_graph(random: np.random.Generator, *, silent: bool) -> Transducer:
    """Six states and arcs between any two of them; arcs without a label only go to later states."""
    arcs = []
    for source, target in itertools.product(range(6), range(6)):
        if random.random() < 0.4:
            arcs.append((source, target, int(random.integers(1, 13)), 0, float(random.normal())))
        if silent and target > source and random.random() < 0.3:
            arcs.append((source, target, 0, 0, float(random.normal())))
    finals = np.where(random.random(6) < 0.5, random.random(6), np.inf)
    return Transducer.of(0, finals, arcs)


def _paths(graph: Transducer, length: int) -> list[tuple[float, list[int]]]:
    """Cost and labels of every path with so many labels, arcs without one anywhere between them."""
    found = []
    waiting = [(graph.start, 0.0, list[int]())]
    while waiting:
        state, cost, labels = waiting.pop()
        if len(labels) == length and np.isfinite(graph.finals[state]):
            found.append((cost + float(graph.finals[state]), labels))
        for arc in np.flatnonzero(graph.sources == state):
            label = int(graph.ilabels[arc])
            if label == 0 or len(labels) < length:
                step = (int(graph.targets[arc]), cost + float(graph.weights[arc]), labels + [label] * bool(label))
                waiting.append(step)
    return found


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_the_best_path_is_the_cheapest_of_all(model: TransitionModel, seed: int, silent: bool) -> None:
    random = np.random.default_rng(seed)
    graph = _random_graph(random, silent=silent)
    likelihoods = random.normal(scale=2.0, size=(4, model.num_pdfs)).astype(np.float32)
    costs = np.concatenate([[0.0], random.random(model.num_transition_ids)])
    scale = 0.7
    candidates = [
        (
            cost + costs[labels].sum() - scale * likelihoods[range(4), model.pdf_of_transition[labels]].sum(),
            labels,
        )
        for cost, labels in _paths(graph, 4)
    ]
    found = best_path(graph, model, likelihoods, costs, scale)
    if not candidates:
        assert found is None
        return
    expected = min(candidates)
    assert found is not None
    assert found.cost == pytest.approx(expected[0], abs=1e-4)
    assert found.transitions.tolist() == expected[1]


def test_joining_arcs_without_a_label_keeps_every_path_and_its_cost() -> None:
    graph = _random_graph(np.random.default_rng(11), silent=True)
    joined = without_silent_arcs(graph)
    assert (graph.ilabels == 0).any()
    assert (joined.ilabels > 0).all()
    for length in (1, 3):
        least: list[dict[tuple[int, ...], float]] = [{}, {}]
        for found, each in zip(least, (graph, joined), strict=True):
            for cost, labels in _paths(each, length):
                found[tuple(labels)] = min(found.get(tuple(labels), np.inf), cost)
        assert least[0] == pytest.approx(least[1], abs=1e-5)


def test_going_round_without_a_label_at_a_gain_is_refused() -> None:
    graph = Transducer.of(0, [np.inf, 0.0], [(0, 1, 3, 0, 0.0), (1, 0, 0, 0, -1.0), (0, 1, 0, 0, 0.5)])
    with pytest.raises(UserError, match="in circles without a label for a cost below 0"):
        without_silent_arcs(graph)
    free = Transducer.of(0, [np.inf, 0.0], [(0, 1, 3, 0, 0.0), (1, 0, 0, 0, 0.0), (0, 1, 0, 0, 0.0)])
    assert without_silent_arcs(free).num_arcs == 2  # from either state


def test_an_equal_path_spreads_frames_over_the_states_that_can_be_stayed_in() -> None:
    # Three transitions; the state after the second has no self-loop.
    arcs = [(0, 1, 2, 0, 0.0), (1, 1, 1, 0, 0.0), (1, 2, 4, 0, 0.0), (2, 3, 6, 0, 0.0), (3, 3, 5, 0, 0.0)]
    graph = Transducer.of(0, [np.inf, np.inf, np.inf, 0.0], arcs)
    random = np.random.default_rng(0)
    assert equal_path(graph, 2, random) is None
    path = equal_path(graph, 3, random)
    assert path is not None
    assert path.tolist() == [2, 4, 6]
    path = equal_path(graph, 10, random)
    assert path is not None
    assert path.tolist() == [2, 1, 1, 1, 4, 6, 5, 5, 5, 5]


def test_equal_paths_take_every_way_through_a_graph() -> None:
    arcs = [(0, 1, 2, 0, 0.0), (0, 2, 4, 0, 9.0), (1, 1, 1, 0, 0.0), (2, 2, 3, 0, 0.0)]
    graph = Transducer.of(0, [np.inf, 0.0, 0.0], arcs)
    random = np.random.default_rng(0)
    seen = set()
    for _ in range(20):
        path = equal_path(graph, 3, random)
        assert path is not None
        seen.add(tuple(path.tolist()))
    assert seen == {(2, 1, 1), (4, 3, 3)}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Features that are log-likelihoods of their true labels, and compiled graphs of 6 utterances."""
    make_language(tmp_path)
    truth = make_spoken_corpus(tmp_path, utterances=6)
    words = {"a": "1", "b": "2"}
    text = [line.split() for line in (tmp_path / "data/text").read_text().splitlines()]
    (tmp_path / "text.int").write_text("".join(f"{key} {' '.join(words[w] for w in said)}\n" for key, *said in text))
    with TableWriter(f"ark:{tmp_path}/loglikes", MATRIX) as writer:
        for key, pdfs in truth.items():
            likelihoods = np.full((len(pdfs), 6), -4.0, np.float32)
            likelihoods[np.arange(len(pdfs)), pdfs] = 0.0
            writer.write(key, likelihoods)
    run(tmp_path, "compile-train-graphs", "true_ali/tree", "true_ali/final.mdl", "lang/L.fst", "ark,t:text.int",
        "ark:graphs")  # fmt: skip
    return tmp_path


def run(folder: Path, *words: str, status: int = 0) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def read(folder: Path, name: str) -> dict[str, list[int]]:
    with SequentialReader(f"ark:{folder}/{name}", INT_VECTOR) as reader:
        return {key: value.tolist() for key, value in reader}


def test_likelihoods_that_know_the_labels_give_the_true_alignment(files: Path) -> None:
    log = run(files, "align-compiled-mapped", "true_ali/final.mdl", "ark:graphs", "ark:loglikes", "ark:ali",
              "ark,t:scores")  # fmt: skip
    run(files, "copy-int-vector", "ark:gunzip -c true_ali/ali.1.gz |", "ark:true")
    found, expected = read(files, "ali"), read(files, "true")
    assert found == {key: expected[key] for key in found}
    assert len(found) == 6
    # Every transition costs -log 0.75 or -log 0.25, the words what the lexicon says.
    with SequentialReader(f"ark:{files}/scores", FLOAT) as reader:
        scores = dict(reader)
    texts = dict(line.split(maxsplit=1) for line in (files / "text.int").read_text().splitlines())
    total = 0.0
    for key, path in expected.items():
        stays = sum(transition % 2 for transition in path)
        words = sum({"1": 0.5, "2": 0.25}[word] for word in texts[key].split())
        expected_score = stays * np.log(0.75) + (len(path) - stays) * np.log(0.25) - words
        assert scores[key] == pytest.approx(expected_score, abs=1e-3)
        total += expected_score
    frames = sum(map(len, expected.values()))
    assert f"Overall log-likelihood per frame is {total / frames:.4f}"[:-1] in log
    assert f"over {frames} frames" in log
    assert "Done 6, errors on 0" in log


def test_equal_alignments_have_the_graphs_states_in_order(files: Path) -> None:
    log = run(files, "align-equal-compiled", "ark:graphs", "scp:data/feats.scp", "ark:equal")
    assert "done 6 utterances, errors on 0" in log
    run(files, "ali-to-pdf", "true_ali/final.mdl", "ark:equal", "ark:pdfs")
    run(files, "ali-to-pdf", "true_ali/final.mdl", "ark:gunzip -c true_ali/ali.1.gz |", "ark:true")
    found, truth = read(files, "pdfs"), read(files, "true")
    for key, pdfs in found.items():
        assert len(pdfs) == len(truth[key])
        changes = np.flatnonzero(np.diff([-1, *pdfs]))
        true_changes = np.flatnonzero(np.diff([-1, *truth[key]]))
        assert [pdfs[t] for t in changes] == [truth[key][t] for t in true_changes]
        durations = np.diff([*changes, len(pdfs)])
        assert durations.max() - durations.min() <= 1
    first = (files / "equal").read_bytes()
    run(files, "align-equal-compiled", "ark:graphs", "scp:data/feats.scp", "ark:equal")
    assert (files / "equal").read_bytes() == first


def test_utterances_without_a_graph_or_too_short_are_warned_of_and_counted(files: Path) -> None:
    with SequentialReader(f"ark:{files}/loglikes", MATRIX) as reader:
        likelihoods = dict(reader)
    keys = list(likelihoods)
    with TableWriter(f"ark:{files}/some", MATRIX) as writer:
        writer.write(keys[0], likelihoods[keys[0]])
        writer.write("unknown", likelihoods[keys[1]])
        writer.write(keys[1], likelihoods[keys[1]][:11])  # twelve states
        writer.write(keys[2], likelihoods[keys[2]][:0])
    log = run(files, "align-compiled-mapped", "true_ali/final.mdl", "ark:graphs", "ark:some", "ark:ali")
    assert list(read(files, "ali")) == [keys[0]]
    assert "No fst for utterance unknown" in log
    assert f"Did not successfully decode file {keys[1]}, len = 11" in log
    assert f"Empty loglikes matrix utterance: {keys[2]}" in log
    assert "Done 1, errors on 3" in log
    log = run(files, "align-equal-compiled", "ark:graphs", "ark:some", "ark:ali")
    assert f"No alignment for utterance {keys[1]}: it is too short for its graph, 11 frames" in log


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda matrix: matrix[:, :5], "expected 6 log-likelihoods a frame.*found 5"),
        (lambda matrix: np.where(np.arange(6) == 4, np.nan, matrix), "pdf 4 at frame 0 is not a number"),
        (lambda matrix: matrix[:2], "None of the 6 utterances in ark:bad could be aligned; nothing is written"),
    ],
)
def test_bad_likelihoods_give_one_error_line_and_leave_the_output(files: Path, change: object, says: str) -> None:
    with SequentialReader(f"ark:{files}/loglikes", MATRIX) as reader, TableWriter(f"ark:{files}/bad", MATRIX) as writer:
        for key, matrix in reader:
            writer.write(key, change(matrix).astype(np.float32))  # type: ignore[operator]
    (files / "ali").write_text("as it was")
    log = run(files, "align-compiled-mapped", "true_ali/final.mdl", "ark:graphs", "ark:bad", "ark:ali", status=1)
    errors = [line for line in log.splitlines() if line.startswith("ERROR")]
    assert len(errors) == 1
    assert (files / "ali").read_text() == "as it was"
    assert re.search(says, errors[0])


def test_a_graph_of_another_model_is_refused(files: Path) -> None:
    graph = Transducer.of(0, [np.inf, 0.0], [(0, 1, 99, 0, 0.0)])
    with SequentialReader(f"ark:{files}/loglikes", MATRIX) as reader:
        key = next(iter(reader))[0]
    with TableWriter(f"ark:{files}/other", TRANSDUCER) as writer:
        writer.write(key, graph)
    log = run(files, "align-compiled-mapped", "true_ali/final.mdl", "ark:other", "ark:loglikes", "ark:ali", status=1)
    assert f"Cannot align utterance {key}: the graph has the transition-id 99, the model 1 to 12" in log


@pytest.mark.parametrize("option", ["--acoustic-scale=0", "--acoustic-scale=nan", "--self-loop-scale=inf"])
def test_scales_that_make_no_sense_are_refused(files: Path, option: str) -> None:
    words = ["align-compiled-mapped", option, "true_ali/final.mdl", "ark:graphs", "ark:loglikes", "ark:ali"]
    assert "scale" in run(files, *words, status=1).splitlines()[-1]
