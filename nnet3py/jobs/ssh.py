"""Run jobs on a list of hosts that share a disk, each through an ``ssh`` of its own.

**Who writes the logs.** The engine: the remote job's output comes back through ssh straight into the log. A log then
has one writer on one machine: appending from two machines is not atomic on NFS, a driver that reads a log right after
the job's end could see an older state of a file that another host wrote, and a host that dies could not say so in the
log. The price is that what jobs print goes over the network, which is little. A log without its last lines is never
taken for a success: the ``ended`` below is what counts, and the engine writes them after it.

**What ended.** :mod:`nnet3py.jobs.remote_job` says ``ended <status>`` when a job has ended, whatever its status. An ssh
that ends without that has lost its host: the host cannot be reached, refuses us, does not share the directory, or has
died. The host gets no more jobs in this call, and the job goes to another one. Before a job has begun, a failed
connection is tried once more, for an sshd that is busy drops some. A job that was lost :data:`_MOST_LOSSES` times after
it had begun is not given out again, for it may be what kills the hosts. What a lost job had printed is kept beside its
log, as ``LOG.lost``.

**No job is left behind.** A remote job ends with its standard input: when this program closes it, when it is killed,
when ssh is killed. Where a network is cut without a word, the remote side waits ``--silence-limit`` seconds for the
engine's empty lines; ssh on this side waits a quarter longer (``ServerAliveInterval``), so that the job runs nowhere
any more when it is given to another host.
"""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import shlex
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.jobs import log_file, remote_job
from nnet3py.jobs.blas_threads import blas_threads
from nnet3py.jobs.command_line import Invocation
from nnet3py.jobs.hosts import read_hosts
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
from nnet3py.text.lines import BLANKS, decode, fields

PASSED_ON = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL")
DEFAULT_SILENCE = 120.0
_TICK_SECONDS = 0.5
_BEAT_SECONDS = 5.0
_CONNECT_SECONDS = 15
_BEGIN_SECONDS = 60.0  # from ssh's start to the job's: a login may hang where the network does not
_MOST_CONNECTING = 4  # to one host at a time: sshd drops some of more than 10 (MaxStartups)
_MOST_LOSSES = 3
_FILES_OF_A_JOB = 3  # its log, what it is told and what it answers
_LAST_WORDS_SECONDS = 5.0  # from a job's end, or the order to end it, until its ssh is ended
_TIMED_OUT = 124  # the status that timeout(1) gives
_SSH_FAILED = 255
_DIRECTORY_MARK = ".run-ssh-"


@dataclass
class _Host:
    name: str
    slots: int
    used: int = 0
    connecting: int = 0
    failures: int = 0  # connections in a row
    not_before: float = 0.0
    lost: str = ""  # why


@dataclass
class _Job:
    number: int | None
    host: _Host
    slots: int
    log: str
    descriptor: int
    feed: int | None  # the remote bash's standard input
    answers: int  # ssh's standard error
    to_send: bytes
    started: float
    unread: bytes = b""
    messages: list[str] = field(default_factory=list)  # ssh's own
    began: float | None = None
    ended: int | None = None
    silent: bool = False
    refused: str = ""
    over_time: bool = False
    deadline: float | None = None  # when ssh is to be ended


def run(invocation: Invocation) -> int:
    """Run every job of an invocation; 0 if all succeeded, 1 if any failed.

    What failed is said on standard error: the logs' names and their last lines; a host that is lost is a warning.

    Raises:
        Terminated: a signal came; every job has been ended by then, or its connection has been cut.
        UserError: no usable list of hosts, no host is left, or a log cannot be written.
    """
    engine = _Engine(invocation)
    with signals_raise(), _woken_by_children() as wake, engine.directory_is_marked():
        engine.selector.register(wake, selectors.EVENT_READ)
        try:
            engine.run()
        except BaseException:
            engine.end_all()
            raise
    if engine.failed:
        report(invocation, engine.failed)
    return 1 if engine.failed else 0


@contextlib.contextmanager
def _woken_by_children() -> Iterator[int]:
    """A descriptor that can be read from when a child has ended."""
    wake, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    handler = signal.signal(signal.SIGCHLD, lambda *_: None)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield wake
    finally:
        signal.set_wakeup_fd(before)
        signal.signal(signal.SIGCHLD, handler)
        os.close(wake)
        os.close(write)


