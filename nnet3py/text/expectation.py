"""What a reader expects, and what to tell a user whose file is of another kind.

A reader opens its file with an :class:`Expected`; if reading fails, or at the first bytes where nothing but another
kind can begin so, :func:`misfit` says what the file is and what to write instead. It says nothing of a file of the
right kind, whatever is wrong in it further on.
"""

from __future__ import annotations

import enum
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from nnet3py.errors import UserError
from nnet3py.text.characters import BLANKS
from nnet3py.text.file_kind import EMPTY, FIRST_BYTES, OTHER_OBJECT, Form, Kind, describe


class Origin(enum.Enum):
    """Where bytes come from, on which depends what to write instead."""

    FILE = "a file"
    COMMAND = "what a command prints"
    STANDARD_INPUT = "standard input"


@dataclass(frozen=True)
class Expected:
    """What a reader expects.

    Attributes:
        what: for messages, with its article: "a network", "a table of matrices".
        contents: the words for it that :attr:`nnet3py.text.file_kind.Kind.content` may have; empty for any.
        form: by itself, an archive or a script; ``None`` for text that is read line by line.
        usual_names: what such a file is called in a directory, to be offered where the directory was given.
        advice: what to do with a file of another kind, by its content, or by the words "archive" and "script".
        takes_commands: whether ``command |`` can stand for the file.
    """

    what: str
    contents: frozenset[str] = frozenset()
    form: Form | None = Form.ONE
    usual_names: tuple[str, ...] = ()
    advice: Mapping[str, str] = field(default_factory=dict)
    takes_commands: bool = True


TEXT = Expected("lines of text", form=None, takes_commands=False)
"""A text file that is opened by its name, not as a rxfilename."""

MATRIX_FILE = Expected("a matrix in a file of its own", frozenset({"matrix"}))
VECTOR_FILE = Expected("a vector in a file of its own", frozenset({"vector"}))

DECOMPRESS = {
    "gzip": "gunzip -c",
    "bzip2": "bunzip2 -c",
    "xz": "xz -dc",
    "zstd": "zstd -dc",
    "lz4": "lz4 -dc",
}
"""What decompresses a file to standard output, by its content."""

SOX = "sox {} -t wav -b 16 -e signed-integer -"
FFMPEG = "ffmpeg -v error -i {} -f wav -c:a pcm_s16le -"
TO_WAV = {
    "FLAC": "flac -c -d -s {}",
    "SPHERE": "sph2pipe -f wav {}",
    "Shorten": "shorten -x {} -",
    **dict.fromkeys(("AIFF", "AU", "Wave64"), SOX),
    **dict.fromkeys(("Ogg", "MP3", "AAC", "MP4", "CAF", "WMA", "AMR", "video"), FFMPEG),
}
"""What makes a WAV file of 16-bit samples of a recording in another form, by its content; ``{}`` is its name."""

_READ_BY = {
    "matrix": "copy-feats",
    "vector": "copy-vector",
    "integers": "copy-int-vector",
    "posterior": "nnet-get-egs",
    "example": "nnet-copy-egs",
    "network": "nnet-info",
    "transition model": "nnet-am-info and hmm-info",
    "tree": "tree-info",
    "recording": "compute-mfcc-feats",
    "transducer": "decode-faster-mapped",
    "configuration": "nnet-init",
    "LDA statistics": "nnet-get-feature-transform",
}
_ELSEWHERE = {
    "packed": "unpack it and give a file of those in it",
    "tar": "unpack it (tar -xf) and give a file of those in it",
    "PyTorch": "it is not read here; write its parameters into a Kaldi file or HDF5 with Python",
    "ONNX": "it is not read here; Kaldi's own files and HDF5 are",
    "NumPy": "write the arrays into an archive or into HDF5 (h5py; a data set a key, read as hdf5:FILE)",
    "pickle": "it is not read here, because it can run commands; write it into an archive or HDF5",
    "web page": "if it was downloaded, look at it: it may say what went wrong",
    "Git LFS": "`git lfs pull` fetches the file itself",
}


def misfit(
    first_bytes: bytes,
    name: str,
    expected: Expected,
    origin: Origin = Origin.FILE,
    *,
    problem: str = "",
    start: int = 0,
) -> str | None:
    """A message if a file that begins with these bytes is of another kind than expected; ``None`` if not.

    Args:
        first_bytes: 512 of them, or all that there are.
        name: of the file, or the command with its ``|``.
        expected: what its reader expects.
        origin: where the bytes come from.
        problem: what its reader could not understand. That is said as well where the kind is only likely.
        start: the byte of the file at which reading started.
    """
    kind = describe(first_bytes[:FIRST_BYTES])
    if kind is None or _fits(kind, expected):
        return None
    if start and not kind.certain and kind.form is not Form.ONE:
        return None  # values in text look like keys and values
    kind = replace(kind, value_start=start + kind.value_start)
    if problem and (not kind.certain or kind.form is expected.form is Form.ARCHIVE):
        advice = _advice(kind, name, expected, origin)
        return f"{problem} This looks like {kind.name}{_key(kind)}{': ' if advice else ''}{advice}."
    return _message(kind, name, expected, origin)


