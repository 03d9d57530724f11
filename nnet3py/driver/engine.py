"""Start jobs through ``--cmd``: any program with run.pl's calling convention (see :mod:`nnet3py.jobs`).

A job that is lost, killed with its machine or hanging, is started again, alone: what other jobs have finished stays.
Any engine can do that, for a further call with ``JOB=2:2`` is all that it takes. How long a job has run is counted on
this process's own clock from when its log was first seen, since clocks of other machines may disagree.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from nnet3py import log as messages
from nnet3py.errors import UserError
from nnet3py.jobs import command_line, log_file
from nnet3py.jobs.interruption import DRIVER_PID
from nnet3py.text.lines import decode, fields, lines_of

_PLAIN = re.compile(r"[\w@%+=:,./~^-]+")
_END_SECONDS = 10.0
_LONGEST_CAUSE = 300
_LOOK_SECONDS, _MOST_LOOK_SECONDS = 0.5, 10.0
_COUNTING_SLOTS = ("run-local", "run.pl", "run-ssh")
"""Engines that count slots within a call: two calls side by side would fill every core, or one GPU, twice."""
_TAKING_OPTIONS_ONLY = (*_COUNTING_SLOTS, "run-slurm", "run-sge", "queue.pl", "slurm.pl", "pbs.pl")
_MOST_STATUS = 128
"""An exit status above it is that of a program ended by a signal."""
_MOST_CALLS = 32
"""Calls of other engines side by side; lost jobs need one for each stretch of consecutive numbers."""


def check_paths(options: Any = None, paths: Mapping[str, str] | None = None) -> None:
    """Refuse every path and text that could not stand in a job's command line as it is.

    A command passes through an engine, which replaces JOB and may be anybody's, and through one or two shells; what
    they all leave alone is the same everywhere, so it is this that is asked for, of arguments and options alike.

    Args:
        options: a dataclass of :mod:`nnet3py.driver.options`, whose fields say which of them are paths, words, tables
            or arguments; an empty value is none.
        paths: other paths, by the names that a message has for them (``<data-dir>``).

    Raises:
        UserError: one of them has white space or characters special to a shell, or the word JOB.
    """
    for name, path in (paths or {}).items():
        require_plain_path(name, path)
    for declared in dataclasses.fields(options) if options is not None else ():
        kind, name = declared.metadata["kind"], declared.metadata["option"]
        value = getattr(options, declared.name)
        for text in value if isinstance(value, tuple) else (value,):
            if kind and text:
                _CHECKS[kind](name, text)


def require_plain_path(name: str, path: str) -> str:
    """The same path, if command lines can have it as it is; ``name`` is what a message calls it.

    Raises:
        UserError: it has white space or characters special to a shell, begins with a dash, or has the word JOB, which
            engines replace.
    """
    if not _PLAIN.fullmatch(path) or path.startswith("-") or "JOB" in path:
        raise UserError(
            f"{name} is {path!r}: command lines of jobs need paths of letters, digits and ._-+=,:@%~^/ "
            "that do not begin with a dash or contain the word JOB. Use another name or a symbolic link."
        )
    return path


def require_plain_words(name: str, text: str) -> str:
    """The same text, if command lines can have its words, options mostly, as they are.

    Raises:
        UserError: a word has characters special to a shell, or the word JOB.
    """
    for word in fields(text):
        if not _PLAIN.fullmatch(word) or "JOB" in word:
            raise UserError(
                f"{name} is {text!r}: expected words of letters, digits and ._-+=,:@%~^/ with blanks between them, "
                f"without the word JOB, found {word!r}. They go into command lines of jobs, where a shell would read "
                "more into them."
            )
    return text


def _require_table(name: str, text: str) -> None:
    """Refuse an rspecifier that would not come through a job's command line: a pipe may have what its shell needs."""
    is_pipe = text.endswith("|") and " " in text  # with a blank an engine puts quotes around it
    if (_PLAIN.fullmatch(text) or (is_pipe and not set(text) & set("\"'$`\\\n"))) and "JOB" not in text:
        return
    raise UserError(
        f"{name} is {text!r}: expected a table such as ark:FILE or scp:FILE, of letters, digits and ._-+=,:@%~^/, or "
        "a pipe such as 'ark:gunzip -c FILE |' without quotes, $ and backslashes; without the word JOB."
    )


def _require_arguments(name: str, text: str) -> None:
    """Refuse arguments whose quotes do not match; what is in them is for the program that gets them to check."""
    try:
        shlex.split(text)
    except ValueError as problem:
        raise UserError(f"Cannot read {name}={text!r}: {problem}.") from problem


