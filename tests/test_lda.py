"""LDA statistics and the transform they give."""

from __future__ import annotations

import io
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg

from nnet3py.egs import index_vector
from nnet3py.egs.example import Example, NnetIo
from nnet3py.egs.merge import merge_examples
from nnet3py.errors import UserError
from nnet3py.lda import (
    LdaStatistics,
    TransformOptions,
    accumulate_examples,
    estimate_transform,
    read_packed,
    read_statistics,
    write_packed,
    write_statistics,
)
from nnet3py.nnet.network import Network
from nnet3py.tables.basic_types import read_header
from nnet3py.tables.matrix import read_matrix
from nnet3py.tables.sparse_matrix import SparseMatrix
from nnet3py.tables.streams import Sink, Source, open_input

CLASSES, DIM = 12, 6
SPLICE = """\
input-node name=input dim=2
output-node name=output input=Append(Offset(input, -1), input, Offset(input, 1))
"""


def _data(count: int = 3000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    classes = random.integers(0, CLASSES - 1, count)  # the last class is never seen
    means = random.normal(size=(CLASSES, DIM)) * np.array([3, 2, 1, 0.5, 0.1, 0.0])
    mix = random.normal(size=(DIM, DIM))
    return (means[classes] + random.normal(size=(count, DIM))) @ mix + 1.0, classes, random.uniform(0.5, 1, count)


def _statistics() -> LdaStatistics:
    statistics = LdaStatistics.zero(CLASSES, DIM)
    statistics.accumulate(*_data())
    return statistics


def _apply(matrix: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.hstack([x, np.ones((len(x), 1))]) @ matrix.astype(np.float64).T


def test_accumulation_adds_one_vector_at_a_time() -> None:
    x, classes, weights = (column[:50] for column in _data())
    found, expected = LdaStatistics.zero(CLASSES, DIM), LdaStatistics.zero(CLASSES, DIM)
    found.accumulate(x, classes, weights)
    for vector, label, weight in zip(x, classes, weights, strict=True):
        expected.counts[label] += weight
        expected.sums[label] += weight * vector
        expected.scatter += weight * np.outer(vector, vector)
    for name in ("counts", "sums", "scatter"):
        assert np.allclose(getattr(found, name), getattr(expected, name)), name


def test_covariances_add_up() -> None:
    x, classes, weights = _data()
    total, between, mean, count = _statistics().covariances()
    assert np.allclose(total, np.cov(x.T, aweights=weights, ddof=0))
    assert np.allclose(mean, np.average(x, axis=0, weights=weights))
    assert np.isclose(count, weights.sum())
    within = sum(
        weights[classes == c].sum() * np.cov(x[classes == c].T, aweights=weights[classes == c], ddof=0)
        for c in np.unique(classes)
    )
    assert np.allclose(total - between, within / count)


def test_plain_lda_is_the_generalised_eigenproblem() -> None:
    statistics = _statistics()
    total, between, _, _ = statistics.covariances()
    values = scipy.linalg.eigh(between, total - between, eigvals_only=True)[::-1]
    options = TransformOptions(dim=3, within_class_factor=1.0, max_singular_value=0.0, remove_offset=False)
    matrix = estimate_transform(statistics, options).matrix.astype(np.float64)
    assert matrix.shape == (3, DIM)
    assert np.allclose(matrix @ (total - between) @ matrix.T, np.eye(3), atol=1e-5)
    assert np.allclose(matrix @ between @ matrix.T, np.diag(values[:3]), atol=1e-4)


def test_directions_get_the_variance_that_their_classes_have() -> None:
    statistics = _statistics()
    total, between, _, _ = statistics.covariances()
    values = scipy.linalg.eigh(between, total - between, eigvals_only=True)[::-1]
    matrix = estimate_transform(statistics, TransformOptions(max_singular_value=0.0)).matrix
    x, _, weights = _data()
    y = _apply(matrix, x)
    assert np.allclose(np.average(y, axis=0, weights=weights), 0, atol=1e-4)
    assert np.allclose(np.cov(y.T, aweights=weights, ddof=0), np.diag(values + 0.001), atol=1e-3)


@pytest.mark.parametrize("factor", [0.001, 0.2, 1.0])
def test_reducing_the_dimension_keeps_the_scaled_eigenvectors_of_the_largest_eigenvalues(factor: float) -> None:
    """B v = λ W v with vᵀ W v = 1: the rows are √((λ + f) / (1 + λ)) v for the largest λ."""
    statistics = _statistics()
    total, between, mean, _ = statistics.covariances()
    values, vectors = scipy.linalg.eigh(between, total - between)
    values, vectors = values[::-1][:3], vectors[:, ::-1][:, :3]
    expected = (vectors * np.sqrt((values + factor) / (1 + values))).T
    options = TransformOptions(dim=3, within_class_factor=factor, max_singular_value=0.0)
    matrix = estimate_transform(statistics, options).matrix.astype(np.float64)
    assert matrix.shape == (3, DIM + 1)
    signs = np.sign((matrix[:, :-1] * expected).sum(axis=1))[:, None]
    np.testing.assert_allclose(matrix[:, :-1], signs * expected, atol=1e-5)
    np.testing.assert_allclose(matrix[:, -1], -matrix[:, :-1] @ mean, atol=1e-5)


def test_the_limit_on_singular_values_is_that_of_the_reduced_transform(tmp_path: Path) -> None:
    write_statistics(str(tmp_path / "stats"), _statistics())
    for name, limit in (("free", 0), ("limited", 0.5)):
        command = ["nnet-get-feature-transform", "--dim=3", f"--max-singular-value={limit}", "--remove-offset=false"]
        done = subprocess.run([*command, name, "stats"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    matrices = {}
    for name in ("free", "limited"):
        with open_input(str(tmp_path / name)) as source:
            matrices[name] = read_matrix(source, read_header(source)).astype(np.float64)
    left, values, right = np.linalg.svd(matrices["free"], full_matrices=False)
    assert values.max() > 0.5 > values.min()
    np.testing.assert_allclose(matrices["limited"], (left * np.minimum(values, 0.5)) @ right, atol=1e-5)


def test_the_transform_undoes_any_linear_transform_of_its_input() -> None:
    x, classes, weights = _data()
    other = LdaStatistics.zero(CLASSES, DIM)
    moved = x @ np.random.default_rng(5).normal(size=(DIM, DIM)) - 4
    other.accumulate(moved, classes, weights)
    options = TransformOptions(max_singular_value=0.0)
    a = _apply(estimate_transform(_statistics(), options).matrix, x)
    b = _apply(estimate_transform(other, options).matrix, moved)
    assert np.allclose(np.abs((a * b).sum(axis=0)), (a * a).sum(axis=0), rtol=1e-3)


def test_singular_values_are_limited() -> None:
    options = TransformOptions(max_singular_value=0.4, remove_offset=False)
    free = estimate_transform(_statistics(), TransformOptions(max_singular_value=0, remove_offset=False)).matrix
    limited = estimate_transform(_statistics(), options).matrix
    values = np.linalg.svd(free, compute_uv=False)
    assert values.max() > 0.4
    assert np.allclose(np.linalg.svd(limited, compute_uv=False), np.minimum(values, 0.4), atol=1e-5)


@pytest.mark.parametrize("binary", [True, False])
def test_statistics_survive_a_file(tmp_path: Path, binary: bool) -> None:
    statistics = _statistics()
    write_statistics(str(tmp_path / "stats"), statistics, binary)
    again = read_statistics(str(tmp_path / "stats"))
    for name in ("counts", "sums", "scatter"):
        assert np.allclose(getattr(again, name), getattr(statistics, name), rtol=1e-5, atol=1e-2), name
    write_statistics(str(tmp_path / "again"), again, binary)
    assert abs(read_statistics(str(tmp_path / "again")).scatter - again.scatter).max() < 1e-2


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("dim", [0, 1, 4])
def test_packed_matrices_survive(binary: bool, dim: int) -> None:
    root = np.random.default_rng(dim).normal(size=(dim, dim)).round(2)
    memory = io.BytesIO()
    write_packed(Sink(memory, "memory"), root + root.T, binary)
    assert np.allclose(read_packed(Source(io.BytesIO(memory.getvalue()), "memory"), binary), root + root.T)


def _examples() -> list[tuple[str, Example]]:
    random = np.random.default_rng(2)
    examples = []
    for number in range(40):
        features = random.normal(size=(6, 2)).astype(np.float32)
        labels = SparseMatrix.from_rows([[(int(c), 1.0), (9, 0.25)] for c in random.integers(0, 9, 4)], 10)
        ios = [
            NnetIo("input", index_vector.consecutive(-1, 6), features),
            NnetIo("output", index_vector.consecutive(0, 4), labels),
        ]
        examples.append((f"e{number}", Example(ios)))
    return examples


def test_merged_examples_give_the_statistics_of_single_ones() -> None:
    network = Network.from_config(SPLICE)
    single, count = accumulate_examples(network, _examples())
    merged, _ = accumulate_examples(network, [("m", merge_examples([example for _, example in _examples()]))])
    assert count == 40
    assert single.counts.sum() == 40 * 4 * 1.25
    for name in ("counts", "sums", "scatter"):
        assert np.allclose(getattr(single, name), getattr(merged, name)), name
    expected = np.zeros(6)
    for _, example in _examples():
        x, labels = example.ios[0].features, example.ios[1].features.to_array()
        for t in range(4):
            expected += labels[t, 3] * x[t : t + 3].ravel()
    assert np.allclose(single.sums[3], expected, atol=1e-5)


def test_dense_targets_count_as_weights() -> None:
    network = Network.from_config(SPLICE)
    dense = [
        (key, Example([example.ios[0], NnetIo("output", example.ios[1].indexes, example.ios[1].features.to_array())]))
        for key, example in _examples()
    ]
    assert np.allclose(accumulate_examples(network, dense)[0].sums, accumulate_examples(network, _examples())[0].sums)


def test_pruning_at_random_keeps_the_expectation() -> None:
    network = Network.from_config(SPLICE)
    counts = [accumulate_examples(network, _examples(), 0.5, seed)[0].counts[9] for seed in range(30)]
    assert len(set(counts)) > 1
    assert abs(np.mean(counts) - 40) < 3  # 160 frames, 0.25 each
    assert all((2 * count).is_integer() for count in counts)


def test_no_examples_are_an_error() -> None:
    with pytest.raises(UserError, match="Accumulated no stats"):
        accumulate_examples(Network.from_config(SPLICE), [])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-30], "too early|cut off"),
        (lambda data: data.replace(b"<LDAACCS>", b"<LDAXXXX>", 1), "<LDAACCS>"),
        (lambda data: data.replace(b"<VECSIZE> \x04\x06", b"<VECSIZE> \x04\x07"), "shape"),
        (lambda data: data.replace(b"FP \x04\x06\x00\x00\x00", b"FP \x04\xff\xff\xff\x7f"), "size of a packed"),
        (
            lambda data: data.replace(b"FV \x04\x0c\x00\x00\x00", b"FV \x04\x0c\x00\x00\x00\x00\x00\xc0\x7f")[:-4],
            "expected",
        ),
        (lambda data: b"", "expected statistics for LDA, found an empty file"),
    ],
)
def test_damaged_statistics_are_reported(tmp_path: Path, damage: object, message: str) -> None:
    write_statistics(str(tmp_path / "good"), _statistics())
    (tmp_path / "bad").write_bytes(damage((tmp_path / "good").read_bytes()))  # type: ignore[operator]
    with pytest.raises(UserError, match=message):
        read_statistics(str(tmp_path / "bad"))


