"""Configuration lines of networks: ``component name=affine1 type=AffineComponent input-dim=40 output-dim=100``.

Source: Kaldi src/util/text-utils.cc (``ConfigLine``) and src/nnet3/nnet-nnet.cc.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.text.lines import BLANKS, decode, key_and_rest

_KEY = re.compile(rf"(?:^|[{BLANKS}])([A-Za-z_][A-Za-z0-9_.-]*)=")


class ConfigLine:
    """One line: its first word and its ``key=value`` pairs, each of which must be asked for before :meth:`finish`.

    Of a key that is given more than once the first value counts, as in Kaldi.
    """

    def __init__(self, text: str, where: str = "") -> None:
        """Parse ``text``; ``where`` ("file:line") goes into error messages. Raises UserError if it has no such form."""
        self.text = text.strip(BLANKS)
        self.where = where
        self.first_word, rest = key_and_rest(self.text)
        self._values: dict[str, str] = {}
        self._used: set[str] = set()
        matches = list(_KEY.finditer(rest))
        if rest and (not matches or rest[: matches[0].start()].strip(BLANKS)):
            raise self.error("expected key=value pairs after the first word")
        for match, following in zip(matches, [*matches[1:], None], strict=False):
            value = rest[match.end() : following.start() if following else len(rest)].strip(BLANKS)
            if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
                value = value[1:-1]
            if match[1] in self._values:  # Kaldi's own scripts write such lines, for an output-layer with a bottleneck
                place = f"{where}: " if where else ""
                log.warning(f"{place}{match[1]}= is given twice: {self._values[match[1]]}, the first, counts.")
                continue
            self._values[match[1]] = value

    def error(self, problem: str) -> UserError:
        """A UserError that shows this line and where it stands."""
        place = f"{self.where}: " if self.where else ""
        return UserError(f"{place}{problem}, in the configuration line: {self.text}")

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def text_value(self, key: str, default: str | None = None) -> str:
        """The value as it stands. Without a default, a missing key is a UserError (so for the other kinds)."""
        self._used.add(key)
        if key in self._values:
            return self._values[key]
        if default is None:
            raise self.error(f"{key}= is missing")
        return default

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number."""
        if key not in self._values and default is not None:
            return default
        try:
            value = int(self.text_value(key))
        except ValueError:
            raise self.error(f"{key}={self._values[key]} is not a whole number") from None
        if abs(value) >= 1 << 31:
            raise self.error(f"{key}={value} does not fit into the 32 bits that model files have for it")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite real number."""
        if key not in self._values and default is not None:
            return default
        try:
            value = float(self.text_value(key))
        except ValueError:
            raise self.error(f"{key}={self._values[key]} is not a number") from None
        if value != value or value in (float("inf"), float("-inf")):
            raise self.error(f"{key}={self._values[key]} is not finite")
        return value

    def switch(self, key: str, default: bool | None = None) -> bool:
        """true or false (t, f, T, F as Kaldi accepts them)."""
        if key not in self._values and default is not None:
            return default
        value = self.text_value(key).lower()
        if value not in ("true", "false", "t", "f"):
            raise self.error(f"{key}={value} is not true or false")
        return value[0] == "t"

    def integers(self, key: str, default: list[int] | None = None) -> list[int]:
        """Whole numbers separated by commas."""
        if key not in self._values and default is not None:
            return default
        try:
            values = [int(part) for part in self.text_value(key).split(",")]
        except ValueError:
            raise self.error(f"{key}={self._values[key]} is not a list of whole numbers") from None
        if max(map(abs, values)) >= 1 << 31:
            raise self.error(f"{key}= has a number that does not fit into the 32 bits that model files have for it")
        return values

    def positive(self, key: str, default: int | None = None) -> int:
        """A whole number above zero: a dimension or a rank."""
        value = self.integer(key, default)
        if value <= 0:
            raise self.error(f"{key}={value} must be above zero")
        return value

    def finish(self) -> None:
        """Raise UserError if a key was never asked for: a misspelt option must not pass silently."""
        unused = [key for key in self._values if key not in self._used]
        if unused:
            raise self.error(f"{unused[0]}= is not understood here")


def config_lines(lines: Iterable[str], where: str = "") -> Iterator[ConfigLine]:
    """The non-empty lines of a configuration, comments (``#``) removed, each knowing its number."""
    for number, line in enumerate(lines, 1):
        text = line.split("#", 1)[0].strip(BLANKS)
        if text:
            yield ConfigLine(text, f"{where}:{number}" if where else f"line {number}")


def read_config(rxfilename: str) -> str:
    """All of a file of configuration lines. Raises UserError if it cannot be read or is not text."""
    from nnet3py.tables.streams import open_input
    from nnet3py.text.expectation import Expected

    expected = Expected("configuration lines of a network", frozenset({"configuration"}), form=None)
    with open_input(rxfilename, expected) as source:
        source.refuse_misfit()
        pieces = []
        while piece := source.read_some(1 << 16):
            pieces.append(piece)
        text = decode(b"".join(pieces))
        if "\0" in text:
            raise UserError(f"{source.name}: expected configuration lines, found binary data.")
        return text
