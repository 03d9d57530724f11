"""Tables that Kaldi wrote: read to the last bit, and written again byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnet3py.errors import UserError
from nnet3py.tables.compressed_matrix import CompressedMatrix, compress
from nnet3py.tables.general_matrix import to_array
from nnet3py.tables.holders import COMPRESSED_MATRIX, GENERAL_MATRIX, INT, INT_VECTOR, MATRIX, POSTERIOR
from nnet3py.tables.table import RandomAccessReader, SequentialReader, TableWriter

METHODS = range(1, 8)


def copy_of(source: Path, target: Path, holder: Any, options: str = "") -> bytes:
    with SequentialReader(f"ark:{source}", holder) as reader, TableWriter(f"ark{options}:{target}", holder) as writer:
        for key, value in reader:
            writer.write(key, value)
    return target.read_bytes()


@pytest.mark.parametrize(
    ("name", "holder"),
    [
        ("feats.ark", MATRIX),
        ("ali.ark", INT_VECTOR),
        ("post.ark", POSTERIOR),
        ("ivectors_online.ark", MATRIX),
        *[(f"feats_cm{method}.ark", COMPRESSED_MATRIX) for method in METHODS],
        *[(f"feats_cm{method}.ark", GENERAL_MATRIX) for method in METHODS],
        *[(f"feats_cm{method}_expanded.ark", MATRIX) for method in METHODS],
    ],
)
def test_binary_archives_come_out_as_they_went_in(
    name: str, holder: Any, kaldi_reference: Path, tmp_path: Path
) -> None:
    source = kaldi_reference / "tables" / name
    assert copy_of(source, tmp_path / name, holder) == source.read_bytes()


@pytest.mark.parametrize(
    ("binary", "text", "holder"), [("feats.ark", "feats.txt", MATRIX), ("post.ark", "post.txt", POSTERIOR)]
)
def test_text_is_printed_as_kaldi_prints_it(
    binary: str, text: str, holder: Any, kaldi_reference: Path, tmp_path: Path
) -> None:
    tables = kaldi_reference / "tables"
    assert copy_of(tables / binary, tmp_path / "text", holder, ",t") == (tables / text).read_bytes()
    assert copy_of(tables / text, tmp_path / "text", holder, ",t") == (tables / text).read_bytes()


@pytest.mark.parametrize(
    ("text", "binary", "holder"), [("ali.txt", "ali.ark", INT_VECTOR), ("post.txt", "post.ark", POSTERIOR)]
)
def test_text_reads_as_what_the_binary_holds(
    text: str, binary: str, holder: Any, kaldi_reference: Path, tmp_path: Path
) -> None:
    tables = kaldi_reference / "tables"
    assert copy_of(tables / text, tmp_path / "binary", holder) == (tables / binary).read_bytes()


@pytest.mark.parametrize("method", METHODS)
def test_compression_gives_kaldis_bytes(method: int, kaldi_reference: Path, tmp_path: Path) -> None:
    tables = kaldi_reference / "tables"
    target = tmp_path / "compressed.ark"
    with (
        SequentialReader(f"ark:{tables / 'feats.ark'}", MATRIX) as reader,
        TableWriter(f"ark:{target}", COMPRESSED_MATRIX) as writer,
    ):
        for key, matrix in reader:
            writer.write(key, compress(matrix, method))
    assert target.read_bytes() == (tables / f"feats_cm{method}.ark").read_bytes()


@pytest.mark.parametrize("method", METHODS)
def test_expansion_gives_kaldis_floats_to_the_last_bit(method: int, kaldi_reference: Path, tmp_path: Path) -> None:
    tables = kaldi_reference / "tables"
    expected = dict(SequentialReader(f"ark:{tables / f'feats_cm{method}_expanded.ark'}", MATRIX))
    compressed = dict(SequentialReader(f"ark:{tables / f'feats_cm{method}.ark'}", GENERAL_MATRIX))
    assert len(expected) == 24
    for key, matrix in compressed.items():
        assert isinstance(matrix, CompressedMatrix)
        np.testing.assert_array_equal(to_array(matrix).view(np.int32), expected[key].view(np.int32))


def test_kaldis_script_points_where_ours_does(
    kaldi_reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = kaldi_reference / "tables"
    monkeypatch.chdir(tmp_path)
    with (
        SequentialReader(f"ark:{tables / 'feats.ark'}", MATRIX) as reader,
        TableWriter("ark,scp:feats.ark,feats.scp", MATRIX) as writer,
    ):
        for key, matrix in reader:
            writer.write(key, matrix)
    assert Path("feats.scp").read_bytes() == (tables / "feats.scp").read_bytes()


def test_a_script_of_kaldis_gives_each_matrix_by_its_key(
    kaldi_reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(kaldi_reference / "tables")
    in_order = dict(SequentialReader("ark:feats.ark", MATRIX))
    lengths = dict(SequentialReader("ark:utt2num_frames", INT))
    with RandomAccessReader("scp:feats.scp", MATRIX) as table:
        for key in reversed(in_order):
            np.testing.assert_array_equal(table[key], in_order[key])
            assert len(table[key]) == lengths[key]


@pytest.mark.parametrize("name", ["feats.ark", "feats_cm2.ark", "feats_cm5.ark", "ali.ark", "post.ark", "feats.txt"])
def test_a_kaldi_archive_cut_off_anywhere_is_an_error_or_a_shorter_table(
    name: str, kaldi_reference: Path, tmp_path: Path
) -> None:
    data = (kaldi_reference / "tables" / name).read_bytes()
    holder: Any = {"ali.ark": INT_VECTOR, "post.ark": POSTERIOR}.get(name, MATRIX)
    cut = tmp_path / "cut"
    problems = []
    for size in range(1, 4000, 37):
        cut.write_bytes(data[:size])
        try:
            keys = [key for key, _ in SequentialReader(f"ark:{cut}", holder)]
        except UserError as problem:
            problems.append(str(problem))
        else:
            assert len(keys) < 24
    assert len(problems) > 90
    assert all("cut, byte" in problem for problem in problems)
