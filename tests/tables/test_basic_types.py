"""Tokens and numbers in Kaldi's binary and text encoding."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest

from nnet3py.errors import UserError
from nnet3py.tables.basic_types import (
    expect_token,
    peek_token,
    read_bool,
    read_double,
    read_float,
    read_header,
    read_int,
    read_int64,
    read_token,
    write_bool,
    write_double,
    write_float,
    write_header,
    write_int,
    write_int64,
    write_token,
)
from nnet3py.tables.streams import Sink, Source


def source_of(data: bytes) -> Source:
    return Source(io.BytesIO(data), "memory")


def bytes_of(write: object, *arguments: object) -> bytes:
    buffer = io.BytesIO()
    write(Sink(buffer, "memory"), *arguments)  # type: ignore[operator]
    return buffer.getvalue()


def test_numbers_have_kaldis_bytes() -> None:
    assert bytes_of(write_int, True, -2) == b"\x04\xfe\xff\xff\xff"
    assert bytes_of(write_int64, True, 1) == b"\x08\x01" + b"\0" * 7
    assert bytes_of(write_float, True, 1.5) == b"\x04\0\0\xc0\x3f"
    assert bytes_of(write_double, True, 1.5) == b"\x08\0\0\0\0\0\0\xf8\x3f"
    assert bytes_of(write_bool, True, True) == b"T"
    assert bytes_of(write_header, True) == b"\0B"
    assert bytes_of(write_token, True, "<Nnet3>") == b"<Nnet3> "


def test_numbers_have_kaldis_text() -> None:
    assert bytes_of(write_int, False, -2) == b"-2 "
    assert bytes_of(write_bool, False, False) == b"F "
    assert bytes_of(write_header, False) == b""
    # what a C++ stream of precision 7 prints
    for value, text in [
        (np.float32(0.1), b"0.1 "),
        (np.float32(1 / 3), b"0.3333333 "),
        (1e-5, b"1e-05 "),
        (1e10, b"1e+10 "),
        (123456789.0, b"1.234568e+08 "),
        (-0.0, b"-0 "),
        (math.inf, b"inf "),
        (math.nan, b"nan "),
    ]:
        assert bytes_of(write_float, False, float(value)) == text
        assert bytes_of(write_double, False, float(value)) == text


@pytest.mark.parametrize("binary", [True, False])
def test_what_is_written_reads_back(binary: bool) -> None:
    buffer = io.BytesIO()
    sink = Sink(buffer, "memory")
    write_header(sink, binary)
    write_token(sink, binary, "<A>")
    write_int(sink, binary, -(2**31))
    write_int64(sink, binary, 2**40)
    write_float(sink, binary, 0.5)
    write_double(sink, binary, -1.25)
    write_bool(sink, binary, True)
    write_token(sink, binary, "</A>")
    source = source_of(buffer.getvalue())
    assert read_header(source) is binary
    assert peek_token(source, binary) == "<A>"
    assert read_token(source, binary) == "<A>"
    assert read_int(source, binary) == -(2**31)
    assert read_int64(source, binary) == 2**40
    assert read_float(source, binary) == 0.5
    assert read_double(source, binary) == -1.25
    assert read_bool(source, binary) is True
    expect_token(source, binary, "</A>")
    assert source.at_end()


def test_a_float_may_be_stored_in_either_size() -> None:
    assert read_float(source_of(bytes_of(write_double, True, 0.25)), True) == 0.25
    assert read_double(source_of(bytes_of(write_float, True, 0.25)), True) == 0.25


def test_a_number_too_large_for_a_float_becomes_infinite() -> None:
    assert read_float(source_of(bytes_of(write_float, True, -1e300)), True) == -math.inf


@pytest.mark.parametrize("text", [b"nan", b"inf", b"-inf", b"Infinity"])
def test_text_numbers_may_be_infinite_or_nan(text: bytes) -> None:
    assert not math.isfinite(read_float(source_of(text + b" "), False))


@pytest.mark.parametrize(
    ("read", "data", "binary", "message"),
    [
        (read_int, b"\x08\0\0\0\0", True, "expected an integer of 4 bytes, found its size to be 8"),
        (read_int, b"\x04\0", True, "expected 5 more bytes, found 2"),
        (read_int, b"x1 ", False, 'expected an integer, found "x1"'),
        (read_int, b"1_0 ", False, "expected an integer"),
        (read_int, b"2147483648 ", False, "expected an integer of 32 bits"),
        (read_int, b"", False, "found the end of the data"),
        (read_float, b"\x05abcd", True, "found its size to be 5"),
        (read_float, b"", True, "found the end of the data"),
        (read_float, b"1_0 ", False, "expected a number"),
        (read_float, b"zero ", False, 'expected a number, found "zero"'),
        (read_bool, b"X", True, 'expected T or F, found "X"'),
        (read_token, b"<Nn", True, "expected a token and a blank"),
        (read_token, b"   ", True, "the end of the data"),
        (read_token, b"\xff\xfe ", True, "expected a token"),
    ],
)
def test_what_is_not_there_says_what_is(read: object, data: bytes, binary: bool, message: str) -> None:
    with pytest.raises(UserError, match=f"memory, byte 0: .*{message}"):
        read(source_of(data), binary)  # type: ignore[operator]


def test_another_token_is_named_with_its_place() -> None:
    source = source_of(b"<A> <B> ")
    expect_token(source, True, "<A>")
    with pytest.raises(UserError, match='byte 4: expected the token <C>, found "<B>"'):
        expect_token(source, True, "<C>")


def test_half_a_binary_header_is_an_error() -> None:
    with pytest.raises(UserError, match="bytes 00 42"):
        read_header(source_of(b"\0C"))


def test_a_word_without_end_does_not_fill_the_memory() -> None:
    with pytest.raises(UserError, match="without white space"):
        read_token(source_of(b"x" * 6_000_000), True)
