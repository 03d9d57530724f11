"""Copying a table of examples to one or several others: shards for jobs, text forms, changes on the way.

Source: Kaldi src/nnet3bin/nnet3-copy-egs.cc.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from nnet3py import log
from nnet3py.egs.copy import FrameSelection, number_of_copies, rename_output, scale_supervision
from nnet3py.egs.example import EXAMPLE, Example
from nnet3py.errors import UserError
from nnet3py.open_files import room_for
from nnet3py.seed import not_negative
from nnet3py.tables.holders import FLOAT, TOKEN
from nnet3py.tables.table import RandomAccessReader, SequentialReader, TableWriter


@dataclass
class CopyCounts:
    """Examples read, written (copies included) and passed over for want of a weight or name."""

    num_read: int = 0
    num_written: int = 0
    num_errors: int = 0


@dataclass
class _Changes:
    selection: FrameSelection
    weights: RandomAccessReader[float] | None
    output_names: RandomAccessReader[str] | None
    generator: random.Random
    counts: CopyCounts = field(default_factory=CopyCounts)

    def apply(self, key: str, example: Example, copies: int) -> Iterator[Example]:
        """Each copy, changed; none, with a warning, if the example has no weight or name."""
        if self.weights is not None:
            if key not in self.weights:
                log.warning(f"No weight for example key {key}")
                self.counts.num_errors += 1
                return
            example = scale_supervision(example, self.weights[key])
        name = None
        if self.output_names is not None:
            if key not in self.output_names:
                log.warning(f"No new output-name for example key {key}")
                self.counts.num_errors += 1
                return
            name = self.output_names[key]
        for _ in range(copies):
            changed: Example | None = example
            if not self.selection.is_everything:
                changed = self.selection.apply(example, self.generator)
            if changed is not None:
                yield rename_output(changed, name) if name else changed


def copy_examples(
    examples: str,
    outputs: Sequence[str],
    *,
    selection: FrameSelection | None = None,
    at_random: bool = False,
    keep_proportion: float = 1.0,
    weights: str = "",
    output_names: str = "",
    seed: int = 0,
) -> CopyCounts:
    """Copy the table ``examples`` (rspecifier) to ``outputs`` (wspecifiers), one example to each in turn.

    at_random: to a random output instead. keep_proportion: each example is copied this many times on average.
    weights, output_names: rspecifiers of a number to multiply the supervision by, and of a new name for ``output``.
    Raises UserError, and writes nothing, if there is nothing to write to any output.
    """
    if not keep_proportion >= 0 or keep_proportion == float("inf"):
        raise UserError(f"--keep-proportion must be a number that is not negative, found {keep_proportion}.")
    generator = random.Random(not_negative(seed))
    room_for(2 * len(outputs))  # an archive and perhaps its script
    with contextlib.ExitStack() as stack:
        changes = _Changes(
            selection or FrameSelection(),
            stack.enter_context(RandomAccessReader(weights, FLOAT)) if weights else None,
            stack.enter_context(RandomAccessReader(output_names, TOKEN)) if output_names else None,
            generator,
        )
        writers = [stack.enter_context(TableWriter(output, EXAMPLE)) for output in outputs]
        counts = changes.counts
        for key, example in stack.enter_context(SequentialReader(examples, EXAMPLE)):
            counts.num_read += 1
            try:
                for copy in changes.apply(key, example, number_of_copies(keep_proportion, generator)):
                    place = generator.randrange(len(writers)) if at_random else counts.num_written % len(writers)
                    writers[place].write(key, copy)
                    counts.num_written += 1
            except UserError as problem:
                raise UserError(f"Cannot copy the example {key!r}: {problem}") from None
        if counts.num_written == 0:  # raised here, it leaves earlier outputs as they were
            what = f"Of {counts.num_read} examples in {examples} none was kept" if counts.num_read else (
                f"There are no examples in {examples}"
            )  # fmt: skip
            raise UserError(f"{what}; nothing is written.")
    return counts