class _Engine:
    def __init__(self, invocation: Invocation) -> None:
        settings = invocation.settings
        self.invocation = invocation
        self.hosts = [_Host(name, slots) for name, slots in read_hosts(settings).items()]
        self.silence = _silence_limit(settings.get("silence_limit"))
        self.ssh = _ssh_words(settings.get("ssh", "ssh"), self.silence)
        self.environment = _environment(invocation)
        self.secret = os.urandom(16).hex()
        self.shared = remote_job.SharedDirectory(
            os.getcwd(), _DIRECTORY_MARK + os.urandom(6).hex(), os.urandom(16).hex()
        )
        self.waiting, self.failed = pick(invocation)
        self.losses: dict[int | None, list[str]] = {}
        self.running: dict[int, _Job] = {}
        self.selector = selectors.DefaultSelector()
        slots = min(sum(host.slots for host in self.hosts), len(self.waiting))
        self.most_at_once = max(1, room_for(_FILES_OF_A_JOB * slots) // _FILES_OF_A_JOB)
        if invocation.max_jobs_run is not None:
            self.most_at_once = min(self.most_at_once, invocation.max_jobs_run)
        self.last_beat = time.monotonic()
        self.started_by_driver = not driver_is_gone()
        if invocation.gpus:
            log.warning("run-ssh does not share out GPUs: jobs on one host see all of them.")

    def run(self) -> None:
        """Give out every job and wait for it."""
        while self.waiting or self.running:
            self._give_out()
            if self.waiting and not self.running and all(host.lost for host in self.hosts):
                reasons = "; ".join(f"{host.name}: {host.lost}" for host in self.hosts)
                raise UserError(f"No host is left for {len(self.waiting)} jobs. {reasons}")
            self._listen(_TICK_SECONDS)
            self._look_at_clocks()

    # Giving jobs out

    def _give_out(self) -> None:
        while self.waiting and len(self.running) < self.most_at_once:
            host = self._free_host()
            if host is None:
                return
            if self.started_by_driver and driver_is_gone():
                raise Terminated(signal.SIGHUP)
            self._start(self.waiting.popleft(), host)

    def _slots_on(self, host: _Host) -> int:
        return min(self.invocation.num_threads, host.slots)  # a job that is too large for a host has it to itself

    def _free_host(self) -> _Host | None:
        """The host with the fewest slots in use among those that can have another job; the first of equals."""
        now = time.monotonic()
        free = (
            host
            for host in self.hosts
            if not host.lost
            and host.used + self._slots_on(host) <= host.slots
            and host.connecting < _MOST_CONNECTING
            and host.not_before <= now
        )
        return min(free, key=lambda host: host.used, default=None)

    def _start(self, number: int | None, host: _Host) -> None:
        """Start an ssh that writes into the job's log, and note it."""
        self._mark_directory()
        path, command = self.invocation.log_of(number), self.invocation.command_of(number)
        descriptor = log_file.create(path)
        remarks = [f"Running on {host.name}", *self.losses.get(number, [])]
        try:
            log_file.append(descriptor, path, log_file.header(command, remarks))
        except UserError:
            os.close(descriptor)
            raise
        text = remote_job.script(command, self.shared, self.environment, secret=self.secret, silence=self.silence)
        environment = {name: value for name, value in os.environ.items() if name != DRIVER_PID}
        read_feed, feed = os.pipe()
        answers, write_answers = os.pipe()
        with signals_wait() as mask:  # a signal between the start and the note would leave the job behind
            try:
                pid = os.posix_spawnp(
                    self.ssh[0],
                    [*self.ssh, host.name, remote_job.REMOTE_COMMAND],
                    environment,
                    file_actions=[
                        (os.POSIX_SPAWN_DUP2, read_feed, 0),
                        (os.POSIX_SPAWN_DUP2, descriptor, 1),
                        (os.POSIX_SPAWN_DUP2, write_answers, 2),
                    ],
                    setpgroup=0,  # Ctrl-C is for the engine
                    setsigmask=mask,
                    setsigdef=[signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE],
                )
            except OSError as problem:
                for end in (feed, answers, descriptor):
                    os.close(end)
                raise UserError(f"Cannot start {self.ssh[0]} (--ssh): {problem.strerror}.") from problem
            finally:
                os.close(read_feed)
                os.close(write_answers)
            os.set_blocking(feed, False)
            os.set_blocking(answers, False)
            job = _Job(number, host, self._slots_on(host), path, descriptor, feed, answers, text, time.monotonic())
            job.deadline = job.started + _BEGIN_SECONDS
            self.running[pid] = job
            self.selector.register(feed, selectors.EVENT_WRITE, job)
            self.selector.register(answers, selectors.EVENT_READ, job)
            host.used += job.slots
            host.connecting += 1

    # The shared directory

    @contextlib.contextmanager
    def directory_is_marked(self) -> Iterator[None]:
        """The file by which hosts know the directory is there; files that killed engines left behind are not."""
        with contextlib.suppress(OSError):
            for entry in os.scandir("."):
                if entry.name.startswith(_DIRECTORY_MARK) and time.time() - entry.stat().st_mtime > 86400:
                    os.unlink(entry.name)
        try:
            self._mark_directory()
            yield
        finally:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self.shared.path, self.shared.token))

    def _mark_directory(self) -> None:
        path = os.path.join(self.shared.path, self.shared.token)
        if os.path.exists(path):
            return
        try:
            with open(path, "x") as mark:
                mark.write(self.shared.proof + "\n")
        except OSError as problem:
            raise UserError(
                f"Cannot write {path}, by which hosts know that they share this directory: {problem.strerror}."
            ) from problem

    # What ssh and the remote side say

    def _listen(self, seconds: float) -> None:
        """Send and receive for at most so many seconds, less if something happens; conclude what has ended."""
        for key, _ in self.selector.select(seconds):
            job = key.data
            if job is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(key.fd, 4096)
            elif key.fd == job.feed:
                self._send(job)
            else:
                self._receive(job)
        for pid, job in list(self.running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self.running[pid]
                self._receive(job)
                self._conclude(job, os.waitstatus_to_exitcode(status))

    def _send(self, job: _Job) -> None:
        if job.feed is None:
            return
        try:
            job.to_send = job.to_send[os.write(job.feed, job.to_send) :]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            job.to_send = b""
        if not job.to_send:
            self.selector.unregister(job.feed)

    def _receive(self, job: _Job) -> None:
        """Take in what there is on ssh's standard error."""
        data = b""
        with contextlib.suppress(BlockingIOError):
            while more := os.read(job.answers, 65536):
                data += more
            with contextlib.suppress(KeyError):  # the end
                self.selector.unregister(job.answers)
        *lines, job.unread = (job.unread + data).split(b"\n")
        for line in lines:
            text = decode(line).strip(BLANKS)
            word, _, answer = text.partition(" ")
            if word == self.secret:
                self._take_answer(job, answer)
            elif text:
                job.messages.append(text)

    def _take_answer(self, job: _Job, answer: str) -> None:
        what, _, detail = answer.partition(" ")
        if what == "began":
            job.began = time.monotonic()
            job.deadline = None
            job.host.connecting -= 1
            job.host.failures = 0
        elif what == "refused":
            found = {
                "directory": "it has no such directory, or none that we may enter.",
                "shared": "its directory of that name is another one: a file that was written here is not there.",
            }
            job.refused = f"{self.shared.path} must be on a disk that all hosts share: {found.get(detail, detail)}"
        elif what == "silent":
            job.silent = True
        elif what == "ended":
            job.ended = int(detail)
            job.deadline = time.monotonic() + _LAST_WORDS_SECONDS

    def _look_at_clocks(self) -> None:
        """Keep connections alive; end what has run too long, and an ssh that does not end by itself."""
        now = time.monotonic()
        if now - self.last_beat >= min(_BEAT_SECONDS, self.silence / 4):
            self.last_beat = now
            for job in self.running.values():
                if job.feed is not None and job.began is not None and not job.to_send:
                    with contextlib.suppress(BlockingIOError, BrokenPipeError):
                        os.write(job.feed, b"\n")
        limit = math.inf if self.invocation.time_limit is None else self.invocation.time_limit
        for pid, job in self.running.items():
            at_work = job.began is not None and job.ended is None and not job.over_time
            if at_work and now - (job.began or now) > limit:
                job.over_time = True
                self._ask_to_end(job)
                log_file.append(job.descriptor, job.log, log_file.over_time("run-ssh", limit))
            if job.deadline is not None and now > job.deadline:
                _signal(pid, signal.SIGKILL)

    def _ask_to_end(self, job: _Job) -> None:
        if job.feed is not None:
            with contextlib.suppress(KeyError):
                self.selector.unregister(job.feed)
            os.close(job.feed)
            job.feed = None
        job.deadline = time.monotonic() + remote_job.GRACE_SECONDS + _LAST_WORDS_SECONDS

    # A job's end

    def _conclude(self, job: _Job, ssh_status: int) -> None:
        """Note how a job whose ssh has ended came to its end: by itself, or because its host was lost."""
        host = job.host
        host.used -= job.slots
        if job.began is None:
            host.connecting -= 1
        if job.ended is not None and not job.silent:
            self._finish(job, job.ended or (_TIMED_OUT if job.over_time else 0))
            return
        reason = job.refused or self._why_lost(job, ssh_status)
        self._count_against(host, job, ssh_status, reason)
        if job.over_time:
            self._finish(job, _TIMED_OUT)
            return
        if job.began is None:
            self._close(job)
            with contextlib.suppress(OSError):
                os.unlink(job.log)
        else:
            self.losses.setdefault(job.number, []).append(f"Lost before on {host.name}: {reason}")
            if len(self.losses[job.number]) >= _MOST_LOSSES:
                line = f"run-ssh: lost {_MOST_LOSSES} times, now on {host.name}: {reason}\n"
                log_file.append(job.descriptor, job.log, line)
                self._finish(job, _SSH_FAILED)
                return
            self._close(job)
            with contextlib.suppress(OSError):
                os.replace(job.log, f"{job.log}.lost")
        self.waiting.appendleft(job.number)

    def _why_lost(self, job: _Job, ssh_status: int) -> str:
        if job.silent:
            return f"it heard nothing from here for {self.silence:g} seconds."
        if job.began is None and job.deadline is not None and time.monotonic() > job.deadline:
            return f"nothing came of the connection within {_BEGIN_SECONDS:g} seconds."
        if job.messages:
            return " / ".join(job.messages[-2:])
        return f"ssh ended with status {ssh_status} and said nothing."

    def _count_against(self, host: _Host, job: _Job, ssh_status: int, reason: str) -> None:
        if job.silent or host.lost:
            return
        if job.began is None and not job.refused and ssh_status == _SSH_FAILED:
            host.failures += 1
            if host.failures < 2:
                host.not_before = time.monotonic() + 1.0
                log.warning(f"Host {host.name} could not be reached, it is tried once more: {reason}")
                return
        host.lost = reason
        log.warning(f"Host {host.name} is lost, its jobs go to other hosts: {reason}")

    def _finish(self, job: _Job, status: int) -> None:
        """Write a log's last lines."""
        seconds = time.monotonic() - (job.began or job.started)
        try:
            log_file.append(job.descriptor, job.log, log_file.footer(status, seconds, self.invocation.num_threads))
        finally:
            self._close(job)
        if status != 0:
            self.failed.append(job.number)

    def _close(self, job: _Job) -> None:
        for end in (job.feed, job.answers):
            if end is not None:
                with contextlib.suppress(KeyError):
                    self.selector.unregister(end)
                os.close(end)
        job.feed = None
        os.close(job.descriptor)

    def end_all(self) -> None:
        """Have every remote job ended; cut what does not answer in time; write the logs' last lines."""
        ignore_signals()
        for pid, job in self.running.items():
            self._ask_to_end(job)
            if job.began is None:
                _signal(pid, signal.SIGTERM)
        while self.running:
            now = time.monotonic()
            for pid, job in list(self.running.items()):
                if job.deadline is not None and now > job.deadline:
                    _signal(pid, signal.SIGKILL)
            for key, _ in self.selector.select(0.1):
                if key.data is None:
                    with contextlib.suppress(BlockingIOError):
                        os.read(key.fd, 4096)
                else:
                    self._receive(key.data)
            for pid, job in list(self.running.items()):
                if os.waitpid(pid, os.WNOHANG)[0]:
                    del self.running[pid]
                    self._receive(job)
                    with contextlib.suppress(UserError):  # a log that cannot be written must not keep others alive
                        self._finish(job, job.ended if job.ended is not None else -signal.SIGTERM)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _ssh_words(option: str, silence: float) -> list[str]:
    """The command before the host's name. ssh takes the first value of an option: the user's own come first."""
    try:
        words = shlex.split(option)
    except ValueError as problem:
        raise UserError(f"Cannot read --ssh={option!r}: {problem}.") from problem
    if not words:
        raise UserError("--ssh is empty: expected a command like ssh -p 2222.")
    tries = 5
    interval = math.ceil(1.25 * silence / tries)
    settings = (
        "BatchMode=yes",
        f"ConnectTimeout={_CONNECT_SECONDS}",
        f"ServerAliveInterval={interval}",
        f"ServerAliveCountMax={tries}",
    )
    return [*words, "-T", *(word for setting in settings for word in ("-o", setting))]


def _silence_limit(value: str | None) -> float:
    if value is None:
        return DEFAULT_SILENCE
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 1.0 <= seconds <= 86400.0:
        raise UserError(f"Option --silence-limit needs seconds between 1 and 86400, found {value!r}.")
    return seconds


def _environment(invocation: Invocation) -> dict[str, str]:
    names = [*PASSED_ON, *fields(invocation.settings.get("env", "").replace(",", " "))]
    for name in names:
        if not name.isidentifier() or not name.isascii():
            raise UserError(f"--env: {name!r} is not the name of an environment variable.")
    present = {name: os.environ[name] for name in names if name in os.environ}
    return {**present, **blas_threads(invocation.num_threads)}
