"""Mean and variance normalisation that looks at no later frame, as in recognition while somebody speaks.

A frame is normalised by the sums over the last ``window`` frames up to it. While there are fewer, sums of the speaker's
earlier utterances and then global ones, scaled down to so many frames as are lacking (at most ``speaker_frames`` and
``global_frames``), are added.

Source: Kaldi src/feat/online-feature.cc, ``OnlineCmvn``; src/online2bin/apply-cmvn-online.cc.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.features.cmvn import STATISTICS_FILE, Statistics, add_frames, empty_statistics
from nnet3py.tables.basic_types import read_header
from nnet3py.tables.holders import MATRIX, TOKEN_VECTOR
from nnet3py.tables.matrix import read_matrix
from nnet3py.tables.streams import open_input
from nnet3py.tables.table import RandomAccessReader, SequentialReader, TableWriter

_VARIANCE_FLOOR = 1.0e-20


@dataclass(frozen=True)
class OnlineNormalisation:
    """What to do; names and defaults are those of apply-cmvn-online's options.

    Attributes:
        skip: columns to leave as they are.
    """

    window: int = 600
    speaker_frames: int = 600
    global_frames: int = 200
    norm_means: bool = True
    norm_vars: bool = False
    skip: list[int] = field(default_factory=list)

    def check(self) -> None:
        """Raise UserError for what makes no sense."""
        if self.window < 1 or self.speaker_frames < 0 or self.global_frames < 0:
            raise UserError("Expected --cmn-window of at least 1, --speaker-frames and --global-frames of at least 0.")
        if self.norm_vars and not self.norm_means:
            raise UserError("The variance cannot be normalised without the mean: leave out --norm-means=false.")

    def __call__(
        self, features: NDArray[np.float32], global_statistics: Statistics, speaker_statistics: Statistics
    ) -> NDArray[np.float32]:
        """An utterance's features, (frames, dim) float32, normalised.

        Args:
            global_statistics: see :mod:`nnet3py.features.cmvn`; of at least one frame.
            speaker_statistics: of the speaker's earlier utterances; all zero if there are none.

        Raises:
            UserError: the dimensions disagree, a feature is not finite, or a frame has no statistics.
        """
        dim = features.shape[1]
        rows = 2 if self.norm_vars else 1
        if global_statistics.shape[0] < rows or global_statistics.shape[1] != dim + 1:
            raise UserError(
                f"Expected global statistics of {rows} rows or more and {dim + 1} columns, found "
                f"{global_statistics.shape[0]} by {global_statistics.shape[1]}."
            )
        if not all(0 <= column < dim for column in self.skip):
            raise UserError(f"Expected columns from 0 to {dim - 1} to skip, found {':'.join(map(str, self.skip))}.")
        if not np.isfinite(features).all():
            raise UserError("The features hold a NaN or infinite value.")
        if not self.norm_means or len(features) == 0:
            return features
        counts, sums = self._sums(features, global_statistics[:rows], speaker_statistics[:rows])
        if counts.min() < 1.0:
            raise UserError("A frame has no statistics to normalise it by: give --global-frames above 0.")
        sums[0, :, self.skip] = 0.0
        if not self.norm_vars:
            factors = (-1.0 / counts).astype(np.float32).astype(np.float64)
            return features + (factors[:, None] * sums[0]).astype(np.float32)
        sums[1, :, self.skip] = counts
        means = sums[0] / counts[:, None]
        variances = sums[1] / counts[:, None] - means * means
        if floored := int((variances < _VARIANCE_FLOOR).sum()):
            log.warning(f"Flooring {floored} cepstral variances to {_VARIANCE_FLOOR:g}")
        scales = 1.0 / np.sqrt(np.maximum(variances, _VARIANCE_FLOOR))
        return features * scales.astype(np.float32) + (-(means * scales)).astype(np.float32)

    def _sums(
        self, features: NDArray[np.float32], global_statistics: Statistics, speaker_statistics: Statistics
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """For each frame the count, (frames,), and the sums of the features (and squares), (1 or 2, frames, dim)."""
        wide = features.astype(np.float64)
        sums = np.stack([self._window_sums(wide**power) for power in (1, 2)[: len(global_statistics)]])
        counts = np.minimum(np.arange(1, len(features) + 1), self.window).astype(np.float64)
        for statistics, most in ((speaker_statistics, self.speaker_frames), (global_statistics, self.global_frames)):
            available = float(statistics[0, -1])
            wanted = np.minimum(self.window - counts, most)
            if statistics is speaker_statistics:
                wanted = np.minimum(wanted, available)
            share = np.maximum(wanted, 0.0) / available if available > 0 else np.zeros(len(counts))
            sums += share[:, None] * statistics[:, None, :-1]
            counts += share * available
        return counts, sums

    def _window_sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Row t is the sum of the last ``window`` rows up to t: each step adds a row and takes one away."""
        steps = np.zeros((len(values), 2, values.shape[1]))
        steps[:, 0] = values
        steps[self.window :, 1] = -values[: -self.window]
        return np.cumsum(steps.reshape(-1, values.shape[1]), axis=0)[1::2]


