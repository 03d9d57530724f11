"""Per-utterance vectors against their definition, and the program's forms and refusals."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from nnet3py.errors import UserError
from nnet3py.features.cmvn import accumulate, empty_statistics
from nnet3py.features.utterance_vectors import VectorEstimator, VectorSettings
from nnet3py.tables.holders import MATRIX, VECTOR
from nnet3py.tables.table import SequentialReader, TableWriter

LENGTHS = {"s1-u1": 31, "s1-u2": 7, "s2-u1": 20}


def random_features(seed: int, length: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.normal(size=(length, 3)) * [1.0, 5.0, 0.2] + [0.0, -40.0, 7.0]).astype(np.float32)


def sums(*parts: np.ndarray) -> np.ndarray:
    statistics = empty_statistics(3)
    for part in parts:
        accumulate(statistics, part)
    return statistics


def expected(frames: np.ndarray, everything: np.ndarray, copies: int = 0) -> np.ndarray:
    """The vector of frames, to which the whole reference is added ``copies`` times: as NumPy's mean and std have it."""
    pooled = np.vstack([frames, *[everything] * copies]).astype(np.float64)
    mean, deviation = everything.mean(axis=0, dtype=np.float64), everything.std(axis=0, dtype=np.float64)
    return np.concatenate([(pooled.mean(axis=0) - mean) / deviation, pooled.std(axis=0) / deviation - 1.0])


def test_a_vector_is_the_mean_and_deviation_relative_to_the_reference() -> None:
    everything, frames = random_features(1, 200), random_features(2, 31)
    estimator = VectorEstimator(VectorSettings(), sums(everything))
    np.testing.assert_allclose(estimator.vector(sums(frames)), expected(frames, everything), atol=1e-5)


def test_a_prior_is_so_many_frames_of_the_reference() -> None:
    everything, frames = random_features(1, 200), random_features(2, 31)
    estimator = VectorEstimator(VectorSettings(prior_count=400.0), sums(everything))
    np.testing.assert_allclose(estimator.vector(sums(frames)), expected(frames, everything, copies=2), atol=1e-5)


def test_without_a_reference_it_is_the_mean_and_the_deviation() -> None:
    frames = random_features(3, 50)
    exact = frames.astype(np.float64)
    found = VectorEstimator(VectorSettings()).vector(sums(frames))
    np.testing.assert_allclose(found, np.concatenate([exact.mean(axis=0), exact.std(axis=0)]), rtol=1e-4)
    means = VectorEstimator(VectorSettings(deviations=False)).vector(sums(frames))
    np.testing.assert_allclose(means, exact.mean(axis=0), rtol=1e-5)


def test_what_is_like_all_data_has_the_vector_zero() -> None:
    everything = random_features(4, 300)
    estimator = VectorEstimator(VectorSettings(prior_count=10.0), sums(everything))
    np.testing.assert_allclose(estimator.vector(sums(everything)), 0.0, atol=1e-5)
    np.testing.assert_allclose(estimator.vector(empty_statistics(3)), 0.0, atol=1e-5)  # no frame at all


def test_online_rows_are_vectors_of_the_frames_up_to_them_and_of_what_was_before() -> None:
    everything, before, frames = random_features(1, 200), random_features(5, 9), random_features(6, 25)
    estimator = VectorEstimator(VectorSettings(prior_count=200.0, period=10, online=True), sums(everything))
    rows = estimator.running_rows(sums(before), frames)
    assert rows.shape == (3, 6)
    for row, last in zip(rows, (0, 10, 20), strict=True):
        so_far = np.vstack([before, frames[: last + 1]])
        np.testing.assert_allclose(row, expected(so_far, everything, copies=1), atol=1e-5)


def run(folder: Path, *words: str, status: int = 0) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with TableWriter(f"ark:{tmp_path}/feats", MATRIX) as writer:
        for seed, (key, length) in enumerate(LENGTHS.items(), 10):
            writer.write(key, random_features(seed, length))
    (tmp_path / "spk2utt").write_text("s1 s1-u1 s1-u2\ns2 s2-u1\n")
    run(tmp_path, "compute-cmvn-stats", "ark:feats", "global.stats")
    return tmp_path


def features(key: str) -> np.ndarray:
    return random_features(10 + list(LENGTHS).index(key), LENGTHS[key])


def everything() -> np.ndarray:
    return np.vstack([features(key) for key in LENGTHS])


def test_the_program_writes_a_vector_for_each_utterance(folder: Path) -> None:
    log = run(folder, "compute-utterance-vectors", "--global-stats=global.stats", "ark:feats", "ark:vectors")
    assert "Made vectors of 3 utterances, 0 had errors" in log
    with SequentialReader(f"ark:{folder}/vectors", VECTOR) as reader:
        found = dict(reader)
    assert list(found) == list(LENGTHS)
    for key, vector in found.items():
        np.testing.assert_allclose(vector, expected(features(key), everything()), atol=1e-4)


