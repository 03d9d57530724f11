"""Merging examples of one shape into minibatches.

A rule such as ``128``, ``32,64`` or ``16:32,64,128`` gives the allowed minibatch sizes. ``size1=sizes1/size2=sizes2``
gives different ones to examples of different size (the largest number of rows of any of their inputs or outputs), each
example going by the rule whose size is nearest. Until the input ends all minibatches have the largest size; what is
then left is merged into the largest that are allowed, and the rest is discarded and counted.

Source: Kaldi src/nnet3/nnet-example-utils.cc, MergeExamples, ExampleMergingConfig, ExampleMerger.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from nnet3py import log
from nnet3py.egs import encoded_matrix
from nnet3py.egs.example import EncodedIo, Example, NnetIo
from nnet3py.egs.layout import Structure
from nnet3py.errors import UserError
from nnet3py.tables.compressed_matrix import compress as compress_matrix
from nnet3py.tables.general_matrix import GeneralMatrix
from nnet3py.tables.sparse_matrix import SparseMatrix

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class MinibatchSizes:
    """The rules of ``--minibatch-size``: for each size of example, the ranges that a minibatch's size may lie in."""

    rules: tuple[tuple[int, Ranges], ...]
    text: str = ""

    def __str__(self) -> str:
        """The rules as they were written."""
        return self.text

    @classmethod
    def parse(cls, text: str) -> MinibatchSizes:
        """Raises UserError for what is not a rule."""
        words = text.split("/")
        if len(words) > 1 and not all("=" in word for word in words):
            raise UserError(
                f"Could not parse option --minibatch-size={text} (all rules must have eg-size specified if >1 rule)."
            )
        rules = []
        for word in words:
            size, equals, ranges = word.rpartition("=")
            if equals and not size.strip().isdecimal():
                raise _bad_rule(text)
            rules.append((int(size) if equals else 0, _parse_ranges(ranges, text)))
        if len({size for size, _ in rules}) != len(rules):
            raise UserError(f"Invalid --minibatch-size={text} (repeated example-sizes).")
        return cls(tuple(rules), text)

    def largest(self, example_size: int) -> int:
        """How many examples are merged as long as there is more input."""
        return max(last for _, last in self._ranges(example_size))

    def of_rest(self, example_size: int, available: int) -> int:
        """How many of the ``available`` examples to merge when the input has ended; 0 for none."""
        ranges = self._ranges(example_size)
        return max((min(last, available) for first, last in ranges if available >= first), default=0)

    def _ranges(self, example_size: int) -> Ranges:
        return min(self.rules, key=lambda rule: abs(example_size - rule[0]))[1]


def _parse_ranges(text: str, whole: str) -> Ranges:
    ranges = []
    for word in text.split(","):
        ends = word.split(":")
        if len(ends) > 2 or not all(end.strip().isdecimal() for end in ends):
            raise _bad_rule(whole)
        first, last = int(ends[0]), int(ends[-1])
        if not 0 < first <= last:
            raise _bad_rule(whole)
        ranges.append((first, last))
    return tuple(ranges)


def _bad_rule(text: str) -> UserError:
    return UserError(
        f"Could not parse option --minibatch-size={text}: expected sizes or ranges of them such as 128 or 16:32,64, "
        "or eg-size=sizes/eg-size=sizes."
    )


def merge_examples(examples: Sequence[Example], compress: bool = False) -> Example:
    """One example with the rows of all of them; their n become 0, 1, ... in order.

    Dense and compressed matrices become one float32 matrix (compressed again if ``compress``); sparse ones stay sparse.
    Raises UserError if a part has different numbers of columns.
    """
    if not compress and len({example.structure for example in examples}) == 1:
        merged = _merge_alike(examples)
        if merged is not None:
            return merged
    parts: dict[str, list[tuple[int, NnetIo]]] = {}
    for position, example in enumerate(examples):
        for part in example.ios:
            parts.setdefault(part.name, []).append((position, part))
    stride = int(examples[0].ios[0].indexes[:, 0].max(initial=0)) + 1
    return Example([_merge_io(name, parts[name], stride, compress) for name in sorted(parts)])


def _merge_alike(examples: Sequence[Example]) -> Example | None:
    """Examples of one structure merged on their bytes; None if their matrices are not of one form."""
    first = examples[0].encoded_ios()
    stride = int(first[0].indexes[:, 0].max(initial=0)) + 1
    merged = []
    for part, *matrices in zip(first, *(example.encoded_matrices() for example in examples), strict=True):
        matrix = encoded_matrix.append(matrices)
        if matrix is None:
            return None
        merged.append(EncodedIo(part.name, _repeated(part.indexes.tobytes(), len(examples), stride), matrix))
    return Example.from_encoded_ios(sorted(merged, key=lambda part: part.name))


def _merge_io(name: str, parts: list[tuple[int, NnetIo]], stride: int, compress: bool) -> NnetIo:
    dims = {part.features.shape[1] for _, part in parts}
    if len(dims) > 1:
        raise UserError(f"Merging examples with inconsistent feature dims: {sorted(dims)} for {name!r}.")
    first = parts[0][1].indexes
    if all(part.indexes is first for _, part in parts) and [p for p, _ in parts] == list(range(len(parts))):
        indexes = _repeated(first.tobytes(), len(parts), stride)
    else:
        indexes = np.concatenate([_moved(part.indexes, position * stride) for position, part in parts])
    return NnetIo(name, indexes, append_rows([part.features for _, part in parts], compress))


@functools.lru_cache(maxsize=128)
def _repeated(flat_indexes: bytes, times: int, stride: int) -> np.ndarray:
    one = np.frombuffer(flat_indexes, dtype=np.int32).reshape(-1, 3)
    indexes = np.tile(one, (times, 1))
    indexes[:, 0] += stride * np.arange(times, dtype=np.int32).repeat(len(one))
    indexes.flags.writeable = False
    return indexes


