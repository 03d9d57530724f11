"""Start jobs through ``--cmd``: any program with run.pl's calling convention (see :mod:`nnet3py.jobs`)."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from typing import IO

from nnet3py.errors import UserError
from nnet3py.jobs import log_file
from nnet3py.jobs.interruption import DRIVER_PID

_PLAIN = re.compile(r"[\w@%+=:,./~^-]+")
_END_SECONDS = 10.0


def require_plain_path(option: str, path: str) -> str:
    """The same path, if pipelines can have it as it is.

    Raises:
        UserError: it has white space or characters special to a shell, or the word JOB, which engines replace.
    """
    if not _PLAIN.fullmatch(path) or "JOB" in path:
        raise UserError(
            f"{option} is {path!r}: pipelines of programs need paths of letters, digits and ._-+=,:@%~^/ "
            "that do not contain the word JOB. Use another name or a symbolic link."
        )
    return path


def shell_word(text: str) -> str:
    """``text`` as one word of a shell command, escaped without quotes: run.pl puts its own around a command."""
    return re.sub(r"[^\w@%+=:,./~^-]", lambda special: "\\" + special[0], text)


def pipe(*commands: str) -> str:
    """Shell commands joined as an rxfilename, ``a | b |``; it fails if any of them fails, not only the last.

    An archive that is cut off in the first program's input would otherwise look complete to the last program.
    """
    if len(commands) == 1:
        return f"{commands[0]} |"
    return f"bash -o pipefail -c {shlex.quote(' | '.join(commands))} |"


def pipeline(*commands: Sequence[str]) -> list[str]:
    """Commands joined as one that an engine can run; it fails if any of them fails."""
    words = ["set", "-o", "pipefail", ";"] if len(commands) > 1 else []
    for position, command in enumerate(commands):
        words += (["|"] if position else []) + list(command)
    return words


class Running:
    """Jobs that an engine has been started for."""

    def __init__(self, process: subprocess.Popen[bytes], messages: IO[bytes], what: str, logs: list[str]) -> None:
        """``what`` names the jobs in a message (``training jobs of iteration 3``); ``logs`` are their logs."""
        self.process = process
        self._messages = messages
        self._what = what
        self._logs = logs

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def wait(self) -> None:
        """Wait until every job has ended.

        Raises:
            UserError: one has failed; the message has its log's name and last lines.
        """
        status = self.process.wait()
        with self._messages:
            if status == 0:
                return
            self._messages.seek(0)
            messages = self._messages.read().decode("utf-8", errors="replace")
        raise UserError(self._explain(status, messages))

    def _explain(self, status: int, messages: str) -> str:
        failed = [log for log in self._logs if log_file.status(log) not in (0, None)]
        unfinished = [log for log in self._logs if log_file.status(log) is None and os.path.exists(log)]
        shown = failed or unfinished
        if not shown:  # the engine itself failed: what it said is all there is
            lines = messages.splitlines()[-10:] or [f"it said nothing; its exit status was {status}."]
            return f"{self._what}: the engine could not run it:" + "".join(f"\n    {line}" for line in lines)
        count = f"{len(shown)} of {len(self._logs)} failed" if len(self._logs) > 1 else "failed"
        lines = log_file.last_lines(shown[0]) or ["(the log is empty)"]
        return f"{self._what}: {count}; the log {shown[0]} ends:" + "".join(f"\n    {line}" for line in lines)


class Engine:
    """A ``--cmd`` and the jobs that run through it; a context manager that ends what still runs."""

    def __init__(self, command: str) -> None:
        """``command`` is the option's text, ``run-local`` or ``queue.pl --mem 4G``.

        Raises:
            UserError: it is empty, or its quotes do not match.
        """
        try:
            self._words = shlex.split(command)
        except ValueError as problem:
            raise UserError(f"Cannot read the command {command!r}: {problem}.") from problem
        if not self._words:
            raise UserError("Expected an engine like run-local as --cmd, found nothing.")
        self._running: list[Running] = []

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(
        self, log: str, command: Sequence[str], *, what: str, jobs: int | None = None, options: Sequence[str] = ()
    ) -> Running:
        """Start one job, or ``jobs`` of them with ``JOB`` in the log's name and the command; do not wait.

        Raises:
            UserError: the engine is not there.
        """
        array = [] if jobs is None else [f"JOB=1:{jobs}"]
        logs = [log] if jobs is None else [log.replace("JOB", str(number)) for number in range(1, jobs + 1)]
        for path in logs:  # an old log must not be taken for this run's
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        messages = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            process = subprocess.Popen(
                [*self._words, *options, *array, log, *command],
                stdin=subprocess.DEVNULL,
                stdout=messages,
                stderr=subprocess.STDOUT,
                env={**os.environ, DRIVER_PID: str(os.getpid())},
            )
        except OSError as problem:
            messages.close()
            raise UserError(f"Cannot start the engine {self._words[0]} (--cmd): {problem.strerror}.") from problem
        running = Running(process, messages, what, logs)
        self._running = [other for other in self._running if not other.ended]
        self._running.append(running)
        return running

    def run(
        self, log: str, command: Sequence[str], *, what: str, jobs: int | None = None, options: Sequence[str] = ()
    ) -> None:
        """As :meth:`start`, then wait.

        Raises:
            UserError: a job has failed.
        """
        self.start(log, command, what=what, jobs=jobs, options=options).wait()

    def stop(self) -> None:
        """End the engines that still run; they end their jobs."""
        left = [running.process for running in self._running if not running.ended]
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in left:
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running = []
