"""Run jobs on this machine, so many at once.

Each job is a bash of its own in a process group of its own: when this program is interrupted or terminated, every
program of every job is ended with it (see :mod:`nnet3py.jobs.interruption`). A job that runs longer than
``--time-limit`` is ended in the same way.

``--mem`` limits nothing. A limit on the address space (``RLIMIT_AS``, ``RLIMIT_DATA``) counts what a BLAS reserves for
each thread and never touches, so it ends jobs that use little; a limit on what is resident does not exist for
processes, only for control groups, which an ordinary user cannot make everywhere.

Source of the rules for slots: Kaldi egs/wsj/s5/utils/parallel/run.pl.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass

from nnet3py.errors import UserError
from nnet3py.jobs import log_file
from nnet3py.jobs.blas_threads import blas_threads
from nnet3py.jobs.command_line import Invocation
from nnet3py.jobs.cores import usable_cores
from nnet3py.jobs.inherited import for_jobs_within
from nnet3py.jobs.interruption import (
    DRIVER_PID,
    Terminated,
    driver_is_gone,
    ignore_signals,
    signals_raise,
    signals_wait,
)
from nnet3py.jobs.pick import pick
from nnet3py.jobs.report import report
from nnet3py.open_files import room_for
from nnet3py.text.lines import encode

_GRACE_SECONDS = 3.0
_POLL_SECONDS = 0.05
_TIMED_OUT = 124  # the status that timeout(1) gives


@dataclass
class _Job:
    number: int | None
    log: str
    descriptor: int
    started: float
    gpus: str | None = None
    over_time: float | None = None  # when it was asked to end because of --time-limit


def run(invocation: Invocation) -> int:
    """Run every job of an invocation; 0 if all succeeded, 1 if any failed.

    What failed is said on standard error: the logs' names and their last lines.

    Raises:
        Terminated: a signal came; every job has been ended by then.
        UserError: a log cannot be written, bash cannot be started, or there are too few GPUs.
    """
    waiting, failed = pick(invocation)
    running: dict[int, _Job] = {}
    gpus = _free_gpus(invocation)
    slots = slot_count(invocation) if not invocation.gpus else min(len(gpus), invocation.max_jobs_run or len(gpus))
    slots = max(1, room_for(min(slots, len(waiting)), may_raise=False))  # each job's log is open while it runs
    started_by_driver = not driver_is_gone()
    with signals_raise():
        try:
            while waiting or running:
                while waiting and len(running) < slots:
                    if started_by_driver and driver_is_gone():
                        raise Terminated(signal.SIGHUP)
                    _start(invocation, waiting.popleft(), running, gpus.pop(0) if gpus else None)
                pid, status = _wait(invocation, running)
                job = running.pop(pid, None)
                if job is not None:
                    if job.over_time is not None:
                        _end_group(pid, job.over_time + _GRACE_SECONDS)
                    if invocation.gpus:
                        gpus.append(job.gpus)
                    if _finish(invocation, job, status) != 0:
                        failed.append(job.number)
        except BaseException:
            _end_all(invocation, running)
            raise
    if failed:
        report(invocation, failed)
    return 1 if failed else 0


def slot_count(invocation: Invocation) -> int:
    """How many jobs without GPUs run at once: what was asked for, else what the cores hold that this may use."""
    if invocation.max_jobs_run is not None:
        return invocation.max_jobs_run
    slots = max(1, usable_cores() // invocation.num_threads)
    jobs = len(invocation.numbers())
    # A few more jobs than slots run together rather than leave most slots empty in a second round.
    return jobs if slots < jobs < 1.4 * slots else slots


def _free_gpus(invocation: Invocation) -> list[str | None]:
    """What jobs that run together have as CUDA_VISIBLE_DEVICES; None leaves the variable alone."""
    if not invocation.gpus:
        return []
    from nnet3py.jobs.gpus import share_out  # only here: its imports take as long as starting a small job

    shares = share_out(invocation.gpus)
    return [None] if shares is None else list(shares)


def _start(invocation: Invocation, number: int | None, running: dict[int, _Job], gpus: str | None) -> None:
    """Start bash, hand it the command on its standard input (an argument could be too long), and note the job."""
    path = invocation.log_of(number)
    command = invocation.command_of(number)
    descriptor = log_file.create(path)
    try:
        log_file.append(descriptor, path, log_file.header(command))
    except UserError:
        os.close(descriptor)
        raise
    environment = {**for_jobs_within(os.environ), **blas_threads(invocation.num_threads)}
    environment.pop(DRIVER_PID, None)
    if gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpus
    script, feed = os.pipe()
    with signals_wait() as mask:  # a signal between the start and the note would leave the job behind
        try:
            pid = os.posix_spawnp(
                "bash",
                ["bash"],
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, script, 0),
                    (os.POSIX_SPAWN_DUP2, descriptor, 1),
                    (os.POSIX_SPAWN_DUP2, descriptor, 2),
                ],
                setpgroup=0,
                setsigmask=mask,
                setsigdef=[signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE],
            )
            running[pid] = _Job(number, path, descriptor, time.monotonic(), gpus)
        except OSError as problem:
            os.close(descriptor)
            raise UserError(f"Cannot start bash: {problem.strerror}.") from problem
        finally:
            os.close(script)
    with contextlib.suppress(BrokenPipeError), open(feed, "wb") as stream:
        stream.write(encode(f"( {command} )\n"))


def _wait(invocation: Invocation, running: dict[int, _Job]) -> tuple[int, int]:
    """The process and the wait status of the next one to end; what runs too long is asked, then made to end."""
    if invocation.time_limit is None:
        return os.waitpid(-1, 0)
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            return pid, status
        now = time.monotonic()
        for pid, job in running.items():
            if job.over_time is None and now - job.started > invocation.time_limit:
                job.over_time = now
                _signal_group(pid, signal.SIGTERM)
                log_file.append(job.descriptor, job.log, log_file.over_time("run-local", invocation.time_limit))
            elif job.over_time is not None and now - job.over_time > _GRACE_SECONDS:
                _signal_group(pid, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)


def _finish(invocation: Invocation, job: _Job, wait_status: int) -> int:
    status = os.waitstatus_to_exitcode(wait_status)
    if job.over_time is not None:
        status = status or _TIMED_OUT
    lines = log_file.footer(status, time.monotonic() - job.started, invocation.num_threads)
    try:
        log_file.append(job.descriptor, job.log, lines)
    finally:
        os.close(job.descriptor)
    return status


def _end_all(invocation: Invocation, running: dict[int, _Job]) -> None:
    """Ask every job's processes to end, then make them; write the logs' last lines."""
    ignore_signals()
    for pid in running:
        _signal_group(pid, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_SECONDS
    left = dict(running)
    while left and time.monotonic() < deadline:
        _collect(invocation, left, os.WNOHANG)
        if left:
            time.sleep(0.02)
    for pid in running:
        _end_group(pid, deadline)
    while left:
        _collect(invocation, left, 0)


def _collect(invocation: Invocation, left: dict[int, _Job], flags: int) -> None:
    for pid in list(left):
        ended, status = os.waitpid(pid, flags)
        if ended:
            with contextlib.suppress(UserError):  # a log that cannot be written must not keep a job alive
                _finish(invocation, left.pop(pid), status)


def _end_group(pid: int, deadline: float) -> None:
    """Give what is left of a job that was asked to end until ``deadline`` to tidy up (bash itself ends at once)."""
    while time.monotonic() < deadline and _signal_group(pid, 0):
        time.sleep(0.02)
    _signal_group(pid, signal.SIGKILL)


def _signal_group(pid: int, number: int) -> bool:
    """Send a signal to every process of a job; whether there are any."""
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