_CHECKS: dict[str, Callable[[str, str], object]] = {
    "path": require_plain_path,
    "words": require_plain_words,
    "table": _require_table,
    "arguments": _require_arguments,
}


def shell_word(text: str) -> str:
    """``text`` as one word of a shell command, escaped without quotes: run.pl puts its own around a command.

    Only for what programs make themselves; what a user gives is refused instead (:func:`check_paths`).
    """
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


@dataclass(frozen=True)
class Fault:
    """A job that was lost.

    Attributes:
        log: its log.
        attempt: how many times it had been started, from 1.
        reason: what is known about its end, in one line.
        again: whether it is started again.
    """

    log: str
    attempt: int
    reason: str
    again: bool


@dataclass
class _Call:
    """One call of the engine, for jobs with consecutive numbers."""

    numbers: list[int | None]
    process: subprocess.Popen[bytes]
    said: IO[bytes]
    first_seen: dict[int | None, float] = field(default_factory=dict)
    over: set[int | None] = field(default_factory=set)
    hanging: set[int | None] = field(default_factory=set)
    status: int = 0

    def finish(self) -> str:
        """Wait for it; what it said."""
        self.status = self.process.wait()
        with self.said:
            self.said.seek(0)
            return decode(self.said.read())


class Running:
    """Jobs that an engine has been started for."""

    def __init__(
        self,
        engine: Engine,
        options: Sequence[str],
        words: Sequence[str],
        logs: dict[int | None, str],
        what: str,
        check: Callable[[int], str] | None,
        attempts: Mapping[int, int],
        max_retries: int | None,
        excused: Callable[[int], bool] | None = None,
    ) -> None:
        """Start them.

        Args:
            engine: through which.
            options: more options for it.
            words: the log's name and the command.
            logs: every job's log by its number; one job without a number has None.
            what: names the jobs in a message (``Training, iteration 3``).
            check: what is wrong with the result of a job that has succeeded; "" if nothing is.
            attempts: how often a job was started before, in vain.
            max_retries: how often lost ones are started again; None: as the engine says. Where a number is given it is
                the caller that sees to what has failed: nothing is told.
            excused: whether a job that has failed had nothing to do; it is then in ``had_nothing_to_do``, and not lost.
        """
        self._engine = engine
        self._options = options
        self._words = words
        self._logs = logs
        self._what = what
        self._check = check
        self._excused = excused
        self.had_nothing_to_do: set[int] = set()
        self._tells = max_retries is None
        self._max_retries = engine.max_retries if max_retries is None else max_retries
        self._said = ""
        self._waiting: list[list[int | None]] = []
        self._calls: list[_Call] = []
        self._missed: set[int | None] = set()
        self.attempts: dict[int | None, int] = {number: attempts.get(number or 0, 0) for number in logs}
        self._begin(list(logs))

    def wait(self) -> None:
        """Wait until every job has succeeded, starting lost ones again as often as the engine is to.

        Raises:
            UserError: one has failed for good; the message has its log's name and what explains it there.
        """
        lost = self.lost()
        if lost:
            raise UserError(self.explain(lost))

    def lost(self) -> dict[int | None, str]:
        """As :meth:`wait`, but returns the jobs that have failed for good, and what is known about each one's end."""
        lost: dict[int | None, str] = {}
        pending = list(self._logs)
        while pending:
            failed = self._finish(pending)
            pending = []
            for number, reason in failed.items():
                if number not in self._missed:
                    self.attempts[number] += 1
                    again = self.attempts[number] <= self._max_retries
                    if self._tells:
                        fault = Fault(self._logs[number], self.attempts[number], reason, again)
                        self._engine.report(self._what, fault)
                    if not again:
                        lost[number] = reason
                        continue
                    self._keep_log(number)
                pending.append(number)
            if pending:
                self._begin(pending)
        return lost

    def explain(self, lost: Mapping[int | None, str]) -> str:
        """What to tell about jobs that have failed for good: how many, and, in lines of their own, what a log says."""
        first = next(iter(lost))
        path = self._logs[first]
        if not os.path.exists(path):  # the engine itself failed: what it said is all there is
            lines = log_file.explaining(lines_of(self._said)) or ["(it said nothing)"]
            return "\n".join([f"{self._what}: the engine could not run it:", *lines])
        count = f"{len(lost)} of {len(self._logs)} failed" if len(self._logs) > 1 else "failed"
        if self.attempts[first] > 1:
            count += f" {self.attempts[first]} times"
        if not lost[first].startswith("exit status"):
            count += f" ({lost[first]})"
        lines = log_file.explanation(path) or ["(nothing)"]
        return "\n".join([f"{self._what}: {count}; the log {path} says:", *lines])

    # Calls of the engine.

    def _begin(self, numbers: list[int | None]) -> None:
        self._waiting = consecutive(numbers)
        self._calls = []
        self._call()
        while self._waiting and not self._engine.counts_slots and len(self._calls) < _MOST_CALLS:
            self._call()

    def _call(self) -> None:
        numbers = self._waiting.pop(0)
        for number in numbers:  # an old log must not be taken for this run's
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._logs[number])
        array = [] if numbers[0] is None else [f"JOB={numbers[0]}:{numbers[-1]}"]
        process, said = self._engine.call([*self._options, *array, *self._words])
        self._calls.append(_Call(numbers, process, said))

    def _finish(self, pending: list[int | None]) -> dict[int | None, str]:
        """Wait for the calls; the jobs that have to run again, with the reason.

        Those among them that are not to blame, because their call ended before they had begun, are in ``_missed``.
        """
        self._missed = set()
        failed: dict[int | None, str] = {}
        position = 0
        while position < len(self._calls) or self._waiting:
            if position == len(self._calls):
                self._call()
            call = self._calls[position]
            self._watch(call)
            said = call.finish()
            failed |= self._failed(call, said)
            position += 1
            if self._waiting and not self._engine.counts_slots:
                self._call()
        return {number: failed[number] for number in pending if number in failed}

    def _failed(self, call: _Call, said: str) -> dict[int | None, str]:
        started = {number for number in call.numbers if os.path.exists(self._logs[number])}
        failed = {}
        for number in call.numbers:
            if number in call.hanging and log_file.status(self._logs[number]) != 0:
                failed[number] = f"it ran for more than {self._engine.job_time_limit:g} s"
            elif call.status == 0 or log_file.status(self._logs[number]) == 0:
                if self._check is not None and number is not None and (problem := self._check(number)):
                    failed[number] = problem
            elif number is not None and self._is_excused(number):
                self.had_nothing_to_do.add(number)
            else:
                failed[number] = _how_it_ended(self._logs[number])
                if (started and number not in started) or call.hanging:
                    self._missed.add(number)
        if call.status != 0:
            self._said = said
            excused = self.had_nothing_to_do.intersection(call.numbers)
            if not failed and not call.hanging and not excused:  # the engine has failed though its jobs have not
                failed = dict.fromkeys(call.numbers, f"the engine's exit status was {call.status}")
        return failed

    def _is_excused(self, number: int) -> bool:
        """Whether a job has ended by itself, in failure, for there was nothing that it could do."""
        status = log_file.status(self._logs[number])
        return self._excused is not None and status is not None and status <= _MOST_STATUS and self._excused(number)

    def _watch(self, call: _Call) -> None:
        """Wait while the call's jobs are within the time limit; end it when all that run are beyond it."""
        limit = self._engine.job_time_limit
        while limit > 0:
            with contextlib.suppress(subprocess.TimeoutExpired):
                call.process.wait(min(max(limit / 20, _LOOK_SECONDS), _MOST_LOOK_SECONDS, limit))
                return
            now = time.monotonic()
            left = [number for number in call.numbers if number not in call.over]
            begun = [number for number in left if number in call.first_seen or os.path.exists(self._logs[number])]
            call.over.update(number for number in begun if log_file.status(self._logs[number]) is not None)
            running = [number for number in begun if number not in call.over]
            beyond = [number for number in running if now - call.first_seen.setdefault(number, now) > limit]
            if running and len(beyond) == len(running):
                call.hanging.update(beyond)
                end_processes([call.process])
                return

    def _keep_log(self, number: int | None) -> None:
        """Put the log of a failed attempt aside, so that what became of it can be read."""
        with contextlib.suppress(FileNotFoundError):
            os.replace(self._logs[number], f"{self._logs[number]}.failed{self.attempts[number]}")


