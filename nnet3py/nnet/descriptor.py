"""Descriptors: what a node's input is, in terms of other nodes and times.

    Append(Offset(input, -1), input, ReplaceIndex(ivector, t, 0))      columns side by side
    Sum(a, b)  Scale(0.5, a)  Const(1.0, 100)                          sums, factors, a constant
    IfDefined(a)  Failover(a, b)                                       zero, or b, at times where a cannot be computed
    Switch(a, b)  Round(a, 3)                                          by the time modulo 2; at the last multiple of 3

:func:`parse_descriptor` brings them into Kaldi's normal form, which is what model files hold: one ``Append`` outermost,
inside it sums of two (``Sum``, ``Failover``, ``IfDefined``), inside those what maps one time to one time of one node.
``str`` of a descriptor is Kaldi's text.

Source: Kaldi src/nnet3/nnet-descriptor.{h,cc}.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nnet3py.errors import UserError
from nnet3py.nnet.component import Array
from nnet3py.text.lines import BLANKS

Computable = Callable[[str, Array], Array]
"""Of a node and times: which of the times (bool) the node can be computed at."""

_TOKEN = re.compile(rf"[(),]|[^{BLANKS}(),]+")
_MAX_DEPTH = 100
_MAX_SUMMANDS = 200


@dataclass(frozen=True)
class Term:
    """At the rows ``positions`` of a result, add ``scale`` times the rows of ``node`` at ``times`` (same length)."""

    node: str
    positions: Array
    times: Array
    scale: float


@dataclass(frozen=True)
class Descriptor:
    """Base of all descriptors. Times are arrays of int64."""

    def children(self) -> tuple[Descriptor, ...]:
        """The descriptors directly inside."""
        return ()

    def with_children(self, children: Sequence[Descriptor]) -> Descriptor:
        """The same operation on others."""
        raise NotImplementedError

    def node_names(self) -> Iterator[str]:
        """Names of the nodes it reads, in order, perhaps repeated."""
        for child in self.children():
            yield from child.node_names()

    def renamed(self, old: str, new: str) -> Descriptor:
        """The same with the node ``new`` in the place of ``old``."""
        children = self.children()
        return self.with_children([child.renamed(old, new) for child in children]) if children else self

    def dim(self, node_dim: Callable[[str], int]) -> int:
        """Columns of its value. Raises UserError for a sum of unequal dimensions."""
        dims = [child.dim(node_dim) for child in self.children()]
        if any(dim != dims[0] for dim in dims):
            raise UserError(f"{self} joins parts of the dimensions {', '.join(map(str, dims))}, which must be equal.")
        return dims[0]

    def modulus(self) -> int:
        """Shifting all times by this changes nothing else."""
        return math.lcm(1, *(child.modulus() for child in self.children()))

    def parts(self) -> tuple[Descriptor, ...]:
        """What stands side by side in its value."""
        return (self,)

    def dependencies(self, times: Array) -> Iterator[tuple[str, Array]]:
        """The nodes, and their times, that it may read to be computed at ``times``."""
        for child in self.children():
            yield from child.dependencies(times)

    def resolve(self, times: Array, positions: Array, computable: Computable) -> tuple[Array, list[Term]]:
        """Which of ``times`` it can be computed at (bool), and the terms that make it up there.

        ``positions``: the rows of the result that ``times`` belong to. Terms cover computable times only.
        """
        raise NotImplementedError

    def constant(self) -> float:
        """What it adds to every element beside its terms."""
        return 0.0


def _select(terms: list[Term], positions: Array) -> list[Term]:
    """The parts of ``terms`` that belong to ``positions``."""
    kept = []
    for term in terms:
        mask = np.isin(term.positions, positions)
        if mask.any():
            kept.append(replace(term, positions=term.positions[mask], times=term.times[mask]))
    return kept


@dataclass(frozen=True)
class NodeReference(Descriptor):
    """A node, times ``scale``: ``name`` or ``Scale(0.5, name)``."""

    name: str
    scale: float = 1.0

    def node_names(self) -> Iterator[str]:
        yield self.name

    def renamed(self, old: str, new: str) -> Descriptor:
        return replace(self, name=new) if self.name == old else self

    def dim(self, node_dim: Callable[[str], int]) -> int:
        return node_dim(self.name)

    def dependencies(self, times: Array) -> Iterator[tuple[str, Array]]:
        yield self.name, times

    def resolve(self, times: Array, positions: Array, computable: Computable) -> tuple[Array, list[Term]]:
        mask = computable(self.name, times)
        return mask, [Term(self.name, positions[mask], times[mask], self.scale)] if mask.any() else []

    def __str__(self) -> str:
        return self.name if self.scale == 1.0 else f"Scale({self.scale:g}, {self.name})"


@dataclass(frozen=True)
class _TimeMap(Descriptor):
    """A descriptor read at other times."""

    source: Descriptor

    def children(self) -> tuple[Descriptor, ...]:
        return (self.source,)

    def with_children(self, children: Sequence[Descriptor]) -> Descriptor:
        return replace(self, source=children[0])

    def mapped(self, times: Array) -> Array:
        """The times that ``source`` is read at."""
        raise NotImplementedError

    def dependencies(self, times: Array) -> Iterator[tuple[str, Array]]:
        return self.source.dependencies(self.mapped(times))

    def resolve(self, times: Array, positions: Array, computable: Computable) -> tuple[Array, list[Term]]:
        return self.source.resolve(self.mapped(times), positions, computable)


@dataclass(frozen=True)
class Offset(_TimeMap):
    """``Offset(source, t)``: the source ``t`` frames later. ``x`` belongs to convolutions, which are not supported."""

    t: int = 0
    x: int = 0

    def mapped(self, times: Array) -> Array:
        return times + self.t

    def __str__(self) -> str:
        return f"Offset({self.source}, {self.t}, {self.x})" if self.x else f"Offset({self.source}, {self.t})"


@dataclass(frozen=True)
class Round(_TimeMap):
    """``Round(source, m)``: the source at the last time that is a multiple of ``m``."""

    m: int = 1

    def modulus(self) -> int:
        return math.lcm(self.m, self.source.modulus())

    def mapped(self, times: Array) -> Array:
        return times - times % self.m

    def __str__(self) -> str:
        return f"Round({self.source}, {self.m})"


@dataclass(frozen=True)
class ReplaceIndex(_TimeMap):
    """``ReplaceIndex(source, t, value)``: the source at the one time ``value``, whatever the time (an iVector)."""

    variable: str = "t"
    value: int = 0

    def mapped(self, times: Array) -> Array:
        return np.full_like(times, self.value) if self.variable == "t" else times

    def __str__(self) -> str:
        return f"ReplaceIndex({self.source}, {self.variable}, {self.value})"


@dataclass(frozen=True)
class Switch(Descriptor):
    """``Switch(a, b, ...)``: a, b, ... in turn, by the time modulo their number."""

    sources: tuple[Descriptor, ...]

    def children(self) -> tuple[Descriptor, ...]:
        return self.sources

    def with_children(self, children: Sequence[Descriptor]) -> Descriptor:
        return Switch(tuple(children))

    def modulus(self) -> int:
        return math.lcm(len(self.sources), super().modulus())

    def dependencies(self, times: Array) -> Iterator[tuple[str, Array]]:
        for turn, source in enumerate(self.sources):
            yield from source.dependencies(times[times % len(self.sources) == turn])

    def resolve(self, times: Array, positions: Array, computable: Computable) -> tuple[Array, list[Term]]:
        mask = np.zeros(len(times), bool)
        terms: list[Term] = []
        for turn, source in enumerate(self.sources):
            here = times % len(self.sources) == turn
            mask[here], found = source.resolve(times[here], positions[here], computable)
            terms += found
        return mask, terms

    def __str__(self) -> str:
        return f"Switch({', '.join(map(str, self.sources))})"


@dataclass(frozen=True)
class IfDefined(_TimeMap):
    """``IfDefined(source)``: the source where it can be computed, zero elsewhere."""

    def mapped(self, times: Array) -> Array:
        return times

    def resolve(self, times: Array, positions: Array, computable: Computable) -> tuple[Array, list[Term]]:
        mask, terms = self.source.resolve(times, positions, computable)
        return np.ones_like(mask), _select(terms, positions[mask])

    def __str__(self) -> str:
        return f"IfDefined({self.source})"


@dataclass(frozen=True)
class Const(Descriptor):
    """``Const(value, dim)``: the same number everywhere."""

    value: float
    size: int

    def dim(self, node_dim: Callable[[str], int]) -> int:
        return self.size

    def resolve(self, times: Array, positions: Array, computable: Computable) -> tuple[Array, list[Term]]:
        return np.ones(len(times), bool), []

    def constant(self) -> float:
        return self.value

    def __str__(self) -> str:
        return f"Const({self.value:g}, {self.size})"


@dataclass(frozen=True)
class Sum(Descriptor):
    """``Sum(a, b, ...)``; in normal form of two."""

    terms: tuple[Descriptor, ...]

    def children(self) -> tuple[Descriptor, ...]:
        return self.terms

    def with_children(self, children: Sequence[Descriptor]) -> Descriptor:
        return Sum(tuple(children))

    def resolve(self, times: Array, positions: Array, computable: Computable) -> tuple[Array, list[Term]]:
        resolved = [term.resolve(times, positions, computable) for term in self.terms]
        mask = np.logical_and.reduce([part for part, _ in resolved])
        return mask, _select([term for _, terms in resolved for term in terms], positions[mask])

    def constant(self) -> float:
        return sum(term.constant() for term in self.terms)

    def __str__(self) -> str:
        return f"Sum({', '.join(map(str, self.terms))})"


@dataclass(frozen=True)
class Failover(Descriptor):
    """``Failover(a, b)``: b at the times where a cannot be computed."""

    first: Descriptor
    second: Descriptor

    def children(self) -> tuple[Descriptor, ...]:
        return (self.first, self.second)

    def with_children(self, children: Sequence[Descriptor]) -> Descriptor:
        return Failover(*children)

    def resolve(self, times: Array, positions: Array, computable: Computable) -> tuple[Array, list[Term]]:
        mask, terms = self.first.resolve(times, positions, computable)
        rest = ~mask
        kept = _select(terms, positions[mask])
        other, more = self.second.resolve(times[rest], positions[rest], computable)
        both = mask.copy()
        both[rest] = other
        return both, kept + more

    def __str__(self) -> str:
        return f"Failover({self.first}, {self.second})"


@dataclass(frozen=True)
class Scaled(Descriptor):
    """``Scale(alpha, source)`` before normalisation brings the factor down to the nodes."""

    alpha: float
    source: Descriptor

    def children(self) -> tuple[Descriptor, ...]:
        return (self.source,)

    def with_children(self, children: Sequence[Descriptor]) -> Descriptor:
        return replace(self, source=children[0])

    def __str__(self) -> str:
        return f"Scale({self.alpha:g}, {self.source})"


@dataclass(frozen=True)
class Append(Descriptor):
    """``Append(a, b, ...)``: columns side by side."""

    pieces: tuple[Descriptor, ...]

    def children(self) -> tuple[Descriptor, ...]:
        return self.pieces

    def with_children(self, children: Sequence[Descriptor]) -> Descriptor:
        return Append(tuple(children))

    def dim(self, node_dim: Callable[[str], int]) -> int:
        return sum(piece.dim(node_dim) for piece in self.pieces)

    def parts(self) -> tuple[Descriptor, ...]:
        return self.pieces

    def __str__(self) -> str:
        return f"Append({', '.join(map(str, self.pieces))})"


def parse_descriptor(text: str) -> Descriptor:
    """A descriptor in normal form. Raises UserError if ``text`` is none, or one that Kaldi does not allow either."""
    parser = _Parser(text)
    tree = parser.descriptor(0)
    parser.expect_end()
    pieces = tuple(_normalised(piece, text) for piece in _append_terms(tree, text))
    return pieces[0] if len(pieces) == 1 else Append(pieces)


class _Parser:
    """Reads the text form; the tree is as written."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = [*_TOKEN.findall(text), ""]
        self._position = 0
        self._summands = 0

    def _error(self, expected: str) -> UserError:
        found = self._tokens[self._position] or "the end"
        return UserError(f"Expected {expected}, found {found!r} in the descriptor {self._text!r}.")

    def _next(self) -> str:
        token = self._tokens[self._position]
        self._position += bool(token)
        return token

    def _expect(self, token: str) -> None:
        if self._tokens[self._position] != token:
            raise self._error(repr(token))
        self._next()

    def expect_end(self) -> None:
        if self._tokens[self._position]:
            raise self._error("the end")

    def _accepts(self, token: str) -> bool:
        if self._tokens[self._position] != token:
            return False
        self._next()
        return True

    def _integer(self) -> int:
        try:
            value = int(self._tokens[self._position])
        except ValueError:
            raise self._error("a whole number") from None
        if abs(value) >= 1 << 31:
            raise self._error("a whole number of 32 bits")
        self._next()
        return value

    def _number(self) -> float:
        try:
            value = float(self._tokens[self._position])
        except ValueError:
            raise self._error("a number") from None
        if not math.isfinite(value):
            raise self._error("a finite number")
        self._next()
        return value

    def descriptor(self, depth: int) -> Descriptor:
        if depth > _MAX_DEPTH:
            raise UserError(f"A descriptor is nested more than {_MAX_DEPTH} deep.")
        name = self._tokens[self._position]
        if name in ("", "(", ")", ","):
            raise self._error("a node name or an expression such as Append(")
        self._next()
        if not self._accepts("("):
            if name in _EXPRESSIONS:
                raise self._error("'('")
            return NodeReference(name)
        if name not in _EXPRESSIONS:
            raise UserError(
                f"{name} is not an expression (those are {', '.join(_EXPRESSIONS)}), in the descriptor {self._text!r}."
            )
        found = self._arguments(name, depth + 1)
        self._expect(")")
        return found

    def _arguments(self, name: str, depth: int) -> Descriptor:
        if name == "Scale":
            alpha = self._number()
            self._expect(",")
            return Scaled(alpha, self.descriptor(depth))
        if name == "Const":
            value = self._number()
            self._expect(",")
            return Const(value, self._above_zero())
        first = self.descriptor(depth)
        if name == "IfDefined":
            return IfDefined(first)
        if name in ("Append", "Sum", "Switch"):
            several = [first]
            while self._accepts(","):
                several.append(self.descriptor(depth))
            self._summands += len(several) if name == "Sum" else 0
            if self._summands > _MAX_SUMMANDS:  # the normal form nests them
                raise UserError(f"A descriptor has Sums of more than {_MAX_SUMMANDS} terms together.")
            return {"Append": Append, "Sum": Sum, "Switch": Switch}[name](tuple(several))
        self._expect(",")
        if name == "Failover":
            return Failover(first, self.descriptor(depth))
        if name == "Offset":
            t = self._integer()
            return Offset(first, t, self._integer() if self._accepts(",") else 0)
        if name == "Round":
            return Round(first, self._above_zero())
        return self._replace_index(first)

    def _above_zero(self) -> int:
        value = self._integer()
        if value <= 0:
            self._position -= 1
            raise self._error("a whole number above zero")
        return value

    def _replace_index(self, source: Descriptor) -> Descriptor:
        variable = self._tokens[self._position]
        if variable not in ("t", "x"):
            raise self._error("t or x")
        self._next()
        self._expect(",")
        return ReplaceIndex(source, variable, self._integer())


