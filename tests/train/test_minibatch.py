"""Laying merged examples out for a network."""

from __future__ import annotations

import numpy as np
import pytest

from nnet3py.egs import index_vector
from nnet3py.egs.example import Example, NnetIo
from nnet3py.egs.merge import merge_examples
from nnet3py.errors import UserError
from nnet3py.tables.sparse_matrix import SparseMatrix
from nnet3py.train.minibatch import Minibatch, SparseLabels

FRAMES = 4


def _example(number: int, soft: bool = False) -> Example:
    """Features are 100 * number + t; the label of frame t is 10 * number + t."""
    times = np.arange(-1, FRAMES + 1)
    features = (100 * number + times)[:, None].astype(np.float32)
    rows = [[(10 * number + t, 0.5)] + ([(39, 0.25)] if soft and t == 1 else []) for t in range(FRAMES)]
    return Example(
        [
            NnetIo("input", index_vector.consecutive(-1, FRAMES + 2), features),
            NnetIo("ivector", index_vector.consecutive(0, 1), np.full((1, 2), number, np.float32)),
            NnetIo("output", index_vector.consecutive(0, FRAMES), SparseMatrix.from_rows(rows, 40)),
        ]
    )


@pytest.mark.parametrize("soft", [False, True])
def test_rows_become_time_major(soft: bool) -> None:
    minibatch = Minibatch.from_example(merge_examples([_example(n, soft) for n in range(3)]))
    assert minibatch.num_sequences == 3
    assert minibatch.times["input"] == tuple(range(-1, FRAMES + 1))
    expected = np.array([[100 * n + t for n in range(3)] for t in range(-1, FRAMES + 1)], np.float32)
    inputs = minibatch.inputs["input"]
    assert inputs.dtype == np.float32
    assert inputs.flags.c_contiguous
    assert (inputs == expected.reshape(-1, 1)).all()
    assert minibatch.inputs["ivector"].tolist() == [[0, 0], [1, 1], [2, 2]]
    labels = minibatch.outputs["output"]
    assert isinstance(labels, SparseLabels)
    assert labels.one_per_row is not soft
    dense = np.zeros((FRAMES * 3, 40), np.float32)
    for t in range(FRAMES):
        for n in range(3):
            dense[3 * t + n, 10 * n + t] = 0.5
            if soft and t == 1:
                dense[3 * t + n, 39] = 0.25
    assert (labels.to_array() == dense).all()
    assert (np.diff(labels.rows) >= 0).all()


def test_requests_of_one_shape_are_one_object() -> None:
    first, second = (Minibatch.from_example(merge_examples([_example(n), _example(n + 1)])) for n in range(2))
    assert first.request is second.request
    assert first.request.num_sequences == 2
    assert first.request.outputs["output"].tolist() == list(range(FRAMES))


def test_dense_targets_stay_dense() -> None:
    example = _example(1)
    targets = NnetIo("output", example.ios[2].indexes, np.arange(8, dtype=np.float32).reshape(4, 2))
    minibatch = Minibatch.from_example(Example([example.ios[0], targets]))
    assert minibatch.outputs["output"].tolist() == targets.features.tolist()


def test_an_order_of_rows_that_is_not_kaldis_gives_the_same() -> None:
    merged = merge_examples([_example(0), _example(1)])
    order = np.random.default_rng(1).permutation(len(merged.ios[0].indexes))
    shuffled = NnetIo("input", merged.ios[0].indexes[order], merged.ios[0].features[order])
    expected, found = Minibatch.from_example(merged), Minibatch.from_example(Example([shuffled, *merged.ios[1:]]))
    assert (found.inputs["input"] == expected.inputs["input"]).all()


def test_sequences_with_different_frames_are_refused() -> None:
    one = _example(0)
    indexes = np.array([[0, 0, 0], [0, 1, 0], [1, 0, 0]], np.int32)
    bad = NnetIo("input", indexes, np.zeros((3, 1), np.float32))
    with pytest.raises(UserError, match="'input' do not all have the same frames"):
        Minibatch.from_example(Example([bad, one.ios[2]]))


def test_an_example_that_the_network_does_not_fit_is_named() -> None:
    with pytest.raises(UserError, match=r"Cannot use merged-3-2 of x: .*'ivector'"):
        Minibatch.from_example(_example(0), ["input"], ["output"], "merged-3-2 of x")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    example = _example(0)
    features = example.ios[0].features.copy()
    features[2] = value
    with pytest.raises(UserError, match="'input' contains a value that is not finite"):
        Minibatch.from_example(Example([NnetIo("input", example.ios[0].indexes, features), example.ios[2]]))
    labels = SparseMatrix(np.array([0, 1]), np.array([2], np.int32), np.array([value], np.float32), 40)
    with pytest.raises(UserError, match="label weight that is not finite"):
        Minibatch.from_example(Example([example.ios[0], NnetIo("output", index_vector.consecutive(0, 1), labels)]))


def test_finite_numbers_whose_sum_overflows_are_accepted() -> None:
    indexes = index_vector.consecutive(0, 2)
    part = NnetIo("input", indexes, np.full((2, 3), 3e38, np.float32))
    minibatch = Minibatch.from_example(Example([part, NnetIo("output", indexes, np.zeros((2, 1), np.float32))]))
    assert minibatch.inputs["input"].max() == np.float32(3e38)


def test_parts_must_have_equally_many_sequences() -> None:
    merged = merge_examples([_example(0), _example(1)])
    with pytest.raises(UserError, match="different numbers of sequences"):
        Minibatch.from_example(Example([merged.ios[0], _example(0).ios[2]]))


def test_an_index_with_x_is_refused() -> None:
    part = NnetIo("input", np.array([[0, 0, 1]], np.int32), np.zeros((1, 1), np.float32))
    with pytest.raises(UserError, match="x other than 0"):
        Minibatch.from_example(Example([part]))
