"""Run jobs through a scheduler's queue, Slurm's or Grid Engine's: one array job, followed to its end.

The jobs tell how they ended by end markers on the shared disk (:mod:`nnet3py.jobs.job_script`). The scheduler is asked,
less and less often, only for jobs that its queue has no more: one that is gone and has left no marker gets some time
for a marker that another machine's disk cache may still hide, and is then a failure. A scheduler that does not answer
stops nothing, the markers go on telling.

What the engine writes lies in a private directory beside the log, ``<log dir>/q/<log's name>.<random>``, with the job's
script, ``scheduler.out`` (what the scheduler prints about the jobs) and ``ended/``; it is removed if all went well.

Source of the rules for slow disks: Kaldi egs/wsj/s5/utils/parallel/queue.pl.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

from nnet3py import log, temporary_files
from nnet3py.errors import UserError
from nnet3py.jobs import job_script, log_file, queue_conf
from nnet3py.jobs.command_line import Invocation
from nnet3py.jobs.interruption import ignore_signals, signals_raise
from nnet3py.jobs.pick import pick
from nnet3py.jobs.report import report
from nnet3py.jobs.scheduler import Scheduler, State, Submission, UnreachableError
from nnet3py.text.lines import BLANKS, encode

_OWN_OPTIONS = ("config", "pick", "wait_for_files", "poll_interval")
_ASKS_NOTHING = {("num_threads", "1"), ("gpu", "0"), ("mem", "0")}
_WAIT_FOR_FILES = 60.0  # seconds; what NFS keeps of a directory unless told otherwise (acdirmax)
_POLL_INTERVAL = 30.0
_FIRST_QUESTION = 2.0
_LONGEST_LOOK = 3.0
_SUBMISSION_WAITS = (5, 10, 20, 40, 60)
_STILL_UNREACHABLE = 600.0
_MOST_STRETCHES = 1000  # of consecutive numbers that an array is submitted with: they are one argument
_CANCEL_SECONDS = 6.0  # a driver waits ten for its engine's end
_GONE = State("gone", over=True, meaning="it is no longer in the queue, and there is no account of how it ended")


@dataclass(frozen=True)
class _Array:
    """One submission: the job's number of each task (None for a single job without a number)."""

    id: str
    tasks: dict[int | None, int | None]


def run(invocation: Invocation, scheduler: Scheduler) -> int:
    """Run every job of an invocation; 0 if all succeeded, 1 if any failed.

    What failed is said on standard error: the logs' names and their last lines.

    Raises:
        Terminated: a signal came, or the driver is gone; the jobs have been cancelled.
        UserError: the options or the configuration are wrong, or the scheduler refuses the jobs.
    """
    command = _command(invocation, scheduler)
    wait_for_files = _seconds(invocation, "wait_for_files", _WAIT_FOR_FILES)
    poll_interval = _seconds(invocation, "poll_interval", _POLL_INTERVAL)
    waiting, failed = pick(invocation)
    if waiting:
        with signals_raise():
            call = _Call(invocation, scheduler, wait_for_files, poll_interval)
            try:
                call.submit(command, list(waiting))
                failed += call.follow()
            except BaseException:
                call.cancel()
                raise
            call.clear(keep=bool(failed))
    if failed:
        report(invocation, failed)
    return 1 if failed else 0


def _command(invocation: Invocation, scheduler: Scheduler) -> list[str]:
    """The words that submit a job that needs what the invocation's options say."""
    path = invocation.settings.get("config")
    if path is None and os.path.exists(scheduler.conf_file):
        path = scheduler.conf_file
    if path is None:
        conf = queue_conf.parse(scheduler.default_conf, f"the built-in configuration of {scheduler.program}")
    else:
        conf = queue_conf.read(path)
    settings = {
        name: value
        for name, value in invocation.settings.items()
        if name not in _OWN_OPTIONS and (conf.describes(name) or (name, value) not in _ASKS_NOTHING)
    }
    if invocation.array is None or scheduler.limits_jobs or not conf.describes("max_jobs_run"):
        settings.pop("max_jobs_run", None)
    return [*conf.command, *conf.words(settings), *invocation.passed_on]


def _seconds(invocation: Invocation, name: str, default: float) -> float:
    text = invocation.settings.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise UserError(f"Option --{name.replace('_', '-')} needs a number of seconds, found {text!r}.")
    return value


