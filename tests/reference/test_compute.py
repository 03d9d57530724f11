"""Outputs of trained networks against those that Kaldi computed with them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from nnet3py.tables.holders import MATRIX
from nnet3py.tables.table import SequentialReader


def matrices(path: Path) -> dict[str, np.ndarray]:
    with SequentialReader(f"ark:{path}", MATRIX) as reader:
        return dict(reader)


def largest_difference(found: Path, expected: Path) -> float:
    """The largest relative difference (norm of the difference over norm) of a matrix in two archives."""
    ours, kaldis = matrices(found), matrices(expected)
    assert list(ours) == list(kaldis)
    assert all(ours[key].shape == kaldis[key].shape for key in kaldis)
    assert all(ours[key].dtype == np.float32 for key in ours)
    return max(float(np.linalg.norm(ours[key] - kaldis[key]) / np.linalg.norm(kaldis[key])) for key in kaldis)


def run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("name", ["pnorm", "sgd", "sigmoid_mixtures", "tdnnf"])
def test_outputs_agree_with_kaldi(name: str, kaldi_reference: Path, tmp_path: Path) -> None:
    features = kaldi_reference / "tables" / "feats.ark"
    log = run(
        "nnet-compute", kaldi_reference / "train" / f"{name}.final.raw", f"ark:{features}", f"ark:{tmp_path / 'out'}"
    )
    assert "Done 24 utterances, failed for 0" in log
    assert largest_difference(tmp_path / "out", kaldi_reference / "compute" / f"{name}.out.ark") < 1e-6


def test_a_network_with_online_ivectors_agrees_with_kaldi(kaldi_reference: Path, tmp_path: Path) -> None:
    run(
        "nnet-compute",
        f"--online-ivectors=ark:{kaldi_reference / 'tables' / 'ivectors_online.ark'}",
        "--online-ivector-period=10",
        kaldi_reference / "train" / "tdnn_relu.final.raw",
        f"ark:{kaldi_reference / 'tables' / 'feats.ark'}",
        f"ark:{tmp_path / 'out'}",
    )
    assert largest_difference(tmp_path / "out", kaldi_reference / "compute" / "tdnn_relu.out.ark") < 1e-6


def test_probabilities_in_chunks_of_20_frames_agree_with_kaldi(kaldi_reference: Path, tmp_path: Path) -> None:
    run(
        "nnet-compute",
        "--apply-exp=true",
        "--frames-per-chunk=20",
        kaldi_reference / "train" / "pnorm.final.raw",
        f"ark:{kaldi_reference / 'tables' / 'feats.ark'}",
        f"ark:{tmp_path / 'out'}",
    )
    assert largest_difference(tmp_path / "out", kaldi_reference / "compute" / "pnorm.exp.ark") < 1e-6


def test_log_likelihoods_of_an_acoustic_model_agree_with_kaldi(kaldi_reference: Path, tmp_path: Path) -> None:
    folder = kaldi_reference / "am"
    run(
        "nnet-compute",
        "--use-priors=true",
        folder / "final.mdl",
        f"ark:{folder / 'feats.ark'}",
        f"ark:{tmp_path / 'out'}",
    )
    # Log-likelihoods are near zero, so that the same absolute difference is a larger relative one.
    assert largest_difference(tmp_path / "out", folder / "loglikes.ark") < 1e-4


def test_outputs_for_examples_agree_with_kaldi(kaldi_reference: Path, tmp_path: Path) -> None:
    log = run(
        "nnet-compute-from-egs",
        "--apply-exp=true",
        kaldi_reference / "train" / "pnorm.final.raw",
        f"ark:{kaldi_reference / 'egs' / 'egs_8frames_merged32.ark'}",
        f"ark:{tmp_path / 'out'}",
    )
    assert f"Processed {len(matrices(tmp_path / 'out'))} examples." in log
    assert largest_difference(tmp_path / "out", kaldi_reference / "compute" / "pnorm.from_egs.ark") < 1e-6
