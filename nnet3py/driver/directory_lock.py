"""Who is at work on a directory: one driver at a time, on whichever machine.

What excludes others is the system's lock on ``<dir>/.lock`` (flock), which goes with its process however that ends, and
which NFS carries between machines. The file's text is for people, and for the one case that the lock cannot tell: a
file system that keeps locks to each machine, or a machine that was lost. It says who holds the lock, where, and since
when; it is empty where nobody does. So, with the lock in hand,

    an empty file          nobody was at work
    this machine's name    a driver that was killed: its lock is stale and is taken over, with a message
    another machine's      refused: whether it still runs there is not to be seen from here
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import getpass
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import IO

from nnet3py import log
from nnet3py.errors import UserError

_WAIT_SECONDS = 5.0
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_OF_THE_DISK = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EIO,
    errno.ESTALE,
    errno.EACCES,
    errno.EPERM,
}


@dataclass(frozen=True)
class Owner:
    """What a lock says about the driver that holds it.

    Attributes:
        program: its name.
        user: who started it.
        host: the machine's name.
        boot: what tells one start of a machine's system from another, so that containers of one machine, which have
            names of their own, are known as one; "" if not known.
        process: its number on that machine.
        since: local time when it took the lock.
    """

    program: str
    user: str
    host: str
    boot: str
    process: int
    since: str

    def __str__(self) -> str:
        return f"{self.program} of {self.user}, process {self.process} on {self.host}, since {self.since},"

    @property
    def is_of_this_machine(self) -> bool:
        return self.host == socket.gethostname() or (self.boot != "" and self.boot == _boot_id())


@contextlib.contextmanager
def locked(folder: str, what: str) -> Iterator[None]:
    """Keep others out of a directory while a driver works in it.

    Waits a little for another process, which may be about to end because its driver was killed. ``what`` is the
    driver's name. An error of the disk on which the directory is becomes one that a user is told in one line.

    Raises:
        UserError: another process has it, or what was done met a full or broken disk.
    """
    path = os.path.join(folder, ".lock")
    try:
        with open(path, "a+", encoding="utf-8") as file:
            _take(file, folder, path, what)
            try:
                yield
            finally:
                file.truncate(0)
    except OSError as problem:
        if problem.errno not in _OF_THE_DISK:
            raise
        place = f"{problem.filename}" if problem.filename else folder
        raise UserError(f"{place}: {problem.strerror}.") from problem


def _take(file: IO[str], folder: str, path: str, what: str) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    excludes = _excludes_others(file, path)
    while not (_try_lock(file) if excludes else _alone(file)):
        if time.monotonic() > deadline:
            who = _owner(file) or "Another process"
            raise UserError(f"{who} is already at work in {folder}: wait for it or end it first.")
        time.sleep(0.1)
    before = _owner(file)
    if before is not None and not before.is_of_this_machine:
        raise UserError(
            f"{before} is at work in {folder}, or was when its machine was lost: wait for it or end it there. If it "
            f"does not run any more, remove {path} and give the same command again."
        )
    if before is not None:
        log.warning(f"{before} was killed at work in {folder}: going on in its place.")
    file.truncate(0)
    owner = Owner(what, _user(), socket.gethostname(), _boot_id(), os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S %Z"))
    file.write(json.dumps(asdict(owner)) + "\n")
    file.flush()


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _excludes_others(file: IO[str], path: str) -> bool:
    """Whether the file system has locks; without them the file's text is all there is, which two may write at once."""
    try:
        _try_lock(file)
    except OSError as problem:
        if problem.errno not in _NO_LOCKS:
            raise
        log.warning(
            f"{path}: this file system has no locks ({problem.strerror}): never start two drivers at once here."
        )
        return False
    return True


def _alone(file: IO[str]) -> bool:
    """Whether the driver that the text names, if it is one of this machine, is gone."""
    owner = _owner(file)
    if owner is None or not owner.is_of_this_machine:
        return True
    try:
        os.kill(owner.process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _owner(file: IO[str]) -> Owner | None:
    """Who the file says holds it; None where it says nothing that is understood."""
    file.seek(0)
    try:
        found = json.loads(file.read())
        return Owner(**{name: type_(found[name]) for name, type_ in _FIELDS.items()})
    except (ValueError, TypeError, KeyError):
        return None


_FIELDS = {"program": str, "user": str, "host": str, "boot": str, "process": int, "since": str}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


def _boot_id() -> str:
    try:
        with open(_BOOT_ID, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
