"""Phonetic decision trees, and the transition model that one makes together with a topology."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest

from nnet3py.alignment.timed_phones import monophone_transition_model, monophone_tree_text
from nnet3py.alignment.topology import topology_text
from nnet3py.errors import UserError
from nnet3py.nnet.transition_model import Topology, TransitionModel, read_topology
from nnet3py.nnet.transition_tuples import transition_model_of
from nnet3py.nnet.tree import PDF_CLASS, Tree, read_tree

# Phones 1 and 2 of two states; the left neighbour decides between pdfs 0 and 4 for the first state of phone 1, and what
# is on the right between pdfs 2 and 5 for the first state of phone 2.
TRIPHONE = """\
ContextDependency 3 1 ToPdf TE 1 3 ( NULL TE -1 2 ( SE 0 [ 0 2 ]
{ CE 0 CE 4 }
CE 1 )
TE -1 2 ( SE 2 [ 1 ]
{ CE 2 CE 5 }
CE 3 )
)
EndContextDependency """

TWO_STATES = """\
<Topology> <TopologyEntry> <ForPhones> 1 2 </ForPhones>
<State> 0 <PdfClass> 0 <Transition> 0 0.7 <Transition> 1 0.3 </State>
<State> 1 <PdfClass> 1 <Transition> 1 0.5 <Transition> 2 0.5 </State>
<State> 2 </State> </TopologyEntry> </Topology>
"""

# One emitting state with a pdf of its own on the self-loop, as "chain" models have it.
CHAIN = """\
<Topology> <TopologyEntry> <ForPhones> 1 2 </ForPhones>
<State> 0 <ForwardPdfClass> 0 <SelfLoopPdfClass> 1 <Transition> 0 0.5 <Transition> 1 0.5 </State>
<State> 1 </State> </TopologyEntry> </Topology>
"""

# Forward and self-loop pdfs both depend on the left neighbour: 1 gives (0, 2), the edge and 2 give (1, 3).
CHAIN_TREE = """\
ContextDependency 2 1 ToPdf TE 1 3 ( NULL
TE -1 2 ( SE 0 [ 1 ] { CE 0 CE 1 } SE 0 [ 1 ] { CE 2 CE 3 } )
TE -1 2 ( CE 4 CE 5 ) ) EndContextDependency """


def binary(text: str) -> bytes:
    """A tree's text as Kaldi's binary form, written here by the format's rules."""
    out = bytearray(b"\0B")
    words = iter(text.split())
    marks = {"CE": 1, "TE": 2, "SE": 1, "ContextDependency": 2}
    for word in words:
        if word == "[":
            members = []
            while (member := next(words)) != "]":
                members.append(int(member))
            out += struct.pack(f"<bi{len(members)}i", 4, len(members), *members)
            continue
        out += word.encode() + b" "
        for number in range(marks.get(word, 0)):
            unsigned = word == "TE" and number == 1
            out += struct.pack("<bI" if unsigned else "<bi", -4 if unsigned else 4, int(next(words)))
    return bytes(out)


def tree(text: str, folder: Path) -> Tree:
    (folder / "tree").write_text(text)
    return read_tree(str(folder / "tree"))


def topology(text: str, folder: Path) -> Topology:
    (folder / "topo").write_text(text)
    return read_topology(str(folder / "topo"))


def model(tree_text: str, topology_text: str, folder: Path) -> TransitionModel:
    return transition_model_of(tree(tree_text, folder), topology(topology_text, folder))


