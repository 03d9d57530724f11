"""Sums and counts over tables: matrix-sum and analyze-counts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from nnet3py.tables.basic_types import read_header
from nnet3py.tables.holders import MATRIX
from nnet3py.tables.matrix import read_matrix
from nnet3py.tables.streams import open_input
from nnet3py.tables.table import SequentialReader, TableWriter

A = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.full((2, 3), 0.1, np.float32)}
B = {"b": np.ones((2, 3), np.float32), "c": np.ones((2, 3), np.float32)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, matrices in (("a", A), ("b", B), ("odd", {**A, "c": np.ones((3, 3), np.float32)})):
        with TableWriter(f"ark,scp:{tmp_path}/{name}.ark,{tmp_path}/{name}.scp", MATRIX) as writer:
            for key, value in matrices.items():
                writer.write(key, value)
    (tmp_path / "ali").write_text("u1 0 0 2\nu2 2 2 2 5\n")
    return tmp_path


def run(folder: Path, command: str, status: int = 0) -> str:
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def matrix(path: Path) -> np.ndarray:
    with open_input(str(path)) as source:
        return read_matrix(source, read_header(source))


def table(path: Path) -> dict[str, np.ndarray]:
    with SequentialReader(f"ark:{path}", MATRIX) as reader:
        return dict(reader)


def test_the_matrices_of_a_table_become_one(folder: Path) -> None:
    run(folder, "matrix-sum --binary=false scp:a.scp - > sum")
    np.testing.assert_allclose(matrix(folder / "sum"), A["a"] + A["b"], rtol=1e-6)
    assert (folder / "sum").read_text().startswith(" [\n")
    log = run(folder, "matrix-sum ark:odd.ark sum")
    assert "c: expected a matrix of the same size as others, 2 by 3, found 3 by 3" in log
    assert "Summed 2 matrices, 1 with errors" in log


def test_files_are_added_or_averaged(folder: Path) -> None:
    run(folder, "matrix-sum ark:a.ark 1 && matrix-sum ark:b.ark 2 && matrix-sum 1 2 2 sum")
    run(folder, "matrix-sum --average=true 1 2 2 mean")
    expected = A["a"] + A["b"] + 2 * 2
    np.testing.assert_allclose(matrix(folder / "sum"), expected, rtol=1e-6)
    np.testing.assert_allclose(matrix(folder / "mean"), expected / 3, rtol=1e-6)


def test_tables_are_added_key_by_key(folder: Path) -> None:
    log = run(folder, "matrix-sum --scale1=2 --scale2=-1 ark:a.ark ark:b.ark ark:a.ark ark:sums", status=1)
    assert "a: ark:b.ark has no matrix for it" in log
    sums = table(folder / "sums")
    assert list(sums) == ["a", "b"]
    np.testing.assert_allclose(sums["a"], 3 * A["a"], rtol=1e-6)
    np.testing.assert_allclose(sums["b"], 3 * A["b"] - 1, rtol=1e-6)
    run(folder, "matrix-sum --average=true ark:a.ark ark:a.ark ark:mean")
    np.testing.assert_allclose(table(folder / "mean")["b"], A["b"], rtol=1e-6)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("matrix-sum ark:/dev/null out", "has no matrix"),
        ("matrix-sum ark:/dev/null ark:out", "has no matrix"),
        ("matrix-sum --scale1=2 ark:a.ark out", "--scale1"),
        ("matrix-sum --average=true ark:a.ark out", "--average"),
        ("matrix-sum ark:a.ark ark:b.ark out", "Expected one table"),
        ("matrix-sum ark:a.ark 1 2>/dev/null; echo '[ 1 2 ]' > 2; matrix-sum 1 2 out", "Expected a matrix of 2 by 3"),
        ("analyze-counts ark,t:/dev/null out", "was counted"),
        ("analyze-counts 'ark,t:echo u1 1 -1 |' out", "utterance u1: expected labels"),
        ("analyze-counts 'ark,t:echo u1 2000000000 |' out", "utterance u1: expected labels"),
        ("analyze-counts --counts-dim=-1 ark,t:ali out", "number of labels"),
        ("analyze-counts '--frame-weights=ark,t:echo u1 [ 1 2 ] |' ark,t:ali out", "u1: expected a weight for each"),
        ("analyze-counts --symbol-table=none ark,t:ali /dev/null", "none"),
    ],
)
def test_bad_input_is_one_error_line_and_no_output(command: str, says: str, folder: Path) -> None:
    log = run(folder, command, status=1)
    assert log.count("ERROR (") == 1
    assert says in log
    assert not (folder / "out").exists()


def test_labels_are_counted_with_half_a_frame_added(folder: Path) -> None:
    log = run(folder, "analyze-counts --counts-dim=7 ark,t:ali counts")
    assert (folder / "counts").read_text() == " [ 2.5 0.5 4.5 0.5 0.5 1.5 0.5 ]\n"
    assert [line.split()[-4] for line in log.splitlines() if "Zero count" in line] == ["1,", "3,", "4,", "6,"]
    run(folder, "analyze-counts ark,t:ali counts")
    assert (folder / "counts").read_text() == " [ 2.5 0.5 4.5 0.5 0.5 1.5 ]\n"


def test_labels_that_never_occur_are_named_up_to_a_hundred(folder: Path) -> None:
    log = run(folder, "analyze-counts --counts-dim=1000 ark,t:ali counts")
    named = [line for line in log.splitlines() if "Zero count" in line]
    assert len(named) == 101
    assert named[-1].endswith("Zero count for 897 more labels, up to 999.")


def test_frames_and_utterances_can_have_weights(folder: Path) -> None:
    (folder / "frames").write_text("u1 [ 1 0.5 2 ]\nu2 [ 0 1 1 4 ]\n")
    (folder / "utterances").write_text("u1 2\n")
    run(folder, "analyze-counts --frame-weights=ark,t:frames ark,t:ali counts")
    assert (folder / "counts").read_text() == " [ 2 0.5 4.5 0.5 0.5 4.5 ]\n"
    log = run(folder, "analyze-counts --frame-weights=ark,t:frames --utt-weights=ark,t:utterances ark,t:ali counts")
    assert (folder / "counts").read_text() == " [ 3.5 0.5 4.5 ]\n"
    assert "Summed 1 int32 vectors to counts, skipped 1 vectors" in log


def test_the_log_has_a_table_of_counts_with_names(folder: Path) -> None:
    (folder / "phones.txt").write_text("<eps> 0\nsil 1\na 2\ne 5\n")
    lines = run(folder, "analyze-counts --symbol-table=phones.txt ark,t:ali counts").splitlines()
    assert "2\t(0.285714),\t0\t(<eps>)" in lines
    assert lines.index("1\t(0.142857),\t5\t(e)") < lines.index("4\t(0.571429),\t2\t(a)")
    assert "#total 7 (1.94444e-05h)" in lines
