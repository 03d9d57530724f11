"""Descriptors as xconfig has them: names of layers in place of nodes, and short forms.

    Append(-1,0,1)     the layer before, at three times: Append(Offset(tdnn1, -1), tdnn1, Offset(tdnn1, 1))
    tdnn1@-3           Offset(tdnn1, -3)
    [-1], [-2]         the name of the layer before, of the one before that
    output.affine      an inner output of a layer

Inside an expression stand Append, Sum, Switch, Failover, IfDefined, Offset, Round, ReplaceIndex, Scale and Const, with
the meaning they have in a network (see :mod:`nnet3py.nnet.descriptor`).

Source: Kaldi egs/wsj/s5/steps/libs/nnet3/xconfig/utils.py (``Descriptor``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

NAME = re.compile(r"[a-zA-Z_][-a-zA-Z_0-9.]*")
_TOKEN = re.compile(r"[(),@]|[^\s(),@]+")
_BRACKETS = re.compile(r"\[\s*([^\[\]]*?)\s*\]\s*")
_INTEGER = re.compile(r"[-+]?\d{1,9}")
_MAX_DEPTH = 100
# How many descriptors stand inside, at least and at most (None: any number).
_LISTS = {"Append": (1, None), "Sum": (1, None), "Switch": (1, None), "Failover": (2, 2), "IfDefined": (1, 1)}


class DescriptorError(ValueError):
    """What is wrong with a descriptor, as part of a sentence; the layer adds where it stands."""


@dataclass(frozen=True)
class Descriptor:
    """An operator and what stands in its parentheses; for a bare layer ``operator`` is "" and ``items`` its name."""

    operator: str
    items: tuple[Descriptor | str | int | float, ...]

    def text(self, node: Callable[[str], str] = str) -> str:
        """The expression written out, ``node`` applied to the names of layers."""
        if not self.operator:
            return node(str(self.items[0]))
        items = (item.text(node) if isinstance(item, Descriptor) else str(item) for item in self.items)
        return f"{self.operator}({', '.join(items)})"

    def dim(self, layer_dim: Callable[[str], int]) -> int:
        """Columns of its value, given those of the layers. Raises DescriptorError for a sum of unequal dimensions."""
        if not self.operator:
            return layer_dim(str(self.items[0]))
        if self.operator == "Const":
            return int(self.items[1])  # type: ignore[arg-type]
        dims = [item.dim(layer_dim) for item in self.items if isinstance(item, Descriptor)]
        if self.operator == "Append":
            return sum(dims)
        if len(set(dims)) > 1:
            found = ", ".join(str(dim) for dim in dims)
            raise DescriptorError(f"{self.text()} joins the dimensions {found}, which must be equal")
        return dims[0]


def parse_descriptor(text: str, previous: Sequence[str]) -> Descriptor:
    """Read a descriptor.

    Args:
        text: the expression.
        previous: names of the layers before this one, in the order of the file.

    Raises:
        DescriptorError: it has no such form, or refers to a layer before the first.
    """
    parser = _Parser(_TOKEN.findall(_without_brackets(text, previous)), previous)
    descriptor = parser.descriptor()
    if parser.token:
        raise DescriptorError(f"expected the end, found {parser.token!r}")
    return descriptor


def _without_brackets(text: str, previous: Sequence[str]) -> str:
    """``[-1]`` and the like replaced by the layers' names."""

    def name(match: re.Match[str]) -> str:
        back = int(match[1]) if _INTEGER.fullmatch(match[1]) else 0
        if not -len(previous) <= back < 0:
            raise DescriptorError(
                f"[{match[1]}] must count back over the {len(previous)} lines before this one, as [-1]"
                if previous
                else f"[{match[1]}] stands for the line before, and there is none"
            )
        return previous[back]

    replaced = _BRACKETS.sub(name, text)
    if "[" in replaced or "]" in replaced:
        raise DescriptorError("a square bracket has no partner")
    return replaced


