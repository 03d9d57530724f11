"""What belongs together, two by two: what is the same passes, and the error for what is not names both sides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nnet3py.alignment.timed_phones import monophone_transition_model, monophone_tree_text
from nnet3py.directories.belonging import (
    TRANSITIONS,
    require_dimension,
    require_graph_of_model,
    require_labels,
    require_num_pdfs,
    require_order_of_transitions,
    require_output_of_pdfs,
    require_same_extractor,
    require_same_phones,
    require_same_subsampling,
    require_same_tree,
    require_tree_of_model,
    require_whole_model,
    transitions_id,
)
from nnet3py.directories.dimensions import first_columns, matrix_columns
from nnet3py.errors import UserError
from nnet3py.nnet.transition_model import NO_PDF, State, Topology, TransitionModel, read_transition_model
from nnet3py.tables.holders import MATRIX
from nnet3py.tables.table import TableWriter
from nnet3py.tables.transducer import Transducer, read_transducer_file

ADVICE = "Do otherwise."


def chain(*probabilities: float) -> list[State]:
    """States in a row, each with a self-loop of this probability, and the end."""
    states = [State(n, n, [(n, p), (n + 1, 1 - p)]) for n, p in enumerate(probabilities)]
    return [*states, State()]


def topology(phones: int, *probabilities: float) -> Topology:
    return Topology(list(range(1, phones + 1)), [-1, *[0] * phones], [chain(*(probabilities or (0.5, 0.5)))])


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two empty directories ``a`` and ``b`` in the current one."""
    for name in "ab":
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ("<eps> 0\nA 1\nB 2\n", ""),
        ("<eps> 0\nA 1\nB 2\n#0 3\n#1 4\n", ""),  # disambiguation symbols do not count
        ("B 2\nA 1\n<eps> 0\n", ""),
        ("<eps> 0\nA 2\nB 1\n", "'A' is 1 in a/phones.txt, 'A' is 2 in b/phones.txt"),
        ("<eps> 0\nA 1\nC 2\n", "'B' is 2 in a/phones.txt, 'B' is not in b/phones.txt"),
        ("<eps> 0\nA 1\nB 2\nC 3\n", "'C' is not in a/phones.txt, 'C' is 3 in b/phones.txt"),
    ],
)
def test_phones_have_the_same_numbers(both: Path, second: str, says: str) -> None:
    (both / "a/phones.txt").write_text("<eps> 0\nA 1\nB 2\n#0 3\n")
    require_same_phones("a", "b", ADVICE)  # only one says
    (both / "b/phones.txt").write_text(second)
    if not says:
        require_same_phones("a", "b", ADVICE)
        return
    with pytest.raises(UserError, match=f"a/phones.txt and b/phones.txt differ: {says}. Do otherwise."):
        require_same_phones("a", "b", ADVICE)


def test_trees_are_the_same_whatever_their_form(both: Path) -> None:
    text = monophone_tree_text(topology(2))
    (both / "a/tree").write_text(text)
    require_same_tree("a", "b", ADVICE)
    (both / "b/tree").write_text(text.replace(" TE", "  TE"))
    require_same_tree("a", "b", ADVICE)
    (both / "b/tree").write_text(monophone_tree_text(topology(3)))
    with pytest.raises(UserError, match=r"a/tree and b/tree are different trees, of 4 and 6 pdfs. Do otherwise."):
        require_same_tree("a", "b", ADVICE)


def test_a_tree_is_that_of_the_model(both: Path) -> None:
    model = monophone_transition_model(topology(3))
    (both / "a/tree").write_text(monophone_tree_text(topology(3)))
    require_tree_of_model("a/tree", "final.mdl", model, ADVICE)
    (both / "a/tree").write_text(monophone_tree_text(topology(2)))
    with pytest.raises(UserError, match=r"a/tree has 4 pdfs, final.mdl has 6: Do otherwise."):
        require_tree_of_model("a/tree", "final.mdl", model, ADVICE)
    # As many pdfs, differently dealt out: two phones of three states, three of two.
    (both / "a/tree").write_text(monophone_tree_text(topology(2, 0.5, 0.5, 0.5)))
    says = "State 0 of phone 2 has the pdf 3 by a/tree, the pdf 2 by final.mdl: Do otherwise."
    with pytest.raises(UserError, match=says):
        require_tree_of_model("a/tree", "final.mdl", model, ADVICE)


