#!/usr/bin/env python3
"""Make Kaldi data directories of the Free Spoken Digit Dataset."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from nnet3py import log
from nnet3py.errors import UserError, reason
from nnet3py.program import argument, option, program
from nnet3py.text.lines import joined, write_text

_COMMIT = "26eb9aaf76e81b692f806f9140c2d2777410d7a1"
_ARCHIVE = f"https://github.com/Jakobovski/free-spoken-digit-dataset/archive/{_COMMIT}.tar.gz"
_RECORDING = re.compile(r"(?P<digit>[0-9])_(?P<speaker>[a-z]+)_(?P<index>[0-9]{1,4})\.wav")
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_NUM_TEST = 5  # recordings 0 to 4 of each digit and speaker are the corpus's own test set
_LARGEST_RECORDING = 10_000_000  # bytes; the longest real one has 37 thousand
_MOST_RECORDINGS = 100_000
_LARGEST_DOWNLOAD = 500_000_000

Recording = tuple[str, str, int]
"""Speaker, digit, index."""


@program(
    usage="prepare_data.py [options] <data-dir>",
    example="local/prepare_data.py --corpus=free-spoken-digit-dataset.tar.gz --held-out-speaker=theo data",
)
@option("--corpus", default="", metavar="PATH", help="The tar.gz or the unpacked folder; without it, it is downloaded.")
@option("--held-out-speaker", default="theo", metavar="NAME", help="Who the second test is on.")
@argument("data_dir", metavar="<data-dir>")
def main(data_dir: str, corpus: str, held_out_speaker: str) -> None:
    """Make data directories (wav.scp, text, utt2spk, spk2utt) of the Free Spoken Digit Dataset.

    <data-dir>/train and <data-dir>/test: the corpus's own division, recordings 0 to 4 of each speaker and digit being
    the test set. <data-dir>/train_without_NAME and <data-dir>/test_NAME: all of one speaker is the test set, all of
    the others the training set. The recordings are unpacked, or downloaded and unpacked, into <data-dir>/local.
    """
    data = Path(data_dir)
    folder = find_recordings(corpus, data / "local")
    recordings = list_recordings(folder)
    speakers = sorted({speaker for speaker, _, _ in recordings})
    if held_out_speaker not in speakers:
        raise UserError(f"--held-out-speaker={held_out_speaker}: the corpus has the speakers {', '.join(speakers)}.")
    sets = {
        "train": [r for r in recordings if r[2] >= _NUM_TEST],
        "test": [r for r in recordings if r[2] < _NUM_TEST],
        f"train_without_{held_out_speaker}": [r for r in recordings if r[0] != held_out_speaker],
        f"test_{held_out_speaker}": [r for r in recordings if r[0] == held_out_speaker],
    }
    for name, members in sets.items():
        if not members:
            raise UserError(f"No recording belongs to the set {name}: {folder} has {len(recordings)} recordings.")
    for name, members in sets.items():
        write_data_dir(data / name, {recording: recordings[recording] for recording in members})
        log.log(f"{data / name}: {len(members)} utterances of {len({m[0] for m in members})} speakers.")


def find_recordings(corpus: str, local: Path) -> Path:
    """The folder of recordings: that of an unpacked corpus, or one that an archive is unpacked into."""
    if not corpus:
        corpus = str(download(local / "free-spoken-digit-dataset.tar.gz"))
    path = Path(corpus)
    if path.is_dir():
        return next((p for p in (path / "recordings", path) if p.is_dir() and any(p.glob("*.wav"))), path)
    if not path.is_file():
        raise UserError(f"--corpus={corpus}: no such file or folder.")
    target = local / "recordings"
    unpack(path, target)
    return target


def download(target: Path) -> Path:
    """Fetch the corpus's archive from its public page, unless it has been fetched before."""
    if target.is_file():
        return target
    log.log(f"Downloading {_ARCHIVE}")
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=target.name)
    try:
        with urllib.request.urlopen(_ARCHIVE, timeout=60) as response, open(handle, "wb") as out:
            size = 0
            while piece := response.read(1 << 20):
                size += len(piece)
                if size > _LARGEST_DOWNLOAD:
                    raise UserError(f"{_ARCHIVE} is larger than {_LARGEST_DOWNLOAD} bytes: not what was expected.")
                out.write(piece)
        os.replace(temporary, target)
    except (urllib.error.URLError, OSError) as problem:
        cause = getattr(problem, "reason", None) or problem
        text = reason(cause) if isinstance(cause, BaseException) else str(cause)
        raise UserError(
            f"Cannot download {_ARCHIVE}: {text}. Fetch it by other means and give it with --corpus=PATH."
        ) from problem
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)
    return target


