"""Kaldi's encoding of tokens, numbers and truth values, binary and text.

In binary a number is one byte that tells its size and then its bytes, little-endian; a token is its characters and one
blank. In text everything is separated by white space, numbers with up to 7 significant digits.

Source: Kaldi src/base/io-funcs.cc and io-funcs-inl.h.
"""

from __future__ import annotations

import math
import struct

from nnet3py.errors import UserError
from nnet3py.tables.streams import Sink, Source

_INT32 = struct.Struct("<bi")
_INT64 = struct.Struct("<bq")
_FLOAT = struct.Struct("<bf")
_DOUBLE = struct.Struct("<bd")


def read_header(source: Source) -> bool:
    r"""Whether an object is in binary form: it then starts with ``\0B``, which is consumed."""
    if source.peek(1) != b"\0":
        return False
    if source.peek(2) != b"\0B":
        raise source.error("expected an object in Kaldi's binary form (bytes 00 42), found byte 00 and no 42.")
    source.read(2)
    return True


def write_header(sink: Sink, binary: bool) -> None:
    r"""``\0B`` before a binary object, nothing before one in text."""
    if binary:
        sink.write(b"\0B")


def shown(data: bytes) -> str:
    """The first bytes of something unexpected, for a message."""
    if not data:
        return "the end of the data"
    text = data[:20].decode("ascii", "backslashreplace")
    return f'"{text}..."' if len(data) > 20 else f'"{text}"'


def read_token(source: Source, binary: bool) -> str:
    """A word, which may follow white space, and the one white-space character after it.

    Raises:
        UserError: the data end before or within it, or it is not text.
    """
    place = source.tell()
    word = source.read_word()
    if not source.peek(1):
        raise source.error(f"expected a token and a blank, found {shown(word)} and the end of the data.", place)
    source.read(1)
    try:
        return word.decode("utf-8")
    except UnicodeDecodeError:
        raise source.error(f"expected a token, found {shown(word)}.", place) from None


def write_token(sink: Sink, binary: bool, token: str) -> None:
    """A word and a blank."""
    data = token.encode("utf-8")
    assert data.split() == [data], token
    sink.write(data + b" ")


def peek_token(source: Source, binary: bool) -> str:
    """The next token, which stays to be read; empty at the end of the data (Kaldi's shows one character)."""
    if not binary:
        source.skip_space()
    size = 64
    while True:
        data = source.peek(size)
        words = data.split(None, 1)
        if len(data) < size or len(words) > 1 or size > 4096:
            return words[0].decode("utf-8", "replace") if words else ""
        size *= 4


def expect_token(source: Source, binary: bool, token: str) -> None:
    """Read a token that must be ``token``.

    Raises:
        UserError: it is another.
    """
    place = source.tell()
    try:
        found = read_token(source, binary)
    except UserError as problem:
        raise UserError(f"{problem} (Expected the token {token}.)") from None
    if found != token:
        raise source.error(f"expected the token {token}, found {shown(found.encode())}.", place)


def _text_number(source: Source, kind: str) -> bytes:
    place = source.tell()
    word = source.read_word()
    if not word:
        raise source.error(f"expected {kind}, found the end of the data.", place)
    return word


def _integer(source: Source, binary: bool, form: struct.Struct, bits: int) -> int:
    place = source.tell()
    if binary:
        size, value = form.unpack(source.read(form.size))
        if size != form.size - 1:
            raise source.error(f"expected an integer of {form.size - 1} bytes, found its size to be {size}.", place)
        return int(value)
    word = _text_number(source, "an integer")
    try:
        number = int(word if b"_" not in word else b"")  # Python reads 1_000 as a number, Kaldi does not
    except ValueError:
        raise source.error(f"expected an integer, found {shown(word)}.", place) from None
    if not -(1 << bits - 1) <= number < 1 << bits - 1:
        raise source.error(f"expected an integer of {bits} bits, found {shown(word)}.", place)
    return number


def read_int(source: Source, binary: bool) -> int:
    """An integer of 32 bits."""
    return _integer(source, binary, _INT32, 32)


def read_int64(source: Source, binary: bool) -> int:
    """An integer of 64 bits."""
    return _integer(source, binary, _INT64, 64)


def read_float(source: Source, binary: bool) -> float:
    """A number of 4 or 8 bytes; in text also inf and nan."""
    place = source.tell()
    if binary:
        size = source.peek(1)
        if size == b"\4":
            return float(_FLOAT.unpack(source.read(5))[1])
        if size == b"\10":
            return float(_DOUBLE.unpack(source.read(9))[1])
        if not size:
            raise source.error("expected a number, found the end of the data.")
        raise source.error(f"expected a number of 4 or 8 bytes, found its size to be {size[0]}.")
    word = _text_number(source, "a number")
    try:
        return float(word if b"_" not in word else b"")
    except ValueError:
        raise source.error(f"expected a number, found {shown(word)}.", place) from None


read_double = read_float


def read_bool(source: Source, binary: bool) -> bool:
    """``T`` or ``F``."""
    if not binary:
        source.skip_space()
    letter = source.peek(1)
    if letter not in (b"T", b"F"):
        raise source.error(f"expected T or F, found {shown(letter)}.")
    source.read(1)
    return letter == b"T"


def format_number(value: float) -> str:
    """A number as a C++ stream of precision 7 prints it."""
    return f"{value:.7g}"


def write_int(sink: Sink, binary: bool, value: int) -> None:
    """An integer of 32 bits."""
    sink.write(_INT32.pack(4, value) if binary else b"%d " % value)


def write_int64(sink: Sink, binary: bool, value: int) -> None:
    """An integer of 64 bits."""
    sink.write(_INT64.pack(8, value) if binary else b"%d " % value)


def write_float(sink: Sink, binary: bool, value: float) -> None:
    """A number of 4 bytes; one that is too large for them becomes infinite."""
    if not binary:
        sink.write(b"%.7g " % value)
        return
    try:
        sink.write(_FLOAT.pack(4, value))
    except OverflowError:
        sink.write(_FLOAT.pack(4, math.copysign(math.inf, value)))


def write_double(sink: Sink, binary: bool, value: float) -> None:
    """A number of 8 bytes; in text 7 digits, like a number of 4."""
    sink.write(_DOUBLE.pack(8, value) if binary else b"%.7g " % value)


def write_bool(sink: Sink, binary: bool, value: bool) -> None:
    """``T`` or ``F``."""
    sink.write((b"T" if value else b"F") + (b"" if binary else b" "))
