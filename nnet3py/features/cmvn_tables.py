"""Mean and variance normalisation of whole tables.

Source: Kaldi src/featbin/compute-cmvn-stats.cc, apply-cmvn.cc.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.features.cmvn import (
    STATISTICS_FILE,
    Statistics,
    accumulate,
    denormalise,
    empty_statistics,
    normalise,
    skip_dims,
)
from nnet3py.tables.basic_types import read_header, write_header
from nnet3py.tables.holders import GENERAL_MATRIX, MATRIX, TOKEN_VECTOR, VECTOR
from nnet3py.tables.matrix import read_matrix, write_matrix
from nnet3py.tables.streams import open_input, open_output
from nnet3py.tables.table import (
    RandomAccessReader,
    RandomAccessReaderMapped,
    SequentialReader,
    TableWriter,
    is_rspecifier,
)


def _float32(array: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


class _Accumulator:
    """Adds utterances to statistics; what goes wrong with one is a warning, and counted."""

    def __init__(self, weights: str, stack: contextlib.ExitStack) -> None:
        self._weights = stack.enter_context(RandomAccessReader(weights, VECTOR)) if weights else None
        self.done = 0
        self.failed = 0

    def add(self, utterance: str, matrix: NDArray[Any], statistics: Statistics | None) -> Statistics | None:
        """The statistics with the utterance added, or as they were."""
        features = _float32(matrix)
        changed = empty_statistics(features.shape[1]) if statistics is None else statistics
        try:
            weights = None
            if self._weights is not None:
                if utterance not in self._weights:
                    raise UserError("The table of --weights does not have it.")
                weights = _float32(self._weights[utterance])
            if features.size == 0:
                raise UserError("It has no frames.")
            accumulate(changed, features, weights)
        except UserError as problem:
            self.fail(utterance, str(problem))
            return statistics
        self.done += 1
        return changed

    def fail(self, utterance: str, why: str) -> None:
        """Count an utterance that is left out."""
        log.warning(f"{utterance}: {why} It is left out of the statistics.")
        self.failed += 1

    def counts(self, source: str) -> tuple[int, int]:
        """How many utterances went in, and how many did not."""
        if self.done == 0:
            raise UserError(f"There is no utterance in {source} to make statistics of; nothing is written.")
        return self.done, self.failed


def utterance_statistics(features: str, target: str, weights: str = "") -> tuple[int, int]:
    """Statistics of each utterance; returns how many were and were not counted.

    Raises:
        UserError: none was, or a table cannot be read or written.
    """
    with contextlib.ExitStack() as stack:
        accumulator = _Accumulator(weights, stack)
        reader = stack.enter_context(SequentialReader(features, MATRIX))
        writer = stack.enter_context(TableWriter(target, MATRIX))
        for utterance, matrix in reader:
            statistics = accumulator.add(utterance, matrix, None)
            if statistics is not None:
                writer.write(utterance, statistics)
        return accumulator.counts(features)


def speaker_statistics(features: str, target: str, spk2utt: str, weights: str = "") -> tuple[int, int]:
    """Statistics of each speaker; otherwise like :func:`utterance_statistics`."""
    with contextlib.ExitStack() as stack:
        accumulator = _Accumulator(weights, stack)
        speakers = stack.enter_context(SequentialReader(spk2utt, TOKEN_VECTOR))
        table = stack.enter_context(RandomAccessReader(features, MATRIX))
        writer = stack.enter_context(TableWriter(target, MATRIX))
        for speaker, utterances in speakers:
            statistics: Statistics | None = None
            for utterance in utterances:
                if utterance in table:
                    statistics = accumulator.add(utterance, table[utterance], statistics)
                else:
                    accumulator.fail(utterance, "There are no features for it.")
            if statistics is None:
                log.warning(f"No stats accumulated for speaker {speaker}")
            else:
                writer.write(speaker, statistics)
        return accumulator.counts(features)


def global_statistics(features: str, target: str, weights: str = "", binary: bool = True) -> tuple[int, int]:
    """Statistics of all utterances in one file, as 4-byte floats; otherwise like :func:`utterance_statistics`."""
    with contextlib.ExitStack() as stack:
        accumulator = _Accumulator(weights, stack)
        statistics: Statistics | None = None
        with SequentialReader(features, MATRIX) as reader:
            for utterance, matrix in reader:
                statistics = accumulator.add(utterance, matrix, statistics)
        counts = accumulator.counts(features)
        assert statistics is not None
        with open_output(target) as sink:
            write_header(sink, binary)
            write_matrix(sink, _float32(statistics), binary)
        return counts


@dataclass
class Normalisation:
    """What to do to features.

    Attributes:
        norm_vars: whether variances are normalised, and not means only.
        reverse: whether normalised features are given the statistics' mean and variance.
        skip: columns to leave as they are.
    """

    norm_vars: bool
    reverse: bool
    skip: list[int]

    def __call__(self, statistics: Statistics, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """The features, (frames, dim) float32, normalised."""
        used = skip_dims(statistics, self.skip) if self.skip else statistics
        return (denormalise if self.reverse else normalise)(used, features, self.norm_vars)


def parse_dims(text: str) -> list[int]:
    """``13:14:15`` as numbers.

    Raises:
        UserError: it is not such a list.
    """
    words = text.split(":") if text else []
    if not all(word.isascii() and word.isdigit() for word in words):
        raise UserError(f"Expected --skip-dims to be columns such as 13:14:15, found {text!r}.")
    return [int(word) for word in words]


def normalise_table(
    statistics: str, utt2spk: str, features: str, target: str, normalisation: Normalisation
) -> tuple[int, int]:
    """Normalise a table of features; returns how many utterances were and were not.

    Args:
        statistics: rspecifier of a table, or rxfilename of one matrix for all.
        utt2spk: rspecifier of the map from utterances to the table's keys; empty if they are the same.
        features: rspecifier.
        target: wspecifier.
        normalisation: what to do.

    Raises:
        UserError: no utterance was normalised, the dimensions disagree, or a table cannot be read or written.
    """
    done = failed = 0
    with contextlib.ExitStack() as stack:
        shared: Statistics | None = None
        table: RandomAccessReaderMapped[NDArray[Any]] | None = None
        if is_rspecifier(statistics):
            table = stack.enter_context(RandomAccessReaderMapped(statistics, utt2spk, MATRIX))
        elif utt2spk:
            raise UserError(f"--utt2spk needs a table of statistics, found the file {statistics} (forgot ark:?).")
        else:
            with open_input(statistics, STATISTICS_FILE) as source:
                shared = read_matrix(source, read_header(source), wide=True).astype(np.float64)
        reader = stack.enter_context(SequentialReader(features, MATRIX))
        writer = stack.enter_context(TableWriter(target, MATRIX))
        for utterance, matrix in reader:
            if table is not None and utterance not in table:
                log.warning(
                    f"No normalization statistics available for key {utterance}, producing no output for this utterance"
                )
                failed += 1
                continue
            used = table[utterance].astype(np.float64) if table is not None else shared
            assert used is not None
            try:  # features of no frames are often of no dimension either
                writer.write(utterance, normalisation(used, _float32(matrix)) if len(matrix) else _float32(matrix))
            except UserError as problem:
                raise UserError(f"Utterance {utterance!r}: {problem}") from problem
            done += 1
        if done == 0:
            raise UserError(f"No utterance of {features} was normalised; nothing is written.")
    return done, failed


def copy_unchanged(features: str, target: str) -> int:
    """Copy features in whatever form they are; returns how many."""
    count = 0
    with SequentialReader(features, GENERAL_MATRIX) as reader, TableWriter(target, GENERAL_MATRIX) as writer:
        for utterance, matrix in reader:
            writer.write(utterance, matrix)
            count += 1
        if count == 0:
            raise UserError(f"There are no matrices in {features}; nothing is written.")
    return count
