"""Features, iVectors and targets of the chunks."""

from __future__ import annotations

import numpy as np
import pytest

from nnet3py.egs.cut import InputConfig, cut_utterance, ivector_lengths_match, labels_of_posterior
from nnet3py.egs.example import Example
from nnet3py.egs.utterance_splitter import ChunkConfig, UtteranceSplitter
from nnet3py.errors import UserError
from nnet3py.tables.compressed_matrix import CompressedMatrix, compress
from nnet3py.tables.posterior import Posterior
from nnet3py.tables.sparse_matrix import SparseMatrix

FULL = InputConfig(compression_method=None)


def _labels(frames: list[list[tuple[int, float]]], num_pdfs: int) -> SparseMatrix:
    return labels_of_posterior(Posterior.of_frames(frames), num_pdfs)


def _features(num_frames: int) -> np.ndarray:
    return np.arange(num_frames, dtype=np.float32)[:, None] * np.ones(3, np.float32)


def _cut(
    config: ChunkConfig, num_frames: int, inputs: InputConfig = FULL, ivectors: np.ndarray | None = None, post: int = -1
) -> dict[str, Example]:
    labels = _labels([[(t % 7, 1.0)] for t in range(num_frames if post < 0 else post)], 7)
    splitter = UtteranceSplitter(config)
    return dict(cut_utterance("u", _features(num_frames), ivectors, labels, splitter, inputs))


def test_context_beyond_the_utterance_repeats_its_edge() -> None:
    examples = _cut(ChunkConfig((4,), left_context=2, right_context=3), 8)
    assert list(examples) == ["u-0", "u-4"]
    first, second = examples.values()
    assert first.ios[0].features[:, 0].tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 6]
    assert second.ios[0].features[:, 0].tolist() == [2, 3, 4, 5, 6, 7, 7, 7, 7]
    assert second.ios[0].indexes[:, 1].tolist() == list(range(-2, 7))
    assert second.ios[1].indexes[:, 1].tolist() == [0, 1, 2, 3]
    assert second.ios[1].features.to_array().argmax(axis=1).tolist() == [4, 5, 6, 0]


def test_frames_in_two_chunks_have_half_the_weight() -> None:
    first, second = _cut(ChunkConfig((8,)), 14).values()
    assert first.ios[1].features.values.tolist() == [1] * 6 + [0.5] * 2
    assert second.ios[1].features.values.tolist() == [0.5] * 2 + [1] * 6


def test_compression_is_of_each_chunk() -> None:
    examples = _cut(ChunkConfig((9,)), 18, InputConfig())
    for number, example in enumerate(examples.values()):
        features = example.ios[0].features
        assert isinstance(features, CompressedMatrix)
        assert float(features.min_value) == 9 * number
        assert float(features.range) == 8


def test_compressed_features_are_not_compressed_again() -> None:
    features = compress(_features(40), 2)
    labels = _labels([[(1, 1.0)]] * 40, 7)
    splitter = UtteranceSplitter(ChunkConfig((10,), left_context=1))
    whole = features.to_array()
    for key, example in cut_utterance("u", features, None, labels, splitter, InputConfig()):
        start = int(key.split("-")[1])
        rows = np.clip(np.arange(start - 1, start + 10), 0, 39)
        assert (example.ios[0].features.to_array() == whole[rows]).all()


def test_labels_beyond_the_posteriors_are_missing() -> None:
    examples = _cut(ChunkConfig((4,)), 8, post=6)
    assert np.diff(examples["u-4"].ios[1].features.indptr).tolist() == [1, 1, 0, 0]


def test_an_ivector_is_never_from_before_its_chunk() -> None:
    ivectors = np.arange(5, dtype=np.float32)[:, None] * np.ones(4, np.float32)
    chosen = set()
    for seed in range(20):
        splitter = UtteranceSplitter(ChunkConfig((10,)), seed)
        labels = _labels([[]] * 50, 7)
        config = InputConfig(None, online_ivector_period=10)
        for key, example in cut_utterance("u", _features(50), ivectors, labels, splitter, config):
            assert [part.name for part in example.ios] == ["input", "ivector", "output"]
            assert example.ios[1].indexes.tolist() == [[0, 0, 0]]
            row = int(example.ios[1].features[0, 0])
            assert row >= int(key.split("-")[1]) // 10
            chosen.add(row)
    assert chosen == {0, 1, 2, 3, 4}


def test_dense_targets_repeat_their_last_row() -> None:
    splitter = UtteranceSplitter(ChunkConfig((4,)))
    targets = np.arange(14, dtype=np.float64).reshape(7, 2)
    examples = dict(cut_utterance("u", _features(8), None, targets, splitter, FULL))
    assert examples["u-4"].ios[1].features.tolist() == [[8, 9], [10, 11], [12, 13], [12, 13]]
    assert examples["u-4"].ios[1].features.dtype == np.float32


def test_subsampled_targets_have_subsampled_times() -> None:
    splitter = UtteranceSplitter(ChunkConfig((6,), frame_subsampling_factor=3))
    labels = _labels([[(n, 1.0)] for n in range(4)], 7)
    examples = dict(cut_utterance("u", _features(12), None, labels, splitter, FULL))
    assert examples["u-6"].ios[1].indexes[:, 1].tolist() == [0, 3]
    assert examples["u-6"].ios[1].features.indices.tolist() == [2, 3]


def test_a_posterior_is_sorted_merged_and_without_zeros() -> None:
    labels = _labels([[(5, 0.25), (2, 0.5), (5, 0.25)], [(1, 0.0)], [(3, 1.0)]], 7)
    assert labels.indptr.tolist() == [0, 2, 2, 3]
    assert labels.indices.tolist() == [2, 5, 3]
    assert labels.values.tolist() == [0.5, 0.5, 1.0]


@pytest.mark.parametrize("pdf", [-1, 7, 2**31 - 1])
def test_a_pdf_that_does_not_exist_is_named(pdf: int) -> None:
    with pytest.raises(UserError, match=rf"pdf {pdf} at frame 1 is not in 0\.\.6"):
        _labels([[(0, 1.0)], [(pdf, 1.0)]], 7)


def test_weights_and_features_must_be_finite() -> None:
    with pytest.raises(UserError, match="weight at frame 1 is not finite"):
        _labels([[(0, 1.0)], [(0, float("nan"))]], 7)
    features = _features(8)
    features[3, 1] = np.nan
    splitter = UtteranceSplitter(ChunkConfig((4,)))
    with pytest.raises(UserError, match="utterance u contain a value that is not finite"):
        list(cut_utterance("u", features, None, _labels([[]] * 8, 7), splitter, FULL))


def test_a_short_utterance_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert _cut(ChunkConfig((8,)), 5) == {}
    assert "Not producing egs for utterance u because it is too short: 5 frames." in capsys.readouterr().err


def test_ivectors_must_cover_the_utterance(capsys: pytest.CaptureFixture[str]) -> None:
    config = InputConfig(online_ivector_period=10, length_tolerance=20)
    assert ivector_lengths_match("u", 100, np.zeros((8, 2)), config)
    assert not ivector_lengths_match("u", 100, np.zeros((7, 2)), config)
    assert not ivector_lengths_match("u", 5, np.zeros((0, 2)), config)
    assert "exceeds tolerance 20 for utterance u" in capsys.readouterr().err
