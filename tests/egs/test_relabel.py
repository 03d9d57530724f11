"""Relabelling examples: labels and their weights, everything else to the byte, and what cannot be relabelled."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from nnet3py.egs.example import EXAMPLE, Example, NnetIo
from nnet3py.egs.index_vector import consecutive
from nnet3py.egs.relabel import RelabelCounts, relabelled, split_key
from nnet3py.errors import UserError
from nnet3py.tables.holders import INT_VECTOR, MATRIX
from nnet3py.tables.sparse_matrix import SparseMatrix
from nnet3py.tables.table import SequentialReader, TableWriter

NUM_PDFS = 5
LENGTHS = {"s1-u1": 23, "s1-u2": 16, "other": 9}


def run(folder: Path, *words: str, status: int = 0) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def write_alignment(path: Path, alignment: dict[str, np.ndarray]) -> None:
    with TableWriter(f"ark:{path}", INT_VECTOR) as writer:
        for key, pdfs in alignment.items():
            writer.write(key, pdfs)


def read(path: Path) -> dict[str, Example]:
    with SequentialReader(f"ark:{path}", EXAMPLE) as reader:
        return dict(reader)


def cut(folder: Path, alignment: str, egs: str, *options: str) -> None:
    """Examples of the features with the labels of an alignment, as nnet-get-egs cuts them."""
    labels = f"ark:ali-to-post ark:{alignment} ark:- |"
    command = ["nnet-get-egs", f"--num-pdfs={NUM_PDFS}", "--left-context=2", "--right-context=1", *options]
    run(folder, *command, "ark:feats", labels, f"ark:{egs}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(2)
    with TableWriter(f"ark:{tmp_path}/feats", MATRIX) as writer:
        for key, length in LENGTHS.items():
            writer.write(key, random.normal(size=(length, 3)).astype(np.float32))
    for name in ("old", "new"):
        labels = {key: random.integers(0, NUM_PDFS, length).astype(np.int32) for key, length in LENGTHS.items()}
        write_alignment(tmp_path / name, labels)
    return tmp_path


@pytest.mark.parametrize(
    "options",
    [
        ["--num-frames=8"],
        ["--num-frames=7,3"],  # chunks overlap, and their frames weigh a half
        ["--num-frames=8", "--compress=false"],
        ["--num-frames=1"],
    ],
)
def test_relabelled_examples_are_those_that_would_have_been_cut_with_the_labels(
    folder: Path, options: list[str]
) -> None:
    cut(folder, "old", "egs", *options)
    cut(folder, "new", "expected", *options)
    assert (folder / "egs").read_bytes() != (folder / "expected").read_bytes()
    log = run(folder, "nnet-relabel-egs", "ark:new", "ark:egs", "ark:relabelled")
    assert (folder / "relabelled").read_bytes() == (folder / "expected").read_bytes()
    with (
        SequentialReader(f"ark:{folder}/egs", EXAMPLE) as egs,
        SequentialReader(f"ark:{folder}/expected", EXAMPLE) as expected,
    ):  # not as dictionaries: a frame in two chunks of one frame is under the same key twice
        pairs = [(before, after) for (_, before), (_, after) in zip(egs, expected, strict=True)]

    def labels(example: Example) -> np.ndarray:
        output = example.io("output")
        assert output is not None
        assert isinstance(output.features, SparseMatrix)
        return output.features.indices

    changed = sum(np.count_nonzero(labels(before) != labels(after)) for before, after in pairs)
    frames = sum(len(labels(before)) for before, _ in pairs)
    assert f"Read 3 alignments containing a total of {sum(LENGTHS.values())} frames" in log
    assert f"relabelled {frames} frames of {len(pairs)} examples, of which 0 have no alignment" in log
    assert f"labels changed for {changed} of those frames" in log


def test_labels_of_a_lower_rate_are_found_at_their_frames(folder: Path) -> None:
    random = np.random.default_rng(4)
    for name in ("old", "new"):
        third = {k: random.integers(0, NUM_PDFS, -(-n // 3)).astype(np.int32) for k, n in LENGTHS.items()}
        write_alignment(folder / name, third)
    options = ["--num-frames=6", "--frame-subsampling-factor=3"]
    cut(folder, "old", "egs", *options)
    cut(folder, "new", "expected", *options)
    run(folder, "nnet-relabel-egs", "--frame-subsampling-factor=3", "ark:new", "ark:egs", "ark:relabelled")
    assert (folder / "relabelled").read_bytes() == (folder / "expected").read_bytes()
    log = run(folder, "nnet-relabel-egs", "ark:new", "ark:egs", "ark:wrong", status=1)
    assert "is --frame-subsampling-factor right" in log


def test_single_frames_of_examples_are_relabelled_too(folder: Path) -> None:
    cut(folder, "old", "egs", "--num-frames=8")
    cut(folder, "new", "new-egs", "--num-frames=8")
    for source, target in (("egs", "one"), ("new-egs", "expected")):
        run(folder, "nnet-copy-egs", "--frame=3", f"ark:{source}", f"ark:{target}")
    run(folder, "nnet-relabel-egs", "ark:new", "ark:one", "ark:relabelled")
    assert (folder / "relabelled").read_bytes() == (folder / "expected").read_bytes()


def test_examples_without_an_alignment_stay_and_are_counted(folder: Path) -> None:
    cut(folder, "old", "egs", "--num-frames=8")
    before = read(folder / "egs")
    with SequentialReader(f"ark:{folder}/new", INT_VECTOR) as reader:
        write_alignment(folder / "some", {key: pdfs for key, pdfs in reader if key != "other"})
    log = run(folder, "nnet-relabel-egs", "ark:some", "ark:egs", "ark:relabelled")
    after = read(folder / "relabelled")
    assert list(after) == list(before)
    left = [key for key in before if key.startswith("other-")]
    assert left
    for key in before:
        assert (after[key].encoded() == before[key].encoded()) == (key in left)
    assert f"of which {len(left)} have no alignment and stay as they are" in log


def test_several_tables_are_relabelled_in_one_call(folder: Path) -> None:
    cut(folder, "old", "a", "--num-frames=8")
    cut(folder, "old", "b", "--num-frames=3")
    cut(folder, "new", "expected-a", "--num-frames=8")
    cut(folder, "new", "expected-b", "--num-frames=3")
    run(folder, "nnet-relabel-egs", "ark:new", "ark:a", "ark:b", "ark:new-a", "ark:new-b")
    for name in ("a", "b"):
        assert (folder / f"new-{name}").read_bytes() == (folder / f"expected-{name}").read_bytes()
    assert "as many tables to write as to read, found 3" in run(
        folder, "nnet-relabel-egs", "ark:new", "ark:a", "ark:b", "ark:new-a", status=1
    )


def example(rows: list[list[tuple[int, float]]], merged: bool = False) -> Example:
    indexes = consecutive(0, len(rows)).copy()
    if merged:
        indexes[-1, 0] = 1
    labels = NnetIo("output", indexes, SparseMatrix.from_rows(rows, NUM_PDFS))
    return Example([NnetIo("input", consecutive(0, 1), np.zeros((1, 2), np.float32)), labels])


def test_a_row_keeps_its_whole_weight_and_a_row_without_a_label_gets_none() -> None:
    before = example([[(0, 0.25), (3, 0.5)], [], [(2, 0.5)]])
    counts = RelabelCounts()
    after = relabelled(before, 4, np.array([9, 9, 9, 9, 1, 1, 2], np.int32), counts)
    output = after.io("output")
    assert output is not None
    expected = np.zeros((3, NUM_PDFS), np.float32)
    expected[0, 1], expected[2, 2] = 0.75, 0.5
    assert isinstance(output.features, SparseMatrix)
    np.testing.assert_array_equal(output.features.to_array(), expected)
    assert (counts.frames, counts.changed) == (2, 1)


@pytest.mark.parametrize(
    ("bad", "pdfs", "says"),
    [
        (example([[(0, 1.0)], [(0, 1.0)]]), [1], "a label for frame 1, the alignment of its utterance has 1"),
        (example([[(0, 1.0)]]), [5], "pdf 5, which is not in 0..4"),
        (example([[(0, 1.0)]]), [-1], "pdf -1, which is not in 0..4"),
        (example([[(0, 1.0)], [(0, 1.0)]], merged=True), [1, 1], "merged of several"),
        (Example([NnetIo("input", consecutive(0, 1), np.zeros((1, 2), np.float32))]), [1], "no output of the name"),
        (Example([NnetIo("output", consecutive(0, 1), np.ones((1, 5), np.float32))]), [1], "rows of numbers"),
    ],
)
def test_what_cannot_be_relabelled_is_refused(bad: Example, pdfs: list[int], says: str) -> None:
    with pytest.raises(UserError, match=says):
        relabelled(bad, 0, np.array(pdfs, np.int32), RelabelCounts())


def test_keys_are_split_at_the_last_dash() -> None:
    assert split_key("s1-u-2-17") == ("s1-u-2", 17)
    for key in ("merged", "merged-1-8x", "-3", "u-"):
        with pytest.raises(UserError, match="expected a key <utterance>-<first frame>"):
            split_key(key)


def test_an_alignment_of_other_data_is_refused_and_nothing_is_written(folder: Path) -> None:
    cut(folder, "old", "egs", "--num-frames=8")
    write_alignment(folder / "elsewhere", {"other": np.zeros(9, np.int32)})
    (folder / "relabelled").write_text("as it was")
    log = run(folder, "nnet-relabel-egs", "ark:elsewhere", "ark:egs", "ark:relabelled", status=1)
    assert "are of utterances without an alignment" in log
    assert (folder / "relabelled").read_text() == "as it was"


def test_an_error_names_the_example(folder: Path) -> None:
    cut(folder, "old", "egs", "--num-frames=8")
    first = next(iter(read(folder / "egs")))
    write_alignment(folder / "short", {key: np.zeros(3, np.int32) for key in LENGTHS})
    log = run(folder, "nnet-relabel-egs", "ark:short", "ark:egs", "ark:relabelled", status=1)
    assert f"Cannot relabel the example '{first}' of ark:egs" in log


def test_any_number_of_tables_is_relabelled_with_few_open_files(folder: Path) -> None:
    cut(folder, "old", "egs")
    run(folder, "nnet-relabel-egs", "ark:new", "ark:egs", "ark:one")
    targets = [f"ark:{number}.relabelled" for number in range(1, 101)]
    words = ["nnet-relabel-egs", "ark:new", *["ark:egs"] * 100, *targets]
    run(folder, "bash", "-c", 'ulimit -n 32 && exec "$@"', "bash", *words)
    assert {path.read_bytes() for path in folder.glob("*.relabelled")} == {(folder / "one").read_bytes()}
    assert len(list(folder.glob("*.relabelled"))) == 100
