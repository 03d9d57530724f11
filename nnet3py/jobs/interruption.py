"""An engine's end before its jobs': signals that ask for it, and the death of the driver that started the engine.

A driver that starts an engine sets the environment variable :data:`DRIVER_PID` to its own process number; should the
driver die without a word (``kill -9``), the engine notices and ends its jobs.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

DRIVER_PID = "NNET3PY_DRIVER_PID"
WATCH_SECONDS = 0.5
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Terminated(BaseException):
    """A signal asked for the end; not an Exception, so that nothing swallows it on its way."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def driver_is_gone() -> bool:
    """Whether the driver that :data:`DRIVER_PID` names is not this process's parent (any more)."""
    return os.environ.get(DRIVER_PID) != str(os.getppid())


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """Signals that ask for the end raise :class:`Terminated`; so does the death of the driver that started us."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated(number)

    def watch(number: int, frame: FrameType | None) -> None:
        if driver_is_gone():
            raise Terminated(signal.SIGHUP)

    handlers = dict.fromkeys(ENDING_SIGNALS, terminate)
    if not driver_is_gone():
        handlers[signal.SIGALRM] = watch
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    timer = signal.getitimer(signal.ITIMER_REAL)
    if signal.SIGALRM in handlers:
        signal.setitimer(signal.ITIMER_REAL, WATCH_SECONDS, WATCH_SECONDS)
    try:
        yield
    finally:
        if signal.SIGALRM in handlers:
            signal.setitimer(signal.ITIMER_REAL, *timer)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def signals_wait() -> Iterator[set[signal.Signals]]:
    """Nothing is raised in between: a process that has been started is also noted. Gives the mask from before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (*ENDING_SIGNALS, signal.SIGALRM))
    try:
        yield {signal.Signals(number) for number in before}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals() -> None:
    """For an engine that is on its way out already."""
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 0)
