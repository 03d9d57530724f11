"""Run jobs on this machine, so many at once.

Each job is a bash of its own in a process group of its own: when this program is interrupted or terminated, every
program of every job is ended with it. A driver that starts this program sets the environment variable
:data:`DRIVER_PID` to its own process number; should the driver die without a word (``kill -9``), the jobs end too.

Source of the rules for slots: Kaldi egs/wsj/s5/utils/parallel/run.pl.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.jobs import log_file
from nnet3py.jobs.command_line import Invocation
from nnet3py.jobs.report import report

DRIVER_PID = "NNET3PY_DRIVER_PID"
WATCH_SECONDS = 0.5
_GRACE_SECONDS = 3.0


class Terminated(BaseException):
    """A signal asked for the end; not an Exception, so that nothing swallows it on its way."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def driver_is_gone() -> bool:
    """Whether the driver that :data:`DRIVER_PID` names is not this process's parent (any more)."""
    return os.environ.get(DRIVER_PID) != str(os.getppid())


@dataclass
class _Job:
    number: int | None
    log: str
    descriptor: int
    started: float


def run(invocation: Invocation) -> int:
    """Run every job of an invocation; 0 if all succeeded, 1 if any failed.

    What failed is said on standard error: the logs' names and their last lines.

    Raises:
        Terminated: a signal came; every job has been ended by then.
        UserError: a log cannot be written or bash cannot be started.
    """
    waiting = deque(number for number in invocation.numbers() if not _picked_out(invocation, number))
    failed = [number for number in invocation.numbers() if _picked_out(invocation, number) == "failed"]
    running: dict[int, _Job] = {}
    slots = slot_count(invocation)
    started_by_driver = not driver_is_gone()
    with _signals_raise():
        try:
            while waiting or running:
                while waiting and len(running) < slots:
                    if started_by_driver and driver_is_gone():
                        raise Terminated(signal.SIGHUP)
                    _start(invocation, waiting.popleft(), running)
                pid, status = os.waitpid(-1, 0)
                job = running.pop(pid, None)
                if job is not None and _finish(invocation, job, status) != 0:
                    failed.append(job.number)
        except BaseException:
            _end_all(invocation, running)
            raise
    if failed:
        report(invocation, failed)
    return 1 if failed else 0


def slot_count(invocation: Invocation) -> int:
    """How many jobs run at once: what was asked for, else what the machine's cores (or GPUs) hold."""
    if invocation.max_jobs_run is not None:
        return invocation.max_jobs_run
    if invocation.gpus:
        return max(1, _gpu_count() // invocation.gpus)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    slots = max(1, cores // invocation.num_threads)
    jobs = len(invocation.numbers())
    # A few more jobs than slots run together rather than leave most slots empty in a second round.
    return jobs if slots < jobs < 1.4 * slots else slots


def _gpu_count() -> int:
    import subprocess  # only here: the import takes as long as starting a small job

    try:
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        log.warning("nvidia-smi does not say how many GPUs there are: running one job at a time.")
        return 1
    return max(1, len(listing.splitlines()))


def _picked_out(invocation: Invocation, number: int | None) -> str:
    """Why a job is not to run under ``--pick``: "done", "failed", or "" where it is to run."""
    if invocation.pick == "all":
        return ""
    status = log_file.status(invocation.log_of(number))
    if status == 0:
        return "done"
    return "failed" if status is not None and invocation.pick == "incomplete" else ""


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Signals that ask for the end raise :class:`Terminated`; so does the death of the driver that started us."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated(number)

    def watch(number: int, frame: FrameType | None) -> None:
        if driver_is_gone():
            raise Terminated(signal.SIGHUP)

    handlers = dict.fromkeys((signal.SIGINT, signal.SIGTERM, signal.SIGHUP), terminate)
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


def _start(invocation: Invocation, number: int | None, running: dict[int, _Job]) -> None:
    """Start bash, hand it the command on its standard input (an argument could be too long), and note the job."""
    path = invocation.log_of(number)
    command = invocation.command_of(number)
    descriptor = log_file.create(path)
    os.write(descriptor, log_file.header(command).encode("utf-8", "surrogateescape"))
    script, feed = os.pipe()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM))
    try:  # a signal between the start and the note would leave the job behind
        pid = os.posix_spawnp(
            "bash",
            ["bash"],
            {name: value for name, value in os.environ.items() if name != DRIVER_PID},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, script, 0),
                (os.POSIX_SPAWN_DUP2, descriptor, 1),
                (os.POSIX_SPAWN_DUP2, descriptor, 2),
            ],
            setpgroup=0,
            setsigmask=blocked,
            setsigdef=[signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE],
        )
        running[pid] = _Job(number, path, descriptor, time.monotonic())
    except OSError as problem:
        os.close(descriptor)
        raise UserError(f"Cannot start bash: {problem.strerror}.") from problem
    finally:
        os.close(script)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    with contextlib.suppress(BrokenPipeError), open(feed, "wb") as stream:
        stream.write(f"( {command} )\n".encode("utf-8", "surrogateescape"))


def _finish(invocation: Invocation, job: _Job, wait_status: int) -> int:
    status = os.waitstatus_to_exitcode(wait_status)
    lines = log_file.footer(status, time.monotonic() - job.started, invocation.num_threads)
    os.write(job.descriptor, lines.encode())
    os.close(job.descriptor)
    return status


def _end_all(invocation: Invocation, running: dict[int, _Job]) -> None:
    """Ask every job's processes to end, then make them; write the logs' last lines."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # already on our way out
    signal.setitimer(signal.ITIMER_REAL, 0)
    _signal_groups(running, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_SECONDS
    left = dict(running)
    while left and time.monotonic() < deadline:
        _collect(invocation, left, os.WNOHANG)
        if left:
            time.sleep(0.02)
    _signal_groups(running, signal.SIGKILL)  # also what outlived its bash
    while left:
        _collect(invocation, left, 0)


def _collect(invocation: Invocation, left: dict[int, _Job], flags: int) -> None:
    for pid in list(left):
        ended, status = os.waitpid(pid, flags)
        if ended:
            _finish(invocation, left.pop(pid), status)


def _signal_groups(running: dict[int, _Job], number: int) -> None:
    for pid in running:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, number)
