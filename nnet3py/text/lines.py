"""Lines and fields of text files by Kaldi's rules, and text written back with the bytes it came with.

A line ends at a line feed; a carriage return before it is dropped. Fields are separated by ASCII white space: blanks
and tabs, and what C's ``isspace`` counts besides. Every other byte belongs to the field: a no-break space, an
ideographic space or a line separator of Unicode is part of the utterance id or word that it stands in, as it is for
``sort``, ``awk`` and Kaldi's programs. Text need not be UTF-8: bytes that are not are carried through
(``surrogateescape``) and come out as they went in.

Source: Kaldi src/util/text-utils.cc (``SplitStringOnFirstSpace``), src/util/kaldi-holder-inl.h (``TokenVectorHolder``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from nnet3py.errors import UserError
from nnet3py.temporary_files import replacing
from nnet3py.text.characters import BLANKS as BLANKS
from nnet3py.text.characters import decode as decode
from nnet3py.text.characters import encode as encode
from nnet3py.text.expectation import refuse_misfit

_FIELD = re.compile(f"[^{BLANKS}]+")


def read_text(path: str | os.PathLike[str]) -> str:
    """A whole text file.

    Raises:
        UserError: it cannot be read, or its first bytes are not those of text: a byte order mark, a compressed file.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except (OSError, ValueError) as problem:
        cause = getattr(problem, "strerror", None) or problem
        raise UserError(f"Cannot read {os.fspath(path)}: {cause}.") from problem
    refuse_misfit(data, os.fspath(path))
    return decode(data)


def lines_of(text: str) -> list[str]:
    """A text's lines, without their ends."""
    lines = text.split("\n")
    if not lines[-1]:
        del lines[-1]
    return [line.removesuffix("\r") for line in lines]


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """A text file's lines, without their ends.

    Raises:
        UserError: as for :func:`read_text`.
    """
    return lines_of(read_text(path))


def fields(line: str) -> list[str]:
    """A line's fields."""
    return _FIELD.findall(line)


def key_and_rest(line: str) -> tuple[str, str]:
    """A line's first field and what follows it, without blanks around; each may be empty."""
    match = _FIELD.search(line)
    if match is None:
        return "", ""
    return match[0], line[match.end() :].strip(BLANKS)


def read_table(path: str) -> dict[str, str]:
    """A text table (``feats.scp``, ``utt2spk``), lines ``key value``: key -> what follows it, in the file's order.

    Raises:
        UserError: it cannot be read, is empty, or has a line without a value or a key twice.
    """
    table: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), 1):
        key, value = key_and_rest(line)
        if not value:
            raise UserError(f"{path}:{number}: expected a key and a value, found {line!r}.")
        if key in table:
            raise UserError(f"{path}:{number}: the key {key} is there twice.")
        table[key] = value
    if not table:
        raise UserError(f"{path} is empty: expected a line an utterance.")
    return table


def read_number(path: str, *, least: int = 0) -> int:
    """The whole number that is all of a file.

    Raises:
        UserError: the file cannot be read, or is something else.
    """
    text = read_text(path).strip(BLANKS)
    if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text) >= least):
        raise UserError(f"{path}: expected a number{f' of at least {least}' if least else ''}, found {text[:40]!r}.")
    return int(text)


def joined(lines: Iterable[str]) -> str:
    """Lines as a text, each with its end."""
    return "".join(f"{line}\n" for line in lines)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replace a text file; a reader sees the old or the new one.

    Raises:
        UserError: it cannot be written.
    """
    try:
        with replacing(os.fspath(path)) as temporary, open(temporary, "wb") as file:
            file.write(encode(text))
    except OSError as problem:
        raise UserError(f"Cannot write {os.fspath(path)}: {problem.strerror}.") from problem
