"""Messages on standard error in Kaldi's form: ``LOG (nnet-average[0.1.0]:main():nnet-average:31) text``.

Source of the form: Kaldi src/base/kaldi-error.cc, ``MessageLogger::LogMessage``.
"""

from __future__ import annotations

import os
import sys
from types import FrameType
from typing import TextIO

from nnet3py import __version__

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
    place = f"{os.path.basename(filename)}:{lineno}"
    _write("WARNING", f"{message} ({category.__name__}).", sys._getframe(1), place=place)


def error(text: str, problem: BaseException | None = None) -> None:
    """The line a program ends with; the place shown is where ``problem``, if given, was raised.

    Exiting is the caller's part (see :mod:`nnet3py.program`).
    """
    frame, number = sys._getframe(1), None
    traceback = problem.__traceback__ if problem is not None else None
    while traceback is not None:
        frame, number, traceback = traceback.tb_frame, traceback.tb_lineno, traceback.tb_next
    _write("ERROR", " ".join(text.splitlines()), frame, number)


def _write(severity: str, text: str, frame: FrameType, number: int | None = None, place: str = "") -> None:
    code = frame.f_code
    place = place or f"{code.co_name}():{os.path.basename(code.co_filename)}:{number or frame.f_lineno}"
    name = _program_name or os.path.basename(sys.argv[0]) or "python"
    # Control characters that came out of a file (a hostile key, say) must not drive the user's terminal.
    text = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
    try:
        sys.stderr.write(f"{severity} ({name}[{__version__}]:{place}) {text}\n")
        sys.stderr.flush()
    except OSError:  # standard error is closed or its disk is full: there is nobody left to tell
        pass