@pytest.mark.parametrize(
    ("tree", "model"),
    [
        ("am/tree", "am/0.trans_mdl"),
        ("chain/align/mono_tree", "chain/align/mono.trans_mdl"),
        ("chain/e2e/biphone_tree", "chain/e2e/biphone.trans_mdl"),
        ("chain/e2e/biphone_tied_tree", "chain/e2e/biphone_tied.trans_mdl"),
        ("chain/tree/tree", "chain/tree/0.trans_mdl"),  # two pdfs a state, neighbours
    ],
)
def test_trees_by_kaldi_are_those_of_their_models_and_of_no_others(
    kaldi_reference: Path, tree: str, model: str
) -> None:
    read = read_transition_model(str(kaldi_reference / model))
    require_tree_of_model(str(kaldi_reference / tree), model, read, ADVICE)
    with pytest.raises(UserError, match=f"chain/e2e/biphone_ci_tree.* {model}"):
        require_tree_of_model(str(kaldi_reference / "chain/e2e/biphone_ci_tree"), model, read, ADVICE)


def test_a_directory_is_whole_with_its_own_tree_and_number_of_pdfs(both: Path) -> None:
    model = monophone_transition_model(topology(2))
    require_whole_model("a", "a/final.mdl", model)  # neither is there
    (both / "a/num_pdfs").write_text("4\n")
    (both / "a/tree").write_text(monophone_tree_text(topology(2)))
    require_whole_model("a", "a/final.mdl", model)
    (both / "a/num_pdfs").write_text("5\n")
    with pytest.raises(UserError, match=r"a/num_pdfs says 5 pdfs, a/final.mdl has 4. Put the model"):
        require_whole_model("a", "a/final.mdl", model)
    (both / "a/num_pdfs").unlink()
    (both / "a/tree").write_text(monophone_tree_text(topology(3)))
    with pytest.raises(UserError, match=r"a/tree has 6 pdfs, a/final.mdl has 4: put the tree"):
        require_whole_model("a", "a/final.mdl", model)


def test_numbers_of_pdfs_are_compared(both: Path) -> None:
    require_num_pdfs("a", 7, "b/final.mdl", ADVICE)
    (both / "a/num_pdfs").write_text("7\n")
    require_num_pdfs("a", 7, "b/final.mdl", ADVICE)
    with pytest.raises(UserError, match=r"a/num_pdfs says 7 pdfs, b/final.mdl has 8. Do otherwise."):
        require_num_pdfs("a", 8, "b/final.mdl", ADVICE)
    require_output_of_pdfs(7, "a/0.raw", 7, "b/final.mdl", ADVICE)
    with pytest.raises(UserError, match=r"network in a/0.raw has the output dimension 14, b/final.mdl has 11 pdfs"):
        require_output_of_pdfs(14, "a/0.raw", 11, "b/final.mdl", ADVICE)


def test_the_digest_of_transitions_goes_by_states_and_pdfs_and_not_by_probabilities() -> None:
    model = monophone_transition_model(topology(2))
    trained = replace(model, log_probs=model.log_probs * np.float32(0.5))
    assert transitions_id(trained) == transitions_id(model)
    assert transitions_id(monophone_transition_model(topology(2, 0.9, 0.1))) == transitions_id(model)
    others = [
        monophone_transition_model(topology(3)),
        monophone_transition_model(topology(2, 0.5, 0.5, 0.5)),
        TransitionModel(model.topology, model.tuples[:, [0, 1, 2, 2]] + [0, 0, 1, 1], model.log_probs),
    ]
    assert len({transitions_id(each) for each in [model, *others]}) == 4