def _offset(layer: str, offset: int) -> Descriptor:
    descriptor = Descriptor("", (layer,))
    return Descriptor("Offset", (descriptor, offset)) if offset else descriptor


class _Parser:
    """Recursive descent over tokens; ``token`` is the one to be read next, "" after the last."""

    def __init__(self, tokens: Sequence[str], previous: Sequence[str]) -> None:
        self._tokens = tokens
        self._previous = previous
        self._position = 0
        self._depth = 0

    @property
    def token(self) -> str:
        return self._tokens[self._position] if self._position < len(self._tokens) else ""

    def _next(self) -> str:
        token = self.token
        self._position += 1
        return token

    def _expect(self, token: str, inside: str) -> None:
        found = self._next()
        if found != token:
            raise DescriptorError(f"expected {token!r} in {inside}(), found {found or 'the end'!r}")

    def descriptor(self) -> Descriptor:
        token = self._next()
        if token in _LISTS or token in _FORMS:
            return self._operation(token)
        if NAME.fullmatch(token):
            return self._layer(token)
        if _INTEGER.fullmatch(token):
            if not self._previous:
                raise DescriptorError(f"{token} stands for the line before at another time, and there is none")
            return _offset(self._previous[-1], int(token))
        raise DescriptorError(f"expected a descriptor, found {token or 'the end'!r}")

    def _layer(self, name: str) -> Descriptor:
        if self.token != "@":
            return Descriptor("", (name,))
        self._next()
        return _offset(name, self.integer(f"{name}@"))

    def _operation(self, operator: str) -> Descriptor:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise DescriptorError(f"more than {_MAX_DEPTH} expressions stand inside each other")
        self._expect("(", operator)
        items = self._list(operator) if operator in _LISTS else self._form(operator)
        self._expect(")", operator)
        self._depth -= 1
        return Descriptor(operator, tuple(items))

    def _list(self, operator: str) -> list[Descriptor | str | int | float]:
        items: list[Descriptor | str | int | float] = [self.descriptor()]
        while self.token == ",":
            self._next()
            items.append(self.descriptor())
        least, most = _LISTS[operator]
        if len(items) < least or (most is not None and len(items) > most):
            raise DescriptorError(f"{operator}() takes {least}, found {len(items)}")
        return items

    def _form(self, operator: str) -> list[Descriptor | str | int | float]:
        items: list[Descriptor | str | int | float] = []
        for read in _FORMS[operator]:
            if items:
                self._expect(",", operator)
            items.append(read(self, operator))
        if operator == "Offset" and self.token == ",":  # Offset(a, t, x): also to another x
            self._next()
            items.append(self.integer(operator))
        return items

    def any_descriptor(self, inside: str) -> Descriptor:
        return self.descriptor()

    def integer(self, inside: str) -> int:
        token = self._next()
        if not _INTEGER.fullmatch(token):
            raise DescriptorError(f"expected a whole number in {inside}, found {token or 'the end'!r}")
        return int(token)

    def positive(self, inside: str) -> int:
        value = self.integer(inside)
        if value <= 0:
            raise DescriptorError(f"expected a whole number above zero in {inside}, found {value}")
        return value

    def number(self, inside: str) -> float:
        token = self._next()
        try:
            value = float(token)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise DescriptorError(f"expected a number in {inside}, found {token or 'the end'!r}")
        return value

    def index(self, inside: str) -> str:
        token = self._next()
        if token not in ("t", "x"):
            raise DescriptorError(f"expected t or x in {inside}, found {token or 'the end'!r}")
        return token


_FORMS: dict[str, tuple[Callable[[_Parser, str], Descriptor | str | int | float], ...]] = {
    "Offset": (_Parser.any_descriptor, _Parser.integer),
    "Round": (_Parser.any_descriptor, _Parser.positive),
    "ReplaceIndex": (_Parser.any_descriptor, _Parser.index, _Parser.integer),
    "Scale": (_Parser.number, _Parser.any_descriptor),
    "Const": (_Parser.number, _Parser.positive),
}
