"""The programs that the drivers use for counts and sums: feat-to-dim, feat-to-len, matrix-sum-rows, vector-sum."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from nnet3py.tables.basic_types import read_header
from nnet3py.tables.holders import MATRIX
from nnet3py.tables.matrix import read_vector
from nnet3py.tables.streams import open_input
from nnet3py.tables.table import TableWriter

MATRICES = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.full((40000, 3), 0.1, np.float32),  # single precision would lose the sum's last digits
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with TableWriter(f"ark:{tmp_path}/m.ark", MATRIX) as writer:
        for key, matrix in MATRICES.items():
            writer.write(key, matrix)
    (tmp_path / "empty.ark").touch()
    return tmp_path


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=folder, capture_output=True, text=True)


def vector(path: Path) -> np.ndarray:
    with open_input(str(path)) as source:
        return read_vector(source, read_header(source))


def test_rows_are_summed_in_double_precision(folder: Path) -> None:
    done = run("matrix-sum-rows ark:m.ark ark:- | vector-sum ark:- sum.vec", folder)
    assert done.returncode == 0, done.stderr
    expected = sum(matrix.astype(np.float64).sum(axis=0) for matrix in MATRICES.values())
    np.testing.assert_allclose(vector(folder / "sum.vec"), expected, rtol=1e-7)


def test_files_are_summed_and_a_table_averaged(folder: Path) -> None:
    commands = (
        "matrix-sum-rows ark:m.ark ark:v.ark && vector-sum ark:v.ark 1.vec && vector-sum 1.vec 1.vec 2.vec && "
        "vector-sum --average=true --binary=false ark:v.ark mean.vec"
    )
    done = run(commands, folder)
    assert done.returncode == 0, done.stderr
    one = vector(folder / "1.vec")
    np.testing.assert_array_equal(vector(folder / "2.vec"), 2 * one)
    np.testing.assert_allclose(vector(folder / "mean.vec"), one / 2, rtol=1e-5)
    assert (folder / "mean.vec").read_text().strip().startswith("[")


def test_lengths_and_dimension_of_features(folder: Path) -> None:
    done = run("feat-to-dim ark:m.ark - && feat-to-len ark:m.ark && feat-to-len ark:m.ark ark,t:-", folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3", "40002", "a", "2", "b", "40000"]


@pytest.mark.parametrize(
    "command",
    [
        "matrix-sum-rows ark:empty.ark ark:out",
        "vector-sum ark:empty.ark out",
        "feat-to-dim ark:empty.ark out",
        "feat-to-len ark:empty.ark ark:out",
        "vector-sum ark:m.ark out",
        "vector-sum missing.vec out",
        "matrix-sum-rows 'ark:head -c 100 m.ark |' ark:out",
        "matrix-sum-rows ark:m.ark ark:v && vector-sum ark:v 1 && echo '[ 1 2 ]' > 2 && vector-sum 1 2 out",
    ],
)
def test_bad_input_is_one_error_line_and_no_output(command: str, folder: Path) -> None:
    done = run(command, folder)
    assert done.returncode == 1
    assert done.stderr.count("ERROR (") == 1, done.stderr
    assert not (folder / "out").exists()


def test_thousands_of_files_named_by_a_script_have_the_sum_of_files_named_one_by_one(folder: Path) -> None:
    assert run("matrix-sum-rows ark:m.ark ark:- | vector-sum ark:- part.vec", folder).returncode == 0
    done = run(
        "for n in $(seq 2000); do ln part.vec $n.vec && echo $n $n.vec; done > parts.scp && ulimit -n 64 && "
        "vector-sum scp:parts.scp table.vec && vector-sum $(seq -f %.0f.vec 2000) files.vec",
        folder,
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "table.vec").read_bytes() == (folder / "files.vec").read_bytes()
    np.testing.assert_allclose(vector(folder / "table.vec"), 2000 * vector(folder / "part.vec"), rtol=1e-6)
