"""The keys of a layer: each with its default, what its value must be, and how it is read.

Numbers are printed as Python prints them (``max-change=1`` becomes ``1.0``), except those that a layer only hands on to
a component, which stay as the user wrote them and are left out where they are not given.

Source: Kaldi egs/wsj/s5/steps/libs/nnet3/xconfig/utils.py (``convert_value_to_type``).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """Values that make sense: ``text`` completes the sentence "must be ..."."""

    text: str
    holds: Callable[[Any], bool]


ANY = Range("anything", lambda value: True)
INT32 = Range("at most 2147483647", lambda value: abs(value) <= 2147483647)
POSITIVE = Range("above zero", lambda value: value > 0)
NOT_NEGATIVE = Range("zero or above", lambda value: value >= 0)
FROM_ZERO_TO_ONE = Range("from 0 to 1", lambda value: 0 <= value <= 1)
BETWEEN_ZERO_AND_ONE = Range("between 0 and 1", lambda value: 0 < value < 1)
FROM_MINUS_ONE_TO_ONE = Range("from -1 to 1", lambda value: -1 <= value <= 1)


@dataclass(frozen=True)
class Key:
    """A key that a layer has. ``expected`` says what its value must look like."""

    default: Any
    expected: str
    convert: Callable[[str], Any]
    range: Range = ANY

    def read(self, text: str) -> Any:
        """The value that ``text`` stands for. Raises ValueError with what was expected instead."""
        try:
            value = self.convert(text)
        except ValueError:
            raise ValueError(f"is not {self.expected}") from None
        if not self.range.holds(value):
            raise ValueError(f"must be {self.range.text}")
        return value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _switch(text: str) -> bool:
    if text not in ("true", "True", "false", "False"):
        raise ValueError
    return text in ("true", "True")


def _handed_on(text: str) -> str:
    if text:
        _finite(text)
    return text


Keys = dict[str, Key]
"""The keys of a layer type by name."""


def integer(default: int, range: Range = INT32) -> Key:
    """A whole number."""
    return Key(default, "a whole number", int, range)


def number(default: float, range: Range = ANY) -> Key:
    """A finite real number."""
    return Key(default, "a number", _finite, range)


def switch(default: bool = False) -> Key:
    """true or false."""
    return Key(default, "true or false", _switch)


def text(default: str = "") -> Key:
    """Any text: a descriptor, a file's name, settings of a component."""
    return Key(default, "text", str)


def choice(*values: str) -> Key:
    """One of several words, the first by default."""
    return Key(values[0], "text", str, Range(" or ".join(values), lambda value: value in values))


def handed_on(range: Range = ANY) -> Key:
    """A number handed on to a component as it is written; not given, the component's own default applies."""
    return Key("", "a number", _handed_on, Range(range.text, lambda value: not value or range.holds(float(value))))
