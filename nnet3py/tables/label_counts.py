"""How often each label occurs in a table of alignments (vectors of integers from 0), frames weighted or not.

Source: Kaldi src/bin/analyze-counts.cc.
"""

from __future__ import annotations

import contextlib

import numpy as np
from numpy.typing import NDArray

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.tables.holders import FLOAT, INT_VECTOR, VECTOR
from nnet3py.tables.table import RandomAccessReader, SequentialReader
from nnet3py.text.symbols import read_symbols

_MOST_LABELS = 10_000_000  # a label above is corrupt: counts of so many would not fit into memory


def count_labels(
    alignments: str, num_labels: int = 0, *, frame_weights: str = "", utterance_weights: str = ""
) -> tuple[NDArray[np.float64], int, int]:
    """The counts, how many utterances were counted, and how many were left out for want of weights.

    Args:
        alignments: rspecifier of vectors of integers.
        num_labels: the least length of the counts.
        frame_weights, utterance_weights: rspecifiers of vectors and of numbers; empty for weights of 1.

    Raises:
        UserError: a table cannot be read, a label is negative or huge, weights do not fit, or nothing was counted.
    """
    if not 0 <= num_labels <= _MOST_LABELS:
        raise UserError(f"Expected a number of labels from 0 to {_MOST_LABELS}, found {num_labels}.")
    counts, done, failed = np.zeros(num_labels), 0, 0
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(SequentialReader(alignments, INT_VECTOR))
        by_frame = stack.enter_context(RandomAccessReader(frame_weights, VECTOR)) if frame_weights else None
        by_utterance = stack.enter_context(RandomAccessReader(utterance_weights, FLOAT)) if utterance_weights else None
        for key, alignment in reader:
            if any(table is not None and key not in table for table in (by_frame, by_utterance)):
                log.warning(f"{key}: there are no weights for it; it is left out.")
                failed += 1
                continue
            weights = np.ones(len(alignment)) if by_frame is None else by_frame[key].astype(np.float64)
            if by_utterance is not None:
                weights = weights * by_utterance[key]
            if len(weights) != len(alignment):
                raise UserError(f"{key}: expected a weight for each of {len(alignment)} frames, found {len(weights)}.")
            counts = _with(counts, alignment, weights, f"{alignments}, utterance {key}")
            done += 1
    if not done:
        raise UserError(f"No utterance of {alignments} was counted; nothing is written.")
    return counts, done, failed


def _with(
    counts: NDArray[np.float64], labels: NDArray[np.int32], weights: NDArray[np.float64], where: str
) -> NDArray[np.float64]:
    if labels.size == 0:
        return counts
    if labels.min() < 0 or labels.max() >= _MOST_LABELS:
        bad = int(labels.min()) if labels.min() < 0 else int(labels.max())
        raise UserError(f"{where}: expected labels, 0 or above and below {_MOST_LABELS}, found {bad}.")
    more = int(labels.max()) + 1 - len(counts)
    if more > 0:
        counts = np.concatenate([counts, np.zeros(more)])
    np.add.at(counts, labels, weights)
    return counts


def table_of_counts(counts: NDArray[np.float64], symbol_table: str = "") -> str:
    """Lines of count, share, label and its name in the file ``symbol_table``, the smallest counts first.

    Raises:
        UserError: the file cannot be read.
    """
    names = {number: name for name, number in read_symbols(symbol_table).items()} if symbol_table else None
    total = float(counts.sum())
    lines = ["The counts in order:", "count\t(share),\tid\t(symbol):"]
    for label in np.argsort(counts, kind="stable").tolist():
        name = f"({names.get(label, '')})" if names is not None else ""
        lines.append(f"{counts[label]:.6g}\t({counts[label] / total if total else 0.0:.6g}),\t{label}\t{name}")
    return "\n".join([*lines, "", f"#total {total:.6g} ({total / 100 / 3600:.6g}h)"])