def test_statistics_that_are_not_finite_are_reported(tmp_path: Path) -> None:
    statistics = _statistics()
    statistics.sums[1, 2] = 1234.5
    write_statistics(str(tmp_path / "stats"), statistics)
    whole = (tmp_path / "stats").read_bytes()
    (tmp_path / "stats").write_bytes(whole.replace(struct.pack("<f", 1234.5), struct.pack("<f", np.nan)))
    with pytest.raises(UserError, match="<FIRST_ACCS> contains a value that is not finite"):
        read_statistics(str(tmp_path / "stats"))


def test_statistics_too_large_for_a_file_leave_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "stats"
    path.write_text("old")
    statistics = _statistics()
    statistics.sums[3, 1] = 1e39
    with pytest.raises(UserError, match="too large for single precision"):
        write_statistics(str(path), statistics)
    assert path.read_text() == "old"


def test_too_few_data_or_too_many_dimensions_are_reported() -> None:
    with pytest.raises(UserError, match="no data"):
        estimate_transform(LdaStatistics.zero(3, 2), TransformOptions())
    with pytest.raises(UserError, match="--dim=7 is more than the dimension of the statistics, 6"):
        estimate_transform(_statistics(), TransformOptions(dim=7))


def test_a_singular_covariance_is_smoothed(capsys: pytest.CaptureFixture[str]) -> None:
    x, classes, weights = _data()
    x[:, 3] = x[:, 2]
    statistics = LdaStatistics.zero(CLASSES, DIM)
    statistics.accumulate(x, classes, weights)
    statistics.scatter[3, 3] *= 1 - 1e-6  # rounding, on the wrong side
    assert np.isfinite(estimate_transform(statistics, TransformOptions()).matrix).all()
    assert "Cholesky failed" in capsys.readouterr().err


def test_jobs_add_up(tmp_path: Path) -> None:
    write_statistics(str(tmp_path / "1"), _statistics())
    write_statistics(str(tmp_path / "2"), _statistics())
    command = (
        "nnet-sum-lda-stats sum 1 2 && nnet-get-feature-transform b 1 2 && "
        "nnet-get-feature-transform --write-cholesky=chol --write-within-covar=covar a sum"
    )
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert np.allclose(read_statistics(str(tmp_path / "sum")).counts, 2 * _statistics().counts)
    assert (tmp_path / "a").stat().st_size == (tmp_path / "b").stat().st_size == 15 + 4 * 6 * 7
    assert (tmp_path / "chol").read_bytes()[:5] == b"\0BFP "
    other = LdaStatistics.zero(CLASSES, DIM + 1)
    write_statistics(str(tmp_path / "3"), other)
    done = subprocess.run(["nnet-sum-lda-stats", "sum", "1", "3"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "dimension 7" in done.stderr
