"""The same bytes in, out and in file names whatever the user's locale.

Names and text are UTF-8 in this project, and bytes that are none are carried through (:mod:`nnet3py.text.lines`).
Python decodes the command line, and encodes names of files, by the locale: under ``LC_ALL=C`` or a locale in GBK the
same name would then be another in a script and on the command line. So a program that finds itself in such a locale
starts once more in Python's UTF-8 mode, and writes to the standard streams whatever it got.
"""

from __future__ import annotations

import io
import os
import sys


def use_utf8() -> None:
    """To be called first by a program; comes back in a process that takes text and names as UTF-8."""
    if sys.getfilesystemencoding() != "utf-8":
        os.execv(sys.executable, [os.fsencode(sys.executable), b"-X", b"utf8", *_command_line()[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not if it is closed
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")


def _command_line() -> list[bytes]:
    """This process's, as it was given: what Python decoded cannot be encoded again in every locale."""
    try:
        with open("/proc/self/cmdline", "rb") as file:
            return file.read().split(b"\0")[:-1]
    except OSError:
        return [os.fsencode(word) for word in sys.orig_argv]
