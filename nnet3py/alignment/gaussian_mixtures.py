"""The Gaussian mixtures of a monophone model: statistics and re-estimation by kaldi-hmm-gmm, splitting here.

The library's own splitting moves the means apart by random numbers that cannot be seeded, so that no two runs agree;
the same rule is here with a seeded generator.

Source: Kaldi src/gmm/am-diag-gmm.cc, ``SplitByCount``; src/gmm/model-common.cc,
``GetSplitTargets``; src/gmm/diag-gmm.cc, ``Split``.
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnet3py.alignment.recipe_library import import_recipe_library
from nnet3py.tables.basic_types import write_int, write_token
from nnet3py.tables.matrix import write_matrix, write_vector
from nnet3py.tables.streams import Sink

Floats = NDArray[np.float32]
_ALL = 15  # kaldi-hmm-gmm's GmmUpdateFlags.kGmmAll: means, variances, weights, transitions
_PERTURBATION = 0.01  # of a standard deviation: how far a split moves means, as gmm-est has it
_POWER = 0.25  # a state gets Gaussians in proportion to this power of its frames
_FRAMES_PER_GAUSSIAN = 20.0  # a state gets no further Gaussian that would have fewer frames than this


class GaussianMixtures:
    """One mixture of Gaussians with diagonal covariance for each pdf."""

    def __init__(self, mean: NDArray[Any], variance: NDArray[Any], num_pdfs: int) -> None:
        """All pdfs alike: one Gaussian with the given mean and variance, (dim,) each."""
        self._library = import_recipe_library("kaldi_hmm_gmm")
        one = self._gaussians(np.ones(1, np.float32), mean[None, :], variance[None, :])
        self._model = self._library.AmDiagGmm()
        self._model.init(one, num_pdfs)

    def _gaussians(self, weights: NDArray[Any], means: NDArray[Any], variances: NDArray[Any]) -> Any:
        mixture = self._library.DiagGmm(*means.shape)
        mixture.set_weights(weights.astype(np.float32))
        mixture.set_invvars_and_means((1.0 / variances).astype(np.float32), means.astype(np.float32))
        mixture.compute_gconsts()
        return mixture

    @property
    def num_gaussians(self) -> int:
        """Of all pdfs together."""
        return int(self._model.num_gauss)

    def log_likelihoods(self, features: Floats, pdf: int) -> Floats:
        """log p(x | pdf): features (frames, dim) -> (frames,)."""
        each = self._model.get_pdf(pdf).log_likelihoods_matrix(features)
        most = each.max(axis=1)
        found: Floats = most + np.log(np.exp(each - most[:, None]).sum(axis=1))
        return found

    def reestimate(self, features: Floats, pdfs: NDArray[np.int32], min_occupancy: float) -> float:
        """One pass of expectation and maximisation, each frame belonging to one pdf.

        Args:
            features: (frames, dim).
            pdfs: (frames,), the alignment.
            min_occupancy: a Gaussian with fewer frames is removed, or left as it is if it is the state's only one.

        Returns:
            The average log-likelihood of a frame under the mixtures as they were.
        """
        statistics = self._library.AccumAmDiagGmm()
        statistics.init(self._model, _ALL)
        total = 0.0
        for frame, pdf in zip(features, pdfs.tolist(), strict=True):
            total += statistics.accumulate_for_gmm(self._model, frame, pdf, 1.0)
        options = self._library.MleDiagGmmOptions(min_gaussian_occupancy=min_occupancy)
        self._library.mle_am_diag_gmm_update(options, statistics, _ALL, self._model)
        return total / len(features)

    def split(self, num_frames: NDArray[Any], target: int, rng: np.random.Generator) -> None:
        """Split Gaussians until there are ``target`` of them, or states have too few frames for more.

        Args:
            num_frames: (pdfs,), how many frames each pdf has.
        """
        mixtures = [self._model.get_pdf(pdf) for pdf in range(self._model.num_pdfs)]
        sizes = split_targets(num_frames, [mixture.num_gauss for mixture in mixtures], target)
        grown = self._library.AmDiagGmm()
        for mixture, size in zip(mixtures, sizes, strict=True):
            weights, means, variances = (
                np.array(part, np.float64) for part in (mixture.weights, mixture.means, mixture.vars)
            )
            while len(weights) < size:
                heaviest = int(np.argmax(weights))
                weights[heaviest] /= 2.0
                step = _PERTURBATION * np.sqrt(variances[heaviest]) * rng.standard_normal(len(variances[heaviest]))
                weights = np.append(weights, weights[heaviest])
                means = np.vstack([means, means[heaviest] + step])
                means[heaviest] -= step
                variances = np.vstack([variances, variances[heaviest]])
            grown.add_pdf(self._gaussians(weights, means, variances))
        self._model = grown

    def write_to(self, sink: Sink, binary: bool) -> None:
        """Write in Kaldi's form (src/gmm/am-diag-gmm.cc), what follows the transition model in a GMM's ``.mdl``."""
        write_token(sink, binary, "<DIMENSION>")
        write_int(sink, binary, self._model.dim)
        write_token(sink, binary, "<NUMPDFS>")
        write_int(sink, binary, self._model.num_pdfs)
        for pdf in range(self._model.num_pdfs):
            mixture = self._model.get_pdf(pdf)
            write_token(sink, binary, "<DiagGMM>")
            for name, values in (
                ("<GCONSTS>", mixture.gconsts),
                ("<WEIGHTS>", mixture.weights),
                ("<MEANS_INVVARS>", mixture.means_invvars),
                ("<INV_VARS>", mixture.inv_vars),
            ):
                array = np.asarray(values, np.float32)
                write_token(sink, binary, name)
                (write_matrix if array.ndim == 2 else write_vector)(sink, array, binary)
            write_token(sink, binary, "</DiagGMM>")
            if not binary:
                sink.write(b"\n")


def split_targets(num_frames: NDArray[Any], sizes: list[int], target: int) -> list[int]:
    """How many Gaussians each pdf is to have, ``target`` together, none fewer than now.

    Each further Gaussian goes to the pdf whose frames, to the power 0.25, divided by its Gaussians, are most; pdfs that
    would have fewer than 20 frames a Gaussian get none.
    """
    grown = list(sizes)
    waiting = [
        (-(float(frames) ** _POWER) / size, pdf)
        for pdf, (frames, size) in enumerate(zip(num_frames, sizes, strict=True))
    ]
    heapq.heapify(waiting)
    total = sum(sizes)
    while total < target and waiting:
        _, pdf = heapq.heappop(waiting)
        if num_frames[pdf] < (grown[pdf] + 1) * _FRAMES_PER_GAUSSIAN:
            continue
        grown[pdf] += 1
        total += 1
        heapq.heappush(waiting, (-(float(num_frames[pdf]) ** _POWER) / grown[pdf], pdf))
    return grown
