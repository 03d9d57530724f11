"""Graphs: what they accept, at what cost; checked by paths found with OpenFst's own operations."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from nnet3py.alignment.timed_phones import align_timed_phones
from nnet3py.decoding.graph import make_graph_dir, word_grammar
from nnet3py.errors import UserError
from nnet3py.nnet.transition_model import TransitionModel, read_transition_model
from nnet3py.text.symbols import read_symbols

kaldifst = pytest.importorskip("kaldifst")


def best_words(graph, transition_ids) -> tuple[list[int], float] | None:
    """Words and cost of the best path with exactly these input labels, None if there is none."""
    acceptor = kaldifst.make_linear_acceptor([int(t) for t in transition_ids])
    kaldifst.arcsort(acceptor, sort_type="olabel")
    paths = kaldifst.compose(acceptor, graph)
    if paths.num_states == 0:
        return None
    _, _, words, weight = kaldifst.get_linear_symbol_sequence(kaldifst.shortest_path(paths))
    return words, weight.value


def alignment_of(phones: str, language: Path, model: TransitionModel, frames_each: int = 4) -> np.ndarray:
    timed = [(phone, 0.01 * frames_each * i, 0.01 * frames_each) for i, phone in enumerate(phones.split())]
    numbers = read_symbols(str(language / "phones.txt"))
    return align_timed_phones(timed, frames_each * len(timed), numbers, model, frame_length=0.0)


def test_a_loop_accepts_strings_of_words_with_and_without_silence(language: Path, model_dir: Path) -> None:
    graph = make_graph_dir(str(language), str(model_dir), str(model_dir / "graph"))
    model = read_transition_model(str(model_dir / "final.mdl"))
    words = read_symbols(str(language / "words.txt"))
    for phones, expected in (
        ("A T", ["at"]),
        ("O T SIL A", ["at", "a"]),
        ("SIL A SIL O T SIL", ["a", "at"]),
        ("A A A", ["a", "a", "a"]),
    ):
        found = best_words(graph, alignment_of(phones, language, model))
        assert found is not None, phones
        assert found[0] == [words[word] for word in expected]


def test_the_cost_of_a_path_is_that_of_its_parts(language: Path, model_dir: Path) -> None:
    graph = make_graph_dir(str(language), str(model_dir), str(model_dir / "graph"))
    model = read_transition_model(str(model_dir / "final.mdl"))
    alignment = alignment_of("O T", language, model)
    found = best_words(graph, alignment)
    transitions = -sum(float(model.log_probs[t]) for t in alignment)
    one_of_five = math.log(5)  # four words, or the end; once for the word and once for the end
    no_silence = math.log(2)  # before the word, and after it
    assert found is not None
    assert found[1] == pytest.approx(transitions + 2 * one_of_five + 2 * no_silence + math.log(2), abs=0.01)


def test_words_that_sound_alike_keep_their_own_paths(language: Path, model_dir: Path) -> None:
    grammar = word_grammar({"to": read_symbols(str(language / "words.txt"))["to"]}, loop=False)
    grammar.write(str(language / "G.fst"))
    graph = make_graph_dir(str(language), str(model_dir), str(model_dir / "graph"))
    model = read_transition_model(str(model_dir / "final.mdl"))
    found = best_words(graph, alignment_of("T U", language, model))
    assert found is not None
    assert found[0] == [read_symbols(str(language / "words.txt"))["to"]]
    assert best_words(graph, alignment_of("A T", language, model)) is None


def test_a_word_grammar_accepts_one_word_only(language: Path, model_dir: Path) -> None:
    graph = make_graph_dir(str(language), str(model_dir), str(model_dir / "graph"), grammar="word")
    model = read_transition_model(str(model_dir / "final.mdl"))
    assert best_words(graph, alignment_of("SIL A SIL", language, model)) is not None
    assert best_words(graph, alignment_of("A A", language, model)) is None
    assert best_words(graph, alignment_of("SIL", language, model)) is None


def test_a_state_cannot_be_left_out(language: Path, model_dir: Path) -> None:
    graph = make_graph_dir(str(language), str(model_dir), str(model_dir / "graph"))
    model = read_transition_model(str(model_dir / "final.mdl"))
    alignment = alignment_of("A", language, model)
    assert best_words(graph, alignment) is not None
    assert best_words(graph, alignment[:-1]) is None


def test_scales_apply_to_staying_and_leaving(language: Path, model_dir: Path) -> None:
    model = read_transition_model(str(model_dir / "final.mdl"))
    alignment = alignment_of("A", language, model)
    costs = []
    for scale in (0.0, 1.0):
        graph = make_graph_dir(str(language), str(model_dir), str(model_dir / "graph"), self_loop_scale=scale)
        found = best_words(graph, alignment)
        assert found is not None
        costs.append(found[1])
    assert costs[1] - costs[0] == pytest.approx(-sum(float(model.log_probs[t]) for t in alignment), abs=0.01)


def test_a_model_with_context_is_refused(language: Path, model_dir: Path) -> None:
    from nnet3py.decoding.graph import compile_graph
    from nnet3py.decoding.library_transducer import read_vector_transducer

    model = read_transition_model(str(model_dir / "final.mdl"))
    phones = read_symbols(str(language / "phones.txt"))
    rows = model.tuples.tolist()
    rows.insert(1, [*rows[0][:2], 50, 50])
    state = model.topology.states(rows[0][0])[0]
    log_probs = np.insert(model.log_probs, 1, [math.log(p) for _, p in state.transitions]).astype(np.float32)
    contextual = TransitionModel(model.topology, np.array(rows, np.int32), log_probs)
    with pytest.raises(UserError, match="depends on neighbouring phones"):
        compile_graph(
            read_vector_transducer(str(language / "L_disambig.fst")),
            word_grammar(read_symbols(str(language / "words.txt")), loop=True),
            [number for name, number in phones.items() if name.startswith("#")],
            contextual,
        )


def test_a_missing_lexicon_transducer_is_named(language: Path, model_dir: Path) -> None:
    (language / "L_disambig.fst").unlink()
    with pytest.raises(UserError, match="L_disambig"):
        make_graph_dir(str(language), str(model_dir), str(model_dir / "graph"))
    assert not (model_dir / "graph" / "HCLG.fst").exists()


def test_words_that_no_pronunciation_leads_to_are_warned_of(
    language: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_graph_dir(str(language), str(model_dir), str(model_dir / "graph"))
    assert "no pronunciation" not in capsys.readouterr().err
    words = language / "words.txt"
    last = len(words.read_text().splitlines())
    words.write_text(f"{words.read_text()}mute {last}\ndumb {last + 1}\n")
    make_graph_dir(str(language), str(model_dir), str(model_dir / "graph"))
    assert f"2 words of {words} have no pronunciation in L_disambig.fst" in (said := capsys.readouterr().err)
    assert "dumb, mute." in said
