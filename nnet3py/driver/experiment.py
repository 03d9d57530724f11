"""An experiment's directory: what is finished, what it was made with, who is at work on it.

Model ``i`` is ``<dir>/<i>.raw``; iteration i is finished when model i+1 exists. Programs write files complete or not
at all, so the directory's content is the state: a driver that starts again goes on after the last model. What it was
started with is kept in ``<dir>/train_options.json``, for models made with other options would not fit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

from nnet3py.errors import UserError
from nnet3py.jobs.interruption import WATCH_SECONDS, driver_is_gone
from nnet3py.temporary_files import replacing
from nnet3py.text.lines import read_text, write_text

_MODEL = re.compile(r"(\d+)\.raw")
_VELOCITY = re.compile(r"(\d+)\.velocity\.raw")
_SHARD_MODEL = re.compile(r"(\d+)\.(?:\d+|average|group\d+-\d+)\.raw|\d+\.group\d+-\d+\.list")
_PART = re.compile(r"(?:group)?\d+\.lda_stats|group\d+\.lda_stats\.list|post\.\w+\.(?:\d+\.vec|parts\.scp)")
_UNFINISHED = re.compile(r"\..+\.\d+\.[0-9a-f]{8}\.tmp")


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


def remove_unfinished(folder: str, *within: str) -> None:
    """Remove the files under temporary names that killed programs have left.

    Looked at are a folder, those ``within`` it that are named, and ``log``; any of them may not exist. Other folders in
    it may be another driver's, which is at work.
    """
    for each in (folder, *(f"{folder}/{name}" for name in ("log", *within))):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for name in os.listdir(each):
                if _UNFINISHED.fullmatch(name):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(os.path.join(each, name))


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
        self.remove_velocities_after(index)
        self.remove("final.raw", "final.mdl", "final.priors")
        self.remove_shard_models()

    def remove_velocities_after(self, index: int) -> None:
        """Remove the velocities that were left with models after ``index``."""
        velocities = (_VELOCITY.fullmatch(name) for name in os.listdir(self.folder))
        self.remove(*(match[0] for match in velocities if match and int(match[1]) > index))

    def remove_shard_models(self) -> None:
        """Remove the jobs' models, averages of groups or that were changed: the iteration's result is enough."""
        self.remove(*(name for name in os.listdir(self.folder) if _SHARD_MODEL.fullmatch(name)))

    def remove_leavings(self) -> None:
        """Remove what programs that were killed have left: files that are not finished, jobs' parts of a sum."""
        remove_unfinished(self.folder, "configs")
        self.remove(*(name for name in os.listdir(self.folder) if _PART.fullmatch(name)))

    def record(
        self, name: str, values: dict[str, Any], *, force: bool, defaults: dict[str, Any] | None = None
    ) -> dict[str, tuple[Any, Any]]:
        """Note in file ``name`` what the experiment is made with; returns what differs from last time: (then, now).

        What the note of last time lacks had its value in ``defaults``, if it has one: an option that is newer than the
        note. What is None, now or then, is not known and differs from nothing. Nothing is noted where something differs
        and ``force`` is false.

        Raises:
            UserError: the note of last time is damaged.
        """
        now: dict[str, Any] = json.loads(json.dumps(values))
        then = noted = self._recorded(name)
        changed = {}
        if then is not None:
            then = {**json.loads(json.dumps(defaults or {})), **then}
            now |= {key: then[key] for key, value in now.items() if value is None and key in then}
            then |= {key: now.get(key) for key, value in then.items() if value is None}
            for key in sorted(set(then) | set(now)):
                if then.get(key) != now.get(key):
                    changed[key] = (then.get(key), now.get(key))
        if then is None or (changed and force) or (not changed and now != noted):
            write_text(self.path(name), json.dumps(now, indent=1, sort_keys=True) + "\n")
        return changed

    def _recorded(self, name: str) -> dict[str, Any] | None:
        path = self.path(name)
        if not os.path.exists(path):
            return None
        try:
            found = json.loads(read_text(path))
        except (UserError, ValueError) as problem:
            raise UserError(f"Cannot read {path} ({problem}): remove it to go on with the options given now.") from None
        if not isinstance(found, dict):
            raise UserError(f"{path} does not hold options: remove it to go on with the options given now.")
        return found
