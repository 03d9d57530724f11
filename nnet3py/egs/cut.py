"""Cutting utterances into training examples: features with context, iVectors, labels with their weights.

Source: Kaldi src/nnet3bin/nnet3-get-egs.cc and nnet3-get-egs-dense-targets.cc.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from nnet3py import log
from nnet3py.egs import index_vector
from nnet3py.egs.example import Example, NnetIo
from nnet3py.egs.utterance_splitter import Chunk, UtteranceSplitter
from nnet3py.errors import UserError
from nnet3py.tables.compressed_matrix import AUTOMATIC, compress
from nnet3py.tables.general_matrix import GeneralMatrix, row_range
from nnet3py.tables.posterior import Posterior
from nnet3py.tables.sparse_matrix import SparseMatrix


@dataclass(frozen=True)
class InputConfig:
    """What becomes of features and iVectors.

    compression_method: Kaldi's number (1 to 7), or None to keep full matrices full; compressed ones stay as they are.
    online_ivector_period: frames between the rows of a matrix of iVectors.
    length_tolerance: frames by which features and iVectors may differ.
    """

    compression_method: int | None = AUTOMATIC
    online_ivector_period: int = 1
    length_tolerance: int = 100

    def __post_init__(self) -> None:
        if self.online_ivector_period < 1:
            raise UserError(f"--online-ivector-period must be at least 1, found {self.online_ivector_period}.")
        if self.compression_method is not None and not 1 <= self.compression_method <= 7:
            raise UserError(f"Expected a compression method from 1 to 7, found {self.compression_method}.")


def labels_of_posterior(posterior: Posterior, num_pdfs: int) -> SparseMatrix:
    """A posterior as a (frames, num_pdfs) sparse matrix; pairs of one frame and pdf add up, zeros go.

    Raises UserError for a pdf that is not in 0..num_pdfs - 1 and for a weight that is not finite.
    """
    sizes = np.array([len(frame) for frame in posterior], dtype=np.int64)
    pairs = [pair for frame in posterior for pair in frame]
    classes = np.array([pair[0] for pair in pairs], dtype=np.int64)
    weights = np.array([pair[1] for pair in pairs], dtype=np.float32)
    frames = np.arange(len(posterior)).repeat(sizes)
    wrong = (classes < 0) | (classes >= num_pdfs)
    if wrong.any():
        first = int(wrong.argmax())
        raise UserError(
            f"the pdf {classes[first]} at frame {frames[first]} is not in 0..{num_pdfs - 1}; is --num-pdfs right, and "
            "are these pdf ids, not transition ids"
        )
    if not np.isfinite(weights).all():
        raise UserError(f"the weight at frame {frames[int(np.argmin(np.isfinite(weights)))]} is not finite")
    if not _is_plain(classes, weights, frames):
        return SparseMatrix.from_rows(posterior, num_pdfs)
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    return SparseMatrix(indptr, classes.astype(np.int32), weights, num_pdfs)


def _is_plain(classes: np.ndarray, weights: np.ndarray, frames: np.ndarray) -> bool:
    """Whether classes ascend within each frame and no weight is zero, so that nothing is to be sorted or merged."""
    ascending = (np.diff(classes) > 0) | (np.diff(frames) > 0)
    return bool(ascending.all() and (weights != 0).all())


def cut_utterance(
    key: str,
    features: GeneralMatrix,
    ivectors: np.ndarray | None,
    targets: SparseMatrix | np.ndarray,
    splitter: UtteranceSplitter,
    config: InputConfig,
) -> Iterator[tuple[str, Example]]:
    """The examples of one utterance, under keys ``<utterance>-<first frame>``.

    features: (frames, dim). ivectors: (rows, dim), one row every ``online_ivector_period`` frames. targets: labels
    (frames / subsampling factor, num_pdfs) or dense targets; frames beyond their end have no label, and the last row of
    dense ones.
    """
    generator = splitter.generator(key)
    num_frames = features.shape[0]
    chunks = splitter.split(num_frames, generator)
    if not chunks:
        log.warning(f"Not producing egs for utterance {key} because it is too short: {num_frames} frames.")
    if isinstance(features, np.ndarray):
        features = np.ascontiguousarray(features, dtype=np.float32)
        if not np.isfinite(features).all():
            raise UserError(f"The features of utterance {key} contain a value that is not finite.")
    factor = splitter.config.frame_subsampling_factor
    for chunk in chunks:
        start = chunk.first_frame - chunk.left_context
        rows = chunk.left_context + chunk.num_frames + chunk.right_context
        inputs = [_input("input", -chunk.left_context, row_range(features, start, rows), config)]
        if ivectors is not None:
            ivector = _choose_ivector(ivectors, start, num_frames, config.online_ivector_period, generator)
            inputs.append(_input("ivector", 0, ivector, config))
        output = NnetIo(
            "output",
            index_vector.consecutive(0, len(chunk.output_weights), factor),
            _targets(targets, chunk, factor, config),
        )
        yield f"{key}-{chunk.first_frame}", Example([*inputs, output])


def _input(name: str, t_begin: int, rows: GeneralMatrix, config: InputConfig) -> NnetIo:
    return NnetIo(name, index_vector.consecutive(t_begin, rows.shape[0]), _compressed(rows, config))


def _compressed(matrix: GeneralMatrix, config: InputConfig) -> GeneralMatrix:
    if config.compression_method is None or not isinstance(matrix, np.ndarray):
        return matrix
    return compress(matrix, config.compression_method)


def _choose_ivector(
    ivectors: np.ndarray, start: int, num_frames: int, period: int, generator: random.Random
) -> np.ndarray:
    """The iVector of a random frame, (1, dim).

    As in Kaldi the frame is one of the ``num_frames`` of the utterance's length that begin with the chunk's context, so
    that it is never from before the chunk, often from after it, and at the utterance's end often the last.
    """
    frame = generator.randint(start, start + num_frames - 1)
    row = min(max(frame // period, 0), len(ivectors) - 1)
    return np.ascontiguousarray(ivectors[row : row + 1], dtype=np.float32)


def _targets(targets: SparseMatrix | np.ndarray, chunk: Chunk, factor: int, config: InputConfig) -> GeneralMatrix:
    first = chunk.first_frame // factor
    weights = chunk.output_weights
    wanted = np.arange(first, first + len(weights))
    if isinstance(targets, np.ndarray):
        rows = np.ascontiguousarray(targets[np.minimum(wanted, len(targets) - 1)], dtype=np.float32)
        return _compressed(rows, config)
    present = wanted[wanted < targets.num_rows]
    labels = targets.take_rows(present)
    sizes = np.zeros(len(wanted), dtype=np.int64)
    sizes[: len(present)] = np.diff(labels.indptr)
    return SparseMatrix(
        np.concatenate([[0], np.cumsum(sizes)]), labels.indices, labels.values * weights.repeat(sizes), targets.num_cols
    )


def ivector_lengths_match(key: str, num_frames: int, ivectors: np.ndarray, config: InputConfig) -> bool:
    """Whether there is an iVector for every part of the utterance, within the tolerance; warns if not."""
    difference = abs(num_frames - len(ivectors) * config.online_ivector_period)
    if len(ivectors) and difference <= config.length_tolerance:
        return True
    log.warning(
        f"Length difference between feats {num_frames} and iVectors {len(ivectors)} exceeds tolerance "
        f"{config.length_tolerance} for utterance {key}"
    )
    return False