def test_vectors_by_speaker_pool_the_frames(folder: Path) -> None:
    words = ["compute-utterance-vectors", "--global-stats=global.stats", "--spk2utt=ark:spk2utt"]
    run(folder, *words, "ark:feats", "ark:vectors")
    with SequentialReader(f"ark:{folder}/vectors", VECTOR) as reader:
        found = dict(reader)
    assert list(found) == ["s1", "s2"]
    pooled = np.vstack([features("s1-u1"), features("s1-u2")])
    np.testing.assert_allclose(found["s1"], expected(pooled, everything()), atol=1e-4)


@pytest.mark.parametrize("online", [False, True])
@pytest.mark.parametrize("by_speaker", [False, True])
def test_matrices_have_a_row_every_period(folder: Path, online: bool, by_speaker: bool) -> None:
    options = ["--global-stats=global.stats", "--ivector-period=10", f"--online={str(online).lower()}"]
    options += ["--spk2utt=ark:spk2utt"] if by_speaker else []
    run(folder, "compute-utterance-vectors", *options, "ark:feats", "ark:vectors")
    with SequentialReader(f"ark:{folder}/vectors", MATRIX) as reader:
        found = dict(reader)
    assert {key: len(matrix) for key, matrix in found.items()} == {"s1-u1": 4, "s1-u2": 1, "s2-u1": 2}
    first = features("s1-u1")
    of_speaker = [features("s1-u2")] if by_speaker else []
    for number, row in enumerate(found["s1-u1"]):
        frames = first[: 10 * number + 1] if online else np.vstack([first, *of_speaker])
        np.testing.assert_allclose(row, expected(frames, everything()), atol=2e-4)
    earlier = [first] if by_speaker else []
    last = features("s1-u2")[:1] if online else features("s1-u2")
    np.testing.assert_allclose(found["s1-u2"][0], expected(np.vstack([*earlier, last]), everything()), atol=2e-4)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--prior-count=3"], "--prior-count adds frames of --global-stats"),
        (["--prior-count=-1"], "--prior-count must be a number from 0 on"),
        (["--online=true"], "give --ivector-period too"),
        (["--ivector-period=-2"], "must not be below 0"),
        (["--global-stats=flat.stats"], "dimension 1 of the features is the same in all frames"),
        (["--global-stats=other.stats"], "Utterance s1-u1: Expected features of dimension 2"),
        (["--global-stats=none.stats"], "none.stats"),
    ],
)
def test_bad_options_and_statistics_are_refused_in_one_line(folder: Path, options: list[str], says: str) -> None:
    (folder / "flat.stats").write_text(" [ 10 20 30 10\n 50 40 200 0 ]\n")
    (folder / "other.stats").write_text(" [ 10 20 10\n 50 90 0 ]\n")
    (folder / "vectors").write_text("as it was")
    log = run(folder, "compute-utterance-vectors", *options, "ark:feats", "ark:vectors", status=1)
    assert [says in line for line in log.splitlines() if line.startswith("ERROR")] == [True]
    assert (folder / "vectors").read_text() == "as it was"


def test_a_value_that_is_not_finite_names_its_utterance(folder: Path) -> None:
    bad = random_features(1, 5)
    bad[3, 1] = np.nan
    with TableWriter(f"ark:{folder}/bad", MATRIX) as writer:
        writer.write("u1", bad)
    for options in ([], ["--ivector-period=2", "--online=true", "--global-stats=global.stats"]):
        log = run(folder, "compute-utterance-vectors", *options, "ark:bad", "ark:vectors", status=1)
        assert "Utterance u1: The features hold a NaN or infinite value" in log


def test_utterances_without_frames_or_features_are_counted(folder: Path) -> None:
    with TableWriter(f"ark:{folder}/some", MATRIX) as writer:
        writer.write("s1-u1", np.zeros((0, 0), np.float32))
        writer.write("s2-u1", features("s2-u1"))
    log = run(folder, "compute-utterance-vectors", "ark:some", "ark:vectors")
    assert "s1-u1: It has no frames" in log
    assert "Made vectors of 1 utterances, 1 had errors" in log
    log = run(folder, "compute-utterance-vectors", "--spk2utt=ark:spk2utt", "ark:some", "ark:vectors")
    assert "s1-u2: There are no features for it" in log
    assert "The speaker s1 has no features" in log
    assert "Made vectors of 1 utterances, 2 had errors" in log
    with TableWriter(f"ark:{folder}/none", MATRIX) as writer:
        writer.write("s1-u1", np.zeros((0, 0), np.float32))
    log = run(folder, "compute-utterance-vectors", "ark:none", "ark:vectors", status=1)
    assert "There is no utterance in ark:none to make vectors of" in log


def test_a_reference_of_no_frames_is_refused() -> None:
    with pytest.raises(UserError, match="at least one frame"):
        VectorEstimator(VectorSettings(), empty_statistics(3))
