"""MFCCs of the recordings that Kaldi made its MFCCs of."""

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
