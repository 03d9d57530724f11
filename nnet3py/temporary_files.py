"""Files under temporary names that are to be renamed when they are complete, and their removal when a signal comes.

An exception removes them on its way through the context managers that made them. A signal such as SIGTERM, by which
queues end jobs, is not left to an exception: it could be lost in a callback, or be held up by a pipe that says nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

from nnet3py import log

_LOOK_SECONDS = 1.0
_paths: set[str] = set()


def add(path: str) -> None:
    """Note a file, before it is made."""
    _paths.add(path)


def beside(path: str) -> str:
    """A new name in the folder of ``path``, noted, for a file that is to take its place."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name[:200]}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    add(temporary)
    return temporary


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """A temporary name for what is to be written as ``path``: flushed to disk and moved there if no exception came."""
    temporary = beside(path)
    try:
        yield temporary
        if not os.path.islink(temporary):
            with open(temporary, "rb+") as written:
                os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        remove(temporary)


def forget(path: str) -> None:
    """The file was renamed or removed."""
    _paths.discard(path)


def remove(path: str) -> None:
    """Remove a file if it is there."""
    with contextlib.suppress(OSError):
        os.unlink(path)
    _paths.discard(path)


def remove_all() -> None:
    """Remove every file that was noted and is still there."""
    for path in list(_paths):
        remove(path)


def remove_on_signals() -> None:
    """Let SIGTERM and SIGHUP remove what is unfinished and end the program with status 143 or 129.

    A signal that is ignored (``nohup``) or has a handler already keeps what it has. Python runs a handler between two
    of its own instructions: one that comes just before a read that blocks would wait for the read, for ever perhaps, so
    that an alarm interrupts what blocks every second.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)
    if signal.getsignal(signal.SIGALRM) is signal.SIG_DFL:
        signal.signal(signal.SIGALRM, _look)
        signal.setitimer(signal.ITIMER_REAL, _LOOK_SECONDS, _LOOK_SECONDS)


def stop_looking() -> None:
    """End the alarms of :func:`remove_on_signals`: the interpreter gives the signal back on its way out."""
    if signal.getsignal(signal.SIGALRM) is _look:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _look(number: int, frame: FrameType | None) -> None:
    """Nothing: to have come here is enough for the handlers of other signals to run."""


def _end(number: int, frame: FrameType | None) -> None:
    remove_all()
    with contextlib.suppress(OSError, ValueError, RuntimeError):  # RuntimeError: it came while a line was printed
        log.error(f"Ended by {signal.Signals(number).name}.")
    os._exit(128 + number)
