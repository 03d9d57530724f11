"""Which jobs an engine is to run: all, or those that ``--pick`` selects by how their last run ended."""

from __future__ import annotations

from collections import deque

from nnet3py.jobs import log_file
from nnet3py.jobs.command_line import Invocation


def pick(invocation: Invocation) -> tuple[deque[int | None], list[int | None]]:
    """The numbers of the jobs to run, and of those that are not run again although they failed."""
    reasons = {number: picked_out(invocation, number) for number in invocation.numbers()}
    return (
        deque(number for number, reason in reasons.items() if not reason),
        [number for number, reason in reasons.items() if reason == "failed"],
    )


def picked_out(invocation: Invocation, number: int | None) -> str:
    """Why a job is not to run: "done", "failed", or "" where it is to run."""
    if invocation.pick == "all":
        return ""
    status = log_file.status(invocation.log_of(number))
    if status == 0:
        return "done"
    return "failed" if status is not None and invocation.pick == "incomplete" else ""
