"""A vector that says what an utterance sounds like: the mean and the standard deviation of its features.

A network that has it as a second input can tell one voice, channel or noise from another, as one that has an iVector
can; this is the plain form, for want of a maintained library that estimates iVectors. Of n frames x_t, with the mean mu
and the standard deviation sigma of all training data as a reference, and tau frames of the reference added to the
utterance's own,

    m = (sum_t x_t + tau mu) / (n + tau),    s^2 = (sum_t x_t^2 + tau (sigma^2 + mu^2)) / (n + tau) - m^2,

and the vector is ((m - mu) / sigma, s / sigma - 1): zero for an utterance that is like the training data as a whole, or
about which little is known. Without a reference it is (m, s), and tau is zero.

As a matrix, in the form that Kaldi's scripts have iVectors in ("online"), row k is the vector at frame k * period: of
the frames up to and with that one, and of the speaker's earlier utterances; or, not online, each row is the vector of
the whole. Source of that form: Kaldi src/ivector/ivector-extractor.cc, ``EstimateIvectorsOnline``;
egs/wsj/s5/steps/online/nnet2/extract_ivectors_online.sh.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.features.cmvn import STATISTICS_FILE, Statistics, accumulate, empty_statistics
from nnet3py.tables.basic_types import read_header
from nnet3py.tables.holders import MATRIX, TOKEN_VECTOR, VECTOR
from nnet3py.tables.matrix import read_matrix
from nnet3py.tables.streams import open_input
from nnet3py.tables.table import RandomAccessReader, SequentialReader, TableWriter

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class VectorSettings:
    """What kind of vector is made.

    Attributes:
        prior_count: tau, frames of the reference added to an utterance's.
        deviations: whether standard deviations follow the means.
        period: frames from row to row of the matrices; 0 for one vector.
        online: whether a row is of the frames up to it, and not of the whole.
    """

    prior_count: float = 0.0
    deviations: bool = True
    period: int = 0
    online: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.prior_count < float("inf"):
            raise UserError(f"--prior-count must be a number from 0 on, found {self.prior_count}.")
        if self.period < 0:
            raise UserError(f"--ivector-period must not be below 0, found {self.period}.")
        if self.online and not self.period:
            raise UserError("--online=true makes a row every so many frames: give --ivector-period too.")


@dataclass(frozen=True)
class _Reference:
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]


class VectorEstimator:
    """Makes vectors of statistics, relative to those of all training data or as they are."""

    def __init__(self, settings: VectorSettings, reference: Statistics | None = None) -> None:
        """
        Args:
            reference: (2, dim + 1), the sums over all training data, as :mod:`nnet3py.features.cmvn` has them.

        Raises:
            UserError: a dimension does not vary in the reference, or a prior is asked for without one.
        """
        self.settings = settings
        self._reference = None if reference is None else _moments(reference)
        if reference is None and settings.prior_count:
            raise UserError("--prior-count adds frames of --global-stats: give these too.")

    def vector(self, statistics: Statistics) -> Floats:
        """The vector of frames whose sums are (2, dim + 1): (dim,) or, with deviations, (2 dim,) float32.

        Raises:
            UserError: the dimension is another than the reference's.
        """
        dim = statistics.shape[1] - 1
        counts = statistics[0, dim:]
        return self._vectors(statistics[None, 0, :dim], statistics[None, 1, :dim], counts)[0]

    def constant_rows(self, statistics: Statistics, num_frames: int) -> Floats:
        """The vector of some frames for every part of an utterance: (rows, dim) float32."""
        return np.tile(self.vector(statistics), (self._num_rows(num_frames), 1))

    def running_rows(self, before: Statistics, features: Floats) -> Floats:
        """A row every period: of the frames up to it, and of those whose sums are ``before``; (rows, dim) float32."""
        dim = features.shape[1]
        if before.shape[1] - 1 != dim:
            raise UserError(f"Expected features of dimension {before.shape[1] - 1}, found {dim}.")
        ends = np.arange(self._num_rows(len(features))) * self.settings.period
        exact = features.astype(np.float64)
        sums = before[0, :dim] + np.cumsum(exact, axis=0)[ends]
        squares = before[1, :dim] + np.cumsum(exact**2, axis=0)[ends]
        return self._vectors(sums, squares, before[0, dim] + ends + 1)

    def _num_rows(self, num_frames: int) -> int:
        return -(-num_frames // self.settings.period)

    def _vectors(self, sums: NDArray[np.float64], squares: NDArray[np.float64], counts: NDArray[np.float64]) -> Floats:
        reference, tau = self._reference, self.settings.prior_count
        totals = counts[:, None] + tau
        if reference is not None:
            if sums.shape[1] != len(reference.mean):
                raise UserError(
                    f"Expected features of dimension {len(reference.mean)}, that of --global-stats, found "
                    f"{sums.shape[1]}."
                )
            sums = sums + tau * reference.mean
            squares = squares + tau * (reference.deviation**2 + reference.mean**2)
        mean = sums / totals
        deviation = np.sqrt(np.maximum(squares / totals - mean**2, 0.0))
        if reference is not None:
            mean = (mean - reference.mean) / reference.deviation
            deviation = deviation / reference.deviation - 1.0
        parts = [mean, deviation] if self.settings.deviations else [mean]
        return np.hstack(parts).astype(np.float32)


def _moments(statistics: Statistics) -> _Reference:
    if statistics.ndim != 2 or statistics.shape[0] != 2 or statistics.shape[1] < 2:
        raise UserError(
            f"Expected statistics of 2 rows, as compute-cmvn-stats writes them into a file, found "
            f"{' by '.join(map(str, statistics.shape))}."
        )
    count = statistics[0, -1]
    if not (np.isfinite(statistics).all() and count >= 1):
        raise UserError(f"Expected finite statistics of at least one frame, found a count of {count:g}.")
    mean = statistics[0, :-1] / count
    variance = statistics[1, :-1] / count - mean**2
    if not (variance > 1e-7 * mean**2).all() or not (variance > 0).all():  # single precision leaves no more
        column = int(np.argmin(variance - 1e-7 * mean**2))
        raise UserError(f"The statistics say that dimension {column} of the features is the same in all frames.")
    return _Reference(mean, np.sqrt(variance))


def read_statistics(rxfilename: str) -> Statistics:
    """The sums in a file, as ``compute-cmvn-stats`` writes those of all features together.

    Raises:
        UserError: it cannot be read.
    """
    with open_input(rxfilename, STATISTICS_FILE) as source:
        return read_matrix(source, read_header(source), wide=True).astype(np.float64)


def vectors_of_table(features: str, target: str, estimator: VectorEstimator, spk2utt: str = "") -> tuple[int, int]:
    """Make vectors of a table of features; how many utterances went in, and how many could not.

    Args:
        features: rspecifier.
        target: wspecifier: of vectors, or, with a period, of matrices by utterance.
        spk2utt: rspecifier of speakers and their utterances, whose frames count together; vectors are by speaker then.
            Online, an utterance's rows begin with what the speaker's earlier utterances have said.

    Raises:
        UserError: nothing could be made, a value is not finite, or a table cannot be read or written.
    """
    counts = _Counts()
    holder = MATRIX if estimator.settings.period else VECTOR
    with contextlib.ExitStack() as stack:
        writer: TableWriter[Any] = stack.enter_context(TableWriter(target, holder))
        if spk2utt:
            speakers = stack.enter_context(SequentialReader(spk2utt, TOKEN_VECTOR))
            table = stack.enter_context(RandomAccessReader(features, MATRIX))
            made = _of_speakers(speakers, table, estimator, counts)
        else:
            made = _of_utterances(stack.enter_context(SequentialReader(features, MATRIX)), estimator, counts)
        for key, value in made:
            writer.write(key, value)
        if not counts.done:
            raise UserError(f"There is no utterance in {features} to make vectors of; nothing is written.")
    return counts.done, counts.failed


@dataclass
class _Counts:
    done: int = 0
    failed: int = 0

    def fail(self, utterance: str, why: str) -> None:
        log.warning(f"{utterance}: {why}")
        self.failed += 1


def _of_utterances(
    reader: SequentialReader[NDArray[Any]], estimator: VectorEstimator, counts: _Counts
) -> Iterator[tuple[str, Floats]]:
    for utterance, matrix in reader:
        if not len(matrix):
            counts.fail(utterance, "It has no frames.")
            continue
        features = matrix.astype(np.float32, copy=False)
        statistics = empty_statistics(features.shape[1])
        yield utterance, _of_utterance(utterance, features, statistics, estimator)
        counts.done += 1


def _of_utterance(utterance: str, features: Floats, before: Statistics, estimator: VectorEstimator) -> Floats:
    """An utterance's vector or rows; its sums are added to ``before``."""
    try:
        rows = estimator.running_rows(before, features) if estimator.settings.online else None
        accumulate(before, features)
        if rows is not None:
            return rows
        if estimator.settings.period:
            return estimator.constant_rows(before, len(features))
        return estimator.vector(before)
    except UserError as problem:
        raise UserError(f"Utterance {utterance}: {problem}") from problem


def _of_speakers(
    speakers: SequentialReader[list[str]],
    table: RandomAccessReader[NDArray[Any]],
    estimator: VectorEstimator,
    counts: _Counts,
) -> Iterator[tuple[str, Floats]]:
    for speaker, utterances in speakers:
        statistics: Statistics | None = None
        lengths: dict[str, int] = {}
        for utterance in utterances:
            features = table[utterance].astype(np.float32, copy=False) if utterance in table else None
            if features is None or not len(features):
                counts.fail(utterance, "There are no features for it." if features is None else "It has no frames.")
                continue
            if statistics is None:
                statistics = empty_statistics(features.shape[1])
            lengths[utterance] = len(features)
            made = _of_utterance(utterance, features, statistics, estimator)
            if estimator.settings.online:
                yield utterance, made
        counts.done += len(lengths)
        if statistics is None:
            log.warning(f"The speaker {speaker} has no features.")
        elif not estimator.settings.period:
            yield speaker, estimator.vector(statistics)
        elif not estimator.settings.online:
            for utterance, length in lengths.items():
                yield utterance, estimator.constant_rows(statistics, length)