def normalise_table(
    global_statistics: str, spk2utt: str, features: str, target: str, normalisation: OnlineNormalisation
) -> tuple[int, int]:
    """Normalise a table of features; returns how many utterances and frames.

    Args:
        global_statistics: rxfilename of one matrix.
        spk2utt: rspecifier of the speakers' utterances, whose order is that of the output; empty if each utterance is
            taken by itself.
        features: rspecifier.
        target: wspecifier.

    Raises:
        UserError: nothing was normalised, the dimensions disagree, or a table cannot be read or written.
    """
    normalisation.check()
    with open_input(global_statistics, STATISTICS_FILE) as source:
        shared = read_matrix(source, read_header(source), wide=True).astype(np.float64)
    if not (shared.size and shared[0, -1] > 0 and np.isfinite(shared).all()):
        raise UserError(f"{global_statistics}: expected statistics of at least one frame, all finite.")
    utterances = frames = 0
    with TableWriter(target, MATRIX) as writer:
        earlier = empty_statistics(0)
        for utterance, matrix, goes_on in _utterances(features, spk2utt):
            with np.errstate(over="ignore"):
                values = matrix.astype(np.float32, copy=False)
            if not len(values):
                writer.write(utterance, values)
                utterances += 1
                continue
            if not goes_on:
                earlier = empty_statistics(values.shape[1])
            try:
                writer.write(utterance, normalisation(values, shared, earlier))
            except UserError as problem:
                raise UserError(f"Utterance {utterance!r}: {problem}") from problem
            if spk2utt:
                wide = values.astype(np.float64)
                add_frames(earlier, wide, wide * wide, 1.0)
            utterances += 1
            frames += len(values)
        if not utterances:
            raise UserError(f"No utterance of {features} was normalised; nothing is written.")
    return utterances, frames


def _utterances(features: str, spk2utt: str) -> Iterator[tuple[str, NDArray[Any], bool]]:
    """Each utterance, and whether it is of the same speaker as the one before."""
    if not spk2utt:
        with SequentialReader(features, MATRIX) as reader:
            for utterance, matrix in reader:
                yield utterance, matrix, False
        return
    with contextlib.ExitStack() as stack:
        speakers = stack.enter_context(SequentialReader(spk2utt, TOKEN_VECTOR))
        table = stack.enter_context(RandomAccessReader(features, MATRIX))
        for _, utterances in speakers:
            goes_on = False
            for utterance in utterances:
                if utterance not in table:
                    log.warning(f"No features for utterance {utterance}")
                    continue
                matrix = table[utterance]
                yield utterance, matrix, goes_on
                goes_on = goes_on or len(matrix) > 0
