"""Reading and writing training examples."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from nnet3py.egs import index_vector
from nnet3py.egs.example import EXAMPLE, Example, NnetIo
from nnet3py.errors import UserError
from nnet3py.tables.compressed_matrix import compress
from nnet3py.tables.general_matrix import GeneralMatrix, to_array
from nnet3py.tables.sparse_matrix import SparseMatrix
from nnet3py.tables.streams import Sink, Source
from nnet3py.tables.table import SequentialReader, TableWriter


def _example(features: GeneralMatrix, labels: GeneralMatrix) -> Example:
    return Example(
        [
            NnetIo("input", index_vector.consecutive(-1, features.shape[0]), features),
            NnetIo("output", index_vector.consecutive(0, labels.shape[0]), labels),
        ]
    )


def _features(rows: int = 10, dim: int = 5) -> np.ndarray:
    return np.random.default_rng(rows).normal(size=(rows, dim)).astype(np.float32)


def _labels(per_row: list[int]) -> SparseMatrix:
    rows = [[(2 * element + 1, 1.0 / count) for element in range(count)] for count in per_row]
    return SparseMatrix.from_rows(rows, 12)


def _read(encoded: bytes) -> Example:
    return EXAMPLE.read(Source(io.BytesIO(encoded), "memory"))


def _written(example: Example, binary: bool) -> bytes:
    memory = io.BytesIO()
    EXAMPLE.write(Sink(memory, "memory"), example, binary)
    return memory.getvalue()


@pytest.mark.parametrize("method", [None, 2, 3, 5])
@pytest.mark.parametrize("per_row", [[1] * 8, [1] * 20, [2, 0, 1, 3, 1, 1, 0, 5], [0] * 10])
def test_what_is_written_is_read(method: int | None, per_row: list[int]) -> None:
    features = _features() if method is None else compress(_features(), method)
    example = _example(features, _labels(per_row))
    again = _read(_written(example, True))
    assert [part.name for part in again.ios] == ["input", "output"]
    assert (again.ios[0].indexes == example.ios[0].indexes).all()
    assert (to_array(again.ios[0].features) == to_array(features)).all()
    assert (to_array(again.ios[1].features) == to_array(example.ios[1].features)).all()
    assert Example(again.ios).encoded() == example.encoded()
    assert again.structure == example.structure
    assert again.size == example.size == max(10, len(per_row))


def test_text_form_holds_the_same_numbers() -> None:
    example = _example(np.round(_features(), 3), _labels([1, 2, 0]))
    text = _written(example, False)
    assert text.startswith(b"<Nnet3Eg> <NumIo> 2 <NnetIo> input <I1V> 10 <I1> 0 -1 0 ")
    assert text.endswith(b"rows=3 dim=12 [ 1 1 ] dim=12 [ 1 0.5 3 0.5 ] dim=12 [ ] \n</NnetIo> </Nnet3Eg> ")
    again = _read(text + b"nextkey ")
    assert again.encoded() == example.encoded()
    assert _written(again, False) == text


def test_dense_targets_of_double_precision_become_float32() -> None:
    example = _example(_features(), _features(3, 2).astype(np.float64))
    again = _read(_written(example, True))
    assert again.ios[1].features.dtype == np.float32
    assert np.allclose(again.ios[1].features, example.ios[1].features)


def test_archives_of_text_and_binary_read_alike(tmp_path: Path) -> None:
    examples = {f"u-{n}": _example(compress(_features(12 + n)), _labels([1] * 8)) for n in range(30)}
    for options in ("ark", "ark,t"):
        with TableWriter(f"{options}:{tmp_path}/{options}.ark", EXAMPLE) as writer:
            for key, example in examples.items():
                writer.write(key, example)
    for options in ("ark", "ark,t"):
        with SequentialReader(f"ark:{tmp_path}/{options}.ark", EXAMPLE) as reader:
            found = dict(reader)
        assert list(found) == list(examples)
        for key, example in examples.items():
            assert np.allclose(to_array(found[key].ios[0].features), to_array(example.ios[0].features), rtol=1e-6)


def test_a_truncated_archive_names_the_key_it_stopped_at(tmp_path: Path) -> None:
    example = _example(compress(_features(400, 40)), _labels([1] * 9))
    whole = b"first \0B" + example.encoded() + b"second \0B" + example.encoded()
    half = len(whole) // 2
    for size in [half + 20, half + 30, half + 60, len(whole) - 1000, len(whole) - 1]:
        path = tmp_path / "cut.ark"
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"'second'.*byte.*cut off"), SequentialReader(f"ark:{path}", EXAMPLE) as r:
            list(r)


def test_every_damaged_byte_of_the_structure_is_an_error_or_harmless() -> None:
    """No byte changed at random may end in anything but an example or a UserError."""
    encoded = b"\0B" + _example(compress(_features()), _labels([1, 2, 1])).encoded()
    random = np.random.default_rng(0)
    errors = 0
    for _ in range(2000):
        damaged = bytearray(encoded)
        damaged[random.integers(2, len(damaged))] = random.integers(256)
        try:
            example = _read(bytes(damaged))
            for part in example.ios:
                to_array(part.features)
        except UserError:
            errors += 1
    assert errors > 500


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"<NumIo> \x04\x02\x00\x00\x00", b"<NumIo> \x04\x00\x00\x00\x00"),
        (b"<NumIo> \x04\x02\x00\x00\x00", b"<NumIo> \x04\xff\xff\xff\x7f"),
        (b"<I1V> \x04\x0a\x00\x00\x00", b"<I1V> \x04\xff\xff\xff\x7f"),
        (b"<I1V> \x04\x0a\x00\x00\x00", b"<I1V> \x04\xff\xff\xff\xff"),
        (b"FM \x04\x0a\x00\x00\x00", b"FM \x04\xff\xff\xff\x7f"),
        (b"FM \x04\x0a\x00\x00\x00", b"XM \x04\x0a\x00\x00\x00"),
        (b"SM \x04\x03\x00\x00\x00", b"SM \x04\xff\xff\xff\x7f"),
        (b"</NnetIo> ", b"</NnetIo>x"),
    ],
)
def test_hostile_sizes_and_tokens_are_reported(old: bytes, new: bytes) -> None:
    encoded = b"\0B" + _example(_features(), _labels([1, 1, 1])).encoded()
    assert old in encoded
    with pytest.raises(UserError, match="memory, byte"):
        _read(encoded.replace(old, new, 1))


def test_a_label_beyond_the_number_of_classes_is_reported() -> None:
    labels = SparseMatrix(np.arange(3), np.array([3, 12], np.int32), np.ones(2, np.float32), 12)
    with pytest.raises(UserError, match=r"outside 0\.\.11"):
        _ = _read(b"\0B" + _example(_features(), labels).encoded()).ios


def test_rows_and_indexes_must_agree() -> None:
    with pytest.raises(UserError, match="3 indexes and 10 rows"):
        NnetIo("input", index_vector.consecutive(0, 3), _features())
