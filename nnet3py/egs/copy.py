"""Changes to single examples while they are copied: which frames, how much context, weights and names of outputs.

Source: Kaldi src/nnet3bin/nnet3-copy-egs.cc.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import numpy as np

from nnet3py import log
from nnet3py.egs.example import Example, NnetIo
from nnet3py.errors import UserError
from nnet3py.tables.compressed_matrix import CompressedMatrix
from nnet3py.tables.general_matrix import GeneralMatrix, to_array
from nnet3py.tables.sparse_matrix import SparseMatrix

_NOT_SHIFTED = ("ivector",)


def rename_output(example: Example, name: str) -> Example:
    """The example with its ``output`` called ``name``."""
    _require_output(example)
    return Example([replace(part, name=name) if part.name == "output" else part for part in example.ios])


def scale_supervision(example: Example, weight: float) -> Example:
    """The example with the supervision of ``output`` multiplied by ``weight``."""
    if weight == 1.0:
        return example
    if not np.isfinite(weight):
        raise UserError(f"the weight {weight} of an example is not finite")
    _require_output(example)
    return Example(
        [
            replace(part, features=_scaled(part.features, np.float32(weight))) if part.name == "output" else part
            for part in example.ios
        ]
    )


def _require_output(example: Example) -> None:
    if example.io("output") is None:
        names = ", ".join(part.name for part in example.ios)
        raise UserError(f"No io-node with name 'output' exists in the example; it has {names}.")


def _scaled(matrix: GeneralMatrix, weight: np.float32) -> GeneralMatrix:
    if isinstance(matrix, SparseMatrix):
        return replace(matrix, values=matrix.values * weight)
    if isinstance(matrix, CompressedMatrix):
        return replace(matrix, min_value=matrix.min_value * weight, range=matrix.range * weight)
    return matrix * weight


def number_of_copies(proportion: float, generator: random.Random) -> int:
    """``proportion`` rounded up or down at random, so that it is the expected value."""
    whole = int(proportion)
    rest = proportion - whole
    return whole + (1 if rest > 0 and generator.random() < rest else 0)


@dataclass
class FrameSelection:
    """Which labelled frames and how much context to keep, and a shift of time.

    frame: ``""`` for all labelled frames, ``random`` for one at random, or the time of the one to keep.
    left_context, right_context: frames around the labelled ones to keep at most; -1 for all.
    frame_shift: added to all times, those of iVectors excepted.
    """

    frame: str = ""
    left_context: int = -1
    right_context: int = -1
    frame_shift: int = 0
    _warned: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.frame not in ("", "random") and not self.frame.lstrip("-").isdecimal():
            raise UserError(f"Invalid option --frame={self.frame!r}: expected a number, or 'random'.")

    @property
    def is_everything(self) -> bool:
        """Whether examples stay as they are."""
        return self.frame == "" and self.left_context == -1 and self.right_context == -1 and self.frame_shift == 0

    def apply(self, example: Example, generator: random.Random) -> Example | None:
        """What is selected of a single (not merged) example; None if it does not have the frame asked for."""
        first_input, last_input = _times(example, "input")
        first_output, last_output = _times(example, "output")
        if any(part.indexes[:, 0].any() for part in example.ios):
            raise UserError(
                "Too late to perform frame selection/context reduction on these examples (already merged?)."
            )
        if self.frame:
            frame = generator.randint(first_output, last_output) if self.frame == "random" else int(self.frame)
            if not first_output <= frame <= last_output:
                return None
            first_output = last_output = frame
        if self.left_context != -1:
            self._warn_of_missing("left", self.left_context, first_output - first_input)
            first_input = max(first_input, first_output - self.left_context)
        if self.right_context != -1:
            self._warn_of_missing("right", self.right_context, last_input - last_output)
            last_input = min(last_input, last_output + self.right_context)
        kept = {"input": (first_input, last_input), "output": (first_output, last_output)}
        return Example([self._select(part, kept.get(part.name)) for part in example.ios])

    def _select(self, part: NnetIo, times: tuple[int, int] | None) -> NnetIo:
        indexes, features = part.indexes, part.features
        if times is not None:
            keep = (indexes[:, 1] >= times[0]) & (indexes[:, 1] <= times[1])
            if not keep.any():
                raise UserError(f"Selecting frames leaves nothing of {part.name!r}.")
            if not keep.all():
                rows = np.flatnonzero(keep)
                features = features.take_rows(rows) if isinstance(features, SparseMatrix) else to_array(features)[rows]
                indexes = indexes[rows]
        if self.frame_shift and part.name not in _NOT_SHIFTED:
            indexes = indexes + np.array([0, self.frame_shift, 0], dtype=np.int32)
        return NnetIo(part.name, indexes, features)

    def _warn_of_missing(self, side: str, wanted: int, found: int) -> None:
        if wanted > found and side not in self._warned:
            self._warned.add(side)
            edge = "left-context-initial" if side == "left" else "right-context-final"
            log.warning(
                f"You requested --{side}-context={wanted}, but example only has {side}-context of {found} (will warn "
                f"only once; this may be harmless if using any --{edge} options)"
            )


def _times(example: Example, name: str) -> tuple[int, int]:
    part = example.io(name)
    if part is None or not len(part.indexes):
        raise UserError(f"Example does not have any input or output named {name!r}.")
    times = part.indexes[:, 1]
    return int(times.min()), int(times.max())
