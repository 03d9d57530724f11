"""Lines and fields of text: what ends a line, what separates fields, what goes through unchanged."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnet3py.errors import UserError
from nnet3py.text.lines import (
    decode,
    encode,
    fields,
    joined,
    key_and_rest,
    read_lines,
    read_number,
    read_table,
    read_text,
    write_text,
)
from nnet3py.text.symbols import read_symbols

NOT_BLANK = [
    b"\xc2\xa0",  # no-break space
    b"\xe3\x80\x80",  # ideographic space
    b"\xe2\x80\xa8",  # line separator
    b"\xc2\x85",  # next line
    b"\xe4",  # a letter in Latin-1
    b"\x81\x5c",  # a character in GBK whose second byte is a backslash
    b"\x1c\x1d\x1e\x1f",  # white space for Python's str
    b"\xef\xbb\xbf",  # a byte order mark that is not at the start
]


@pytest.mark.parametrize("odd", NOT_BLANK)
def test_bytes_that_are_no_ascii_blanks_belong_to_the_field(odd: bytes, tmp_path: Path) -> None:
    (tmp_path / "scp").write_bytes(b"u" + odd + b"1 a.ark:5\nu2 b" + odd + b".ark:9\n")
    table = read_table(str(tmp_path / "scp"))
    assert [encode(key) for key in table] == [b"u" + odd + b"1", b"u2"]
    assert encode(table["u2"]) == b"b" + odd + b".ark:9"
    write_text(tmp_path / "copy", joined(f"{key} {value}" for key, value in table.items()))
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "scp").read_bytes()


def test_lines_end_at_line_feeds_and_a_carriage_return_before_one_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"one\r\n\r\ntwo \r three\x0c\nlast")
    assert read_lines(tmp_path / "text") == ["one", "", "two \r three\x0c", "last"]


def test_fields_are_separated_by_what_c_calls_white_space() -> None:
    assert fields("\ta  b\tc\r\x0b\x0cd ") == ["a", "b", "c", "d"]
    assert key_and_rest(" \tkey \t the  rest \r") == ("key", "the  rest")
    assert key_and_rest("key") == ("key", "")
    assert key_and_rest(" ") == ("", "")


@pytest.mark.parametrize(
    ("mark", "encoding", "says"),
    [
        (b"\xef\xbb\xbf", "utf-8", "UTF-8"),
        (b"\xff\xfe", "utf-16-le", "UTF-16"),
        (b"\xfe\xff", "utf-16-be", "UTF-16"),
    ],
)
def test_a_byte_order_mark_is_named(mark: bytes, encoding: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(mark + "u1 one\n".encode(encoding))
    with pytest.raises(UserError, match=f"begins with a byte order mark .*{says}"):
        read_text(tmp_path / "text")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"u1 a\n\nu2 b\n", ":2: expected a key and a value, found ''"),
        (b"u1 a\nu2\n", ":2: expected a key and a value, found 'u2'"),
        (b"u1 a\nu1 b\n", ":2: the key u1 is there twice"),
    ],
)
def test_a_table_that_is_none_is_refused_with_the_line(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "scp").write_bytes(content)
    with pytest.raises(UserError, match=says):
        read_table(str(tmp_path / "scp"))


@pytest.mark.parametrize(
    ("content", "number"), [("12\n", 12), (" 3 \r\n", 3), ("0", None), ("-1", None), ("1 2", None), ("\u0663", None)]
)
def test_a_number_is_all_of_its_file(content: str, number: int | None, tmp_path: Path) -> None:
    (tmp_path / "n").write_text(content)
    if number is not None:
        assert read_number(str(tmp_path / "n"), least=1) == number
        return
    with pytest.raises(UserError, match="expected a number of at least 1"):
        read_number(str(tmp_path / "n"), least=1)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Cannot read .*absent: No such file or directory"):
        read_lines(tmp_path / "absent")
    with pytest.raises(UserError, match=r"Cannot write .*no/where"):
        write_text(tmp_path / "no/where", "text")


def test_every_byte_comes_back(tmp_path: Path) -> None:
    every = bytes(range(256))
    assert encode(decode(every)) == every
    write_text(tmp_path / "all", decode(every))
    assert (tmp_path / "all").read_bytes() == every
    assert read_text(tmp_path / "all") == decode(every)


def test_symbols_may_hold_any_byte_but_blanks(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_bytes(b"<eps> 0\r\nnew\xc2\xa0york 1\ncaf\xe9\t2\n")
    assert {encode(word): n for word, n in read_symbols(str(tmp_path / "words.txt")).items()} == {
        b"<eps>": 0,
        b"new\xc2\xa0york": 1,
        b"caf\xe9": 2,
    }
