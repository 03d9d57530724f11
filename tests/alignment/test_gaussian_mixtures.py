"""Mixtures: how many Gaussians each state gets, and re-estimation against closed forms.

kaldi-hmm-gmm cannot be imported into a process that has kaldifst, which other tests import: a process of its own here.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from nnet3py.alignment.gaussian_mixtures import split_targets

_ESTIMATE = """
import json, sys
import numpy as np
from nnet3py.alignment.gaussian_mixtures import GaussianMixtures
given = json.load(sys.stdin)
features, pdfs = np.array(given["features"], np.float32), np.array(given["pdfs"], np.int32)
mixtures = GaussianMixtures(features.mean(axis=0), features.var(axis=0), 2)
likelihoods = [mixtures.reestimate(features, pdfs, 3.0)]
first = [mixtures.log_likelihoods(features, pdf).tolist() for pdf in (0, 1)]
for target in given["targets"]:
    mixtures.split(np.bincount(pdfs, minlength=2), target, np.random.default_rng(target))
    likelihoods.append(mixtures.reestimate(features, pdfs, 3.0))
last = [mixtures.log_likelihoods(features, pdf).tolist() for pdf in (0, 1)]
json.dump({"likelihoods": likelihoods, "first": first, "last": last, "size": mixtures.num_gaussians}, sys.stdout)
"""

needs_library = pytest.mark.skipif(
    importlib.util.find_spec("kaldi_hmm_gmm") is None, reason="kaldi-hmm-gmm is not installed"
)


def _estimate(features: np.ndarray, pdfs: np.ndarray, targets: list[int]) -> tuple[dict[str, Any], str]:
    given = json.dumps({"features": features.tolist(), "pdfs": pdfs.tolist(), "targets": targets})
    done = subprocess.run([sys.executable, "-c", _ESTIMATE], input=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stdout


@needs_library
def test_one_gaussian_takes_the_mean_and_variance_of_its_frames() -> None:
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(2.0, 3.0, (200, 4)), rng.normal(-1.0, 0.5, (300, 4))]).astype(np.float32)
    pdfs = np.repeat([0, 1], [200, 300])
    found, _ = _estimate(features, pdfs, [])
    overall = norm(features.mean(axis=0), features.std(axis=0)).logpdf(features).sum(axis=1).mean()
    assert found["likelihoods"][0] == pytest.approx(overall, rel=1e-4)
    for pdf in (0, 1):
        own = features[pdfs == pdf]
        expected = norm(own.mean(axis=0), own.std(axis=0)).logpdf(features).sum(axis=1)
        np.testing.assert_allclose(found["first"][pdf], expected, rtol=1e-3)


@needs_library
def test_split_gaussians_find_two_clusters_and_repeat_to_the_last_bit() -> None:
    rng = np.random.default_rng(1)
    clusters = np.concatenate([rng.normal(-5.0, 1.0, (300, 2)), rng.normal(5.0, 1.0, (300, 2))])
    features = np.concatenate([clusters, rng.normal(0.0, 1.0, (100, 2))]).astype(np.float32)
    pdfs = np.repeat([0, 1], [600, 100])
    found, text = _estimate(features, pdfs, [3] * 12)
    assert found["size"] == 3
    assert np.diff(found["likelihoods"]).min() > -1e-6
    mixture = np.logaddexp(
        *(
            np.log(0.5) + norm(part.mean(axis=0), part.std(axis=0)).logpdf(clusters).sum(axis=1)
            for part in np.split(clusters, 2)
        )
    )
    np.testing.assert_allclose(found["last"][0][:600], mixture, rtol=0.01, atol=0.01)
    assert _estimate(features, pdfs, [3] * 12)[1] == text


def test_gaussians_go_to_states_by_a_power_of_their_frames() -> None:
    sizes = split_targets(np.array([16_000, 1_000, 1_000]), [1, 1, 1], 40)
    assert sum(sizes) == 40
    assert sizes[0] / sizes[1] == pytest.approx(2.0, abs=0.2)  # 16 ** 0.25
    assert abs(sizes[1] - sizes[2]) <= 1


def test_a_state_with_few_frames_keeps_its_gaussians() -> None:
    assert split_targets(np.array([39, 41, 0]), [1, 1, 1], 100) == [1, 2, 1]
    assert split_targets(np.array([1000, 1000]), [3, 2], 4) == [3, 2]
