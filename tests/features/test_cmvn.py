"""Mean and variance normalisation: the mathematics, and the programs over tables."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from nnet3py.errors import UserError
from nnet3py.features.cmvn import accumulate, denormalise, empty_statistics, normalise, skip_dims
from nnet3py.tables.holders import MATRIX, VECTOR
from nnet3py.tables.table import SequentialReader, TableWriter

Array = np.ndarray[Any, Any]


def features(rows: int = 200, seed: int = 0) -> Array:
    random = np.random.default_rng(seed)
    return (random.standard_normal((rows, 3)) * [1, 5, 0.1] + [10, -3, 0]).astype(np.float32)


def statistics_of(*matrices: Array) -> Array:
    statistics = empty_statistics(matrices[0].shape[1])
    for matrix in matrices:
        accumulate(statistics, matrix)
    return statistics


def test_statistics_are_sums_squares_and_a_count() -> None:
    matrix = features()
    wide = matrix.astype(np.float64)
    expected = np.zeros((2, 4))
    expected[0, :3], expected[1, :3], expected[0, 3] = wide.sum(0), (wide * wide).sum(0), 200
    np.testing.assert_allclose(statistics_of(matrix[:50], matrix[50:]), expected, rtol=1e-6)


@pytest.mark.parametrize("dim", [1, 2, 40])
@pytest.mark.parametrize("order", ["C", "F"])  # F is how compressed features come out of a file
def test_sums_are_made_frame_by_frame_to_the_last_bit(order: Literal["C", "F"], dim: int) -> None:
    random = np.random.default_rng(dim)
    expected, found = empty_statistics(dim), empty_statistics(dim)
    for rows in (700, 1, 300):
        matrix = np.asarray((random.standard_normal((rows, dim)) * 30).astype(np.float32), order=order)
        weights = random.random(rows).astype(np.float32)
        for frame, weight in zip(matrix, weights, strict=True):
            expected[0, :dim] += (frame * weight).astype(np.float64)
            expected[1, :dim] += (frame * frame * weight).astype(np.float64)
            expected[0, dim] += np.float64(weight)
        accumulate(found, matrix, weights)
    np.testing.assert_array_equal(found, expected)


def test_weights_count_frames() -> None:
    matrix = features(4)
    weighted = empty_statistics(3)
    accumulate(weighted, matrix, np.array([1, 0, 2, 0], np.float32))
    np.testing.assert_allclose(weighted, statistics_of(matrix[[0, 2, 2]]), rtol=1e-6)


def test_normalised_features_have_mean_0_and_variance_1() -> None:
    matrix = features()
    centred = normalise(statistics_of(matrix), matrix)
    np.testing.assert_allclose(centred.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(centred.std(0), matrix.std(0), rtol=1e-4)
    whitened = normalise(statistics_of(matrix), matrix, norm_vars=True)
    np.testing.assert_allclose(whitened.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(whitened.std(0), 1, rtol=1e-4)
    assert centred.dtype == whitened.dtype == np.float32


@pytest.mark.parametrize("norm_vars", [False, True])
def test_the_reverse_undoes_it(norm_vars: bool) -> None:
    matrix = features()
    statistics = statistics_of(matrix)
    there = normalise(statistics, matrix, norm_vars)
    np.testing.assert_allclose(denormalise(statistics, there, norm_vars), matrix, atol=1e-4)


def test_skipped_columns_stay() -> None:
    matrix = features()
    result = normalise(skip_dims(statistics_of(matrix), [1]), matrix, norm_vars=True)
    np.testing.assert_array_equal(result[:, 1], matrix[:, 1])
    np.testing.assert_allclose(result[:, 0].std(), 1, rtol=1e-4)


def test_a_constant_column_is_floored_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    matrix = np.ones((10, 1), np.float32)
    assert np.isfinite(normalise(statistics_of(matrix), matrix, norm_vars=True)).all()
    assert "Flooring cepstral variance" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("statistics", "message"),
    [
        (np.zeros((2, 4)), "at least one frame"),
        (np.full((2, 4), np.nan), "at least one frame"),
        (np.ones((2, 9)), "found 2 by 9"),
        (np.ones((3, 4)), "found 3 by 4"),
        (np.ones((1, 4)), "only means"),
    ],
)
def test_statistics_that_do_not_fit_are_errors(statistics: Array, message: str) -> None:
    with pytest.raises(UserError, match=message):
        normalise(statistics, features(), norm_vars=True)


# ----------------------------------------------------------------------------------------------------------- programs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    with TableWriter("ark,scp:feats.ark,feats.scp", MATRIX) as writer:
        for number in (1, 2, 3):
            writer.write(f"u{number}", features(50 * number, number))
    Path("spk2utt").write_text("s1 u1 u2\ns2 u3 u9\n")
    Path("utt2spk").write_text("u1 s1\nu2 s1\nu3 s2\n")
    return tmp_path


def run(command: str, status: int = 0) -> str:
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def table(rspecifier: str) -> dict[str, Array]:
    with SequentialReader(rspecifier, MATRIX) as reader:
        return dict(reader)


@pytest.mark.usefixtures("folder")
def test_statistics_per_speaker_normalise_each_speaker() -> None:
    messages = run("compute-cmvn-stats --spk2utt=ark:spk2utt scp:feats.scp ark,scp:cmvn.ark,cmvn.scp")
    assert "u9: There are no features for it." in messages
    assert "Done accumulating CMVN stats for 3 utterances; 1 had errors." in messages
    statistics = table("scp:cmvn.scp")
    assert statistics["s1"].dtype == np.float64
    np.testing.assert_allclose(statistics["s1"], statistics_of(features(50, 1), features(100, 2)))
    run("apply-cmvn --norm-vars --utt2spk=ark:utt2spk scp:cmvn.scp scp:feats.scp ark:out.ark")
    found = table("ark:out.ark")
    both = np.concatenate([found["u1"], found["u2"]])
    np.testing.assert_allclose(both.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(both.std(0), 1, rtol=1e-4)
    np.testing.assert_allclose(found["u3"].mean(0), 0, atol=1e-4)


@pytest.mark.usefixtures("folder")
def test_statistics_per_utterance_in_a_pipe() -> None:
    run("compute-cmvn-stats ark:feats.ark ark:- | apply-cmvn ark:- ark:feats.ark ark:out.ark")
    for matrix in table("ark:out.ark").values():
        np.testing.assert_allclose(matrix.mean(0), 0, atol=1e-4)


@pytest.mark.usefixtures("folder")
def test_global_statistics_are_one_file_of_floats() -> None:
    run("compute-cmvn-stats scp:feats.scp global.mat; apply-cmvn --skip-dims=0:2 global.mat scp:feats.scp ark:out.ark")
    assert Path("global.mat").read_bytes().startswith(b"\0BFM \x04\x02\0\0\0\x04\x04\0\0\0")
    found = table("ark:out.ark")
    np.testing.assert_array_equal(found["u1"][:, [0, 2]], features(50, 1)[:, [0, 2]])
    np.testing.assert_allclose(np.concatenate(list(found.values()))[:, 1].mean(), 0, atol=1e-3)


@pytest.mark.usefixtures("folder")
def test_weights_leave_frames_out() -> None:
    with TableWriter("ark:weights.ark", VECTOR) as writer:
        writer.write("u1", np.r_[np.ones(20), np.zeros(30)].astype(np.float32))
    assert "--weights does not have it" in run("compute-cmvn-stats --weights=ark:weights.ark scp:feats.scp ark:w.ark")
    np.testing.assert_allclose(table("ark:w.ark")["u1"], statistics_of(features(50, 1)[:20]), rtol=1e-6)


@pytest.mark.usefixtures("folder")
def test_without_means_features_are_copied_as_they_are() -> None:
    run(
        "copy-feats --compress scp:feats.scp ark:packed.ark; "
        "apply-cmvn --norm-means=false none ark:packed.ark ark:out.ark"
    )
    assert Path("out.ark").read_bytes() == Path("packed.ark").read_bytes()


@pytest.mark.usefixtures("folder")
def test_an_utterance_without_frames_stays_so() -> None:
    run("compute-cmvn-stats --spk2utt=ark:spk2utt scp:feats.scp ark:cmvn.ark")
    with TableWriter("ark:some.ark", MATRIX) as writer:
        writer.write("u1", np.zeros((0, 0), np.float32))
        writer.write("u2", features(9))
    run("apply-cmvn --utt2spk=ark:utt2spk ark:cmvn.ark ark:some.ark ark:out.ark")
    found = table("ark:out.ark")
    assert found["u1"].shape == (0, 0)
    assert abs(found["u2"]).max() > 0


@pytest.mark.usefixtures("folder")
def test_an_utterance_without_statistics_gets_a_warning_and_no_output() -> None:
    run("compute-cmvn-stats scp:feats.scp ark,t:- | head -n 6 > cmvn.txt")
    messages = run("apply-cmvn ark:cmvn.txt scp:feats.scp ark:out.ark")
    assert "No normalization statistics available for key u3" in messages
    assert "to 2 utterances, errors on 1" in messages
    assert set(table("ark:out.ark")) == {"u1", "u2"}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("apply-cmvn --norm-vars --norm-means=false x scp:feats.scp ark:out.ark", "without the mean"),
        ("apply-cmvn --utt2spk=ark:utt2spk feats.ark scp:feats.scp ark:out.ark", "needs a table of statistics"),
        ("apply-cmvn --skip-dims=1:x ark:feats.ark scp:feats.scp ark:out.ark", "columns such as 13:14:15"),
        ("apply-cmvn ark:feats.ark scp:feats.scp ark:out.ark", "Utterance 'u1': Expected statistics of 2 rows"),
        ("apply-cmvn ark:/dev/null scp:feats.scp ark:out.ark", "No utterance of scp:feats.scp was normalised"),
        ("compute-cmvn-stats --spk2utt=ark:spk2utt scp:feats.scp out.ark", "did you forget ark:"),
        ("compute-cmvn-stats ark:/dev/null out.ark", "no utterance in ark:/dev/null"),
    ],
)
def test_what_cannot_be_normalised_is_one_error_and_no_file(command: str, message: str) -> None:
    messages = run(command, 1)
    assert messages.count("ERROR (") == 1
    assert message in messages
    assert not Path("out.ark").exists()
