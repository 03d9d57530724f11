"""What a file that should be a recording in WAV form is, told by its first bytes, and how to read it instead.

Kaldi's tools read one form of audio; any other comes through the pipe of a program that converts it, in ``wav.scp``.
"""

from __future__ import annotations

import re
import shlex

from nnet3py.text.expectation import DECOMPRESS, FFMPEG, SOX, TO_WAV
from nnet3py.text.file_kind import EMPTY, Form, describe


def convert_with(command: str, name: str) -> str:
    """What to write in place of a file that ``command`` can convert, ``{}`` being its name."""
    if name.endswith("|"):
        return f"let its output go through `{command.format('-')}`"
    file = "FILE" if name == "standard input" else shlex.quote(name)
    return f"write `{command.format(file)} |` in its place"


def to_16_bits(name: str) -> str:
    """How to make 16-bit WAV of a file that SoX or FFmpeg can read."""
    return f"{convert_with(SOX, name)} (or `{FFMPEG.format('FILE')} |`)"


def instead_of_wave(first: bytes, name: str) -> str:
    """What a file with these first bytes is and what to do with it, to end a sentence with: ``a FLAC file: write ...``.

    Args:
        first: up to 512 bytes.
        name: what the stream they come from calls it, a file's name or a command that ends with ``|``.
    """
    kind = describe(first)
    if kind is EMPTY:
        return "nothing: the file is empty"
    if kind is not None and kind.form is Form.SCRIPT:
        return f"{kind.name}: give it as scp:"
    if kind is not None:
        command = TO_WAV.get(kind.content) or (f"{DECOMPRESS[kind.content]} {{}}" if kind.content in DECOMPRESS else "")
        return f"{kind.name}: {convert_with(command, name)}" if command else kind.name
    line = first.split(b"\n", 1)[0]
    if re.fullmatch(rb"[\x20-\x7e\t\r]+", line):
        return f'text, "{line[:40].decode("ascii").strip()}": if it is a list of files, give it as scp:'
    shown = first[:12].decode("ascii", "backslashreplace")
    return f'"{shown}...": if it is samples without a header, give them one with `sox -t raw ... -t wav - |`'