def certain_misfit(first_bytes: bytes, name: str, expected: Expected, origin: Origin = Origin.FILE) -> str | None:
    """As :func:`misfit`, only if no file of the expected form can begin so: to be asked before anything is read."""
    kind = describe(first_bytes[:FIRST_BYTES])
    if kind is None or not kind.certain or _fits(kind, expected):
        return None
    if kind.form is expected.form and "words" not in expected.contents:
        return None  # reading values will show
    return _message(kind, name, expected, origin)


def refuse_misfit(first_bytes: bytes, name: str, expected: Expected = TEXT) -> None:
    """Raise UserError for a :func:`certain_misfit`: for readers of text that have no stream of their own."""
    if text := certain_misfit(first_bytes, name, expected):
        raise UserError(text)


def _fits(kind: Kind, expected: Expected) -> bool:
    if kind is EMPTY:
        return expected.form is not Form.ONE
    if expected.form is None:
        return not kind.certain
    if kind.form is Form.SCRIPT and expected.form is Form.ARCHIVE:
        return "words" in expected.contents  # lines of words look like it
    if kind.content == OTHER_OBJECT and expected.form is Form.ONE:
        return True  # the reader's own message names it
    return kind.form is expected.form and (not expected.contents or kind.content in expected.contents)


def _message(kind: Kind, name: str, expected: Expected, origin: Origin) -> str:
    found = kind.name
    if origin is not Origin.FILE:
        found = "nothing" if kind is EMPTY else f"{found}, by its first bytes"
    advice = _advice(kind, name, expected, origin)
    return f"{name}: expected {expected.what}, found {found}{_key(kind)}{': ' if advice else ''}{advice}."


def _key(kind: Kind) -> str:
    return f" (its first key is {kind.key!r})" if kind.key else ""


def _advice(kind: Kind, name: str, expected: Expected, origin: Origin) -> str:
    """What to do, without a full stop; empty if nothing can be said."""
    asked = kind.content if kind.form is Form.ONE else kind.form.name.lower()
    if asked in expected.advice:
        return expected.advice[asked].format(name=name, start=kind.value_start)
    if kind is EMPTY:
        return "what was to write it may have failed, or goes on still" if origin is Origin.FILE else ""
    if kind.content in DECOMPRESS and kind.form is Form.ONE:
        return _instead(DECOMPRESS[kind.content], name, expected, origin)
    if kind.content in ("byte order mark", "UTF-16"):
        return _without_mark(kind, name, origin)
    if kind.content in TO_WAV:
        if "recording" in expected.contents and origin is Origin.FILE:
            return f"a line of wav.scp can convert it, 'KEY {TO_WAV[kind.content].format(shlex.quote(name))} |'"
        return "convert it to a WAV file"
    if kind.content == "git-annex":
        return f"`git annex get {shlex.quote(name)}` fetches the file itself"
    if kind.content == "HDF5" and expected.form is Form.ARCHIVE:
        return f"if it is a table, write hdf5:{name}"
    if kind.content in _ELSEWHERE:
        return _ELSEWHERE[kind.content]
    return _other_form(kind, name, expected)


def _instead(command: str, name: str, expected: Expected, origin: Origin) -> str:
    table = {Form.ARCHIVE: "ark:", Form.SCRIPT: "scp:"}.get(expected.form, "") if expected.form else ""
    if origin is Origin.STANDARD_INPUT:
        return f"put `{command} |` before this program"
    if origin is Origin.COMMAND:
        return f"write '{table}{name.removesuffix('|').strip(BLANKS)} | {command} |'"
    if not expected.takes_commands:
        return f"unpack it, `{command} {shlex.quote(name)} > NEW`"
    return f"write '{table}{command} {shlex.quote(name)} |'"


def _without_mark(kind: Kind, name: str, origin: Origin) -> str:
    """A mark would be taken as part of the first word."""
    if kind.content == "UTF-16":
        command = "iconv -f UTF-16 -t UTF-8"
        return f"convert it, `{command} {shlex.quote(name)} > NEW`" if origin is Origin.FILE else f"add `| {command}`"
    command = r"sed {}'1s/^\xef\xbb\xbf//'"
    if origin is Origin.FILE:
        return f"it would become part of the first word; remove it, `{command.format('-i ')} {shlex.quote(name)}`"
    return f"it would become part of the first word; remove it, `| {command.format('')}`"


def _other_form(kind: Kind, name: str, expected: Expected) -> str:
    """What belongs to Kaldi, but not here."""
    if kind.content == "integers" and "posterior" in expected.contents:
        return "ali-to-post makes posteriors of alignments"
    same = not expected.contents or kind.content in expected.contents
    if kind.form is Form.SCRIPT:
        return f"write scp:{name}" if expected.form is Form.ARCHIVE else "give one of the files that it names"
    if kind.form is Form.ARCHIVE:
        if expected.form is Form.SCRIPT:
            return f"write ark:{name}"
        if expected.form is Form.ONE and same:
            return f"its first is {name}:{kind.value_start}; for all of them the program must take a table, ark:{name}"
    elif expected.form is Form.ARCHIVE and same:
        return f"a table has keys: write a script with the line 'KEY {name}' and scp: before its name"
    return f"it is for programs such as {_READ_BY[kind.content]}" if kind.content in _READ_BY else ""
