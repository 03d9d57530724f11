"""An experiment's directory: what is finished, what it was made with, who is at work on it.

Model ``i`` is ``<dir>/<i>.raw``; iteration i is finished when model i+1 exists. Programs write files complete or not
at all, so the directory's content is the state: a driver that starts again goes on after the last model. What it was
started with is kept in ``<dir>/train_options.json``, for models made with other options would not fit.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import IO, Any

from nnet3py.errors import UserError
from nnet3py.jobs.interruption import WATCH_SECONDS, driver_is_gone
from nnet3py.temporary_files import replacing

_MODEL = re.compile(r"(\d+)\.raw")
_LOCK_SECONDS = 5.0
_VELOCITY = re.compile(r"(\d+)\.velocity\.raw")
_SHARD_MODEL = re.compile(r"(\d+)\.(?:\d+|average)\.raw")


def write_atomically(path: str, text: str) -> None:
    """Replace a text file; a reader sees the old or the new one."""
    try:
        with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as problem:
        raise UserError(f"Cannot write {path}: {problem.strerror}.") from problem


def copy_atomically(source: str, target: str) -> None:
    """Copy a file under another name, complete or not at all."""
    try:
        with replacing(target) as temporary, open(source, "rb") as original, open(temporary, "wb") as copy:
            shutil.copyfileobj(original, copy, 1 << 20)
    except OSError as problem:
        raise UserError(f"Cannot copy {source} to {target}: {problem.strerror}.") from problem


def digest(path: str) -> str:
    """A file's SHA-256; "" where there is none."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except FileNotFoundError:
        return ""


def link_atomically(target: str, path: str) -> None:
    """Make ``path`` a symbolic link, in place of what was there."""
    with replacing(path) as temporary:
        os.symlink(target, temporary)


@contextlib.contextmanager
def locked(folder: str, what: str) -> Iterator[None]:
    """Keep others out of a directory; the lock goes with the process, however that ends.

    Waits a little for another process, which may be about to end because its driver was killed.

    Raises:
        UserError: another process has it.
    """
    path = os.path.join(folder, ".lock")
    with open(path, "a+", encoding="utf-8") as file:
        deadline = time.monotonic() + _LOCK_SECONDS
        while not _try_lock(file):
            if time.monotonic() > deadline:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise UserError(f"{holder} is already at work in {folder}: wait for it or end it first.")
            time.sleep(0.1)
        file.truncate(0)
        file.write(f"{what} (process {os.getpid()})\n")
        file.flush()
        yield
        file.truncate(0)


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def termination_interrupts() -> Iterator[None]:
    """SIGTERM and SIGHUP end a driver as Ctrl-C does: by KeyboardInterrupt, so that jobs are ended with it.

    A driver that another driver started ends in the same way when that one is gone, killed perhaps.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def watch(number: int, frame: FrameType | None) -> None:
        if driver_is_gone():
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt

    handlers = {signal.SIGTERM: interrupt, signal.SIGHUP: interrupt}
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


class Experiment:
    """The files of one training directory."""

    def __init__(self, folder: str) -> None:
        """``folder`` must exist."""
        self.folder = folder

    def path(self, name: str) -> str:
        """A file of the directory."""
        return f"{self.folder}/{name}"

    def log(self, name: str) -> str:
        """A log of the directory."""
        return f"{self.folder}/log/{name}.log"

    def model(self, index: int | str) -> str:
        """Model ``index``; ``index`` is a number, ``final`` or, for a job's model, ``4.2`` or ``4.JOB``."""
        return f"{self.folder}/{index}.raw"

    def has(self, name: str) -> bool:
        """Whether a file of the directory exists."""
        return os.path.isfile(self.path(name))

    def models(self) -> list[int]:
        """The numbers of the models that exist, ascending."""
        found = (_MODEL.fullmatch(name) for name in os.listdir(self.folder))
        return sorted(int(match[1]) for match in found if match)

    def last_model(self) -> int | None:
        """The number of the newest model, None before the first."""
        return max(self.models(), default=None)

    def remove(self, *names: str) -> None:
        """Remove files that may not exist."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path(name))

    def remove_models_after(self, index: int) -> None:
        """Forget the iterations from ``index`` on, and what was made of them."""
        self.remove(*(f"{model}.raw" for model in self.models() if model > index))
        velocities = (_VELOCITY.fullmatch(name) for name in os.listdir(self.folder))
        self.remove(*(match[0] for match in velocities if match and int(match[1]) > index))
        self.remove("final.raw", "final.mdl", "final.priors")
        self.remove_shard_models()

    def remove_shard_models(self) -> None:
        """Remove the jobs' own models, and averages that were changed, which an iteration's result has replaced."""
        self.remove(*(name for name in os.listdir(self.folder) if _SHARD_MODEL.fullmatch(name)))

    def record(
        self, name: str, values: dict[str, Any], *, force: bool, defaults: dict[str, Any] | None = None
    ) -> dict[str, tuple[Any, Any]]:
        """Note in file ``name`` what the experiment is made with; returns what differs from last time: (then, now).

        What the note of last time lacks had its value in ``defaults``, if it has one: an option that is newer than the
        note. Nothing is noted where something differs and ``force`` is false.

        Raises:
            UserError: the note of last time is damaged.
        """
        now = json.loads(json.dumps(values))
        then = self._recorded(name)
        changed = {}
        if then is not None:
            then = {**json.loads(json.dumps(defaults or {})), **then}
            for key in sorted(set(then) | set(now)):
                if then.get(key) != now.get(key):
                    changed[key] = (then.get(key), now.get(key))
        if then is None or (changed and force):
            write_atomically(self.path(name), json.dumps(now, indent=1, sort_keys=True) + "\n")
        return changed

    def _recorded(self, name: str) -> dict[str, Any] | None:
        path = self.path(name)
        try:
            with open(path, encoding="utf-8") as file:
                found = json.load(file)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as problem:
            raise UserError(f"Cannot read {path} ({problem}): remove it to go on with the options given now.") from None
        if not isinstance(found, dict):
            raise UserError(f"{path} does not hold options: remove it to go on with the options given now.")
        return found