def _how_it_ended(log: str) -> str:
    status = log_file.status(log)
    if status is None:
        return "its log does not say how it ended" if os.path.exists(log) else "it has no log"
    if status > 128 and status - 128 in set(signal.Signals):
        return f"ended by {signal.Signals(status - 128).name}"
    cause = log_file.cause(log)
    return f"exit status {status}" + (f", {messages.shortened(cause, _LONGEST_CAUSE).rstrip('. ')}" if cause else "")


def consecutive(numbers: Iterable[int | None]) -> list[list[int | None]]:
    """Numbers in ascending order as runs of consecutive ones: ``[1, 2, 4]`` is ``[[1, 2], [4]]``."""
    runs: list[list[int | None]] = []
    for number in numbers:
        if runs and number is not None and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return runs


def end_processes(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask engines to end their jobs and themselves; then make them."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Engine:
    """A ``--cmd`` and the jobs that run through it; a context manager that ends what still runs."""

    def __init__(self, command: str, *, max_retries: int = 0, job_time_limit: float = 0.0) -> None:
        """What is to be done through it.

        Args:
            command: the option's text, ``run-local`` or ``queue.pl --mem 4G``.
            max_retries: how often a job that is lost is started again.
            job_time_limit: seconds after which a job counts as hanging; 0: never.

        Raises:
            UserError: the command is empty, its quotes do not match, or it has a range of jobs (``JOB=1:4``).
        """
        try:
            self._words = shlex.split(command)
        except ValueError as problem:
            raise UserError(f"Cannot read the command {command!r}: {problem}.") from problem
        if not self._words:
            raise UserError("Expected an engine like run-local as --cmd, found nothing.")
        self._refuse_surplus(command)
        self.max_retries = max_retries
        self.job_time_limit = job_time_limit
        self.counts_slots = os.path.basename(self._words[0]) in _COUNTING_SLOTS
        self.on_fault: Callable[[Fault], None] = lambda fault: None
        self._processes: list[subprocess.Popen[bytes]] = []

    def _refuse_surplus(self, command: str) -> None:
        """Refuse what would take the place of the range of jobs or of the log."""
        rest = command_line.after_options(self._words[1:])
        while rest:
            if command_line.looks_like_range(rest[0]):
                raise UserError(
                    f"The engine {command!r} (--cmd) has the range of jobs {rest[0]}: leave it out, the driver counts "
                    "its jobs itself."
                )
            if os.path.basename(self._words[0]) in _TAKING_OPTIONS_ONLY:
                raise UserError(
                    f"The engine {command!r} (--cmd): expected options alone after its name, found {rest[0]!r}."
                )
            rest = command_line.after_options(rest[1:])  # of the engine that this one calls, retry.pl queue.pl say

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(
        self,
        log: str,
        command: Sequence[str],
        *,
        what: str,
        jobs: int | Sequence[int] | None = None,
        options: Sequence[str] = (),
        check: Callable[[int], str] | None = None,
        attempts: Mapping[int, int] | None = None,
        max_retries: int | None = None,
        excused: Callable[[int], bool] | None = None,
    ) -> Running:
        """Start one job, or several with ``JOB`` in the log's name and the command; do not wait.

        Args:
            log: the log's name.
            command: words of the command.
            what: names the jobs in a message.
            jobs: their number, or their numbers in ascending order; None is one job without a number.
            options: more options for the engine.
            check: says what is wrong with the result of a job that has succeeded, "" if nothing is.
            attempts: how often jobs were started before, in vain.
            max_retries: how often a lost job is started again, where not as :class:`Engine` was told; the caller then
                sees to what has failed, and nothing is told about it.
            excused: says of a job that has ended with a failure whether it had nothing to do; it is not lost then.

        Raises:
            UserError: the engine is not there.
        """
        numbers: Sequence[int | None] = (
            range(1, jobs + 1) if isinstance(jobs, int) else [None] if jobs is None else jobs
        )
        logs = {number: log if number is None else log.replace("JOB", str(number)) for number in numbers}
        return Running(self, options, [log, *command], logs, what, check, attempts or {}, max_retries, excused)

    def run(
        self,
        log: str,
        command: Sequence[str],
        *,
        what: str,
        jobs: int | Sequence[int] | None = None,
        options: Sequence[str] = (),
        excused: Callable[[int], bool] | None = None,
    ) -> set[int]:
        """As :meth:`start`, then wait; returns the jobs that had nothing to do.

        Raises:
            UserError: a job has failed.
        """
        running = self.start(log, command, what=what, jobs=jobs, options=options, excused=excused)
        running.wait()
        return running.had_nothing_to_do

    def call(self, words: Sequence[str]) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        """Start the engine; its process, and the file that gets what it says. Raises UserError if it is not there."""
        said = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            process = subprocess.Popen(
                [*self._words, *words],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                env={**os.environ, DRIVER_PID: str(os.getpid())},
            )
        except OSError as problem:
            said.close()
            raise UserError(f"Cannot start the engine {self._words[0]} (--cmd): {problem.strerror}.") from problem
        self._processes = [other for other in self._processes if other.poll() is None]
        self._processes.append(process)
        return process, said

    def report(self, what: str, fault: Fault) -> None:
        """Tell about a lost job: whoever keeps a record (``on_fault``), and the user if it is started again."""
        self.on_fault(fault)
        if fault.again:
            messages.warning(
                f"{what}: the job with the log {fault.log} failed: {fault.reason}. Starting it again, attempt "
                f"{fault.attempt + 1} of {self.max_retries + 1}."
            )

    def stop(self) -> None:
        """End the engines that still run; they end their jobs."""
        end_processes([process for process in self._processes if process.poll() is None])
        self._processes = []