def test_a_graph_is_compared_in_all_that_it_says(both: Path) -> None:
    model = monophone_transition_model(topology(2))
    require_graph_of_model("a", "b", "b/final.mdl", model)  # Kaldi's oldest graphs say nothing
    for name in "ab":
        (both / name / "phones.txt").write_text("<eps> 0\nA 1\nB 2\n")
    (both / "a/num_pdfs").write_text("4\n")
    (both / "a" / TRANSITIONS).write_text(f"{transitions_id(model)}\n")
    require_graph_of_model("a", "b", "b/final.mdl", model)
    (both / "a" / TRANSITIONS).write_text(f"{transitions_id(monophone_transition_model(topology(3)))}\n")
    with pytest.raises(UserError, match=r"graph in a has the transitions of another model than b/final.mdl"):
        require_graph_of_model("a", "b", "b/final.mdl", model)
    (both / "a/num_pdfs").write_text("6\n")
    with pytest.raises(UserError, match=r"a/num_pdfs says 6 pdfs, b/final.mdl has 4"):
        require_graph_of_model("a", "b", "b/final.mdl", model)
    (both / "a/phones.txt").write_text("<eps> 0\nA 1\nC 2\n")
    with pytest.raises(UserError, match=r"a/phones.txt and b/phones.txt differ"):
        require_graph_of_model("a", "b", "b/final.mdl", model)


def test_extractors_and_frame_rates_are_compared_where_both_are_known(both: Path) -> None:
    (both / "a/final.ie.id").write_text("abc\n")
    (both / "a/factor").write_text("3\n")
    require_same_extractor("a", "b")
    require_same_subsampling("a/factor", "b/factor", ADVICE)
    (both / "b/final.ie.id").write_text("abc  \n")
    (both / "b/factor").write_text("3")
    require_same_extractor("a", "b")
    require_same_subsampling("a/factor", "b/factor", ADVICE)
    (both / "b/final.ie.id").write_text("abd\n")
    (both / "b/factor").write_text("1\n")
    with pytest.raises(UserError, match="iVectors in a are not of the extractor that b was trained with"):
        require_same_extractor("a", "b")
    with pytest.raises(UserError, match=r"a/factor says 3, b/factor says 1. Do otherwise."):
        require_same_subsampling("a/factor", "b/factor", ADVICE)


def test_labels_are_symbols_of_the_table(both: Path) -> None:
    (both / "a/words.txt").write_text("<eps> 0\nyes 1\nno 5\n")
    require_labels(np.array([0, 1, 5, 1], np.int32), "L.fst", "a/words.txt")
    require_labels(np.array([1, 9], np.int32), "L.fst", "a/words.txt", others=[9])
    require_labels(np.zeros(0, np.int32), "L.fst", "a/words.txt")
    with pytest.raises(UserError, match=r"L.fst has the label 6, which a/words.txt has no symbol for"):
        require_labels(np.array([1, 2, 6], np.int32), "L.fst", "a/words.txt")


def test_dimensions_are_those_of_the_first_matrix_and_unknown_ones_are_not_compared(both: Path) -> None:
    with TableWriter(f"ark,scp:{both}/a/feats.ark,{both}/a/feats.scp", MATRIX) as writer:
        writer.write("u1", np.zeros((2, 3), np.float32))
        writer.write("u2", np.zeros((2, 4), np.float32))
    assert first_columns("a/feats.scp") == 3
    require_dimension(3, "a/feats.scp", 3, "final.mdl takes features")
    with pytest.raises(UserError, match=r"a/feats.scp has dimension 3, final.mdl takes features of dimension 4"):
        require_dimension(3, "a/feats.scp", 4, "final.mdl takes features")
    (both / "b/feats.scp").write_text("u1 nowhere.ark:5\n")
    assert first_columns("b/feats.scp") is None
    require_dimension(None, "b/feats.scp", 4, "final.mdl takes features")
    (both / "b/stats").write_text(" [\n 1 2 9\n 3 4 0 ]\n")
    assert matrix_columns("b/stats") == 3
    with pytest.raises(UserError, match="b/none"):
        matrix_columns("b/none")


# Paths through HMMs. Two phones of two states: 1 stays in state 0 of phone 1, 2 leaves it, 3 and 4 are those of its
# state 1; 5 to 8 are those of phone 2.


@pytest.mark.parametrize(
    ("path", "breaks"),
    [
        ([2, 1, 1, 4, 3, 6, 8, 7], None),  # the self-loop after the transition out, as Kaldi reorders
        ([1, 1, 2, 3, 4, 5, 6, 7, 8], None),  # before it
        ([2, 2, 2, 4, 4], None),  # repeated for a higher frame rate
        ([4, 3, 2], None),  # begins in the middle of a phone
        ([1], None),
        ([], None),
        ([2, 6], 1),  # phone 1 is left in its first state
        ([2, 4, 8], 2),  # phone 2 is entered in its last
        ([4, 1, 8], 2),
        ([2, 1, 4, 3, 7], 4),
    ],
)
def test_a_path_through_the_hmms_is_told_from_what_is_none(path: list[int], breaks: int | None) -> None:
    model = monophone_transition_model(topology(2))
    assert model.first_break(np.array(path, np.int32)) == breaks


