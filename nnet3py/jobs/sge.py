"""Grid Engine's commands: qsub, qstat, qacct, qdel."""

from __future__ import annotations

import getpass
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.jobs.scheduler import State, Submission, UnreachableError, run, says

_SUBMITTED = re.compile(r"^Your job(?:-array)? (\d+)[. ]", re.MULTILINE)
_TASKS = re.compile(r"(\d+)(?:-(\d+))?(?::(\d+))?")
# Said where the qmaster cannot be reached; as in queue.pl, worth another try.
_NO_ANSWER = ("qmaster", "gdi request", "commlib", "communication error")
_UNKNOWN_JOB = ("do not exist", "does not exist", "denied: job")
_GONE = "gone"


class GridEngine:
    """See :class:`nnet3py.jobs.scheduler.Scheduler`."""

    program = "run-sge"
    name = "Grid Engine"
    conf_file = "conf/queue.conf"
    default_conf = """\
command qsub -V -cwd -S /bin/bash -j y
option mem=* -l mem_free=$0,ram_free=$0
option mem=0
option num_threads=* -pe smp $0
option num_threads=1
option max_jobs_run=* -tc $0
default gpu=0
option gpu=0
option gpu=* -l gpu=$0
"""
    task_variable = "SGE_TASK_ID"
    job = "$JOB_ID${nnet3py_name:+.$SGE_TASK_ID}"
    any_tasks = False
    limits_jobs = False

    def most_tasks(self) -> int | None:
        """Not asked for: qsub refuses an array that is larger than ``max_aj_tasks``, 75000 where nobody changed it."""
        return None

    def submit(self, command: Sequence[str], submission: Submission) -> str:
        # The array's own words come first: what the configuration says of -tc counts then, if it does.
        words = [command[0]]
        if submission.tasks is not None:
            words += ["-t", f"{submission.tasks[0]}-{submission.tasks[-1]}"]
            if submission.most_at_once is not None:
                words += ["-tc", str(submission.most_at_once)]
        if submission.after is not None:
            words += ["-hold_jid", submission.after]
        words += [*_without_sync(command[1:]), "-N", submission.name, "-o", _output(submission.output)]
        done = run([*words, submission.script])
        found = _SUBMITTED.search(done.stdout)
        if found:
            if done.returncode != 0:  # taken, though no queue would run them today
                log.warning(f"{command[0]} took the jobs, but said: {says(done)}")
            return found[1]
        if any(sign in says(done) for sign in _NO_ANSWER):
            raise UnreachableError(says(done))
        raise UserError(f"{command[0]} refused the jobs: {says(done)}")

    def states(self, job: str) -> dict[int | None, State]:
        done = run(["qstat", "-u", getpass.getuser(), "-xml"])
        if done.returncode != 0:
            raise UnreachableError(says(done))
        try:
            listing = ElementTree.fromstring(done.stdout)
        except ElementTree.ParseError as problem:
            raise UnreachableError(f"qstat -xml printed what cannot be read: {problem}") from problem
        states: dict[int | None, State] = {}
        for entry in listing.iter("job_list"):
            if entry.findtext("JB_job_number") == job:
                state = _state(entry.findtext("state") or "")
                for task in _tasks(entry.findtext("tasks") or ""):
                    states[task] = state
        return states

    def last_state(self, job: str, task: int | None) -> State | None:
        try:
            done = run(["qacct", "-j", job] + ([] if task is None else ["-t", str(task)]))
        except (UserError, UnreachableError):
            return None
        fields = dict(line.split(None, 1) for line in done.stdout.splitlines() if len(line.split(None, 1)) == 2)
        if done.returncode != 0 or "failed" not in fields:
            return None
        status = fields.get("exit_status", "?").strip()
        return State(_GONE, over=True, meaning=f"qacct has failed={fields['failed'].strip()}, exit_status={status}")

    def cancel(self, job: str, tasks: Sequence[int] | None = None) -> None:
        words = ["qdel", job] if tasks is None else ["qdel", job, "-t", f"{tasks[0]}-{tasks[-1]}"]
        done = run(words)
        if done.returncode != 0 and not any(sign in says(done) for sign in _UNKNOWN_JOB):
            raise UnreachableError(says(done))


def _without_sync(words: Sequence[str]) -> list[str]:
    """The words without ``-sync y``: qsub would not come back before the jobs' end, which is followed here."""
    left = list(words)
    while "-sync" in left:
        position = left.index("-sync")
        del left[position : position + 2]
    return left


def _output(path: str) -> str:
    """A file name for ``qsub -o``, before whose first colon a host's name would stand."""
    if "$" in path:
        raise UserError(f"qsub would replace variables in {path}: put the log into a directory without $ in its name.")
    return f":{path}"


def _tasks(text: str) -> list[int | None]:
    """Task numbers as qstat has them, ``4``, ``1-9:2,12``; empty for a job without tasks."""
    if not text.strip():
        return [None]
    tasks: list[int | None] = []
    for part in text.split(","):
        if found := _TASKS.fullmatch(part.strip()):
            tasks += range(int(found[1]), int(found[2] or found[1]) + 1, int(found[3] or 1))
    return tasks


def _state(letters: str) -> State:
    """Source: qstat(1). Whatever qstat lists is not over yet; E will not change by itself."""
    if "E" in letters:
        meaning = "it could not be started, see 'qstat -explain E' (qmod -cj would try again)"
        return State(letters, over=False, meaning=meaning, stuck=True)
    return State(letters, over=False)