@pytest.mark.parametrize("text", [TRIPHONE, CHAIN_TREE])
def test_both_forms_hold_the_same_tree(text: str, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(binary(text))
    assert read_tree(str(tmp_path / "binary")) == tree(text, tmp_path)


def test_neighbours_decide_where_the_tree_asks_about_them(tmp_path: Path) -> None:
    found = tree(TRIPHONE, tmp_path)
    assert (found.width, found.centre, found.num_pdfs) == (3, 1, 6)
    assert found.pdfs_of(1, 0) == [0, 4]
    assert found.pdfs({0: 2, 1: 1, 2: 1, PDF_CLASS: 0}) == [0]
    assert found.pdfs({0: 1, 1: 1, 2: 1, PDF_CLASS: 0}) == [4]
    assert found.pdfs({0: 1, 1: 2, 2: 0, PDF_CLASS: 0}) == [5]
    assert found.pdfs_of(2, 1) == [3]
    assert found.pdfs_of(3, 0) == found.pdfs_of(1, 2) == []
    assert found.pdfs({}) == [0, 1, 2, 3, 4, 5]


def test_a_state_has_a_tuple_for_each_of_its_pdfs(tmp_path: Path) -> None:
    made = model(TRIPHONE, TWO_STATES, tmp_path)
    forward = [(1, 0, 0), (1, 0, 4), (1, 1, 1), (2, 0, 2), (2, 0, 5), (2, 1, 3)]
    assert made.tuples.tolist() == [[*row, row[-1]] for row in forward]
    each = np.log(np.array([0.7, 0.3], np.float32)).tolist(), np.log(np.array([0.5, 0.5], np.float32)).tolist()
    expected = [0.0, *each[0], *each[0], *each[1], *each[0], *each[0], *each[1]]
    np.testing.assert_allclose(made.log_probs, expected, rtol=1e-6)


def test_two_pdfs_of_a_state_are_of_the_same_neighbours(tmp_path: Path) -> None:
    made = model(CHAIN_TREE, CHAIN, tmp_path)
    assert made.tuples.tolist() == [[1, 0, 0, 2], [1, 0, 1, 3], [2, 0, 4, 5]]
    assert made.pdfs(np.arange(1, 7)).tolist() == [2, 0, 3, 1, 5, 4]


def test_a_monophone_tree_gives_the_monophone_model(tmp_path: Path) -> None:
    phones = topology(topology_text([2, 3, 5], [1], 3, 5), tmp_path)
    made = transition_model_of(tree(monophone_tree_text(phones), tmp_path), phones)
    expected = monophone_transition_model(phones)
    assert np.array_equal(made.tuples, expected.tuples)
    np.testing.assert_allclose(made.log_probs, expected.log_probs, rtol=1e-6)


def test_a_phone_that_the_tree_lacks_is_warned_of(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    three = TWO_STATES.replace("1 2 </ForPhones>", "1 2 3 </ForPhones>")
    assert set(model(TRIPHONE, three, tmp_path).tuples[:, 0].tolist()) == {1, 2}
    assert "no pdf for state 0 of phone 3" in capfd.readouterr().err
    with pytest.raises(UserError, match="do they belong together"):
        model(TRIPHONE, TWO_STATES.replace("1 2 </ForPhones>", "7 </ForPhones>"), tmp_path)


def test_a_tree_of_any_depth_is_read(tmp_path: Path) -> None:
    depth = 5000
    text = "SE 0 [ 1 ] { " * depth + "CE 0 " + "CE 1 } " * depth
    assert tree(f"ContextDependency 1 0 ToPdf {text}EndContextDependency ", tmp_path).num_pdfs == 2


def test_an_old_tree_with_lengths_is_read(tmp_path: Path) -> None:
    old = TRIPHONE.replace("ToPdf", "ToLength TE 1 2 ( NULL CE 2 ) ToPdf")
    assert tree(old, tmp_path) == tree(TRIPHONE, tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ContextDependency 3 1", "ContextDependency 3 3", "width of a window"),
        ("ContextDependency 3 1", "ContextDependency 3 -1", "width of a window"),
        ("ContextDependency 3 1", "ContextDependency 2000000000 1", "width of a window"),
        ("ContextDependency 3", "Context 3", "expected the token ContextDependency"),
        ("ToPdf", "ToPdfs", "expected the token ToPdf"),
        ("CE 4", "XE 4", "expected a node of a tree"),
        ("CE 4", "CE -4", "expected a pdf"),
        ("CE 4", "CE 2000000000", "expected a pdf"),
        ("CE 4", "NULL", "expected a branch of a question"),
        ("TE 1 3", "TE 1 -3", "expected a number of branches"),
        ("TE 1 3", "TE 1 2", r"expected the token \)"),
        ("TE 1 3", "TE 1 2000000000", "expected a node of a tree"),
        ("[ 1 ]", "[ 1 x ]", "expected an integer"),
        ("EndContextDependency ", "", "EndContextDependency"),
    ],
)
def test_a_damaged_tree_names_file_and_place(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in TRIPHONE
    with pytest.raises(UserError, match=message) as caught:
        tree(TRIPHONE.replace(old, new, 1), tmp_path)
    assert f"{tmp_path}/tree" in str(caught.value)


def test_damage_anywhere_in_a_binary_tree_is_a_user_error_or_a_tree(tmp_path: Path) -> None:
    data = binary(TRIPHONE)
    path = tmp_path / "tree"
    random = np.random.default_rng(2)
    for _ in range(400):
        damaged = bytearray(data)
        damaged[random.integers(0, len(data))] = random.integers(0, 256)
        path.write_bytes(bytes(damaged))
        with contextlib.suppress(UserError):
            read_tree(str(path))
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(UserError):
            read_tree(str(path))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<PdfClass> 1", "<PdfClass> 2", "count from 0 without gaps"),
        (
            "1 0.3 </State>\n<State> 1 <PdfClass> 1 <Transition> 1 0.5 <Transition> 2 0.5",
            "2 0.3 </State>\n<State> 1 <PdfClass> 1 <Transition> 2 1",
            "no transition goes to state 1",
        ),
        ("<State> 1 <PdfClass> 1 <Transition> 1 0.5", "<State> 1", "must have a pdf"),
    ],
)
def test_a_topology_that_kaldi_would_refuse_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in TWO_STATES
    with pytest.raises(UserError, match=message):
        topology(TWO_STATES.replace(old, new), tmp_path)
