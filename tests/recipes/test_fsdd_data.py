"""egs/fsdd/s5/local/prepare_data.py on small archives made here, honest and hostile ones."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import wave
from pathlib import Path

import pytest

PREPARE = Path(__file__).resolve().parents[2] / "egs" / "fsdd" / "s5" / "local" / "prepare_data.py"


def _recording(length: int = 800) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as recording:
        recording.setnchannels(1)
        recording.setsampwidth(2)
        recording.setframerate(8000)
        recording.writeframes(bytes(2 * length))
    return out.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _add_link(archive: tarfile.TarFile, name: str, target: str, kind: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    archive.addfile(member)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two speakers, digits 0 and 7, indices 3 to 6."""
    path = tmp_path / "corpus.tar.gz"
    with tarfile.open(path, "w:gz") as members:
        _add(members, "free-spoken-digit-dataset/README.md", b"about")
        for speaker in ("ann", "bob"):
            for digit in (7, 0):
                for index in (3, 4, 5, 6):
                    name = f"free-spoken-digit-dataset/recordings/{digit}_{speaker}_{index}.wav"
                    _add(members, name, _recording(800 + index))
    return path


def _prepare(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    # A proxy that does not exist: no test reaches a network.
    environment = {
        **os.environ,
        "https_proxy": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
        "no_proxy": "",
    }
    command = [sys.executable, str(PREPARE), *options, str(folder / "data")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def _error(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("ERROR ")]
    return line


def test_the_corpus_division_and_the_held_out_speaker_make_four_directories(tmp_path: Path, archive: Path) -> None:
    done = _prepare(tmp_path, f"--corpus={archive}", "--held-out-speaker=bob")
    assert done.returncode == 0, done.stderr
    data = tmp_path / "data"
    assert (data / "test" / "text").read_text().splitlines() == [
        "ann-0-0003 zero",
        "ann-0-0004 zero",
        "ann-7-0003 seven",
        "ann-7-0004 seven",
        "bob-0-0003 zero",
        "bob-0-0004 zero",
        "bob-7-0003 seven",
        "bob-7-0004 seven",
    ]
    keys = {
        name: [line.split()[0] for line in (data / name / "utt2spk").read_text().splitlines()]
        for name in ("train", "test", "train_without_bob", "test_bob")
    }
    assert len(keys["train"]) == 8
    assert not set(keys["train"]) & set(keys["test"])
    assert {key.split("-")[0] for key in keys["train_without_bob"]} == {"ann"}
    assert {key.split("-")[0] for key in keys["test_bob"]} == {"bob"}
    assert len(keys["test_bob"]) == 8
    for name, found in keys.items():
        assert found == sorted(found)
        for file in ("wav.scp", "text"):
            assert [line.split()[0] for line in (data / name / file).read_text().splitlines()] == found
        of_speaker = dict(line.split(" ", 1) for line in (data / name / "spk2utt").read_text().splitlines())
        assert sorted(" ".join(of_speaker.values()).split()) == found


def test_recordings_are_unpacked_unchanged(tmp_path: Path, archive: Path) -> None:
    assert _prepare(tmp_path, f"--corpus={archive}", "--held-out-speaker=ann").returncode == 0
    for line in (tmp_path / "data" / "train" / "wav.scp").read_text().splitlines():
        key, path = line.split(" ", 1)
        assert Path(path).read_bytes() == _recording(800 + int(key.rsplit("-", 1)[1]))


def test_an_unpacked_folder_is_used_where_it_is(tmp_path: Path, archive: Path) -> None:
    with tarfile.open(archive) as members:
        members.extractall(tmp_path)  # made by this test
    corpus = tmp_path / "free-spoken-digit-dataset"
    done = _prepare(tmp_path, f"--corpus={corpus}", "--held-out-speaker=bob")
    assert done.returncode == 0, done.stderr
    assert f"{corpus}/recordings/0_ann_5.wav" in (tmp_path / "data" / "train" / "wav.scp").read_text()
    assert not (tmp_path / "data" / "local").exists()


def test_a_second_run_writes_the_same_bytes(tmp_path: Path, archive: Path) -> None:
    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()}

    _prepare(tmp_path, f"--corpus={archive}", "--held-out-speaker=bob")
    first = contents()
    _prepare(tmp_path, f"--corpus={archive}", "--held-out-speaker=bob")
    assert contents() == first


def test_members_that_point_outside_and_links_are_passed_over(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    path = tmp_path / "hostile.tar.gz"
    outside = tmp_path / "data" / "x_outside.wav"
    with tarfile.open(path, "w:gz") as members:
        for index in (0, 5):
            for speaker in ("ann", "bob"):
                _add(members, f"recordings/1_{speaker}_{index}.wav", _recording())
        _add(members, "recordings/../../../0_ann_0.wav", b"outside by dots")
        _add(members, str(tmp_path / "2_ann_0.wav"), b"outside by an absolute path")
        _add_link(members, "recordings/3_ann_0.wav", str(secret), tarfile.SYMTYPE)
        _add_link(members, "recordings/4_ann_0.wav", "recordings/1_ann_0.wav", tarfile.LNKTYPE)
        _add_link(members, "recordings/5_ann_0.wav", "", tarfile.FIFOTYPE)
        _add_link(members, "elsewhere", str(tmp_path), tarfile.SYMTYPE)
        _add(members, "elsewhere/x_outside.wav", b"through a link")
        _add(members, "recordings/6_ann_0.wav;touch x.wav", b"a name that is no recording's")
    done = _prepare(tmp_path, f"--corpus={path}", "--held-out-speaker=bob")
    assert done.returncode == 0, done.stderr
    unpacked = {p.name for p in (tmp_path / "data" / "local" / "recordings").iterdir()} - {".unpacked"}
    # An absolute path's recording is taken by its base name, into the folder; nothing else came in.
    assert unpacked == {"1_ann_0.wav", "1_bob_0.wav", "1_ann_5.wav", "1_bob_5.wav", "2_ann_0.wav"}
    assert not any(p.is_symlink() for p in (tmp_path / "data").rglob("*"))
    assert not outside.exists()
    assert not (tmp_path / "2_ann_0.wav").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "hostile.tar.gz", "secret"]


def test_a_truncated_archive_is_refused_and_leaves_nothing_behind(tmp_path: Path, archive: Path) -> None:
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    assert f"Cannot unpack {archive}" in _error(_prepare(tmp_path, f"--corpus={archive}"))
    assert not (tmp_path / "data" / "local" / "recordings").exists()
    assert not list((tmp_path / "data").rglob("*.wav"))


def test_a_damaged_archive_leaves_the_recordings_of_an_earlier_one(tmp_path: Path, archive: Path) -> None:
    assert _prepare(tmp_path, f"--corpus={archive}", "--held-out-speaker=bob").returncode == 0
    before = sorted((tmp_path / "data" / "local" / "recordings").iterdir())
    archive.write_bytes(b"not an archive")
    assert "Cannot unpack" in _error(_prepare(tmp_path, f"--corpus={archive}"))
    assert sorted((tmp_path / "data" / "local" / "recordings").iterdir()) == before


def test_an_archive_without_recordings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.tar.gz"
    with tarfile.open(path, "w:gz") as members:
        _add(members, "readme", b"nothing")
    assert "expected recordings named digit_speaker_index.wav" in _error(_prepare(tmp_path, f"--corpus={path}"))


def test_a_corpus_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "no such file or folder" in _error(_prepare(tmp_path, f"--corpus={tmp_path}/absent.tar.gz"))


def test_a_speaker_that_the_corpus_lacks_is_refused_with_those_it_has(tmp_path: Path, archive: Path) -> None:
    error = _error(_prepare(tmp_path, f"--corpus={archive}", "--held-out-speaker=eve"))
    assert "the corpus has the speakers ann, bob" in error


def test_without_a_network_the_download_says_how_to_go_on(tmp_path: Path) -> None:
    error = _error(_prepare(tmp_path))
    assert "Cannot download https://github.com/Jakobovski/free-spoken-digit-dataset/" in error
    assert "--corpus=PATH" in error
    assert not list((tmp_path / "data").rglob("*.tar.gz*"))


def test_features_of_other_recordings_go_and_those_of_the_same_stay(tmp_path: Path, archive: Path) -> None:
    assert _prepare(tmp_path, f"--corpus={archive}", "--held-out-speaker=bob").returncode == 0
    train = tmp_path / "data/train"
    for name in ("feats.scp", "cmvn.scp"):
        (train / name).write_text("of these recordings\n")
    assert _prepare(tmp_path, f"--corpus={archive}", "--held-out-speaker=bob").returncode == 0
    assert (train / "feats.scp").exists()
    (train / "wav.scp").write_text("of another corpus\n")
    assert _prepare(tmp_path, f"--corpus={archive}", "--held-out-speaker=bob").returncode == 0
    assert not (train / "feats.scp").exists()
    assert not (train / "cmvn.scp").exists()