def unpack(archive: Path, target: Path) -> None:
    """Write the archive's recordings into a folder, by their base names; everything else in it is passed over.

    Only regular files whose name is that of a recording are read, so that neither a path with ``..`` nor a link in a
    hostile archive can reach outside. The folder appears when it is complete.
    """
    stamp = _digest(archive)
    if (target / ".unpacked").is_file() and (target / ".unpacked").read_text() == stamp:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=target.name))
    temporary.chmod(0o755)
    try:
        count = 0
        with tarfile.open(archive, "r:*") as members:
            for member, name in _recordings_in(members):
                stream = members.extractfile(member)
                assert stream is not None
                (temporary / name).write_bytes(stream.read())
                count += 1
                if count > _MOST_RECORDINGS:
                    raise UserError(f"{archive}: more than {_MOST_RECORDINGS} recordings; this is not the corpus.")
        if not count:
            raise UserError(f"{archive}: expected recordings named digit_speaker_index.wav, found none.")
        (temporary / ".unpacked").write_text(stamp)
        shutil.rmtree(target, ignore_errors=True)
        temporary.replace(target)
    except (tarfile.TarError, EOFError, OSError) as problem:
        raise UserError(f"Cannot unpack {archive}: {reason(problem)}. Is the file complete?") from problem
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _recordings_in(members: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, str]]:
    for member in members:
        name = member.name.rsplit("/", 1)[-1]
        if not member.isreg() or ".." in member.name.split("/") or not _RECORDING.fullmatch(name):
            continue
        if member.size > _LARGEST_RECORDING:
            raise UserError(f"{members.name}: {member.name} has {member.size} bytes; no recording is so long.")
        yield member, name


def _digest(archive: Path) -> str:
    found = hashlib.sha256()
    with open(archive, "rb") as opened:
        while piece := opened.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def list_recordings(folder: Path) -> dict[Recording, Path]:
    """The recordings in a folder, by speaker, digit and index."""
    found = {}
    for path in sorted(folder.glob("*.wav")):
        match = _RECORDING.fullmatch(path.name)
        if match and path.is_file():
            found[match["speaker"], match["digit"], int(match["index"])] = path.resolve()
    if not found:
        raise UserError(f"{folder}: expected recordings named digit_speaker_index.wav, found none.")
    return found


def write_data_dir(directory: Path, recordings: dict[Recording, Path]) -> None:
    """Write wav.scp, text, utt2spk and spk2utt, sorted by utterance, whose names begin with the speaker's."""
    utterances = {
        f"{speaker}-{digit}-{index:04d}": (speaker, digit, path) for (speaker, digit, index), path in recordings.items()
    }
    of_speaker: dict[str, list[str]] = defaultdict(list)
    for name in sorted(utterances):
        of_speaker[utterances[name][0]].append(name)
    lines = {
        "wav.scp": [f"{name} {utterances[name][2]}" for name in sorted(utterances)],
        "text": [f"{name} {_WORDS[int(utterances[name][1])]}" for name in sorted(utterances)],
        "utt2spk": [f"{name} {utterances[name][0]}" for name in sorted(utterances)],
        "spk2utt": [f"{speaker} {' '.join(names)}" for speaker, names in sorted(of_speaker.items())],
    }
    directory.mkdir(parents=True, exist_ok=True)
    recorded = directory / "wav.scp"
    if not recorded.is_file() or recorded.read_text() != "".join(f"{line}\n" for line in lines["wav.scp"]):
        for name in ("feats.scp", "cmvn.scp", "utt2num_frames"):  # of other recordings
            (directory / name).unlink(missing_ok=True)
    for name, content in lines.items():
        write_text(directory / name, joined(content))


if __name__ == "__main__":
    sys.exit(main())  # type: ignore[func-returns-value]
