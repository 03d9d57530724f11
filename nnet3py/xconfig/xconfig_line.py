"""One line of an xconfig file: ``relu-layer name=tdnn1 dim=512 input=Append(-1, 0, 1) ng-affine-options="rank-in=10"``.

A value reaches up to the next ``key=`` outside double quotes and may hold blanks. ``#`` starts a comment.

Source: Kaldi egs/wsj/s5/steps/libs/nnet3/xconfig/utils.py (``parse_config_line``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.text.lines import BLANKS, fields

_FIRST_WORD = re.compile(r"[a-z][-a-z0-9]+")
_KEY = re.compile(r"([-a-zA-Z0-9_]*)=")
# Kaldi's characters, and the brackets of [-1], which Kaldi writes into xconfig.expanded.1 but does not read again.
_FORBIDDEN = re.compile(r"[^a-zA-Z0-9.\-()@_=,/+: \"\[\]]")


@dataclass(frozen=True)
class XconfigLine:
    """A line: its first word, the layer's type, and its values as they stand.

    Attributes:
        text: the line without its comment.
        where: ``file:line``, for messages.
    """

    text: str
    where: str
    first_word: str
    values: dict[str, str]

    def error(self, problem: str) -> UserError:
        """A UserError that shows this line and where it stands."""
        return UserError(f"{self.where}: {problem}, in the xconfig line: {self.text}")


def parse_line(text: str, where: str) -> XconfigLine | None:
    """Read a line; None if nothing stands on it but a comment.

    Raises:
        UserError: it does not have the form of an xconfig line.
    """
    text = " ".join(fields(text.split("#", 1)[0]))
    if not text:
        return None
    first_word, _, rest = text.partition(" ")
    line = XconfigLine(text, where, first_word, {})
    forbidden = _FORBIDDEN.search(text)
    if forbidden:
        character = forbidden[0]
        name = repr(character) if character.isprintable() else f"'{log.escaped(character)}'"
        raise line.error(f"{name} cannot stand in an xconfig file: take it out")
    if not _FIRST_WORD.fullmatch(first_word):
        raise line.error(f"expected a type of layer such as relu-layer as the first word, found {first_word!r}")
    if rest.count('"') % 2:
        raise line.error("a double quote has no partner")
    line.values.update(_values(line, rest))
    return line


def _values(line: XconfigLine, rest: str) -> dict[str, str]:
    keys = [match for match in _KEY.finditer(rest) if rest.count('"', 0, match.start()) % 2 == 0]
    if rest and (not keys or keys[0].start() != 0):
        raise line.error(f"expected key=value after {line.first_word}")
    values: dict[str, str] = {}
    for match, following in zip(keys, [*keys[1:], None], strict=False):
        key = match[1]
        if not re.match("[a-zA-Z_]", key):
            raise line.error(f"expected a key before '=' that starts with a letter, found {key!r}")
        if key in values:
            raise line.error(f"{key}= is given twice")
        value = rest[match.end() : following.start() if following else len(rest)]
        values[key] = value.replace('"', " ").strip(BLANKS)
    return values