_EXPRESSIONS = (
    "Append",
    "Sum",
    "Failover",
    "IfDefined",
    "Offset",
    "Switch",
    "Scale",
    "Const",
    "Round",
    "ReplaceIndex",
)


def _append_terms(tree: Descriptor, text: str) -> list[Descriptor]:
    """The expressions that stand side by side once every Append inside is brought outwards."""
    if isinstance(tree, Append):
        return [term for piece in tree.pieces for term in _append_terms(piece, text)]
    if not tree.children():
        return [tree]
    inside = [_append_terms(child, text) for child in tree.children()]
    if len({len(terms) for terms in inside}) > 1:
        raise UserError(f"{tree} joins Appends of unequal numbers of terms, in the descriptor {text!r}.")
    return [tree.with_children(terms) for terms in zip(*inside, strict=True)]


_SUMS = (Sum, Failover, IfDefined)


def _normalised(tree: Descriptor, text: str) -> Descriptor:
    """Kaldi's normal form of an expression without Append: sums of two outside, time maps inside, factors at nodes."""
    children = tuple(_normalised(child, text) for child in tree.children())
    if isinstance(tree, (Offset, Round, ReplaceIndex)):
        return _map_inwards(tree, children[0], text)
    if isinstance(tree, Switch) and any(isinstance(child, (Const, *_SUMS)) for child in children):
        raise UserError(f"Sum, Failover, IfDefined and Const cannot be inside Switch, in the descriptor {text!r}.")
    if isinstance(tree, Sum):
        nested = children[-1]
        for child in reversed(children[:-1]):
            nested = Sum((child, nested))
        return nested
    if isinstance(tree, Scaled):
        return _scale_inwards(tree.alpha, children[0], text)
    if isinstance(tree, (IfDefined, Failover)) and any(child.constant() != 0.0 for child in children):
        raise UserError(f"Const cannot stand inside of IfDefined or Failover, in the descriptor {text!r}.")
    return tree.with_children(children) if children else tree


