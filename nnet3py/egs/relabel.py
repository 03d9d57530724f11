"""Other labels for examples that have been cut: those of another alignment, in place.

An example is stored under ``<utterance>-<first frame>``, and the rows of its ``output`` have their times, counted from
that frame. A row gets the pdf that the alignment has at its frame, with the weight that the row had (a half where two
chunks overlap). A row that had no label, beyond the end of the labels it was cut with, gets none. Features and all else
stay as they are, byte for byte.

Source: Kaldi src/nnet2bin/nnet-relabel-egs.cc.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnet3py import log
from nnet3py.egs import encoded_matrix
from nnet3py.egs.example import EXAMPLE, EncodedIo, Example
from nnet3py.errors import UserError
from nnet3py.tables.holders import INT_VECTOR
from nnet3py.tables.sparse_matrix import SparseMatrix
from nnet3py.tables.table import SequentialReader, TableWriter

Ints = NDArray[np.int32]


@dataclass
class RelabelCounts:
    """Examples read, and those without an alignment; labelled frames, and those whose label changed."""

    examples: int = 0
    without_alignment: int = 0
    frames: int = 0
    changed: int = 0


def split_key(key: str) -> tuple[str, int]:
    """The utterance and the first frame in the key of an example.

    Raises:
        UserError: the key is of another form.
    """
    utterance, dash, frame = key.rpartition("-")
    if not (dash and utterance and frame.isascii() and frame.isdigit()):
        raise UserError(
            f"expected a key <utterance>-<first frame>, as nnet-get-egs makes them, found {key!r}; merged examples "
            "cannot be relabelled"
        )
    return utterance, int(frame)


def relabelled(
    example: Example, first_frame: int, pdfs: Ints, counts: RelabelCounts, *, frame_subsampling_factor: int = 1
) -> Example:
    """The example with the labels of an alignment.

    Args:
        first_frame: the utterance's frame at time 0 of the example.
        pdfs: (frames / factor,), the utterance's alignment.
        counts: its frames and changes are counted up.
        frame_subsampling_factor: frames of features to one of the alignment.

    Raises:
        UserError: the example has no ``output`` of labels, is merged of several, or has a frame or a pdf out of range.
    """
    parts = example.encoded_ios()
    if not any(part.name == "output" for part in parts):
        names = ", ".join(part.name for part in parts)
        raise UserError(f"it has no output of the name 'output'; it has {names}")
    return Example.from_encoded_ios(
        [
            _relabelled_part(part, first_frame, pdfs, counts, frame_subsampling_factor)
            if part.name == "output"
            else part
            for part in parts
        ]
    )


def _relabelled_part(part: EncodedIo, first_frame: int, pdfs: Ints, counts: RelabelCounts, factor: int) -> EncodedIo:
    labels = encoded_matrix.decode(part.matrix, 0, len(part.matrix))
    if not isinstance(labels, SparseMatrix):
        raise UserError("its targets are rows of numbers, not labels with weights, so that they cannot be relabelled")
    if part.indexes[:, 0].any():
        raise UserError("it is merged of several: relabel examples before they are merged")
    sizes = np.diff(labels.indptr)
    labelled = np.flatnonzero(sizes)
    frames = (first_frame + part.indexes[labelled, 1].astype(np.int64)) // factor
    if len(frames) and not 0 <= frames.min() <= frames.max() < len(pdfs):
        frame = int(frames.min() if frames.min() < 0 else frames.max())
        raise UserError(
            f"it has a label for frame {frame}, the alignment of its utterance has {len(pdfs)}: was it cut from these "
            "data, and is --frame-subsampling-factor right"
        )
    new = pdfs[frames]
    if len(new) and not 0 <= new.min() <= new.max() < labels.num_cols:
        pdf = int(new.min() if new.min() < 0 else new.max())
        raise UserError(
            f"the alignment has pdf {pdf}, which is not in 0..{labels.num_cols - 1}: are these pdf ids, and of the "
            "same tree"
        )
    weights = _row_sums(labels)[labelled]
    counts.frames += len(labelled)
    one_each = sizes[labelled] == 1
    old = np.where(one_each, labels.indices[labels.indptr[labelled]], -1) if len(labelled) else new
    counts.changed += int(np.count_nonzero(old != new))
    indptr = np.concatenate([[0], np.cumsum(sizes > 0)]).astype(np.int64)
    relabelled_matrix = SparseMatrix(indptr, new.astype(np.int32), weights, labels.num_cols)
    return part._replace(matrix=encoded_matrix.encode(relabelled_matrix))


def _row_sums(matrix: SparseMatrix) -> NDArray[np.float32]:
    rows = np.repeat(np.arange(matrix.num_rows), np.diff(matrix.indptr))
    return np.bincount(rows, weights=matrix.values, minlength=matrix.num_rows).astype(np.float32)


def relabel_tables(
    alignments: str,
    sources: Sequence[str],
    targets: Sequence[str],
    *,
    frame_subsampling_factor: int = 1,
    max_missing: float = 0.5,
) -> RelabelCounts:
    """Relabel tables of examples by a table of alignments (pdf ids); what the program ``nnet-relabel-egs`` does.

    ``alignments``, ``sources``: rspecifiers. ``targets``: wspecifiers, one for each source. An example of an utterance
    without an alignment is copied as it is.

    Raises:
        UserError: more than a share of ``max_missing`` of the examples have no alignment, there are none, or data are
            bad or do not fit.
    """
    if frame_subsampling_factor < 1:
        raise UserError(f"--frame-subsampling-factor must be at least 1, found {frame_subsampling_factor}.")
    pdfs_of = _read_alignments(alignments)
    counts = RelabelCounts()
    with contextlib.ExitStack() as stack:
        for source, target in zip(sources, targets, strict=True):
            writer = stack.enter_context(TableWriter(target, EXAMPLE))
            with SequentialReader(source, EXAMPLE) as reader:
                for key, example in reader:
                    try:
                        writer.write(key, _relabel(key, example, pdfs_of, counts, frame_subsampling_factor))
                    except UserError as problem:
                        raise UserError(f"Cannot relabel the example {key!r} of {source}: {problem}.") from problem
            writer.prepare()  # however many tables there are, one is open
        if counts.examples == 0:
            raise UserError(f"There are no examples in {' '.join(sources)}; nothing is written.")
        if counts.without_alignment > max_missing * counts.examples:
            raise UserError(
                f"{counts.without_alignment} of {counts.examples} examples are of utterances without an alignment in "
                f"{alignments}: are they of the same data? Nothing is written."
            )
    num_frames = sum(map(len, pdfs_of.values()))
    log.log(
        f"Read {len(pdfs_of)} alignments containing a total of {num_frames} frames; relabelled {counts.frames} frames "
        f"of {counts.examples} examples, of which {counts.without_alignment} have no alignment and stay as they are; "
        f"labels changed for {counts.changed} of those frames."
    )
    return counts


def _read_alignments(rspecifier: str) -> dict[str, Ints]:
    pdfs_of: dict[str, Ints] = {}
    with SequentialReader(rspecifier, INT_VECTOR) as reader:
        for utterance, pdfs in reader:
            if utterance in pdfs_of:
                raise UserError(f"The utterance {utterance} is twice in {rspecifier}.")
            pdfs_of[utterance] = pdfs
    return pdfs_of


def _relabel(key: str, example: Example, pdfs_of: Mapping[str, Ints], counts: RelabelCounts, factor: int) -> Example:
    counts.examples += 1
    utterance, first_frame = split_key(key)
    pdfs = pdfs_of.get(utterance)
    if pdfs is None:
        counts.without_alignment += 1
        return example
    return relabelled(example, first_frame, pdfs, counts, frame_subsampling_factor=factor)
