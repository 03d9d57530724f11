"""Selections and changes of examples that are copied."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from nnet3py.egs import index_vector
from nnet3py.egs.copy import FrameSelection, number_of_copies, rename_output, scale_supervision
from nnet3py.egs.copy_tables import copy_examples
from nnet3py.egs.example import EXAMPLE, Example, NnetIo
from nnet3py.egs.merge import merge_examples
from nnet3py.errors import UserError
from nnet3py.tables.compressed_matrix import compress
from nnet3py.tables.general_matrix import to_array
from nnet3py.tables.sparse_matrix import SparseMatrix
from nnet3py.tables.table import SequentialReader, TableWriter

LEFT, FRAMES, RIGHT = 3, 4, 2


def _example() -> Example:
    times = np.arange(-LEFT, FRAMES + RIGHT, dtype=np.float32)
    labels = SparseMatrix.from_rows([[(t, 1.0)] for t in range(FRAMES)], 6)
    return Example(
        [
            NnetIo("input", index_vector.consecutive(-LEFT, len(times)), times[:, None]),
            NnetIo("ivector", index_vector.consecutive(0, 1), np.ones((1, 2), np.float32)),
            NnetIo("output", index_vector.consecutive(0, FRAMES), labels),
        ]
    )


def _select(selection: FrameSelection, example: Example | None = None) -> Example:
    selected = selection.apply(example or _example(), random.Random(1))
    assert selected is not None
    return selected


def test_one_frame_with_less_context() -> None:
    selected = _select(FrameSelection(frame="2", left_context=1, right_context=2))
    assert selected.ios[0].features[:, 0].tolist() == [1, 2, 3, 4]
    assert selected.ios[0].indexes[:, 1].tolist() == [1, 2, 3, 4]
    assert selected.ios[2].features.to_array().argmax(axis=1).tolist() == [2]


def test_a_frame_that_the_example_lacks_gives_none() -> None:
    assert FrameSelection(frame="4").apply(_example(), random.Random(1)) is None


def test_a_random_frame_is_any_of_them() -> None:
    generator = random.Random(1)
    selection = FrameSelection(frame="random")
    found = {int(selection.apply(_example(), generator).ios[2].indexes[0, 1]) for _ in range(60)}  # type: ignore[union-attr]
    assert found == set(range(FRAMES))


def test_compressed_features_keep_their_values() -> None:
    example = _example()
    features = compress(np.random.default_rng(0).normal(size=(9, 5)))
    example = Example([NnetIo("input", example.ios[0].indexes, features), *example.ios[1:]])
    selected = _select(FrameSelection(left_context=0), example)
    assert (selected.ios[0].features == to_array(features)[LEFT:]).all()


def test_a_shift_spares_ivectors() -> None:
    selected = _select(FrameSelection(frame_shift=5))
    assert [part.indexes[0, 1] for part in selected.ios] == [5 - LEFT, 0, 5]


def test_too_much_context_is_warned_of_once(capsys: pytest.CaptureFixture[str]) -> None:
    selection = FrameSelection(left_context=10)
    for _ in range(3):
        assert len(_select(selection).ios[0].indexes) == LEFT + FRAMES + RIGHT
    assert capsys.readouterr().err.count("example only has left-context of 3") == 1


def test_merged_examples_come_too_late() -> None:
    with pytest.raises(UserError, match="already merged"):
        _select(FrameSelection(left_context=0), merge_examples([_example(), _example()]))


def test_frames_must_be_numbers() -> None:
    with pytest.raises(UserError, match="--frame='middle'"):
        FrameSelection(frame="middle")


def test_supervision_is_scaled_whatever_its_form() -> None:
    example = _example()
    assert scale_supervision(example, 0.25).ios[2].features.values.tolist() == [0.25] * FRAMES
    dense = np.random.default_rng(0).normal(size=(FRAMES, 3)).astype(np.float32)
    for targets in (dense, compress(dense, 3)):
        other = Example([NnetIo("output", example.ios[2].indexes, targets)])
        assert np.allclose(to_array(scale_supervision(other, 0.5).ios[0].features), 0.5 * to_array(targets), atol=1e-6)


def test_what_has_no_output_cannot_be_renamed() -> None:
    assert rename_output(_example(), "output-1").ios[2].name == "output-1"
    with pytest.raises(UserError, match="'output'"):
        rename_output(Example(_example().ios[:2]), "output-1")


def test_copies_are_as_many_as_expected() -> None:
    generator = random.Random(0)
    counts = [number_of_copies(2.3, generator) for _ in range(3000)]
    assert set(counts) == {2, 3}
    assert abs(np.mean(counts) - 2.3) < 0.03
    assert number_of_copies(1.0, generator) == 1


def _archive(path: Path, count: int) -> str:
    with TableWriter(f"ark:{path}", EXAMPLE) as writer:
        for number in range(count):
            writer.write(f"k{number}", _example())
    return f"ark:{path}"


def _keys(path: Path) -> list[str]:
    with SequentialReader(f"ark:{path}", EXAMPLE) as reader:
        return [key for key, _ in reader]


def test_shards_get_examples_in_turn(tmp_path: Path) -> None:
    source = _archive(tmp_path / "all", 7)
    counts = copy_examples(source, [f"ark:{tmp_path}/{n}" for n in range(3)])
    assert (counts.num_read, counts.num_written, counts.num_errors) == (7, 7, 0)
    assert [_keys(tmp_path / str(n)) for n in range(3)] == [["k0", "k3", "k6"], ["k1", "k4"], ["k2", "k5"]]


def test_random_shards_are_those_of_the_seed(tmp_path: Path) -> None:
    source = _archive(tmp_path / "all", 60)
    results = []
    for seed in (1, 1, 2):
        copy_examples(source, [f"ark:{tmp_path}/{n}" for n in range(2)], at_random=True, seed=seed)
        results.append([_keys(tmp_path / str(n)) for n in range(2)])
    assert results[0] == results[1] != results[2]
    assert sorted(results[0][0] + results[0][1]) == sorted(f"k{n}" for n in range(60))


def test_weights_and_names_come_by_key(tmp_path: Path) -> None:
    source = _archive(tmp_path / "all", 3)
    (tmp_path / "weights").write_text("k0 0.5\nk2 2\n")
    (tmp_path / "names").write_text("k0 output-0\nk1 output-1\nk2 output-2\n")
    counts = copy_examples(
        source, [f"ark:{tmp_path}/new"], weights=f"ark:{tmp_path}/weights", output_names=f"ark:{tmp_path}/names"
    )
    assert (counts.num_written, counts.num_errors) == (2, 1)
    with SequentialReader(f"ark:{tmp_path}/new", EXAMPLE) as reader:
        found = {key: (example.ios[2].name, float(example.ios[2].features.values[0])) for key, example in reader}
    assert found == {"k0": ("output-0", 0.5), "k2": ("output-2", 2.0)}


def test_a_proportion_must_be_a_number(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--keep-proportion"):
        copy_examples(_archive(tmp_path / "all", 1), [f"ark:{tmp_path}/new"], keep_proportion=-1)
