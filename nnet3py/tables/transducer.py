"""Weighted finite-state transducers in files and tables: OpenFst's vector and const forms with standard arcs.

Kaldi's tables of graphs hold the vector form. In binary: a header, then for each state its final weight, the number of
its arcs, and the arcs. The const form, in which ``utils/mkgraph.sh`` writes a graph to decode with, has all states
first and then all arcs. In text, a line an arc (source, target, input label, output label, weight) or a final state
(state, weight), an empty line before the first and after the last; the first line's state is the one to start from.
Weights are costs; zeros are left out in text.

Source: OpenFst's fst/fst.cc (``FstHeader``), fst/vector-fst.h, fst/const-fst.h and fst/symbol-table.h; Kaldi
src/fstext/kaldi-fst-io.cc (``ReadFstKaldiGeneric``) and kaldi-fst-io-inl.h.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnet3py.tables.basic_types import format_number, shown
from nnet3py.tables.holders import Holder
from nnet3py.tables.streams import Sink, Source, open_input
from nnet3py.text.expectation import Expected

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]

NO_STATE = -1
EPSILON = 0
"""The label that stands for nothing."""

_EXPECTED = Expected(
    "a transducer in OpenFst's binary form", frozenset({"transducer"}), usual_names=("HCLG.fst", "L.fst")
)
_MAGIC = b"\xd6\xfd\xb2\x7e"
_VERSION = 2
_ALIGNED_VERSION = 1  # of the const form
_ALIGNMENT = 16  # bytes, from the start of the file
_HAVE_SYMBOLS = (0b01, 0b10)  # flags of the header: a table of the input labels, one of the output labels
_IS_ALIGNED = 0b100
_EXPANDED = 0b01  # all that is claimed of the properties; readers find out the others
_EXPANDED_AND_MUTABLE = 0b11
_HEADER_NUMBERS = struct.Struct("<iiQqqq")  # version, flags, properties, start, states, arcs
_STATE = struct.Struct("<fq")
_ARC = np.dtype([("ilabel", "<i4"), ("olabel", "<i4"), ("weight", "<f4"), ("target", "<i4")])
_CONST_STATE = np.dtype(
    [("final", "<f4"), ("first", "<u4"), ("arcs", "<u4"), ("input_epsilons", "<u4"), ("output_epsilons", "<u4")]
)
_SYMBOLS_MAGIC = struct.pack("<i", 2125658996)
_SYMBOLS_NUMBERS = struct.Struct("<qq")  # the next free label, how many symbols there are
_LONGEST_NAME = 100
_LONGEST_SYMBOL = 1 << 20


@dataclass(frozen=True)
class Transducer:
    """States 0 ... n-1 and arcs between them, in the order of their sources.

    Attributes:
        start: where paths begin; ``NO_STATE`` in a transducer without states.
        finals: (n,) float32, the cost of ending in each state, infinite where a path cannot end.
        sources, targets: (arcs,) int32, states.
        ilabels, olabels: (arcs,) int32; 0 is no label.
        weights: (arcs,) float32, costs.
    """

    start: int
    finals: Floats
    sources: Ints
    targets: Ints
    ilabels: Ints
    olabels: Ints
    weights: Floats

    @classmethod
    def of(
        cls, start: int, finals: Sequence[float] | NDArray[Any], arcs: Sequence[tuple[int, int, int, int, float]]
    ) -> Transducer:
        """A transducer of arcs (source, target, input label, output label, cost) in any order."""
        ordered = sorted(arcs, key=lambda arc: arc[0])

        def column(index: int) -> Ints:
            return np.array([arc[index] for arc in ordered], np.int32)

        weights = np.array([arc[4] for arc in ordered], np.float32)
        return cls(start, np.asarray(finals, np.float32), column(0), column(1), column(2), column(3), weights)

    @property
    def num_states(self) -> int:
        """How many states there are."""
        return len(self.finals)

    @property
    def num_arcs(self) -> int:
        """How many arcs there are."""
        return len(self.sources)


def read_transducer_file(rxfilename: str) -> Transducer:
    """The transducer in a file of its own, such as a language directory's ``L.fst``.

    Raises:
        UserError: the file cannot be read or is not a transducer.
    """
    with open_input(rxfilename, _EXPECTED) as source:
        return _read_binary(source)


def _read_binary(source: Source) -> Transducer:
    place = source.tell()
    magic = source.peek(len(_MAGIC))
    if magic != _MAGIC:
        raise source.error(f"expected a transducer in OpenFst's binary form, found bytes {shown(magic)}.", place)
    source.read(len(_MAGIC))
    form, arc_type = _read_name(source), _read_name(source)
    if form not in ("vector", "const") or arc_type != "standard":
        raise source.error(
            "expected a transducer of type 'vector' or 'const' with arcs of type 'standard' in OpenFst's form, found "
            f"{form!r} and {arc_type!r}.",
            place,
        )
    version, flags, _, start, num_states, num_arcs = _HEADER_NUMBERS.unpack(source.read(_HEADER_NUMBERS.size))
    aligned = bool(flags & _IS_ALIGNED) or (form, version) == ("const", _ALIGNED_VERSION)
    if version not in ((_VERSION, _ALIGNED_VERSION) if form == "const" else (_VERSION,)):
        raise source.error(f"expected version {_VERSION} of OpenFst's {form} form, found version {version}.", place)
    for flag in _HAVE_SYMBOLS:
        if flags & flag:
            _skip_symbols(source)
    if num_states < 0 or not (NO_STATE <= start < num_states or (start == NO_STATE and num_states == 0)):
        raise source.error(f"expected states and one of them to start from, found {num_states} and {start}.", place)
    if form == "const":
        finals, counts, arcs = _read_const_states(source, num_states, num_arcs, aligned)
    elif aligned:
        raise source.error("expected OpenFst's vector form without alignment.", place)
    else:
        finals, counts, arcs = _read_vector_states(source, num_states)
    transducer = Transducer(
        start,
        finals=finals,
        sources=np.repeat(np.arange(num_states, dtype=np.int32), counts),
        targets=arcs["target"].astype(np.int32),
        ilabels=arcs["ilabel"].astype(np.int32),
        olabels=arcs["olabel"].astype(np.int32),
        weights=arcs["weight"].astype(np.float32),
    )
    if problem := _what_is_wrong(transducer):
        raise source.error(problem, place)
    return transducer


def _read_vector_states(source: Source, num_states: int) -> tuple[Floats, NDArray[np.int64], NDArray[np.void]]:
    """Final weights, numbers of arcs, and the arcs."""
    finals: list[float] = []
    counts: list[int] = []
    arcs = bytearray()
    for _ in range(num_states):
        final, count = _STATE.unpack(source.read(_STATE.size))
        if count < 0:
            raise source.error(f"expected a number of arcs, found {count}.")
        finals.append(final)
        counts.append(count)
        arcs += source.read(count * _ARC.itemsize)
    return np.array(finals, np.float32), np.array(counts, np.int64), np.frombuffer(arcs, _ARC)


def _read_const_states(
    source: Source, num_states: int, num_arcs: int, aligned: bool
) -> tuple[Floats, NDArray[np.int64], NDArray[np.void]]:
    if num_arcs < 0:
        raise source.error(f"expected a number of arcs, found {num_arcs}.")
    if aligned:
        _skip_to_alignment(source)
    place = source.tell()
    states = source.read_array(_CONST_STATE, num_states)
    counts = states["arcs"].astype(np.int64)
    if not np.array_equal(states["first"], np.cumsum(counts) - counts) or counts.sum() != num_arcs:
        raise source.error(f"expected states that share {num_arcs} arcs in their order.", place)
    if aligned:
        _skip_to_alignment(source)
    return states["final"].astype(np.float32), counts, source.read_array(_ARC, num_arcs)


def _skip_to_alignment(source: Source) -> None:
    source.read(-source.tell() % _ALIGNMENT)


def _read_name(source: Source, longest: int = _LONGEST_NAME) -> str:
    (length,) = struct.unpack("<i", source.read(4))
    if not 0 <= length <= longest:
        raise source.error(f"expected a name in the header of a transducer, found one of {length} characters.")
    return source.read(length).decode("ascii", "replace")


def _skip_symbols(source: Source) -> None:
    """Names of labels, which are not kept (OpenFst's ``SymbolTable``)."""
    magic = source.read(len(_SYMBOLS_MAGIC))
    if magic != _SYMBOLS_MAGIC:
        raise source.error(f"expected a table of symbols, found bytes {shown(magic)}.")
    _read_name(source, _LONGEST_SYMBOL)
    _, count = _SYMBOLS_NUMBERS.unpack(source.read(_SYMBOLS_NUMBERS.size))
    if count < 0:
        raise source.error(f"expected a number of symbols, found {count}.")
    for _ in range(count):
        _read_name(source, _LONGEST_SYMBOL)
        source.read(8)  # its label


def _what_is_wrong(transducer: Transducer) -> str:
    """Why it is not a transducer that can be used; empty if it is one."""
    states = transducer.num_states
    if transducer.num_arcs and (transducer.targets.min() < 0 or transducer.targets.max() >= states):
        return f"an arc of the transducer goes to a state that is not one of its {states}."
    if transducer.num_arcs and min(transducer.ilabels.min(), transducer.olabels.min()) < 0:
        return "a label of the transducer is below 0."
    if not np.isfinite(transducer.weights).all() or np.isnan(transducer.finals).any():
        return "a weight of the transducer is not a number."
    if np.isneginf(transducer.finals).any():
        return "a final weight of the transducer is infinite and below 0."
    return ""


def _write_header(sink: Sink, form: bytes, properties: int, transducer: Transducer) -> None:
    sink.write(_MAGIC)
    for name in (form, b"standard"):
        sink.write(struct.pack("<i", len(name)) + name)
    states, arcs = transducer.num_states, transducer.num_arcs
    sink.write(_HEADER_NUMBERS.pack(_VERSION, 0, properties, transducer.start, states, arcs))


def _packed_arcs(transducer: Transducer) -> NDArray[np.void]:
    packed = np.empty(transducer.num_arcs, _ARC)
    packed["ilabel"], packed["olabel"] = transducer.ilabels, transducer.olabels
    packed["weight"], packed["target"] = transducer.weights, transducer.targets
    return packed


def _write_binary(sink: Sink, transducer: Transducer) -> None:
    _write_header(sink, b"vector", _EXPANDED_AND_MUTABLE, transducer)
    bounds = np.searchsorted(transducer.sources, np.arange(transducer.num_states + 1)).tolist()
    encoded = _packed_arcs(transducer).tobytes()
    size = _ARC.itemsize
    for state, final in enumerate(transducer.finals.tolist()):
        first, end = bounds[state], bounds[state + 1]
        sink.write(_STATE.pack(final, end - first) + encoded[first * size : end * size])


def write_const(sink: Sink, transducer: Transducer) -> None:
    """OpenFst's const form, not aligned."""
    count = transducer.num_states
    states = np.empty(count, _CONST_STATE)
    states["final"] = transducer.finals
    states["arcs"] = counts = np.bincount(transducer.sources, minlength=count)
    states["first"] = np.cumsum(counts) - counts
    for name, labels in (("input_epsilons", transducer.ilabels), ("output_epsilons", transducer.olabels)):
        states[name] = np.bincount(transducer.sources[labels == EPSILON], minlength=count)
    _write_header(sink, b"const", _EXPANDED, transducer)
    sink.write(states.tobytes())
    sink.write(_packed_arcs(transducer).tobytes())


class _TransducerHolder(Holder[Transducer]):
    name = "transducers"
    contents = frozenset({"transducer"})

    def read(self, source: Source) -> Transducer:
        return _read_text(source) if source.peek(1).isspace() else _read_binary(source)

    def write(self, sink: Sink, value: Transducer, binary: bool) -> None:
        if binary:
            _write_binary(sink, value)
        else:
            _write_text(sink, value)


TRANSDUCER = _TransducerHolder()
"""Kaldi's ``VectorFstHolder``."""


def _read_text(source: Source) -> Transducer:
    place = source.tell()
    if source.readline().strip():
        raise source.error("expected a line end before a transducer in text.", place)
    arcs: list[tuple[int, int, int, int, float]] = []
    finals: dict[int, float] = {}
    start, states = NO_STATE, 0
    while True:
        place = source.tell()
        words = source.readline().split()
        if not words:
            break
        try:
            if len(words) in (1, 2):
                state = int(words[0])
                finals[state] = float(words[1]) if len(words) == 2 else 0.0
                used = [state]
            elif len(words) in (4, 5):
                source_state, target, ilabel, olabel = (int(word) for word in words[:4])
                arcs.append((source_state, target, ilabel, olabel, float(words[4]) if len(words) == 5 else 0.0))
                used = [source_state, target]
            else:
                raise ValueError
            if min(used) < 0 or max(used) >= 1 << 31:
                raise ValueError
        except ValueError:
            line = shown(b" ".join(words))
            raise source.error(f"expected an arc or a final state of a transducer, found {line}.", place) from None
        start = used[0] if start == NO_STATE else start
        states = max(states, *(state + 1 for state in used))
    if states > 1 + 2 * (len(arcs) + len(finals)):
        raise source.error(f"the transducer's states are numbered up to {states}, but few have a line.", place)
    weights = np.full(states, np.inf, np.float32)
    for state, final in finals.items():
        weights[state] = final
    try:
        transducer = Transducer.of(start, weights, arcs)
    except OverflowError:
        raise source.error("a label of the transducer is beyond 32 bits.", place) from None
    if problem := _what_is_wrong(transducer):
        raise source.error(problem, place)
    return transducer


def _write_text(sink: Sink, transducer: Transducer) -> None:
    sink.write(b"\n")
    bounds = np.searchsorted(transducer.sources, np.arange(transducer.num_states + 1)).tolist()
    first = [transducer.start] if transducer.start != NO_STATE else []
    for state in first + [state for state in range(transducer.num_states) if state != transducer.start]:
        for arc in range(bounds[state], bounds[state + 1]):
            labels = f"{transducer.ilabels[arc]}\t{transducer.olabels[arc]}"
            weight = _weight_text(float(transducer.weights[arc]))
            sink.write(f"{state}\t{transducer.targets[arc]}\t{labels}{weight}\n".encode())
        if np.isfinite(transducer.finals[state]):
            sink.write(f"{state}{_weight_text(float(transducer.finals[state]))}\n".encode())
    sink.write(b"\n")


def _weight_text(weight: float) -> str:
    return f"\t{format_number(weight)}" if weight else ""
