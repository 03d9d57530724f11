"""Files that are something else than they should be: recognised by their first bytes, named, and what to do."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_directory import make_example_directory

from nnet3py.errors import UserError
from nnet3py.tables.holders import INT_VECTOR, MATRIX, POSTERIOR, TOKEN, TOKEN_VECTOR, VECTOR
from nnet3py.tables.posterior import Posterior
from nnet3py.tables.streams import open_input
from nnet3py.tables.table import RandomAccessReader, SequentialReader, TableWriter
from nnet3py.text.expectation import MATRIX_FILE, Expected
from nnet3py.text.file_kind import FIRST_BYTES, Form, describe

UTF8_MARK = b"\xef\xbb\xbf"


def first_bytes_of_zip(member: str) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr(member, "content")
    return memory.getvalue()[:FIRST_BYTES]


def npy() -> bytes:
    memory = io.BytesIO()
    np.save(memory, np.zeros(3))
    return memory.getvalue()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"", "an empty file"),
        (gzip.compress(b"u1 1 2 3\n", mtime=0), "a gzip-compressed file"),
        (bz2.compress(b"u1 1 2 3\n"), "a bzip2-compressed file"),
        (bz2.compress(b""), "a bzip2-compressed file"),
        (lzma.compress(b"u1 1 2 3\n"), "an xz-compressed file"),
        (b"\x28\xb5\x2f\xfd\x04\x58", "a zstd-compressed file"),
        (first_bytes_of_zip("model/data.pkl"), "a PyTorch file"),
        (first_bytes_of_zip("weights.npy"), "NumPy arrays (.npz)"),
        (first_bytes_of_zip("readme"), "a zip archive of files"),
        (pickle.dumps({"a": 1}, 2), "a Python pickle"),
        (pickle.dumps([1, 2], 4), "a Python pickle"),
        (npy(), "a NumPy array (.npy)"),
        (b"\x89HDF\r\n\x1a\n\0", "an HDF5 file"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "a WAV file"),
        (b"RF64\xff\xff\xff\xffWAVEds64", "a WAV file in the long form (RF64)"),
        (b"fLaC\0\0\0\x22", "a FLAC file"),
        (b"OggS\0\2", "an Ogg file"),
        (b"ID3\3\0\0\0", "an MP3 file"),
        (b"NIST_1A\n   1024\n", "a SPHERE file"),
        (b"\x7fELF\2\1\1", "a compiled program (ELF)"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"<!DOCTYPE html>\n<html>", "a web page or XML"),
        (b'{"weights": [1, 2]}', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS in place of the file itself"),
        (b"/annex/objects/SHA256E-s3--ab.ark\n", "a pointer of git-annex in place of the file itself"),
        (UTF8_MARK + b"u1 f.ark:3\n", "text that begins with a byte order mark (EF BB BF, UTF-8)"),
        ("u1 f.ark:3\n".encode("utf-16"), "text that begins with a byte order mark (UTF-16)"),
        ("话 f.ark:3\n".encode("utf-16"), "text that begins with a byte order mark (UTF-16)"),
        (b"\xd6\xfd\xb2\x7e\6\0\0\0vector\x08\0\0\0standard", "a transducer (FST)"),
        (b"\x08\x07\x12\x07pytorch\x1a", "an ONNX network"),
        (b"\0B<Nnet3> \ninput-node", "a network"),
        (b"<Nnet3> \ninput-node", "a network"),
        (b"<TransitionModel> \n<Topology>", "a model that begins with transitions (a .mdl)"),
        (b"\0B<DiagGMM> ", "a mixture of Gaussians"),
        (b"ContextDependency 1 0 ToPdf", "a tree"),
        (b"\0BFM \4\3\0\0\0", "a matrix"),
        (b" [\n  1 2\n 3 4 ]\n", "a matrix"),
        (b"[ 1 2.5 -3e-05 ]\n", "a vector"),
        (b"u1 \0BFV \4\3\0\0\0", "an archive of vectors"),
        (b"u1  [\n  1 2 ]\n", "an archive of matrices"),
        (b"u1 [ 1 0.5 ] [ 2 1 ]\n", "an archive of posteriors"),
        (b"u1 \0B<Nnet3Eg> <NumIo> ", "an archive of training examples"),
        (b"u1 1 2 3\n", "an archive of integers in text"),
        (b"u1 RIFF\x24\0\0\0WAVEfmt ", "an archive of WAV files"),
        (b"u1 f.ark:3\n", "a script"),
        (b"u1 sox a.flac -t wav - |\n", "a script"),
        (b"input-node name=input dim=3\n", "configuration lines of a network"),
        (b"# a comment\n\nrelu-batchnorm-layer name=a dim=3\n", "an xconfig file"),
    ],
)
def test_a_kind_is_known_by_its_first_bytes(data: bytes, name: str) -> None:
    kind = describe(data[:FIRST_BYTES])
    assert kind is not None
    assert kind.name == name


@pytest.mark.parametrize(
    "data", [b"u1 hello world\n", b"u1 s1\n", b"\x01\x02\x03", b"hello", "Ъшъ 1.5\n".encode("koi8-r")]
)
def test_what_is_not_known_is_left_alone(data: bytes) -> None:
    assert describe(data) is None


def test_the_first_key_and_where_its_value_starts_are_found() -> None:
    kind = describe(b"utterance-1 \0BFM \4\3\0\0\0\4\2\0\0\0")
    assert kind is not None
    assert (kind.form, kind.key, kind.value_start) == (Form.ARCHIVE, "utterance-1", 12)


def test_kaldis_own_files_are_called_by_their_names(kaldi_reference: Path) -> None:
    expected = {
        ".raw": {"network"},
        ".mdl": {"transition model"},
        ".trans_mdl": {"transition model"},
        ".gz": {"gzip"},
        ".fst": {"transducer"},
        ".wav": {"recording"},
        ".xconfig": {"xconfig"},
        ".mat": {"matrix"},
        ".ie": {"iVector extractor"},
    }
    files = [path for path in kaldi_reference.rglob("*") if path.is_file()]
    seen = set()
    for path in files:
        with open(path, "rb") as file:
            kind = describe(file.read(FIRST_BYTES))
        if path.suffix in expected:
            assert kind is not None, path
            assert kind.content in expected[path.suffix], path
            seen.add(path.suffix)
        elif path.suffix == ".ark":
            assert kind is not None, path
            assert kind.form is Form.ARCHIVE, path
        elif path.suffix == ".scp":
            assert kind is None or kind.form is Form.SCRIPT, path
    assert seen == set(expected)


# ------------------------------------------------------------------------------------------- what is right stays right


@pytest.mark.parametrize(
    "key",
    [b"RIFF", b"BZh9", b"PK", b"ID3", b"%PDF", b"<Nnet3>", b"[", b"{", b"fLaC", b"7z", b"OggS", b"FORM", b"\xff\xfe",
     "話".encode("gbk"), "\ufffe".encode(), "яю".encode("cp1251"), "ятаган".encode("cp1251"), b"ContextDependency"],
)  # fmt: skip
def test_a_table_may_have_any_key(key: bytes, tmp_path: Path) -> None:
    name = key.decode("utf-8", "surrogateescape")
    values: list[tuple[Any, Any]] = [
        (MATRIX, np.ones((2, 3), np.float32)),
        (VECTOR, np.ones(3, np.float32)),
        (INT_VECTOR, np.array([5, 6, 7], np.int32)),
        (POSTERIOR, Posterior.of_frames([[(3, 1.0)], [(4, 0.5)]])),
        (TOKEN, "/a/place.ark:12"),
        (TOKEN_VECTOR, ["<Nnet3>", "[", "1", "]"]),
    ]
    for holder, value in values:
        for option in ("", ",t"):
            archive, script = tmp_path / "a", tmp_path / "s"
            kind = "ark,scp" if holder is not TOKEN_VECTOR else "ark"
            target = f"{kind}{option}:{archive}" + (f",{script}" if kind == "ark,scp" else "")
            with TableWriter(target, holder) as writer:
                writer.write(name, value)
            for rspecifier in [f"ark:{archive}", *([f"scp:{script}"] if kind == "ark,scp" else [])]:
                with SequentialReader(rspecifier, holder) as reader:
                    [(found, read)] = list(reader)
                assert found == name
                assert read == value if isinstance(value, (str, list, Posterior)) else np.array_equal(read, value)


def test_a_script_may_name_files_that_are_called_by_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("5").write_bytes(b"\0BFV \4\1\0\0\0\0\0\x80?")
    Path("s").write_text("u1 5\n")
    with SequentialReader("scp:s", VECTOR) as reader:
        assert [value.tolist() for _, value in reader] == [[1.0]]


def test_damage_far_into_an_archive_is_not_taken_for_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.ark"
    path.write_bytes(b"u1 s1\nu2 f.ark:3\nu3 two words\n")
    with pytest.raises(UserError) as caught, SequentialReader(f"ark:{path}", TOKEN) as words:
        list(words)
    assert "expected one word on the line, found 2" in str(caught.value)
    assert "looks like" not in str(caught.value)
    with TableWriter(f"ark:{path}", MATRIX) as writer:
        for key in ("u1", "u2"):
            writer.write(key, np.ones((9, 9), np.float32))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match=r"'u2'.*Is it cut off\?$"), SequentialReader(f"ark:{path}", MATRIX) as reader:
        list(reader)


def test_an_error_in_a_file_of_the_right_kind_stays_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "cut.mat"
    path.write_bytes(b"\0BFM \4\x09\0\0\0\4\x09\0\0\0abc")
    with pytest.raises(UserError, match=r"Is it cut off\?$"), open_input(str(path), MATRIX_FILE) as source:
        MATRIX.read(source)


def test_a_failed_command_is_said_and_not_that_it_printed_nothing(tmp_path: Path) -> None:
    command = f"cat {tmp_path}/gone |"
    with pytest.raises(UserError, match="exited with status 1"), open_input(command, MATRIX_FILE) as source:
        MATRIX.read(source)


# ------------------------------------------------------------------------------------------- what the programs say


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_example_directory(tmp_path_factory.mktemp("kinds"))
    for name in ("0.raw", "HCLG.fst", "feats.ark", "tree", "nnet.config", "ali.ark"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
    for name in ("feats.scp", "nnet.config", "ali.txt"):
        (folder / f"bom.{name}").write_bytes(UTF8_MARK + (folder / name).read_bytes())
    (folder / "utf16.scp").write_bytes((folder / "feats.scp").read_text().encode("utf-16"))
    (folder / "bom.conf").write_bytes(UTF8_MARK + b"--compress=true\n")
    (folder / "bom.xconfig").write_bytes(UTF8_MARK + b"input dim=13 name=input\n")
    (folder / "gmm.mdl").write_bytes((folder / "transitions.mdl").read_bytes() + b"<DIMENSION> 13 <NUMPDFS> 30 ")
    (folder / "bare.scp").write_text("u1 feats.ark\n")
    (folder / "lfs.raw").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n")
    (folder / "flac.scp").write_text("u1 u1.flac\n")
    (folder / "u1.flac").write_bytes(b"fLaC\0\0\0\x22" + bytes(50))
    (folder / "empty").write_bytes(b"")
    (folder / "exp").mkdir()
    (folder / "exp" / "final.mdl").write_bytes((folder / "am.mdl").read_bytes())
    setup = "nnet-copy 0.raw 0.h5; copy-feats scp:feats.scp hdf5:feats.h5; copy-feats scp:feats.scp ark,t:feats.txt"
    subprocess.run(["bash", "-ec", setup], cwd=folder, check=True, capture_output=True)
    return folder


STEPS = Path(__file__).resolve().parents[2] / "steps"
MARK = "found text that begins with a byte order mark"
COMPRESSED = "found a gzip-compressed file"


@pytest.mark.parametrize(
    ("command", "messages"),
    [
        # models
        ("nnet-info transitions.mdl", ["transitions.mdl", "expected a network after the transitions, found", "alone"]),
        ("nnet-compute gmm.mdl ark:feats.ark ark:-", ["gmm.mdl", "this is a GMM model"]),
        ("nnet-copy 0.raw.gz -", ["0.raw.gz: expected a network", COMPRESSED, "write 'gunzip -c 0.raw.gz |'"]),
        ("nnet-info 'cat 0.raw.gz |'", [COMPRESSED, "write 'cat 0.raw.gz | gunzip -c |'"]),
        ("nnet-info - < 0.raw.gz", ["standard input", COMPRESSED, "put `gunzip -c |` before"]),
        ("nnet-info feats.ark", ["expected a network, found an archive of matrices", "'u1'"]),
        ("nnet-info tree", ["expected a network", "a tree", "final.mdl"]),
        ("nnet-info HCLG.fst", ["expected a network, found a transducer"]),
        ("nnet-info lfs.raw", ["found a pointer of Git LFS", "git lfs pull"]),
        ("nnet-info empty", ["expected a network, found an empty file"]),
        ("nnet-info exp", ["expected a network, found a directory: is it exp/final.mdl?"]),
        ("nnet-info nnet.config", ["looks like configuration lines", "nnet-init nnet.config"]),
        ("nnet-am-info 0.raw", ["expected an acoustic model", "found a network", "nnet-am-init"]),
        ("hmm-info 0.h5", ["found an HDF5 file", "nnet-am-init"]),
        ("ali-to-pdf 0.raw ark:ali.txt ark:-", ["0.raw", "found a network", "nnet-am-init"]),
        ("tree-info am.mdl", ["expected a tree, found a model that begins with transitions"]),
        ("tree-info tree.gz", [COMPRESSED, "'gunzip -c tree.gz |'"]),
        ("decode-faster-mapped 0.raw HCLG.fst ark:feats.ark ark:-", ["0.raw", "found a network", "nnet-am-init"]),
        ("decode-faster-mapped am.mdl 0.raw ark:feats.ark ark:-", ["0.raw: expected a transducer", "found a network"]),
        ("nnet-am-adjust-priors am.mdl feats.ark -", ["feats.ark: expected a vector", "found an archive of matrices"]),
        ("nnet-train-shard --optimizer-state-in=0.raw 0.raw ark:egs.ark -", ["expected a state", "found a network"]),
        # tables
        ("copy-feats ark:am.mdl ark:-", ["expected a table of matrices, found a model that begins with transitions"]),
        ("copy-feats ark:0.raw ark:-", ["expected a table of matrices, found a network"]),
        ("copy-feats ark:feats.scp ark:-", ["looks like a script", "write scp:feats.scp"]),
        ("copy-feats scp:feats.ark ark:-", ["expected a script", "an archive of matrices", "write ark:feats.ark"]),
        ("copy-feats scp:feats.txt ark:-", ["expected a script", "an archive of matrices", "write ark:feats.txt"]),
        ("copy-int-vector scp:ali.txt ark:-", ["expected a script", "write ark:ali.txt"]),
        ("copy-feats ark:feats.ark.gz ark:-", [COMPRESSED, "write 'ark:gunzip -c feats.ark.gz |'"]),
        ("copy-feats 'ark:cat feats.ark.gz |' ark:-", [COMPRESSED, "write 'ark:cat feats.ark.gz | gunzip -c |'"]),
        ("copy-feats ark:- ark:- < feats.ark.gz", ["standard input", COMPRESSED]),
        ("copy-int-vector ark,s,cs:ali.ark.gz ark:-", [COMPRESSED]),
        ("copy-feats ark:feats.h5 ark:-", ["found an HDF5 file", "hdf5:feats.h5"]),
        ("copy-feats hdf5:0.h5 ark:-", ["expected a table in HDF5", "nnet3py-network"]),
        ("copy-feats hdf5:feats.ark ark:-", ["expected a table in HDF5", "write ark:feats.ark"]),
        ("copy-feats scp:bare.scp ark:-", ["'u1'", "found an archive of matrices", "feats.ark:3", "ark:feats.ark"]),
        ("copy-feats feats.ark -", ["found an archive of matrices", "feats.ark:3"]),
        ("copy-feats ark:exp ark:-", ["expected a table of matrices, found a directory"]),
        ("copy-feats ark:ali.ark ark:-", ["looks like an archive of integers", "copy-int-vector"]),
        ("copy-int-vector ark:feats.ark ark:-", ["looks like an archive of matrices", "copy-feats"]),
        ("copy-int-vector ark:post.ark ark:copied", ["looks like an archive of posteriors"]),
        ("nnet-get-egs --num-pdfs=30 ark:feats.ark ark:ali.ark ark:-", ["an archive of integers", "ali-to-post"]),
        ("copy-feats ark:egs.ark ark:-", ["looks like an archive of training examples", "nnet-copy-egs"]),
        ("nnet-merge-egs ark:feats.ark ark:-", ["looks like an archive of matrices"]),
        ("compute-cmvn-stats --spk2utt=ark:feats.ark ark:feats.ark ark:-", ["lists of words, found an archive of m"]),
        ("nnet-compute --ivectors=ark:am.mdl 0.raw ark:feats.ark ark:-", ["a table of vectors, found a model"]),
        ("nnet-compute 0.raw feats.scp ark:-", ["found 'feats.scp'", "write scp:feats.scp"]),
        ("compute-mfcc-feats ark:u1.wav ark:-", ["found a WAV file", "'KEY u1.wav'"]),
        ("compute-mfcc-feats scp:flac.scp ark:-", ["found a FLAC file", "flac -c -d -s u1.flac |"]),
        # byte order marks
        ("copy-feats scp:bom.feats.scp ark:-", [MARK, "sed -i '1s/^\\xef\\xbb\\xbf//' bom.feats.scp"]),
        ("copy-feats 'scp:cat bom.feats.scp |' ark:-", [MARK, "| sed '1s/^"]),
        ("copy-feats scp:utf16.scp ark:-", [MARK, "UTF-16", "iconv -f UTF-16 -t UTF-8 utf16.scp"]),
        ("copy-int-vector ark:bom.ali.txt ark:-", [MARK]),
        ("nnet-init bom.nnet.config -", [MARK]),
        ("nnet-init nnet.config.gz -", [COMPRESSED]),
        ("copy-feats --config=bom.conf scp:feats.scp ark:-", [MARK]),
        (f"{STEPS}/xconfig_to_configs.py --xconfig-file=bom.xconfig --config-dir=configs", ["bom.xconfig", MARK]),
    ],
)  # fmt: skip
def test_a_program_says_what_a_file_is_and_what_to_do(command: str, messages: list[str], folder: Path) -> None:
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True)
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 1, lines
    assert not done.stdout
    assert lines[-1].startswith("ERROR ")
    for message in messages:
        assert message in lines[-1]
    assert len(lines[-1]) < 800


def test_the_remedy_for_a_byte_order_mark_works(folder: Path) -> None:
    shown = subprocess.run(
        ["copy-feats", "scp:bom.feats.scp", "ark:/dev/null"], cwd=folder, capture_output=True, text=True
    )
    remedy = shown.stderr.rsplit("remove it, `", 1)[1].split("`")[0]
    subprocess.run(["bash", "-ec", remedy], cwd=folder, check=True)
    assert (folder / "bom.feats.scp").read_bytes() == (folder / "feats.scp").read_bytes()


def test_a_permissive_table_passes_over_a_file_of_another_kind(folder: Path) -> None:
    with RandomAccessReader(f"ark,p:{folder}/feats.ark.gz", MATRIX) as table:
        assert "u1" not in table


def test_an_offset_into_a_key_is_explained_with_the_right_one(tmp_path: Path) -> None:
    path = tmp_path / "a.ark"
    path.write_bytes(b"u1 \0BFV \4\1\0\0\0\0\0\x80?u2 \0BFV \4\1\0\0\0\0\0\x80?")
    (tmp_path / "s").write_text(f"u2 {path}:17\n")
    with (
        pytest.raises(UserError, match=r"a\.ark:20 for the first"),
        SequentialReader(f"scp:{tmp_path}/s", VECTOR) as reader,
    ):
        list(reader)


def test_what_is_expected_of_text_is_lines(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(gzip.compress(b"a\n"))
    with (
        pytest.raises(UserError, match="unpack it"),
        open_input(str(path), Expected("lines", form=None, takes_commands=False)) as s,
    ):
        s.refuse_misfit()
