"""Merging examples into minibatches."""

from __future__ import annotations

import numpy as np
import pytest

from nnet3py.egs import index_vector
from nnet3py.egs.example import Example, NnetIo
from nnet3py.egs.merge import ExampleMerger, MinibatchSizes, merge_examples
from nnet3py.errors import UserError
from nnet3py.tables.compressed_matrix import CompressedMatrix, compress
from nnet3py.tables.general_matrix import GeneralMatrix, to_array
from nnet3py.tables.sparse_matrix import SparseMatrix


def _example(number: int, rows: int = 10, method: int | None = None, dim: int = 3) -> Example:
    features: GeneralMatrix = np.random.default_rng(number).normal(size=(rows, dim)).astype(np.float32)
    if method is not None:
        features = compress(np.asarray(features), method)
    labels = SparseMatrix.from_rows([[(number % 7, 1.0)]] * (rows - 2), 7)
    return Example(
        [
            NnetIo("output", index_vector.consecutive(0, rows - 2), labels),
            NnetIo("input", index_vector.consecutive(-1, rows), features),
        ]
    )


def test_a_rule_of_one_size() -> None:
    sizes = MinibatchSizes.parse("32")
    assert sizes.largest(10) == 32
    assert [sizes.of_rest(10, n) for n in (31, 32, 40)] == [0, 32, 32]


def test_ranges_count_when_the_input_has_ended() -> None:
    sizes = MinibatchSizes.parse("16:32,64")
    assert sizes.largest(10) == 64
    found = {n: sizes.of_rest(10, n) for n in (128, 64, 63, 31, 16, 15)}
    assert found == {128: 64, 64: 64, 63: 32, 31: 31, 16: 16, 15: 0}


def test_examples_go_by_the_rule_of_the_nearest_size() -> None:
    sizes = MinibatchSizes.parse("128=64,32/256=16")
    assert sizes.largest(100) == 64
    assert sizes.largest(200) == 16
    assert sizes.largest(192) == 64  # in the middle the first one counts


@pytest.mark.parametrize(
    "text", ["", "a", "0", "-1", "32:16", "1:2:3", "8/16", "8=4/8=2", "x=4", "8=", "4,,8", "8=4=2"]
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--minibatch-size"):
        MinibatchSizes.parse(text)


@pytest.mark.parametrize("method", [None, 2, 3, 5])
def test_rows_are_stacked_and_sequences_numbered(method: int | None) -> None:
    examples = [_example(n, method=method) for n in range(5)]
    merged = merge_examples(examples)
    assert [part.name for part in merged.ios] == ["input", "output"]
    features = merged.ios[0]
    assert isinstance(features.features, np.ndarray)
    expected = np.concatenate([to_array(example.ios[1].features) for example in examples])
    assert (features.features == expected).all()
    assert (features.indexes[:, 0] == np.arange(5).repeat(10)).all()
    assert (features.indexes[:, 1] == np.tile(np.arange(-1, 9), 5)).all()
    assert isinstance(merged.ios[1].features, SparseMatrix)
    assert (merged.ios[1].features.to_array().argmax(axis=1) == np.arange(5).repeat(8)).all()


def test_mixed_forms_give_the_same_as_full_matrices() -> None:
    examples = [_example(0), _example(1, method=2), _example(2, method=3)]
    full = [Example([example.ios[0], NnetIo("input", example.ios[1].indexes, to_array(example.ios[1].features))])
            for example in examples]  # fmt: skip
    assert merge_examples(examples).encoded() == merge_examples(full).encoded()


def test_merging_can_compress() -> None:
    examples = [_example(n) for n in range(3)]
    plain, merged = merge_examples(examples), merge_examples(examples, compress=True)
    assert isinstance(merged.ios[0].features, CompressedMatrix)
    assert np.abs(to_array(merged.ios[0].features) - plain.ios[0].features).max() < 0.1


def test_merged_examples_can_be_merged_again() -> None:
    pairs = [merge_examples([_example(2 * n), _example(2 * n + 1)]) for n in range(3)]
    assert merge_examples(pairs).encoded() == merge_examples([_example(n) for n in range(6)]).encoded()


def test_different_dimensions_do_not_merge() -> None:
    with pytest.raises(UserError, match=r"inconsistent feature dims: \[3, 4\] for 'input'"):
        merge_examples([_example(0), _example(1, dim=4)])


def _merged(examples: list[Example], rule: str) -> tuple[list[tuple[str, int]], ExampleMerger]:
    written: list[tuple[str, int]] = []
    merger = ExampleMerger(MinibatchSizes.parse(rule), lambda key, example: written.append((key, example.size)))
    for example in examples:
        merger.accept(example)
    merger.finish()
    return written, merger


def test_structures_stay_apart_and_the_rest_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    examples = [_example(n, rows=10 if n % 2 else 12) for n in range(21)]  # 11 of size 12, 10 of size 10
    written, merger = _merged(examples, "4,2")
    assert written[:4] == [("merged-0-4", 48), ("merged-1-4", 40), ("merged-2-4", 48), ("merged-3-4", 40)]
    assert written[4:] == [("merged-4-2", 20), ("merged-5-2", 24)]  # what came last is finished first, as in Kaldi
    assert merger.num_written == 6
    log = capsys.readouterr().err
    assert "10={4->2,2->1,d=0},12={4->2,2->1,d=1}" in log
    assert "Processed 21 egs of avg. size 11.05 into 6 minibatches, discarding 4.762% of egs." in log


def test_no_input_gives_no_minibatch(capsys: pytest.CaptureFixture[str]) -> None:
    written, merger = _merged([], "8")
    assert not written
    assert merger.num_written == 0
    assert "Processed 0 egs" in capsys.readouterr().err