def test_a_graph_whose_transitions_follow_each_other_otherwise_is_of_another_model() -> None:
    model = monophone_transition_model(topology(2))
    # Phone 1, then phone 2, which may be left out by way of an arc without a label, and again.
    arcs = [
        (0, 1, 2),
        (1, 1, 1),
        (1, 2, 4),
        (2, 2, 3),
        (2, 3, 6),
        (3, 3, 5),
        (3, 4, 8),
        (4, 4, 7),
        (2, 4, 0),
        (4, 1, 2),
    ]
    graph = Transducer.of(0, [np.inf] * 4 + [0.0], [(a, b, label, 0, 0.0) for a, b, label in arcs])
    require_order_of_transitions(graph, "HCLG.fst", "final.mdl", model)
    other = monophone_transition_model(topology(3, 0.5, 0.5, 0.5))
    with pytest.raises(UserError, match=r"HCLG.fst is of another model than final.mdl: the transition-id . follows ."):
        require_order_of_transitions(graph, "HCLG.fst", "final.mdl", other)
    few = Transducer.of(0, [0.0], [(0, 0, 99, 0, 0.0)])
    require_order_of_transitions(few, "HCLG.fst", "final.mdl", model)  # for the search to refuse


@pytest.mark.parametrize("name", ["HCLG", "HCLGa"])
def test_graphs_by_kaldi_are_those_of_their_model(kaldi_reference: Path, name: str) -> None:
    model = read_transition_model(str(kaldi_reference / "lattices/chain.mdl"))
    path = str(kaldi_reference / f"lattices/graph/{name}.fst")
    require_order_of_transitions(read_transducer_file(path), path, "chain.mdl", model)


def test_states_that_are_skipped_or_have_no_pdf_are_passed_over() -> None:
    states = [
        State(0, 0, [(0, 0.5), (1, 0.25), (2, 0.25)]),
        State(NO_PDF, NO_PDF, [(2, 1.0)]),
        State(1, 1, [(2, 0.5), (3, 0.5)]),
        State(),
    ]
    tuples = np.array([[1, 0, 0, 0], [1, 2, 1, 1], [2, 0, 2, 2], [2, 2, 3, 3]], np.int32)
    model = TransitionModel(Topology([1, 2], [-1, 0, 0], [states]), tuples, np.log(np.full(11, 0.5, np.float32)))
    assert model.first_break(np.array([1, 2, 4, 5, 1], np.int32)) is None
    assert model.first_break(np.array([1, 3, 5, 3], np.int32)) is None
    assert model.first_break(np.array([1, 2, 5, 6, 8, 10], np.int32)) is None
    assert model.first_break(np.array([1, 2, 9], np.int32)) == 2


@pytest.mark.parametrize(
    ("alignments", "model", "other"),
    [
        ("am/ali_transition_ids.txt", "am/0.trans_mdl", "chain/align/mono.trans_mdl"),
        ("chain/align/ali.txt", "chain/align/mono.trans_mdl", "am/0.trans_mdl"),
        ("chain/tree/ali_mono_repeat.txt", "chain/tree/mono.trans_mdl", ""),  # states of one frame: any order is a path
        ("chain/tree/ali.txt", "chain/tree/0.trans_mdl", ""),
    ],
)
def test_alignments_by_kaldi_are_paths_of_their_model_and_not_of_another(
    kaldi_reference: Path, alignments: str, model: str, other: str
) -> None:
    lines = (kaldi_reference / alignments).read_text().splitlines()
    paths = [np.array(line.split()[1:], np.int32) for line in lines]
    own = read_transition_model(str(kaldi_reference / model))
    assert [own.first_break(path) for path in paths] == [None] * len(paths)
    if other:
        foreign = read_transition_model(str(kaldi_reference / other))
        known = [path for path in paths if path.max() <= foreign.num_transition_ids]
        assert any(foreign.first_break(path) is not None for path in known)
