"""Cutting utterances into training examples: features with context, iVectors, labels with their weights.

Source: Kaldi src/nnet3bin/nnet3-get-egs.cc and nnet3-get-egs-dense-targets.cc.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nnet3py import log
from nnet3py.egs import encoded_matrix, index_vector
from nnet3py.egs.example import Example, encoded_io_head
from nnet3py.egs.utterance_splitter import Chunk, UtteranceSplitter
from nnet3py.errors import UserError
from nnet3py.tables.compressed_matrix import AUTOMATIC, compress_stack
from nnet3py.tables.general_matrix import GeneralMatrix, row_range
from nnet3py.tables.posterior import Posterior
from nnet3py.tables.sparse_matrix import SparseMatrix

_ELEMENTS_AT_ONCE = 1 << 16
_Part = tuple[bytes, bytes]
"""Of an input or output in binary: all that comes before its matrix, and the matrix."""


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
    sizes, classes, weights = posterior.sizes, posterior.classes, posterior.weights
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
    return SparseMatrix(indptr, classes, weights, num_pdfs)


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
    starts = [chunk.first_frame - chunk.left_context for chunk in chunks]
    sizes = [chunk.left_context + chunk.num_frames + chunk.right_context for chunk in chunks]
    parts = [_parts("input", [-chunk.left_context for chunk in chunks], features, starts, sizes, config)]
    if ivectors is not None:
        period = config.online_ivector_period
        rows = [_choose_ivector(ivectors, start, num_frames, period, generator) for start in starts]
        parts.append(_parts("ivector", [0] * len(chunks), ivectors, rows, [1] * len(chunks), config))
    parts.append(_targets(targets, chunks, factor, config))
    for chunk, *own in zip(chunks, *parts, strict=True):
        yield f"{key}-{chunk.first_frame}", Example.from_encoded_parts(own)


def _parts(
    name: str,
    t_begins: Sequence[int],
    matrix: GeneralMatrix,
    starts: Sequence[int],
    sizes: Sequence[int],
    config: InputConfig,
    t_stride: int = 1,
) -> list[_Part]:
    """An input or output for each chunk: ``sizes`` rows of a matrix from ``starts`` on, its edges repeated."""
    encoded = _encoded_rows(name, matrix, starts, sizes, config)
    return [
        (_head(name, begin, size, t_stride), rows) for begin, size, rows in zip(t_begins, sizes, encoded, strict=True)
    ]


@functools.lru_cache(maxsize=256)
def _head(name: str, t_begin: int, size: int, t_stride: int) -> bytes:
    """What comes before the matrix of an input or output of ``size`` consecutive frames."""
    return encoded_io_head(name, index_vector.consecutive(t_begin, size, t_stride))


def _encoded_rows(
    name: str, matrix: GeneralMatrix, starts: Sequence[int], sizes: Sequence[int], config: InputConfig
) -> list[bytes]:
    if sizes and not matrix.shape[1]:
        raise UserError(f"{name!r} has no columns")
    if config.compression_method is None or not isinstance(matrix, np.ndarray):
        return [
            encoded_matrix.encode(row_range(_as_float32(matrix), start, size))
            for start, size in zip(starts, sizes, strict=True)
        ]
    # Chunks of one size are compressed together, not too many at once: they should fit the processor's cache.
    encoded: list[bytes] = [b""] * len(starts)
    for size in set(sizes):
        places = [place for place, other in enumerate(sizes) if other == size]
        at_once = max(1, _ELEMENTS_AT_ONCE // (size * matrix.shape[1]))
        for some in (places[begin : begin + at_once] for begin in range(0, len(places), at_once)):
            rows = np.array([starts[place] for place in some])[:, None] + np.arange(size)
            stack = matrix.take(rows, axis=0, mode="clip")
            compressed = encoded_matrix.encode_stack(compress_stack(stack, config.compression_method))
            for place, one in zip(some, compressed, strict=True):
                encoded[place] = one
    return encoded


def _as_float32(matrix: GeneralMatrix) -> GeneralMatrix:
    return np.ascontiguousarray(matrix, dtype=np.float32) if isinstance(matrix, np.ndarray) else matrix


def _choose_ivector(ivectors: np.ndarray, start: int, num_frames: int, period: int, generator: random.Random) -> int:
    """The row of the iVector of a random frame.

    As in Kaldi the frame is one of the ``num_frames`` of the utterance's length that begin with the chunk's context, so
    that it is never from before the chunk, often from after it, and at the utterance's end often the last.
    """
    frame = generator.randint(start, start + num_frames - 1)
    return min(max(frame // period, 0), len(ivectors) - 1)


def _targets(
    targets: SparseMatrix | np.ndarray, chunks: Sequence[Chunk], factor: int, config: InputConfig
) -> list[_Part]:
    """The output of each chunk."""
    firsts = np.array([chunk.first_frame // factor for chunk in chunks], np.int64)
    sizes = [len(chunk.output_weights) for chunk in chunks]
    if isinstance(targets, np.ndarray):
        return _parts("output", [0] * len(chunks), targets, firsts.tolist(), sizes, config, factor)
    if not chunks:
        return []
    ends = np.cumsum(sizes)
    wanted = np.arange(ends[-1]) + (firsts - ends + sizes).repeat(sizes)
    weights = np.concatenate([chunk.output_weights for chunk in chunks])
    is_present = wanted < targets.num_rows
    labels = targets.take_rows(wanted[is_present])
    counts = np.zeros(len(wanted), dtype=np.int64)
    counts[is_present] = np.diff(labels.indptr)
    weighted = labels.values * weights.repeat(counts)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    encoded = encoded_matrix.encode_sparse_parts(
        SparseMatrix(indptr, labels.indices, weighted, targets.num_cols), sizes
    )
    return [(_head("output", 0, size, factor), rows) for size, rows in zip(sizes, encoded, strict=True)]


def ivector_lengths_match(key: str, num_frames: int, ivectors: np.ndarray, config: InputConfig) -> bool:
    """Whether there is an iVector for every part of the utterance, within the tolerance; warns if not."""
    if ivectors_fit(num_frames, len(ivectors), config):
        return True
    log.warning(
        f"Length difference between feats {num_frames} and iVectors {len(ivectors)} exceeds tolerance "
        f"{config.length_tolerance} for utterance {key}"
    )
    return False


def ivectors_fit(num_frames: int, num_ivectors: int, config: InputConfig) -> bool:
    """Whether so many iVectors, one every so many frames, are enough for an utterance, within the tolerance."""
    difference = abs(num_frames - num_ivectors * config.online_ivector_period)
    return num_ivectors > 0 and difference <= config.length_tolerance
