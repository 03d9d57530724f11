"""What a scheduler such as Slurm must be able to do for :mod:`nnet3py.jobs.queue`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from nnet3py.errors import UserError
from nnet3py.jobs.inherited import for_a_queue
from nnet3py.jobs.interruption import DRIVER_PID
from nnet3py.text.lines import fields

_QUESTION_SECONDS = 120.0


class UnreachableError(Exception):
    """The scheduler did not answer, or not in a way that says anything about the jobs; ask again later."""


@dataclass(frozen=True)
class State:
    """What became of a job.

    Attributes:
        name: the scheduler's word for it (``RUNNING``, ``TIMEOUT``).
        over: it will not run (again).
        meaning: what the word says to a user, for those that are over by no doing of the job's.
        stuck: it waits for what will not happen by itself; the engine should give it up.
    """

    name: str
    over: bool
    meaning: str = ""
    stuck: bool = False


@dataclass(frozen=True)
class Submission:
    """An array that is to be submitted, or a single job.

    Attributes:
        script: file name of the script, absolute.
        output: file name for what the scheduler prints about the jobs, absolute.
        name: the array's name, used by no other.
        tasks: the tasks' numbers, ascending; None for a single job without one.
        most_at_once: how many tasks may run at a time; None for as many as the scheduler likes.
        after: the scheduler's number of the array that must have ended before.
    """

    script: str
    output: str
    name: str
    tasks: Sequence[int] | None
    most_at_once: int | None = None
    after: str | None = None


class Scheduler(Protocol):
    """One scheduler's commands.

    Attributes:
        program: the engine's name.
        name: the scheduler's name, for messages.
        default_conf: the configuration where there is no file, in the syntax of :mod:`nnet3py.jobs.queue_conf`.
        conf_file: the file that is read where no other is named.
        task_variable: the environment variable with a task's number.
        job: its number for the job that runs, as a job's script has it.
        any_tasks: an array can have any task numbers, not only those from one number to another.
        limits_jobs: what the configuration says of ``max_jobs_run`` has no effect, the array has its limit anyway.
    """

    program: str
    name: str
    default_conf: str
    conf_file: str
    task_variable: str
    job: str
    any_tasks: bool
    limits_jobs: bool

    def most_tasks(self) -> int | None:
        """How many tasks an array may have; tasks' numbers may be as high as that. None for no limit known."""

    def submit(self, command: Sequence[str], submission: Submission) -> str:
        """Submit; the result is the scheduler's number of the array.

        Raises:
            UserError: it was refused.
            UnreachableError: nothing is known of whether it was accepted.
        """

    def states(self, job: str) -> dict[int | None, State]:
        """The states of an array's tasks, of those that the scheduler still knows.

        Raises:
            UnreachableError: the scheduler does not answer.
        """

    def last_state(self, job: str, task: int | None) -> State | None:
        """How a task ended that :meth:`states` has no more, from the accounts, where there are any."""

    def cancel(self, job: str, tasks: Sequence[int] | None = None) -> None:
        """End an array, by its number or its name; or some of its tasks.

        Raises:
            UnreachableError: the scheduler does not answer.
        """


def run(words: Sequence[str], *, timeout: float = _QUESTION_SECONDS) -> subprocess.CompletedProcess[str]:
    """One of the scheduler's commands, out of reach of the terminal's interrupts and of the job that this may be in.

    Raises:
        UserError: it cannot be started.
        UnreachableError: it took too long.
    """
    environment = for_a_queue({name: value for name, value in os.environ.items() if name != DRIVER_PID})
    try:
        return subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=timeout,
            env=environment,
            start_new_session=True,
        )
    except OSError as problem:
        raise UserError(
            f"Cannot start {words[0]}: {problem.strerror}. Is this a machine from which jobs can be submitted?"
        ) from problem
    except subprocess.TimeoutExpired as problem:
        raise UnreachableError(f"{words[0]} did not answer within {timeout:.0f} s") from problem


def says(done: subprocess.CompletedProcess[str]) -> str:
    """What a command that failed printed, in one line."""
    said = " ".join(fields(done.stderr) or fields(done.stdout))
    return said[-1000:] or f"nothing, with exit status {done.returncode}"