class _Call:
    """The jobs of one invocation in the queue."""

    def __init__(self, invocation: Invocation, scheduler: Scheduler, wait_for_files: float, poll: float) -> None:
        self._invocation = invocation
        self._scheduler = scheduler
        self._wait_for_files = wait_for_files
        self._poll_interval = max(poll, 0.1)
        self._arrays: list[_Array] = []
        self._submitting = ""  # the name of an array of which it is not known whether the scheduler has it
        self._folder = _make_folder(invocation)
        self._output = os.path.join(self._folder, "scheduler.out")
        self._unreachable_since: float | None = None
        self._last_complaint = 0.0

    # Submission

    def submit(self, command: Sequence[str], numbers: Sequence[int | None]) -> None:
        """Put the jobs into the queue: as one array, if the scheduler takes as many at once.

        Raises:
            UserError: the scheduler refuses them or does not answer for minutes.
        """
        for position, (tasks, in_script) in enumerate(self._split(numbers)):
            script = os.path.join(self._folder, f"job.{position + 1}.sh")
            text = job_script.text(
                self._invocation,
                program=self._scheduler.program,
                folder=self._folder,
                directory=os.getcwd(),
                numbers=in_script,
                task_variable=self._scheduler.task_variable,
                job=self._scheduler.job,
            )
            with temporary_files.replacing(script) as temporary, open(temporary, "wb") as stream:
                stream.write(encode(text))
            limit = self._invocation.max_jobs_run
            submission = Submission(
                script=script,
                output=self._output,
                name=f"{os.path.basename(self._folder)}.{position + 1}",
                tasks=None if None in tasks else [task for task in tasks if task is not None],
                most_at_once=limit,
                after=self._arrays[-1].id if self._arrays and limit is not None else None,
            )
            self._arrays.append(_Array(self._submit_one(command, submission), tasks))

    def _split(self, numbers: Sequence[int | None]) -> list[tuple[dict[int | None, int | None], list[int]]]:
        """Arrays: the job's number of each task, and the numbers that the script must know (see ``job_script``)."""
        counted = [number for number in numbers if number is not None]
        if not counted:
            return [({None: None}, [])]
        most = self._scheduler.most_tasks() or counted[-1]
        gaps = sum(second - first > 1 for first, second in itertools.pairwise(counted))
        together = gaps < _MOST_STRETCHES if self._scheduler.any_tasks else gaps == 0
        if together and counted[-1] <= most:
            return [({number: number for number in counted}, [])]
        parts = [counted[start : start + most] for start in range(0, len(counted), most)]
        return [(dict(enumerate(part, 1)), part) for part in parts]

    def _submit_one(self, command: Sequence[str], submission: Submission) -> str:
        for wait in (*_SUBMISSION_WAITS, None):
            self._submitting = submission.name
            try:
                job = self._scheduler.submit(command, submission)
            except UnreachableError as problem:
                if wait is None:
                    raise UserError(f"{self._scheduler.name} does not take the jobs: {problem}") from problem
                log.warning(f"{self._scheduler.name} does not answer, trying again in {wait} s: {problem}")
                time.sleep(wait)
                with contextlib.suppress(UnreachableError):  # it may have them in spite of what was said
                    self._scheduler.cancel(submission.name)
            except UserError:
                self._submitting = ""
                raise
            else:
                self._submitting = ""
                return job
        raise AssertionError

    # Following

    def follow(self) -> list[int | None]:
        """Wait until every job has ended; those that failed."""
        waiting = {number: array for array in self._arrays for number in array.tasks.values()}
        failed: list[int | None] = []
        missing: dict[int | None, tuple[float, State]] = {}
        look, question = 0.1, _FIRST_QUESTION
        next_question = time.monotonic() + min(question, self._poll_interval)
        while waiting:
            for number, status in self._ended(waiting, refresh=bool(missing)).items():
                del waiting[number]
                missing.pop(number, None)
                if status != 0:
                    failed.append(number)
            now = time.monotonic()
            if waiting and now >= next_question:
                self._ask(waiting, missing)
                question = min(1.5 * question, self._poll_interval)
                now = time.monotonic()
                next_question = now + question
            for number, (since, state) in list(missing.items()):
                if state.stuck or now - since >= self._wait_for_files:
                    self._note_loss(waiting.pop(number), number, state)
                    del missing[number]
                    failed.append(number)
            if waiting:
                time.sleep(min(look, max(next_question - now, 0.05)))
                look = 0.5 if missing else min(1.2 * look, _LONGEST_LOOK)
        self._wait_for_logs(failed)
        return failed

    def _ended(self, waiting: dict[int | None, _Array], *, refresh: bool) -> dict[int | None, int]:
        """The exit statuses of jobs whose end markers are there."""
        folder = os.path.join(self._folder, "ended")
        if refresh:  # a change of the directory makes this machine ask the disk's server for what it has
            with contextlib.suppress(OSError), tempfile.TemporaryFile(prefix=".look", dir=folder):
                pass
        try:
            there = set(os.listdir(folder))
        except OSError:
            there = set()
        statuses = {}
        for number in waiting:
            name = "1" if number is None else str(number)
            if name in there:
                with contextlib.suppress(OSError, ValueError), open(os.path.join(folder, name)) as marker:
                    statuses[number] = int(marker.read())
        return statuses

    def _ask(self, waiting: dict[int | None, _Array], missing: dict[int | None, tuple[float, State]]) -> None:
        """Ask the scheduler for the jobs that have no end marker; note those that will not run any more."""
        for array in self._arrays:
            if not any(number in waiting for number in array.tasks.values()):
                continue
            try:
                states = self._scheduler.states(array.id)
            except UnreachableError as problem:
                self._complain(str(problem))
                return
            for task, number in array.tasks.items():
                if number not in waiting:
                    continue
                state = states.get(task)
                if state is None or state.over or state.stuck:
                    since, before = missing.get(number, (time.monotonic(), None))
                    missing[number] = (since, state or before or _GONE)
                else:
                    missing.pop(number, None)
        self._unreachable_since = None

    def _complain(self, problem: str) -> None:
        now = time.monotonic()
        if self._unreachable_since is None or now - self._last_complaint >= _STILL_UNREACHABLE:
            self._unreachable_since = self._unreachable_since or now
            self._last_complaint = now
            log.warning(f"{self._scheduler.name} does not answer; waiting for the jobs all the same: {problem}")

    def _note_loss(self, array: _Array, number: int | None, state: State) -> None:
        """Say in a job's log what became of it."""
        task = next(task for task, known in array.tasks.items() if known == number)
        if state.stuck or state is _GONE:  # should it run all the same, it is not to go on
            with contextlib.suppress(UnreachableError):
                self._scheduler.cancel(array.id, None if task is None else [task])
        if state is _GONE:
            state = self._scheduler.last_state(array.id, task) or state
        job = array.id if task is None else f"{array.id}_{task}"
        path = self._invocation.log_of(number)
        note = f"# {self._scheduler.program}: job {job} was lost, its state is {state.name}: {state.meaning}.\n"
        try:
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            with open(path, "ab") as stream:
                stream.write(encode(note))
        except OSError as problem:
            log.warning(f"Cannot write to the log {path} ({problem.strerror}): {note[2:-1]}")

    def _wait_for_logs(self, failed: list[int | None]) -> None:
        """Wait until the logs of the jobs that succeeded can be seen from here, as their reader expects."""
        deadline = time.monotonic() + self._wait_for_files
        numbers = [number for array in self._arrays for number in array.tasks.values()]
        unseen = [number for number in numbers if number not in failed]
        while True:
            unseen = [number for number in unseen if log_file.status(self._invocation.log_of(number)) is None]
            if not unseen:
                return
            if time.monotonic() >= deadline:
                break
            for folder in {os.path.dirname(self._invocation.log_of(number)) or "." for number in unseen}:
                with contextlib.suppress(OSError):
                    os.listdir(folder)
            time.sleep(0.5)
        log.warning(f"The log {self._invocation.log_of(unseen[0])} cannot be seen from here, though the job succeeded.")

    # The end

    def cancel(self) -> None:
        """Take the jobs out of the queue and wait a little for their end."""
        ignore_signals()
        deadline = time.monotonic() + _CANCEL_SECONDS
        names = [array.id for array in self._arrays] + ([self._submitting] if self._submitting else [])
        for name in names:
            try:
                self._scheduler.cancel(name)
                if name == self._submitting:  # it may have come in only now
                    time.sleep(0.5)
                    self._scheduler.cancel(name)
            except (UnreachableError, UserError) as problem:
                log.error(f"Cannot cancel job {name}, cancel it by hand when {self._scheduler.name} answers: {problem}")
                return
        while time.monotonic() < deadline and self._arrays:
            with contextlib.suppress(UnreachableError, UserError):
                if all(state.over for array in self._arrays for state in self._scheduler.states(array.id).values()):
                    break
            time.sleep(0.3)
        self.clear(keep=False)

    def clear(self, *, keep: bool) -> None:
        """Remove what the engine has written; or keep it and say where it is, if the scheduler had something to say."""
        if not keep:
            shutil.rmtree(self._folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # others' jobs may have theirs in it
                os.rmdir(os.path.dirname(self._folder))
            return
        said = log_file.last_lines(self._output, 3)
        if said:
            text = "; ".join(line.strip(BLANKS) for line in said)
            log.warning(f"{self._scheduler.name} said about the jobs ({os.path.relpath(self._output)}): {text}")


def _make_folder(invocation: Invocation) -> str:
    """The private directory beside the log (above a directory of each job's own); its absolute path."""
    beside = os.path.dirname(invocation.log)
    while invocation.array is not None and invocation.array.name in beside:
        beside = os.path.dirname(beside)
    base = os.path.basename(invocation.log)
    if invocation.array is not None:
        base = base.replace(f".{invocation.array.name}", "").replace(invocation.array.name, "")
    base = re.sub(r"[^\w.-]", "_", base.removesuffix(".log"), flags=re.ASCII).lstrip(".-_0123456789")[:60] or "job"
    queue = os.path.join(os.path.abspath(beside), "q")
    try:
        os.makedirs(queue, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=f"{base}.", dir=queue)
        os.mkdir(os.path.join(folder, "ended"))
    except OSError as problem:
        raise UserError(f"Cannot make a directory for the job's script in {queue}: {problem.strerror}.") from problem
    return folder
