"""Recordings, their segments and features beside those that Kaldi made."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnet3py.tables.holders import MATRIX
from nnet3py.tables.table import SequentialReader


def test_mfccs_differ_from_kaldis_no_more_than_two_draws_of_the_dither_differ(
    kaldi_reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("kaldi_native_fbank", reason="kaldi-native-fbank is not installed; features need it")
    corpus = kaldi_reference.parent / "data" / "free-spoken-digit-dataset.tar.gz"
    if not corpus.is_file():
        pytest.skip("no ../shared/data/free-spoken-digit-dataset.tar.gz beside this checkout")
    monkeypatch.chdir(tmp_path)
    expected = dict(SequentialReader(f"ark:{kaldi_reference / 'tables' / 'feats.ark'}", MATRIX))
    wanted = {}
    for key in expected:  # george-2-25 is recordings/2_george_25.wav
        speaker, digit, index = key.split("-")
        wanted[f"{digit}_{speaker}_{int(index)}.wav"] = key
    with tarfile.open(corpus) as archive:
        for member in archive:
            name = Path(member.name).name
            recording = archive.extractfile(member) if name in wanted else None
            if recording is not None:
                Path(name).write_bytes(recording.read())
    Path("wav.scp").write_text("".join(f"{key} {name}\n" for name, key in wanted.items()))
    drawn = [_mfccs(seed) for seed in (1, 2)]
    assert list(drawn[0]) == list(expected)
    for key, matrix in expected.items():
        assert drawn[0][key].shape == matrix.shape
    kaldi, first, second = (np.concatenate(list(table.values())) for table in (expected, *drawn))
    loud = kaldi[:, 0] > 80
    for chosen in (loud, ~loud):
        from_kaldi = np.sqrt(np.mean((first - kaldi)[chosen] ** 2))
        from_each_other = np.sqrt(np.mean((first - second)[chosen] ** 2))
        assert from_kaldi < 1.15 * from_each_other


def _mfccs(seed: int) -> dict[str, np.ndarray[Any, Any]]:
    command = f"compute-mfcc-feats --sample-frequency=8000 --use-energy=false --seed={seed} scp:wav.scp ark:mfcc.ark"
    done = subprocess.run(command.split(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(SequentialReader("ark:mfcc.ark", MATRIX))


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("wav-to-duration scp:wav.scp ark,t:", "durations.txt"),
        ("wav-to-duration --read-entire-file=true scp:wav_pipe.scp ark,t:", "durations_pipe.txt"),
        ("wav-copy scp:wav_pipe.scp ark:", "wav_copy.ark"),
        ("wav-copy scp:stereo.scp ark:", "stereo.ark"),
        ("extract-segments scp:wav.scp segments ark:", "segments.ark"),
        (
            "extract-segments --min-segment-length=0.01 --max-overshoot=1.0 scp:wav.scp segments ark:",
            "segments_loose.ark",
        ),
        ("extract-segments scp:stereo.scp segments_channel ark:", "segments_channel.ark"),
    ],
)
def test_recordings_and_their_segments_are_kaldis_byte_for_byte(
    command: str, name: str, kaldi_reference: Path, tmp_path: Path
) -> None:
    folder = kaldi_reference / "features"
    done = subprocess.run(f"{command}{tmp_path / name}".split(), cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / name).read_bytes() == (folder / "out" / name).read_bytes()
    if name == "segments.ark":
        counted = (folder / "out" / "extract_segments.log").read_text().splitlines()[-1].split(") ")[1].strip()
        assert counted in done.stderr
        assert done.stderr.count("WARNING") == 5


def test_features_of_copied_recordings_are_kaldis(kaldi_reference: Path, tmp_path: Path) -> None:
    pytest.importorskip("kaldi_native_fbank", reason="kaldi-native-fbank is not installed; features need it")
    folder = kaldi_reference / "features"
    command = "compute-mfcc-feats --sample-frequency=8000 --use-energy=false --dither=0"
    for recordings, target in (("scp:wav.scp", "whole"), ("ark:wav-copy scp:wav.scp ark:- |", "copied")):
        words = [*command.split(), recordings, f"ark:{tmp_path / target}.ark"]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "whole.ark").read_bytes() == (tmp_path / "copied.ark").read_bytes()
    found = dict(SequentialReader(f"ark:{tmp_path / 'copied.ark'}", MATRIX))
    expected = dict(SequentialReader(f"ark:{folder / 'out' / 'mfcc.ark'}", MATRIX))
    assert list(found) == list(expected)
    for key, matrix in expected.items():
        assert np.linalg.norm(found[key] - matrix) < 1e-4 * np.linalg.norm(matrix)
