"""Recognising examples that are laid out like one met before: whole archives have a handful of layouts.

A *layout* is all of an example's bytes but the numbers in its matrices: names, indexes, sizes, tokens. It becomes a
regular expression in which only those numbers are free, so that one call finds the end of a key and of an example that
was never seen, and has checked as much of it as :mod:`nnet3py.egs.scan` does, field by field, thirty times more slowly.
What fits no known layout is scanned.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from nnet3py.egs import encoded_matrix
from nnet3py.egs.scan import ONE_LABEL, IoSpan, one_label_rows

_KEY = rb"([^ \t\n\r\f\v]+) \0B("
_FREE_SIZES = {b"CM ": (8, 8), b"CM2 ": (8, 8), b"CM3 ": (8, 8), b"FM ": (0, 10), b"DM ": (0, 10)}
"""Of what follows a matrix's token: the bytes that are free (a compressed matrix's range), those that are its size."""
_LARGEST = 1 << 16
_MOST_LAYOUTS = 4
_MOST_TRIED = 64


Structure = tuple[tuple[str, int, int, bytes], ...]
"""Name, rows, columns and index vector of each input and output: what must be equal for examples to be merged."""


def structure_of(encoded: bytes, spans: Sequence[IoSpan]) -> Structure:
    """The structure of an example from its bytes, and where they have its parts."""
    return tuple(
        (
            span.name.decode("utf-8", "replace"),
            span.rows,
            encoded_matrix.num_cols(encoded, span.matrix),
            encoded[span.indexes : span.matrix],
        )
        for span in spans
    )


@dataclass(frozen=True, eq=False)
class Layout:
    """Examples that differ in nothing but the numbers in their matrices.

    Attributes:
        spans: where the parts lie, counted from the example's first byte.
        model: the bytes of one such example.
    """

    spans: list[IoSpan]
    model: bytes

    @cached_property
    def structure(self) -> Structure:
        """What must be equal for two examples to be merged; the same object for all of the layout."""
        return structure_of(self.model, self.spans)

    def expression(self) -> bytes | None:
        """What a key, and an example of this layout as its value, look like; None for rows of several labels each."""
        pieces, done = [_KEY], 0
        for span in self.spans:
            token_end = self.model.index(b" ", span.matrix) + 1
            token = self.model[span.matrix : token_end]
            if token == b"SM ":
                rows = one_label_rows(self.model, token_end + 5, span.rows)
                if rows is None or not span.rows or token_end + 5 + span.rows * ONE_LABEL.itemsize != span.end:
                    return None
                row = self.model[token_end + 5 : token_end + 5 + ONE_LABEL.itemsize]
                one = re.escape(row[:14]) + rb".{4}" + re.escape(row[18:19]) + rb".{4}"
                pieces += [re.escape(self.model[done : token_end + 5]), b"(?:%s){%d}" % (one, span.rows)]
            else:
                free, size = _FREE_SIZES[token]
                begin = token_end + free + size
                pieces.append(re.escape(self.model[done:token_end]))
                pieces.append(b".{%d}" % free)
                pieces.append(re.escape(self.model[token_end + free : begin]))
                pieces.append(b".{%d}" % (span.end - begin))
            done = span.end
        return b"".join([*pieces, re.escape(self.model[done:]), b")"])


class KnownLayouts:
    """The layouts of the examples that were read.

    Attributes:
        known: what to look for, most recently met first; replaced, never changed, for other threads may read it.
    """

    def __init__(self) -> None:
        self.known: tuple[tuple[re.Pattern[bytes], Layout], ...] = ()
        self._times_met: dict[tuple[int, tuple[IoSpan, ...]], int] = {}

    def learn(self, encoded: bytes, spans: list[IoSpan]) -> None:
        """Remember the layout of an example that had to be scanned, the second time that one of its sizes is met."""
        if len(encoded) > _LARGEST:
            return  # scanning is a small part of moving it
        sizes = len(encoded), tuple(spans)
        times = self._times_met[sizes] = self._times_met.get(sizes, 0) + 1
        if len(self._times_met) > _MOST_TRIED:
            del self._times_met[sizes]  # they are all different
        elif times == 2:
            layout = Layout(spans, encoded)
            expression = layout.expression()
            if expression is not None:
                self.known = ((re.compile(expression, re.DOTALL), layout), *self.known[: _MOST_LAYOUTS - 1])
