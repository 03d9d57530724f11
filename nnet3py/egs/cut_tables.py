"""Cutting tables of features and targets into a table of training examples.

Source: Kaldi src/nnet3bin/nnet3-get-egs.cc and nnet3-get-egs-dense-targets.cc.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from nnet3py import log
from nnet3py.egs.cut import InputConfig, cut_utterance, ivector_lengths_match, labels_of_posterior
from nnet3py.egs.example import EXAMPLE
from nnet3py.egs.utterance_splitter import TARGETS_LENGTH_TOLERANCE, UtteranceSplitter
from nnet3py.errors import UserError
from nnet3py.kept_memory import keep_freed_memory
from nnet3py.tables.general_matrix import to_array
from nnet3py.tables.holders import GENERAL_MATRIX, MATRIX, POSTERIOR
from nnet3py.tables.posterior import Posterior
from nnet3py.tables.sparse_matrix import SparseMatrix
from nnet3py.tables.table import RandomAccessReader, SequentialReader, TableWriter

Target = TypeVar("Target")


def cut_with_posteriors(
    features: str,
    posteriors: str,
    examples: str,
    splitter: UtteranceSplitter,
    config: InputConfig,
    num_pdfs: int,
    targets_length_tolerance: int = TARGETS_LENGTH_TOLERANCE,
    online_ivectors: str = "",
) -> None:
    """Examples whose labels are posteriors of pdfs: a sparse (frames, num_pdfs) matrix.

    features, posteriors, online_ivectors: rspecifiers; examples: a wspecifier. Utterances without posteriors or
    iVectors, or with too many or too few, are warned of and counted. Raises UserError if no
    example can be made at all; the earlier archive, if any, stays as it was.
    """
    if num_pdfs <= 0:
        raise UserError("--num-pdfs options is required: the number of pdfs in the acoustic model.")

    def convert(posterior: Posterior) -> SparseMatrix:
        return labels_of_posterior(posterior, num_pdfs)

    with RandomAccessReader(posteriors, POSTERIOR) as targets:
        _cut(
            features, targets, "pdf-level posterior", convert, examples, splitter, config,
            targets_length_tolerance, online_ivectors,
        )  # fmt: skip


def cut_with_dense_targets(
    features: str,
    targets: str,
    examples: str,
    splitter: UtteranceSplitter,
    config: InputConfig,
    num_targets: int = -1,
    targets_length_tolerance: int = TARGETS_LENGTH_TOLERANCE,
    online_ivectors: str = "",
) -> None:
    """Examples whose targets are rows of numbers: a (frames, num_targets) matrix.

    As :func:`cut_with_posteriors`; ``num_targets`` is only checked, and not if it is negative.
    """

    def convert(matrix: np.ndarray) -> np.ndarray:
        if num_targets >= 0 and matrix.shape[1] != num_targets:
            raise UserError(f"expected --num-targets={num_targets} targets a frame, found {matrix.shape[1]}")
        if not len(matrix):
            raise UserError("the matrix of targets is empty")
        if not np.isfinite(matrix).all():
            raise UserError("the targets contain a value that is not finite")
        return matrix

    with RandomAccessReader(targets, MATRIX) as reader:
        _cut(
            features, reader, "target matrix", convert, examples, splitter, config,
            targets_length_tolerance, online_ivectors,
        )  # fmt: skip


def _cut(
    features: str,
    targets: RandomAccessReader[Target],
    what: str,
    convert: Callable[[Target], SparseMatrix | np.ndarray],
    examples: str,
    splitter: UtteranceSplitter,
    config: InputConfig,
    targets_length_tolerance: int,
    online_ivectors: str,
) -> None:
    num_errors = 0
    keep_freed_memory()
    with contextlib.ExitStack() as stack:
        ivector_reader: RandomAccessReader[np.ndarray] | None = None
        if online_ivectors:
            ivector_reader = stack.enter_context(RandomAccessReader(online_ivectors, MATRIX))
        writer: TableWriter[Any] = stack.enter_context(TableWriter(examples, EXAMPLE))
        for key, matrix in stack.enter_context(SequentialReader(features, GENERAL_MATRIX)):
            if key not in targets:
                log.warning(f"No {what} for key {key}")
                num_errors += 1
                continue
            ivectors = None
            if ivector_reader is not None:
                if key not in ivector_reader:
                    log.warning(f"No iVectors for utterance {key}")
                    num_errors += 1
                    continue
                ivectors = to_array(ivector_reader[key])
                if not ivector_lengths_match(key, matrix.shape[0], ivectors, config):
                    num_errors += 1
                    continue
            target = targets[key]
            if not splitter.lengths_match(key, matrix.shape[0], len(target), targets_length_tolerance):  # type: ignore[arg-type]
                num_errors += 1
                continue
            try:
                converted = convert(target)
            except UserError as problem:
                raise UserError(f"Cannot use the {what} of utterance {key}: {problem}.") from None
            for name, example in cut_utterance(key, matrix, ivectors, converted, splitter, config):
                writer.write(name, example)
        if num_errors:
            log.warning(f"{num_errors} utterances had errors and could not be processed.")
        splitter.log_counts()
        if splitter.counts.chunk_frames == 0:
            raise UserError(
                f"No example could be made: no utterance of {features} is long enough and has a {what} that fits. "
                f"Nothing was written to {examples}."
            )
