"""LDA statistics and transforms against Kaldi's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from nnet3py.lda import read_statistics, write_statistics
from nnet3py.tables.basic_types import read_header
from nnet3py.tables.matrix import read_matrix
from nnet3py.tables.streams import open_input


def _matrix(path: Path) -> np.ndarray:
    with open_input(str(path)) as source:
        return read_matrix(source, read_header(source)).astype(np.float64)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("archive", ["egs_8frames.ark", "egs_8frames_merged32.ark"])
def test_statistics(kaldi_reference: Path, tmp_path: Path, archive: str) -> None:
    folder = kaldi_reference
    stats = str(tmp_path / "stats")
    _run("nnet-acc-lda-stats", "--rand-prune=0", f"{folder}/lda/splice.raw", f"ark:{folder}/egs/{archive}", stats)
    found, expected = read_statistics(stats), read_statistics(str(folder / "lda" / "lda_stats"))
    if archive == "egs_8frames.ark":
        for name in ("counts", "sums", "scatter"):
            assert _relative(getattr(found, name), getattr(expected, name)) < 1e-5, name
    else:  # the five examples that were too few for a minibatch are missing
        assert 0.95 < found.counts.sum() / expected.counts.sum() < 1


def test_statistics_are_written_as_they_were_read(kaldi_reference: Path, tmp_path: Path) -> None:
    path = kaldi_reference / "lda" / "lda_stats"
    write_statistics(str(tmp_path / "copy"), read_statistics(str(path)))
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("expected", "options"),
    [("lda.mat", []), ("lda_dim40.mat", ["--dim=40", "--within-class-factor=0.0001"])],
)
def test_transforms(kaldi_reference: Path, tmp_path: Path, expected: str, options: list[str]) -> None:
    statistics = str(kaldi_reference / "lda" / "lda_stats")
    _run("nnet-get-feature-transform", *options, str(tmp_path / "lda.mat"), statistics)
    ours, theirs = _matrix(tmp_path / "lda.mat"), _matrix(kaldi_reference / "lda" / expected)
    assert ours.shape == theirs.shape
    # Twelve of the thirty classes occur, so that eleven directions are determined. Between-class variance is zero in
    # the others, and any rotation of them is as good: of these only what a rotation cannot change is compared.
    determined = int((read_statistics(statistics).counts > 0).sum()) - 1
    for row in range(determined):
        sign = np.sign(ours[row] @ theirs[row])
        assert _relative(sign * ours[row], theirs[row]) < 1e-3, row
    if not options:
        assert _relative(ours.T @ ours, theirs.T @ theirs) < 1e-3
        assert _relative(ours[determined:].T @ ours[determined:], theirs[determined:].T @ theirs[determined:]) < 1e-3
    within = _within_class_covariance(statistics)
    for matrix in (ours, theirs):
        rest = matrix[determined:, :-1]
        factor = 0.0001 if options else 0.001
        assert np.allclose(rest @ within @ rest.T, factor * np.eye(len(rest)), atol=1e-3 * factor)


def _within_class_covariance(statistics: str) -> np.ndarray:
    total, between, _, _ = read_statistics(statistics).covariances()
    return total - between
