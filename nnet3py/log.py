"""Messages on standard error in Kaldi's form: ``LOG (nnet-average[0.1.0]:main():nnet-average:31) text``.

An error or a warning is one line. Where its text has more, they are what it quotes, a job's log say, and follow it as
lines of their own, indented, so that none of them can be taken for a message; very long lines lose their middle. Other
messages are results and stay as they are. Control characters are escaped. The place that is shown is always one of
this project's own code: what click, NumPy or h5py have in their files says nothing to a user.

Source of the form: Kaldi src/base/kaldi-error.cc, ``MessageLogger::LogMessage``.
"""

from __future__ import annotations

import os
import sys
from types import CodeType, FrameType
from typing import TextIO

from nnet3py import __version__

_LONGEST_MESSAGE, _LONGEST_QUOTE = 4000, 600
_INDENT = "    "
_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep
_verbose_level = 0
_program_name = ""


def set_program_name(name: str) -> None:
    """The name shown in messages; without it, the base name of ``sys.argv[0]``."""
    global _program_name
    _program_name = name


def set_verbose_level(level: int) -> None:
    """Messages of :func:`verbose` at or below this level are printed (``--verbose=N``)."""
    global _verbose_level
    _verbose_level = level


def verbose_level() -> int:
    """The level set with ``--verbose``; 0 unless set."""
    return _verbose_level


def log(text: str, kaldi_place: str = "") -> None:
    """A line of ordinary progress or result.

    ``kaldi_place`` (``PrintTotalStats():nnet-diagnostics.cc:1``) is shown as the place when the program is called by
    Kaldi's name: Kaldi's reports of a training find the line by it.
    """
    _write("LOG", text, sys._getframe(1), place=kaldi_place if _program_name.startswith("nnet3-") else "")


def verbose(level: int, text: str) -> None:
    """A line that appears only with ``--verbose`` of at least ``level``."""
    if _verbose_level >= level:
        _write(f"VLOG[{level}]", text, sys._getframe(1))


def warning(text: str) -> None:
    """Something the user should know and that the program goes on after."""
    _write("WARNING", text, sys._getframe(1))


def python_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """What a library warns of, NumPy of an overflow, say: to take the place of ``warnings.showwarning``."""
    place = f"{os.path.basename(filename)}:{lineno}" if _is_ours(filename) else ""
    _write("WARNING", f"{message} ({category.__name__}).", _own_frame(sys._getframe(1)), place=place)


def error(text: str, problem: BaseException | None = None, place: str = "") -> None:
    """The message a program ends with.

    The place shown is where ``problem``, if given, was raised: the innermost that is code of this project. ``place`` is
    shown instead if given. Exiting is the caller's part (see :mod:`nnet3py.program`).
    """
    frame, number = sys._getframe(1), None
    traceback = problem.__traceback__ if problem is not None else None
    while traceback is not None:
        if _is_ours(traceback.tb_frame.f_code.co_filename):
            frame, number = traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next
    _write("ERROR", text, frame, number, place)


def place_of(code: CodeType) -> str:
    """A function as the place of a message."""
    return f"{code.co_name}():{os.path.basename(code.co_filename)}:{code.co_firstlineno}"


def shortened(line: str, longest: int) -> str:
    """A line without its middle where it is longer than that."""
    if len(line) <= longest:
        return line
    head = longest * 2 // 3
    return f"{line[:head]} [...] {line[len(line) - (longest - head) :]}"


def escaped(line: str) -> str:
    """A line as messages have it: what cannot be printed, and bytes that are no UTF-8, as ``\\u3000`` or ``\\xe4``.

    Control characters that came out of a file (a hostile key, say) must not drive the user's terminal.
    """
    if line.isascii() and line.isprintable():
        return line
    return "".join(c if c.isprintable() or c == "\t" else _as_escape(c) for c in line)


def _as_escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else repr(character)[1:-1]


def _is_ours(filename: str) -> bool:
    """Whether a source file is one of this project or of a recipe: none of Python's or of another package."""
    path = os.path.abspath(filename)
    if path.startswith(_PACKAGE):
        return True
    is_packaged = f"{os.sep}site-packages{os.sep}" in path or f"{os.sep}dist-packages{os.sep}" in path
    return not (is_packaged or path.startswith(_STANDARD_LIBRARY) or filename.startswith("<"))


def _own_frame(frame: FrameType) -> FrameType:
    """The innermost frame of this project's code, from ``frame`` outwards."""
    candidate: FrameType | None = frame
    while candidate is not None and not _is_ours(candidate.f_code.co_filename):
        candidate = candidate.f_back
    return candidate or frame


def _write(severity: str, text: str, frame: FrameType, number: int | None = None, place: str = "") -> None:
    code = frame.f_code
    place = place or f"{code.co_name}():{os.path.basename(code.co_filename)}:{number or frame.f_lineno}"
    name = _program_name or os.path.basename(sys.argv[0]) or "python"
    first, *quoted = text.rstrip("\n").split("\n")
    if severity in ("ERROR", "WARNING"):  # others are results, which scripts read as they are
        first = shortened(first, _LONGEST_MESSAGE)
        quoted = [f"{_INDENT}{shortened(line, _LONGEST_QUOTE)}" for line in quoted]
    lines = [f"{severity} ({name}[{__version__}]:{place}) {escaped(first)}\n"]
    lines += [f"{escaped(line)}\n" for line in quoted]
    try:
        sys.stderr.write("".join(lines))
        sys.stderr.flush()
    except OSError:  # standard error is closed or its disk is full: there is nobody left to tell
        pass
