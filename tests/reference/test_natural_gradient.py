"""The two natural-gradient methods against Kaldi's, minibatch by minibatch."""

from __future__ import annotations

from pathlib import Path

import kaldiio
import numpy as np
import pytest

from nnet3py.train.natural_gradient import OnlineNaturalGradient, simple_natural_gradient


def _relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-30))


def _sequence(folder: Path, name: str) -> list[tuple[str, np.ndarray]]:
    minibatches = list(kaldiio.load_ark(str(folder / name)))
    assert minibatches, f"{name} holds no minibatches"
    return minibatches


def _online_errors(folder: Path, inputs: str, name: str, online: OnlineNaturalGradient) -> list[float]:
    outputs = dict(_sequence(folder, f"{name}.out.ark"))
    scales = dict(line.split() for line in (folder / f"{name}.scale.txt").read_text().splitlines())
    errors = []
    for key, rows in _sequence(folder, f"{inputs}.in.ark"):
        hat, scale = online.precondition(rows)
        expected_scale = float(scales[key])
        errors.append(max(_relative_error(hat, outputs[key]), abs(scale - expected_scale) / expected_scale))
        assert online.orthogonality_error() < 1e-3, key
    return errors


@pytest.mark.parametrize(("name", "rank"), [("wide", 20), ("tall", 10), ("rank_ge_dim", 20), ("zeros", 16)])
def test_online_agrees_with_kaldi_on_every_minibatch(kaldi_reference: Path, name: str, rank: int) -> None:
    online = OnlineNaturalGradient(rank=rank, alpha=4.0, update_period=4, num_samples_history=2000.0)
    assert max(_online_errors(kaldi_reference / "natural_gradient", name, name, online)) < 1e-3


def test_online_agrees_with_kaldi_with_other_settings(kaldi_reference: Path) -> None:
    online = OnlineNaturalGradient(rank=12, alpha=2.0, update_period=1, num_samples_history=500.0)
    errors = _online_errors(kaldi_reference / "natural_gradient", "tall", "tall_alpha2_period1", online)
    assert max(errors) < 1e-3


def test_online_on_single_rows_stays_near_kaldi(kaldi_reference: Path) -> None:
    online = OnlineNaturalGradient(rank=8, alpha=4.0, update_period=4, num_samples_history=2000.0)
    errors = _online_errors(kaldi_reference / "natural_gradient", "single_row", "single_row", online)
    assert max(errors) < 0.15  # one row a minibatch is ill-conditioned: single precision decides the digits
    assert np.median(errors) < 0.03


@pytest.mark.parametrize("name", ["wide", "tall", "zeros"])
def test_simple_agrees_with_kaldi_on_every_minibatch(kaldi_reference: Path, name: str) -> None:
    folder = kaldi_reference / "natural_gradient"
    outputs = dict(_sequence(folder, f"{name}.simple.out.ark"))
    for key, rows in _sequence(folder, f"{name}.in.ark"):
        assert _relative_error(simple_natural_gradient(rows, alpha=4.0), outputs[key]) < 1e-5, key