def _map_inwards(outer: Offset | Round | ReplaceIndex, inner: Descriptor, text: str) -> Descriptor:
    """``outer`` of ``inner``, which is normal: ``Offset(Sum(x, y), 1)`` as ``Sum(Offset(x, 1), Offset(y, 1))``."""
    if isinstance(inner, _SUMS):
        return inner.with_children([_map_inwards(outer, child, text) for child in inner.children()])
    if isinstance(inner, Const):
        raise UserError(f"Const cannot be inside Offset, Round or ReplaceIndex, in the descriptor {text!r}.")
    if not isinstance(outer, Offset):
        return replace(outer, source=inner)
    t, x = outer.t, outer.x
    if isinstance(inner, Offset):
        t, x, inner = t + inner.t, x + inner.x, inner.source
    return Offset(inner, t, x) if t or x else inner


def _scale_inwards(alpha: float, inner: Descriptor, text: str) -> Descriptor:
    """``Scale(alpha, inner)`` of an ``inner`` that is normal, the factor at its nodes."""
    if isinstance(inner, NodeReference):
        return NodeReference(inner.name, alpha * inner.scale)
    if isinstance(inner, (Offset, Round, ReplaceIndex, Sum)):
        return inner.with_children([_scale_inwards(alpha, child, text) for child in inner.children()])
    raise UserError(f"Scale cannot stand outside of {inner}: bring it inside, in the descriptor {text!r}.")
