"""What is asked of a network: at which times inputs are given and outputs are wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nnet3py.errors import UserError

Array = np.ndarray


class Request:
    """Times at which inputs are given and outputs are wanted, for ``num_sequences`` sequences alike.

    Times are distinct whole numbers; rows of the arrays are in their order (time by time, the sequences within).
    Requests are equal, and hash alike, if they ask for the same.
    """

    def __init__(
        self,
        inputs: Mapping[str, Sequence[int] | Array],
        outputs: Mapping[str, Sequence[int] | Array],
        num_sequences: int = 1,
    ) -> None:
        self.inputs = {name: np.asarray(times, dtype=np.int64) for name, times in inputs.items()}
        self.outputs = {name: np.asarray(times, dtype=np.int64) for name, times in outputs.items()}
        self.num_sequences = int(num_sequences)
        for name, times in [*self.inputs.items(), *self.outputs.items()]:
            if times.ndim != 1 or len(times) == 0 or len(np.unique(times)) != len(times):
                raise UserError(f"Expected distinct times of {name}, at least one; found {spell(times.ravel())}.")
        self._key = (
            tuple((name, times.tobytes()) for name, times in sorted(self.inputs.items())),
            tuple((name, times.tobytes()) for name, times in sorted(self.outputs.items())),
            self.num_sequences,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Request) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def spell(times: Array) -> str:
    """Times in few words, for messages."""
    if len(times) > 2 and (np.diff(times) == 1).all():
        return f"{times[0]} to {times[-1]}"
    words = [str(time) for time in times[:8]]
    return ", ".join(words) + (", ..." if len(times) > 8 else "") if words else "none"