def _moved(indexes: np.ndarray, offset: int) -> np.ndarray:
    moved = indexes.copy()
    moved[:, 0] += offset
    return moved


def append_rows(matrices: Sequence[GeneralMatrix], compress: bool = False) -> GeneralMatrix:
    """The rows of all matrices in one: sparse if they all are, else float32, compressed if asked."""
    sparse = [matrix for matrix in matrices if isinstance(matrix, SparseMatrix)]
    if len(sparse) == len(matrices):
        sizes = np.concatenate([[0], *(np.diff(matrix.indptr) for matrix in sparse)])
        return SparseMatrix(
            np.cumsum(sizes),
            np.concatenate([matrix.indices for matrix in sparse]),
            np.concatenate([matrix.values for matrix in sparse]),
            max(matrix.num_cols for matrix in sparse),
        )
    dense = encoded_matrix.stack_rows(matrices)
    return compress_matrix(dense) if compress else dense


@dataclass
class _Counts:
    discarded: int = 0
    minibatches: dict[int, int] = field(default_factory=dict)


class ExampleMerger:
    """Collects examples by their structure and hands out minibatches as they fill."""

    def __init__(self, sizes: MinibatchSizes, write: Callable[[str, Example], None], compress: bool = False) -> None:
        """``write`` is called with the key (``merged-<number>-<size>``) and the merged example."""
        self._sizes = sizes
        self._write = write
        self._compress = compress
        self._waiting: dict[Structure, list[Example]] = {}
        self._counts: dict[Structure, _Counts] = {}
        self._example_sizes: dict[Structure, int] = {}
        self._enough: dict[Structure, int] = {}
        self.num_written = 0
        self.num_discarded = 0

    def accept(self, example: Example, key: str = "") -> None:
        """Take one example; writes a minibatch if it completes one. ``key`` is for messages."""
        try:
            structure = example.structure
        except UserError as problem:
            raise UserError(f"Cannot merge the example {key!r}: {problem}.") from None
        examples = self._waiting.setdefault(structure, [])
        examples.append(example)
        enough = self._enough.get(structure)
        if enough is None:
            size = self._example_sizes[structure] = example.size
            enough = self._enough[structure] = self._sizes.largest(size)
        if len(examples) >= enough:
            del self._waiting[structure]
            self._write_minibatch(structure, examples)

    def require_minibatches(self, source: str) -> None:
        """Raise UserError if there were examples, from ``source``, and not one minibatch was made of them."""
        if self.num_written or not self.num_discarded:
            return
        most = max(counts.discarded for counts in self._counts.values())
        largest = max(map(self._sizes.largest, self._example_sizes.values()))
        shapes = f" (of {len(self._counts)} shapes, {most} of the most frequent)" if len(self._counts) > 1 else ""
        raise UserError(
            f"None of the {self.num_discarded} examples in {source}{shapes} could be merged: they are too few for the "
            f"smallest minibatch that --minibatch-size={self._sizes} allows. Give a size that they suffice for, or a "
            f"range: --minibatch-size=1:{largest} (train_dnn.py: --trainer.optimization.minibatch-size)."
        )

    def finish(self) -> None:
        """Write what smaller minibatches can be made of the rest, and log what was done in Kaldi's words."""
        # Kaldi goes through a hash table here, in which the newest entry normally comes first.
        for structure, examples in reversed(self._waiting.items()):
            while examples:
                size = self._sizes.of_rest(self._example_sizes[structure], len(examples))
                if not size:
                    break
                self._write_minibatch(structure, examples[:size])
                del examples[:size]
            self._counts.setdefault(structure, _Counts()).discarded += len(examples)
            self.num_discarded += len(examples)
        self._waiting.clear()
        self._log_counts()

    def _write_minibatch(self, structure: Structure, examples: list[Example]) -> None:
        minibatches = self._counts.setdefault(structure, _Counts()).minibatches
        minibatches[len(examples)] = minibatches.get(len(examples), 0) + 1
        self._write(f"merged-{self.num_written}-{len(examples)}", merge_examples(examples, self._compress))
        self.num_written += 1

    def _log_counts(self) -> None:
        log.log(
            "Merged specific eg types as follows [format: <eg-size1>={<mb-size1>-><num-minibatches1>,<mbsize2>->"
            "<num-minibatches2>.../d=<num-discarded>},<egs-size2>={...},... (note,egs-size == number of input frames "
            "including context)."
        )
        by_size = sorted(self._counts.items(), key=lambda item: self._example_sizes[item[0]])
        log.log(
            ",".join(
                f"{self._example_sizes[structure]}={{"
                + "".join(f"{size}->{number}," for size, number in counts.minibatches.items())
                + f"d={counts.discarded}}}"
                for structure, counts in by_size
            )
        )
        discarded = sum(counts.discarded for _, counts in by_size)
        merged = sum(size * number for _, counts in by_size for size, number in counts.minibatches.items())
        minibatches = sum(sum(counts.minibatches.values()) for _, counts in by_size)
        total = merged + discarded
        rows = sum(
            self._example_sizes[structure]
            * (counts.discarded + sum(size * number for size, number in counts.minibatches.items()))
            for structure, counts in by_size
        )
        log.log(
            f"Processed {total} egs of avg. size {_ratio(rows, total):.4g} into {minibatches} minibatches, discarding "
            f"{_ratio(100 * discarded, total):.4g}% of egs.  Avg minibatch size was {_ratio(merged, minibatches):.4g}, "
            f"#distinct types of train/minibatches was {len(by_size)}/"
            f"{sum(len(counts.minibatches) for _, counts in by_size)}"
        )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
