"""Symbol tables: the numbers that phones and words have (``phones.txt``, ``words.txt``)."""

from __future__ import annotations

from collections import Counter

from nnet3py.errors import UserError
from nnet3py.text.lines import fields, read_lines


def read_symbols(path: str) -> dict[str, int]:
    """A symbol table, lines ``symbol number``: symbol -> number.

    Raises:
        UserError: unreadable, a line of another form, or a symbol or number that comes twice.
    """
    symbols: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), 1):
        words = fields(line)
        if not words:
            continue
        if len(words) != 2 or not words[1].isascii() or not words[1].isdigit() or len(words[1]) > 9:
            raise UserError(f"{path}:{number}: expected 'symbol number', found {line!r}.")
        if words[0] in symbols:
            raise UserError(f"{path}:{number}: the symbol {words[0]!r} comes a second time.")
        symbols[words[0]] = int(words[1])
    repeated = [value for value, count in Counter(symbols.values()).items() if count > 1]
    if repeated:
        raise UserError(f"{path}: the number {repeated[0]} stands for more than one symbol.")
    return symbols
