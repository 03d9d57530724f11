"""Training examples, Kaldi's NnetExample: named inputs and outputs, each a matrix with an index (n, t, x) per row.

An example read from a binary archive keeps its bytes and is interpreted when its parts are first looked at; writing it
again gives the same bytes. Examples, and the arrays in them, are not to be changed in place: make a new one.

Source: Kaldi src/nnet3/nnet-example.{h,cc}.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from nnet3py.egs import encoded_matrix, index_vector
from nnet3py.egs.incomplete import Incomplete
from nnet3py.egs.layout import KnownLayouts, Layout, Structure, structure_of
from nnet3py.egs.scan import IoSpan, scan_example
from nnet3py.errors import UserError
from nnet3py.tables.basic_types import expect_token, read_header, read_int, read_token
from nnet3py.tables.general_matrix import GeneralMatrix, read_general_matrix, write_general_matrix
from nnet3py.tables.holders import Holder
from nnet3py.tables.streams import Sink, Source

_END_OF_TEXT = re.compile(rb"</Nnet3Eg>\s")
_SMALLEST_PEEK = 1 << 12
_LARGEST_EXAMPLE = 1 << 31


class EncodedIo(NamedTuple):
    """One input or output, its matrix still as bytes."""

    name: str
    indexes: np.ndarray
    matrix: bytes


@dataclass(frozen=True, eq=False)
class NnetIo:
    """One input or output: ``features`` has a row for each row of ``indexes``.

    indexes: (rows, 3) int32, columns n (sequence), t (frame), x.
    features: float32 array, compressed or sparse matrix, (rows, dim).
    """

    name: str
    indexes: np.ndarray
    features: GeneralMatrix

    def __post_init__(self) -> None:
        if len(self.indexes) != self.features.shape[0]:
            raise UserError(
                f"{self.name!r} has {len(self.indexes)} indexes and {self.features.shape[0]} rows of features"
            )


class Example:
    """Inputs and outputs that belong together: a chunk of an utterance, or many chunks merged into a minibatch."""

    __slots__ = ("_encoded", "_ios", "_layout", "_spans")

    def __init__(self, ios: Sequence[NnetIo]) -> None:
        """An example made of at least one input or output."""
        if not ios:
            raise UserError("an example needs at least one input or output")
        self._ios: tuple[NnetIo, ...] | None = tuple(ios)
        self._encoded: bytes | None = None
        self._spans: list[IoSpan] | None = None
        self._layout: Layout | None = None

    @classmethod
    def from_bytes(cls, encoded: bytes, spans: list[IoSpan] | None = None) -> Example:
        """The example that these bytes encode, from ``<Nnet3Eg>`` to ``</Nnet3Eg>`` and a blank.

        They are scanned when the example's parts are first asked for, unless ``spans`` says where these lie; it is then
        that UserError (or Incomplete, if they end too early) is raised for bytes that are not an example's.
        """
        example = cls.__new__(cls)
        example._ios = None
        example._encoded = encoded
        example._spans = spans
        example._layout = None
        return example

    @classmethod
    def of_layout(cls, encoded: bytes, layout: Layout) -> Example:
        """The example that these bytes encode, which are known to be laid out in this way."""
        example = cls.__new__(cls)
        example._ios = None
        example._encoded = encoded
        example._spans = layout.spans
        example._layout = layout
        return example

    @classmethod
    def from_encoded_ios(cls, ios: Sequence[EncodedIo]) -> Example:
        """An example put together from inputs and outputs whose matrices are bytes."""
        return cls.from_encoded_parts([(encoded_io_head(part.name, part.indexes), part.matrix) for part in ios])

    @classmethod
    def from_encoded_parts(cls, parts: Sequence[tuple[bytes, bytes]]) -> Example:
        """An example of inputs and outputs given as what :func:`encoded_io_head` makes and an encoded matrix."""
        return cls.from_bytes(_encode(parts))

    def encoded_ios(self) -> list[EncodedIo]:
        """The inputs and outputs without interpreting their matrices."""
        encoded, spans = self.encoded(), self._scanned()[1]
        return [
            EncodedIo(
                span.name.decode("utf-8", "replace"),
                index_vector.decode(encoded[span.indexes : span.matrix], span.rows),
                encoded[span.matrix : span.end],
            )
            for span in spans
        ]

    def encoded_matrices(self) -> list[bytes]:
        """The bytes of each input's or output's matrix, in the order of the file."""
        encoded, spans = self._scanned()
        return [encoded[span.matrix : span.end] for span in spans]

    def _scanned(self) -> tuple[bytes, list[IoSpan]]:
        encoded = self.encoded()
        if self._spans is None:
            self._spans = scan_example(encoded)[1]
        return encoded, self._spans

    @property
    def ios(self) -> tuple[NnetIo, ...]:
        """The inputs and outputs, in the order of the file."""
        if self._ios is None:
            encoded, spans = self._scanned()
            self._ios = tuple(
                NnetIo(
                    span.name.decode("utf-8", "replace"),
                    index_vector.decode(encoded[span.indexes : span.matrix], span.rows),
                    encoded_matrix.decode(encoded, span.matrix, span.end),
                )
                for span in spans
            )
        return self._ios

    def io(self, name: str) -> NnetIo | None:
        """The input or output of this name, if there is one."""
        return next((part for part in self.ios if part.name == name), None)

    @property
    def structure(self) -> Structure:
        """What must be equal for two examples to be merged. It hashes."""
        if self._layout is not None:
            return self._layout.structure
        if self._ios is None:
            return structure_of(*self._scanned())
        skip = len(index_vector.TOKEN) + 5
        return tuple(
            (part.name, len(part.indexes), part.features.shape[1], index_vector.encode(part.indexes)[skip:])
            for part in self._ios
        )

    @property
    def size(self) -> int:
        """The largest number of rows of any input or output: what a merging rule is chosen by."""
        if self._ios is None:
            return max(span.rows for span in self._scanned()[1])
        return max(len(part.indexes) for part in self._ios)

    def encoded(self) -> bytes:
        """The bytes of Kaldi's binary form, without the ``\\0B`` before them."""
        if self._encoded is None:
            parts = [(encoded_io_head(io.name, io.indexes), encoded_matrix.encode(io.features)) for io in self.ios]
            self._encoded = _encode(parts)
        return self._encoded


