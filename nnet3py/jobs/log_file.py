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

_ENDED = re.compile(rb"^# Ended \(code (\d+)(?:; signal (\d+))?\)", re.MULTILINE)
_FINISHED = re.compile(rb"^# Finished at .* with status (\d+)()$", re.MULTILINE)  # queue.pl, slurm.pl
_ACCOUNTING = re.compile(rb"^# Accounting: time=(\d+) ", re.MULTILINE)


def header(command: str, remarks: Sequence[str] = ()) -> str:
    """The lines before a job's output, with an engine's remarks, one a line (``Running on host7``)."""
    lines = "".join(f"# {' '.join(remark.split())}\n" for remark in remarks)
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
    data = text.encode("utf-8", "surrogateescape")
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
    try:
        with open(path, "rb") as log:
            log.seek(max(0, os.path.getsize(path) - 65536))
            lines = log.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []
    while lines and lines[-1].startswith(("# Accounting:", "# Ended (", "# Finished at ")):
        lines.pop()
    return lines[-count:]


def elapsed(path: str) -> float:
    """The wall time of a finished job in seconds, from its log; 0 where the log does not say."""
    try:
        with open(path, "rb") as log:
            log.seek(max(0, os.path.getsize(path) - 4096))
            found = _ACCOUNTING.findall(log.read())
    except OSError:
        return 0.0
    return float(found[-1]) if found else 0.0
