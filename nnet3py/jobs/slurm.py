"""Slurm's commands: sbatch, squeue, sacct, scancel, scontrol."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.jobs.scheduler import State, Submission, UnreachableError, run, says

_DEFAULT_MAX_ARRAY_SIZE = 1001
_SUBMITTED = re.compile(r"^(?:Submitted batch job )?(\d+)(?:;\S+| on cluster \S+)?$", re.MULTILINE)
# Said by sbatch when it cannot tell whether the controller has the job.
_NO_ANSWER = ("Unable to contact", "Socket timed out", "Zero Bytes", "Connection refused", "Resource temporarily")
_UNKNOWN_JOB = ("Invalid job id", "Invalid Job Id")

# Source of the states: squeue(1), "JOB STATE CODES". COMPLETED and FAILED are what the job itself did.
_ENDS = {
    "BOOT_FAIL": "its node did not start",
    "CANCELLED": "it was cancelled, by scancel or by an administrator",
    "COMPLETED": "the script ended, but nothing of that is on the disk",
    "DEADLINE": "its deadline passed",
    "FAILED": "the script itself failed, before the command or after it",
    "NODE_FAIL": "its node was lost",
    "OUT_OF_MEMORY": "it used more memory than it was given: ask for more with --mem",
    "PREEMPTED": "a job of higher priority took its place",
    "REVOKED": "it was moved to another cluster",
    "TIMEOUT": "it ran longer than its time limit: ask for more with --time, or use shorter jobs",
}
# Reasons for which a job waits in the queue and will go on waiting.
_STUCK = {
    "BadConstraints": "no node can ever give it what it asks for",
    "DependencyNeverSatisfied": "it waits for a job that cannot end as it should",
    "launch_failed_requeued_held": "it could not be started and was held",
}


class Slurm:
    """See :class:`nnet3py.jobs.scheduler.Scheduler`."""

    program = "run-slurm"
    name = "Slurm"
    conf_file = "conf/slurm.conf"
    default_conf = """\
command sbatch --export=ALL --no-requeue
option time=* --time=$0
option mem=* --mem-per-cpu=$0
option mem=0
option num_threads=* --cpus-per-task=$0
option num_threads=1
default gpu=0
option gpu=0
option gpu=* --gres=gpu:$0
"""
    task_variable = "SLURM_ARRAY_TASK_ID"
    job = "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
    any_tasks = True
    limits_jobs = True

    def most_tasks(self) -> int | None:
        """``MaxArraySize`` less one: tasks are numbered from 0 there."""
        try:
            found = re.search(r"^MaxArraySize\s*=\s*(\d+)", run(["scontrol", "show", "config"]).stdout, re.MULTILINE)
        except (UserError, UnreachableError):
            found = None
        return (int(found[1]) if found else _DEFAULT_MAX_ARRAY_SIZE) - 1

    def submit(self, command: Sequence[str], submission: Submission) -> str:
        words = [
            *command,
            "--parsable",
            f"--job-name={submission.name}",
            f"--output={_literal(submission.output)}",
            "--open-mode=append",
        ]
        if submission.tasks is not None:
            limit = "" if submission.most_at_once is None else f"%{submission.most_at_once}"
            words.append(f"--array={ranges(submission.tasks)}{limit}")
        if submission.after is not None:
            words.append(f"--dependency=afterany:{submission.after}")
        done = run([*words, submission.script])
        found = _SUBMITTED.search(done.stdout)
        if done.returncode == 0 and found:
            return found[1]
        if any(sign in done.stderr for sign in _NO_ANSWER):
            raise UnreachableError(says(done))
        raise UserError(f"{command[0]} refused the jobs: {says(done)}")

    def states(self, job: str) -> dict[int | None, State]:
        words = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={job}", "--format=%K|%T|%r"]
        done = run(words)
        if done.returncode != 0:
            if any(sign in done.stderr for sign in _UNKNOWN_JOB):
                return {}
            raise UnreachableError(says(done))
        states: dict[int | None, State] = {}
        for line in done.stdout.splitlines():
            task, state, reason = [*line.split("|"), "", ""][:3]
            states[int(task) if task.isdigit() else None] = _state(state, reason)
        return states

    def last_state(self, job: str, task: int | None) -> State | None:
        words = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=State"]
        try:
            done = run([*words, f"--jobs={job}" if task is None else f"--jobs={job}_{task}"])
        except (UserError, UnreachableError):
            return None
        state = done.stdout.split()  # CANCELLED by 1000
        return _state(state[0], "") if done.returncode == 0 and state else None

    def cancel(self, job: str, tasks: Sequence[int] | None = None) -> None:
        if not job.isdigit():
            words = [f"--name={job}"]
        else:
            words = [job] if tasks is None else [f"{job}_{task}" for task in tasks]
        done = run(["scancel", *words])
        if done.returncode != 0 and not any(sign in done.stderr for sign in _UNKNOWN_JOB):
            raise UnreachableError(says(done))


def _state(name: str, reason: str) -> State:
    if name in _ENDS:
        return State(name, over=True, meaning=_ENDS[name])
    if name == "PENDING" and reason in _STUCK:
        return State(f"PENDING ({reason})", over=False, meaning=_STUCK[reason], stuck=True)
    return State(name, over=False)


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as sbatch wants them: ``1-4,7,9-10``."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def _literal(path: str) -> str:
    """A file name in which sbatch replaces nothing."""
    if "\\" in path:
        log.warning(f"sbatch cannot write to a path with a backslash: what Slurm says of the jobs of {path} is lost.")
        return "/dev/null"
    return path.replace("%", "%%")
