"""A job's log as Kaldi's engines write it: two lines about the command, its output, two lines about its end.

Scripts read them: ``# Ended (code 0)`` is how a job is known to have succeeded, ``# Accounting: time=`` how long it
took.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence

from nnet3py.errors import UserError
from nnet3py.text.lines import decode, encode, fields, lines_of

_ENDED = re.compile(rb"^# Ended \(code (\d+)(?:; signal (\d+))?\)", re.MULTILINE)
_FINISHED = re.compile(rb"^# Finished at .* with status (\d+)()$", re.MULTILINE)  # queue.pl, slurm.pl
_ACCOUNTING = re.compile(rb"^# Accounting: time=(\d+) ", re.MULTILINE)
_SHOWN, _SHOWN_OF_END = 10, 3  # lines
_LONGEST_LOG = 1 << 22  # bytes of its end that are looked at
_TRACEBACK = "Traceback (most recent call last)"
_ERROR = re.compile(r"(?:ERROR|ASSERTION_FAILED)\b|Traceback \(most|(?:\S*/)?(?:ba|da|k|z)?sh: (?!warning: )")
_COMPLAINT = re.compile(r"(?!LOG|WARNING|VLOG)[\w./+-]+: (?!warning)")
"""What programs that are not Kaldi's say in failing, ``gzip: ali.1.gz: unexpected end of file``."""


def header(command: str, remarks: Sequence[str] = ()) -> str:
    """The lines before a job's output, with an engine's remarks, one a line (``Running on host7``)."""
    lines = "".join(f"# {' '.join(fields(remark))}\n" for remark in remarks)
    return f"# {command}\n# Started at {_date()}\n{lines}#\n"


def footer(status: int, seconds: float, threads: int = 1) -> str:
    """The lines after a job's output; ``status`` is what :func:`os.waitstatus_to_exitcode` returns."""
    ending = f"code {status}" if status >= 0 else f"code 0; signal {-status}"
    elapsed = round(seconds)
    return (
        f"# Accounting: time={elapsed} threads={threads}\n"
        f"# Ended ({ending}) at {_date()}, elapsed time {elapsed} seconds\n"
    )


def over_time(engine: str, seconds: float) -> str:
    """A line among a job's output, when an engine ends it because of ``--time-limit``."""
    return f"{engine}: the job has run longer than --time-limit={seconds:g} seconds: it is ended.\n"


def _date() -> str:
    return time.strftime("%a %b %e %H:%M:%S %Z %Y")


def create(path: str) -> int:
    """A new, empty log, opened to append to; its directory is made where it is missing.

    What still writes to an older log of that name (a job whose engine was killed) keeps the older file.

    Raises:
        UserError: the file cannot be made.
    """
    try:
        folder = os.path.dirname(path)
        if folder:
            os.makedirs(folder, exist_ok=True)
        if os.path.isfile(path):
            os.unlink(path)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    except OSError as problem:
        raise UserError(f"Cannot open the log {path} to write: {problem.strerror}.") from problem


def append(descriptor: int, path: str, text: str) -> None:
    """Add lines to a log that :func:`create` opened.

    Raises:
        UserError: they cannot be written, on a full disk for instance.
    """
    data = encode(text)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError as problem:
        raise UserError(f"Cannot write the log {path}: {problem.strerror}.") from problem


def status(path: str) -> int | None:
    """How a job ended: 0 is success, another number failure, None not ended (or never started)."""
    try:
        with open(path, "rb") as log:
            log.seek(max(0, os.path.getsize(path) - 4096))
            text = log.read()
            endings = _ENDED.findall(text) or _FINISHED.findall(text)
    except OSError:
        return None
    if not endings:
        return None
    code, signal_number = endings[-1]
    return int(code) or (128 + int(signal_number) if signal_number else 0)


def last_lines(path: str, count: int = 10) -> list[str]:
    """The last lines of what the job itself printed (without the lines about its end)."""
    return _printed(path)[-count:]


def explanation(path: str) -> list[str]:
    """The lines of a failed job's log that say why, for a user to see; at most about ten.

    The programs of a pipe write into one log, and where one fails those after it complain that their input has ended.
    So it is the first error that explains: the lines begin with it, and with what a program like gzip had to say right
    before it. Where there are too many after it, those in the middle are left out. A log without an error has its last
    lines to tell.
    """
    return explaining(_printed(path))


def explaining(lines: Sequence[str]) -> list[str]:
    """Those of the lines that :func:`explanation` shows."""
    first = _first_error(lines)
    if first is None:
        return list(lines[-_SHOWN:])
    lines = lines[first:]
    if len(lines) <= _SHOWN:
        return list(lines)
    head = _SHOWN - _SHOWN_OF_END
    if lines[0].startswith(_TRACEBACK):  # its end says more than its beginning
        end = _end_of_traceback(lines)
        shown = [lines[0], "  [...]", *lines[end - head + 3 : end + 1]] if end > head else list(lines[: end + 1])
        head = end + 1
    else:
        shown = list(lines[:head])
    end_of_log = max(len(lines) - _SHOWN_OF_END, head)
    return [*shown, *(["[...]"] if end_of_log > head else []), *lines[end_of_log:]]


def cause(path: str) -> str:
    """The one line of a failed job's log that says most: its first error, or the last line; "" of an empty log."""
    lines = _printed(path)
    first = _first_error(lines)
    if first is None:
        return lines[-1] if lines else ""
    if lines[first].startswith(_TRACEBACK):
        return lines[first + _end_of_traceback(lines[first:])]
    return lines[first]


def _printed(path: str) -> list[str]:
    """What the job printed, in lines, without those about its beginning and end; all lines if it printed nothing."""
    try:
        with open(path, "rb") as log:
            log.seek(max(0, os.path.getsize(path) - _LONGEST_LOG))
            lines = lines_of(decode(log.read()))
    except OSError:
        return []
    while lines and lines[-1].startswith(("# Accounting:", "# Ended (", "# Finished at ")):
        lines.pop()
    start = next((number for number, line in enumerate(lines) if not line.startswith("#")), 0)
    return lines[start:]


def _first_error(lines: Sequence[str]) -> int | None:
    first = next((number for number, line in enumerate(lines) if _ERROR.match(line)), None)
    while first and _COMPLAINT.match(lines[first - 1]):
        first -= 1
    return first


def _end_of_traceback(lines: Sequence[str]) -> int:
    """The place of the line that names the exception whose traceback is at the beginning."""
    inside = (number for number, line in enumerate(lines) if number and not line.startswith(" "))
    return next(inside, len(lines) - 1)


def elapsed(path: str) -> float:
    """The wall time of a finished job in seconds, from its log; 0 where the log does not say."""
    try:
        with open(path, "rb") as log:
            log.seek(max(0, os.path.getsize(path) - 4096))
            found = _ACCOUNTING.findall(log.read())
    except OSError:
        return 0.0
    return float(found[-1]) if found else 0.0
