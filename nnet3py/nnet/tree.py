"""The phonetic decision tree (Kaldi's ``tree``): which pdf a state of a phone has among its neighbours.

A tree looks at an *event*: the phone at each place of a window of ``width`` phones (keys 0 to width - 1, the phone in
question at ``centre``) and the pdf class of a state of its topology (key -1). Its nodes are leaves, which hold a pdf;
tables, which have a branch for each value of a key; and questions, which ask whether a key's value is in a set. What an
event does not say is left open, and every branch may then be the one.

Source: Kaldi src/tree/event-map.cc and context-dep.cc.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from nnet3py.errors import UserError
from nnet3py.tables.basic_types import expect_token, read_header, read_int, read_token, shown
from nnet3py.tables.matrix import read_int_vector
from nnet3py.tables.streams import Source, open_input
from nnet3py.text.expectation import Expected

PDF_CLASS = -1
"""The key of the pdf class in an event."""

MOST_PDFS = 10_000_000
"""A model that claims more is corrupt: counts of them would not fit into memory."""

_EXPECTED = Expected(
    "a tree",
    frozenset({"tree"}),
    usual_names=("tree",),
    advice={"transition model": "the tree is in the file `tree` beside it, as a rule"},
)
_WIDEST = 64  # phones in a window; trees have 1, 2 or 3
_UNSIGNED = struct.Struct("<bI")


@dataclass
class Table:
    """A branch for each value of ``key`` from 0; ``None`` where no event comes."""

    key: int
    branches: list[EventMap] = field(default_factory=list)


@dataclass
class Question:
    """Whether the value of ``key`` is one of ``values``; the branches are yes and no."""

    key: int
    values: frozenset[int]
    branches: list[EventMap] = field(default_factory=list)


EventMap = Table | Question | int | None
"""A node of the tree; an integer is the pdf of a leaf."""


@dataclass
class Tree:
    """See the module. ``width`` and ``centre`` describe the window of phones (Kaldi's N and P)."""

    width: int
    centre: int
    root: EventMap

    def pdfs(self, event: Mapping[int, int]) -> list[int]:
        """The pdfs that an event may have, in order; one if the event says all that the tree asks about it."""
        found = set()
        left = [self.root]
        while left:
            node = left.pop()
            if isinstance(node, int):
                found.add(node)
            elif node is not None:
                left += _branches(node, event.get(node.key))
        return sorted(found)

    @cached_property
    def num_pdfs(self) -> int:
        """One more than the largest pdf; 0 for a tree without leaves."""
        return max(self.pdfs({}), default=-1) + 1

    def pdfs_of(self, phone: int, pdf_class: int) -> list[int]:
        """The pdfs that a pdf class of a phone has among whatever neighbours."""
        return self.pdfs({self.centre: phone, PDF_CLASS: pdf_class})

    def pdf_pairs_of(
        self, phone: int, forward_class: int, self_loop_class: int, phones: Sequence[int]
    ) -> set[tuple[int, int]]:
        """The pairs (pdf forward, pdf on the self-loop) that a state with two pdf classes has.

        Both pdfs are of the same neighbours, so that not each pdf goes with each. While there are several of both,
        another neighbour is taken into account: 0 (the utterance's edge) or any of ``phones``.
        """
        pairs: set[tuple[int, int]] = set()
        left = [{self.centre: phone}]
        while left:
            window = left.pop()
            forward = self.pdfs({**window, PDF_CLASS: forward_class})
            self_loop = self.pdfs({**window, PDF_CLASS: self_loop_class})
            if len(forward) <= 1 or len(self_loop) <= 1:
                pairs.update((one, other) for one in forward for other in self_loop)
                continue
            unknown = [place for place in range(self.width) if place not in window]
            if not unknown:
                raise UserError(f"The tree has several pdfs for phone {phone} among neighbours that are all known.")
            nearest = min(unknown, key=lambda place: abs(place - self.centre))
            left += [{**window, nearest: neighbour} for neighbour in (0, *phones)]
        return pairs


def _branches(node: Table | Question, value: int | None) -> list[EventMap]:
    """Where an event may go from a node whose key has ``value`` in it (``None``: the event does not say)."""
    if value is None:
        return node.branches
    if isinstance(node, Question):
        return [node.branches[0 if value in node.values else 1]]
    return [node.branches[value]] if 0 <= value < len(node.branches) else []


def read_tree(rxfilename: str) -> Tree:
    """The tree in a file, binary or text.

    Raises:
        UserError: the file cannot be read, or is not a tree, cut off or corrupt.
    """
    with open_input(rxfilename, _EXPECTED) as source:
        binary = read_header(source)
        expect_token(source, binary, "ContextDependency")
        place = source.tell()
        width, centre = read_int(source, binary), read_int(source, binary)
        if not 0 <= centre < width <= _WIDEST:
            raise source.error(
                f"expected the width of a window of at most {_WIDEST} phones and a place in it, found {width} and "
                f"{centre}.",
                place,
            )
        place = source.tell()
        token = read_token(source, binary)
        if token == "ToLength":  # of old trees: the number of pdf classes, which the topology has as well
            _read_event_map(source, binary)
            place = source.tell()
            token = read_token(source, binary)
        if token != "ToPdf":
            raise source.error(f"expected the token ToPdf, found {shown(token.encode())}.", place)
        root = _read_event_map(source, binary)
        expect_token(source, binary, "EndContextDependency")
    return Tree(width, centre, root)


def _read_event_map(source: Source, binary: bool) -> EventMap:
    """A node with all below it; without recursion, so that no tree is too deep."""
    unfinished: list[tuple[Table | Question, int]] = []  # a node, and how many branches it is to have
    while True:
        node, size = _read_node(source, binary)
        if size > 0:
            assert isinstance(node, Table | Question)
            unfinished.append((node, size))
            continue
        if isinstance(node, Table):
            expect_token(source, binary, ")")
        while unfinished:
            parent, size = unfinished[-1]
            if node is None and isinstance(parent, Question):
                raise source.error("expected a branch of a question, found NULL.")
            parent.branches.append(node)
            if len(parent.branches) < size:
                break
            expect_token(source, binary, ")" if isinstance(parent, Table) else "}")
            unfinished.pop()
            node = parent
        else:
            return node


def _read_node(source: Source, binary: bool) -> tuple[EventMap, int]:
    """A node without its branches, and how many of them follow."""
    place = source.tell()
    kind = read_token(source, binary)
    if kind == "NULL":
        return None, 0
    if kind == "CE":
        pdf = read_int(source, binary)
        if not 0 <= pdf < MOST_PDFS:
            raise source.error(f"expected a pdf, 0 or above and below {MOST_PDFS}, found {pdf}.", place)
        return pdf, 0
    if kind == "TE":
        table, size = Table(read_int(source, binary)), _read_size(source, binary)
        expect_token(source, binary, "(")
        return table, size
    if kind == "SE":
        question = Question(read_int(source, binary), frozenset(read_int_vector(source, binary).tolist()))
        expect_token(source, binary, "{")
        return question, 2
    raise source.error(f"expected a node of a tree (NULL, CE, TE or SE), found {shown(kind.encode())}.", place)


def _read_size(source: Source, binary: bool) -> int:
    """A number of branches: not negative, which Kaldi marks in binary by a negative size of the integer."""
    place = source.tell()
    if not binary:
        size = read_int(source, False)
    else:
        mark, size = _UNSIGNED.unpack(source.read(_UNSIGNED.size))
        if mark != -4:
            raise source.error(f"expected an unsigned integer of 4 bytes (mark -4), found the mark {mark}.", place)
    if size < 0:
        raise source.error(f"expected a number of branches, found {size}.", place)
    return size