def encoded_io_head(name: str, indexes: np.ndarray) -> bytes:
    """What an input or output begins with in Kaldi's binary form: all that comes before its matrix."""
    return b"<NnetIo> %s " % name.encode() + index_vector.encode(indexes)


def _encode(parts: Sequence[tuple[bytes, bytes]]) -> bytes:
    pieces = [b"<Nnet3Eg> <NumIo> \x04" + len(parts).to_bytes(4, "little")]
    for head, matrix in parts:
        pieces += (head, matrix, b"</NnetIo> ")
    pieces.append(b"</Nnet3Eg> ")
    return b"".join(pieces)


class ExampleHolder(Holder[Example]):
    """Reading and writing examples as values of a table."""

    name = "training examples"
    contents = frozenset({"example"})

    def __init__(self) -> None:
        self._peek = _SMALLEST_PEEK
        self._layouts = KnownLayouts()

    def read_buffered(self, source: Source) -> Iterator[tuple[bytes, Example]]:
        """Keys and examples as long as the source has whole ones at hand, of known layouts; often none at all."""
        known, example, take = self._layouts.known, Example.of_layout, source.take_match
        place = 0
        while place < len(known):
            pattern, layout = known[place]
            match = take(pattern)
            if match is None:
                place += 1
                continue
            if place:
                known = (known[place], *known[:place], *known[place + 1 :])
                self._layouts.known = known
                place = 0
            yield match[1], example(match[2], layout)

    def read(self, source: Source) -> Example:
        """One example, its header included; what follows stays unread."""
        return self._read_binary(source) if read_header(source) else _read_text(source)

    def _read_binary(self, source: Source) -> Example:
        wanted = self._peek
        while True:
            block = source.peek(wanted)
            try:
                end, spans = scan_example(block)
                break
            except Incomplete as problem:
                if len(block) < wanted:
                    raise source.error(
                        f"the data end within an example, after {len(block)} bytes of it. Is it cut off?"
                    ) from None
                if problem.size > _LARGEST_EXAMPLE:
                    raise source.error(
                        f"a training example that claims to be {problem.size} bytes long: the data are damaged."
                    ) from None
                wanted = max(problem.size + 256, 2 * wanted)
            except UserError as problem:
                raise source.error(f"cannot read a training example: {problem}.") from None
        # The next example is probably as long as this one; a little more saves scanning it twice.
        self._peek = max(_SMALLEST_PEEK, end + end // 8)
        encoded = source.read(end)
        self._layouts.learn(encoded, spans)
        return Example.from_bytes(encoded, spans)

    def encode(self, value: Example) -> bytes:
        """An example in binary with its header: all of it in one piece."""
        return b"\0B" + value.encoded()

    def write(self, sink: Sink, value: Example, binary: bool) -> None:
        """One example, with its header if binary."""
        if binary:
            sink.write(self.encode(value))
        else:
            _write_text(sink, value)


EXAMPLE = ExampleHolder()


def _read_text(source: Source) -> Example:
    wanted = _SMALLEST_PEEK
    while True:
        block = source.peek(wanted)
        match = _END_OF_TEXT.search(block)
        if match or len(block) < wanted:
            break
        if wanted > _LARGEST_EXAMPLE:
            raise source.error("a training example in text that is longer than 2 GiB: the data are damaged.")
        wanted *= 2
    if match is None and not block.endswith(b"</Nnet3Eg>"):
        raise source.error("expected a training example from <Nnet3Eg> to </Nnet3Eg>, found no end. Is it cut off?")
    start = source.tell()
    text = Source(io.BytesIO(source.read(match.end() if match else len(block)) + b"\n"), source.name, start=start)
    expect_token(text, False, "<Nnet3Eg>")
    expect_token(text, False, "<NumIo>")
    num_ios = read_int(text, False)
    ios = []
    try:
        for _ in range(num_ios):
            ios.append(_read_text_io(text))
        expect_token(text, False, "</Nnet3Eg>")
        return Example(ios)
    except UserError as problem:
        if source.name in str(problem):
            raise
        raise text.error(f"cannot read a training example: {problem}.") from None


def _read_text_io(source: Source) -> NnetIo:
    expect_token(source, False, "<NnetIo>")
    name = read_token(source, False)
    expect_token(source, False, "<I1V>")
    count = read_int(source, False)
    rows = []
    for _ in range(count):
        expect_token(source, False, "<I1>")
        rows.append([read_int(source, False) for _ in range(3)])
    features = read_general_matrix(source, False)
    if isinstance(features, np.ndarray):
        features = features.astype(np.float32, copy=False)
    expect_token(source, False, "</NnetIo>")
    return NnetIo(name, np.array(rows, dtype=np.int32).reshape(-1, 3), features)


def _write_text(sink: Sink, example: Example) -> None:
    sink.write(b"<Nnet3Eg> <NumIo> %d " % len(example.ios))
    for part in example.ios:
        sink.write(b"<NnetIo> %s " % part.name.encode())
        sink.write(index_vector.encode_text(part.indexes))
        write_general_matrix(sink, part.features, False)
        sink.write(b"</NnetIo> ")
    sink.write(b"</Nnet3Eg> ")
