"""Feature files of HTK and Sphinx, read by copy-feats."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from nnet3py.errors import UserError
from nnet3py.tables.holders import INT, MATRIX
from nnet3py.tables.htk_and_sphinx import HTK, HTK_MATRIX, SPHINX_MATRIX, HtkFeatures
from nnet3py.tables.streams import open_input
from nnet3py.tables.table import SequentialReader, TableWriter

FEATURES = np.random.default_rng(0).standard_normal((5, 13)).astype(np.float32)


def htk_bytes(frames: int = 5, size: int = 52, kind: int = 6, data: bytes | None = None) -> bytes:
    return struct.pack(">iihH", frames, 100000, size, kind) + (
        FEATURES.astype(">f4").tobytes() if data is None else data
    )


def sphinx_bytes(count: int = 65) -> bytes:
    return struct.pack(">i", count) + FEATURES.astype(">f4").tobytes()


def run(folder: Path, *words: str, status: int = 0) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(("option", "data"), [("--htk-in", htk_bytes()), ("--sphinx-in=true", sphinx_bytes())])
def test_copy_feats_reads_scripts_archives_and_single_files(option: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.fea").write_bytes(data)
    (tmp_path / "in.scp").write_text("a a.fea\nb cat a.fea |\n")
    (tmp_path / "in.ark").write_bytes(b"a " + data + b"b " + data)
    for source in ("scp:in.scp", "ark:in.ark"):
        run(tmp_path, "copy-feats", option, "--write-num-frames=ark,t:frames", source, "ark:out.ark")
        found = dict(SequentialReader(f"ark:{tmp_path}/out.ark", MATRIX))
        assert list(found) == ["a", "b"]
        for matrix in found.values():
            assert matrix.dtype == np.float32
            np.testing.assert_array_equal(matrix, FEATURES)
        assert dict(SequentialReader(f"ark:{tmp_path}/frames", INT)) == {"a": 5, "b": 5}
    run(tmp_path, "copy-feats", option, "a.fea", "out.mat")
    run(tmp_path, "copy-feats", "out.mat", "again.mat")
    assert MATRIX.read(open_input(f"{tmp_path}/again.mat")).tolist() == FEATURES.tolist()
    run(tmp_path, "copy-feats", option, "--compress=true", "scp:in.scp", "ark:small.ark")
    np.testing.assert_allclose(dict(SequentialReader(f"ark:{tmp_path}/small.ark", MATRIX))["b"], FEATURES, atol=0.05)


def test_htk_files_are_written_as_the_format_says(tmp_path: Path) -> None:
    with TableWriter(f"ark:{tmp_path}/htk.ark", HTK) as writer:
        writer.write("a", HtkFeatures(FEATURES, 100000, 0o20006))
    assert (tmp_path / "htk.ark").read_bytes() == b"a " + htk_bytes(kind=0o20006)
    with pytest.raises(UserError, match="no text form"), TableWriter(f"ark,t:{tmp_path}/htk.txt", HTK) as writer:
        writer.write("a", HtkFeatures(FEATURES, 100000, 6))
    with pytest.raises(UserError, match="at most 8191 columns"), TableWriter(f"ark:{tmp_path}/wide", HTK) as writer:
        writer.write("a", HtkFeatures(np.zeros((1, 8192), np.float32), 100000, 6))


def test_a_checksum_is_passed_over(tmp_path: Path) -> None:
    data = htk_bytes(kind=0o10006) + b"\1\2"
    (tmp_path / "in.ark").write_bytes(b"a " + data + b"b " + data)
    for _, features in SequentialReader(f"ark:{tmp_path}/in.ark", HTK):
        assert features.kind == 6
        np.testing.assert_array_equal(features.matrix, FEATURES)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (htk_bytes(kind=0o2006), "compressed or vector-quantised"),
        (htk_bytes(kind=0o40006), "compressed or vector-quantised"),
        (htk_bytes(kind=0), "found a waveform"),
        (htk_bytes(kind=10), "found discrete symbols"),
        (htk_bytes(size=50), "5 frames of 50 bytes"),
        (htk_bytes(size=-52), "5 frames of -52 bytes"),
        (htk_bytes(frames=-1), "-1 frames of 52 bytes"),
        (htk_bytes(frames=0x7FFFFFFF), "end too early"),
        (htk_bytes(data=b"1234"), "end too early"),
        (b"123", "end too early"),
    ],
)
def test_what_is_not_an_htk_file_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.fea").write_bytes(data)
    with pytest.raises(UserError, match=message) as caught, open_input(f"{tmp_path}/bad.fea") as source:
        HTK_MATRIX.read(source)
    assert "bad.fea, byte" in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (sphinx_bytes(64), "found 64 numbers"),
        (sphinx_bytes(-13), "found -13 numbers"),
        (sphinx_bytes(13 << 24), "end too early"),
        (sphinx_bytes()[:100], "end too early"),
        (b"", "end too early"),
    ],
)
def test_what_is_not_a_sphinx_file_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.mfc").write_bytes(data)
    with pytest.raises(UserError, match=message), open_input(f"{tmp_path}/bad.mfc") as source:
        SPHINX_MATRIX.read(source)


def test_both_forms_at_once_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert "not both" in run(tmp_path, "copy-feats", "--htk-in", "--sphinx-in", "a", "b", status=1)
