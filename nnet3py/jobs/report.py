"""What an engine says on standard error about jobs that failed: their logs' names and last lines."""

from __future__ import annotations

import sys

from nnet3py import log
from nnet3py.jobs import log_file
from nnet3py.jobs.command_line import Invocation

_REPORTED_FAILURES = 3


def report(invocation: Invocation, failed: list[int | None]) -> None:
    """One ERROR line that counts the failures, then the last lines of the first few logs.

    Args:
        invocation: what the engine was asked for.
        failed: the numbers of the jobs that failed, at least one, in any order.
    """
    count = len(invocation.numbers())
    failed = sorted(failed, key=lambda number: number or 0)
    if count == 1:
        log.error(f"The job failed; its log is {invocation.log_of(failed[0])}, which ends:")
    else:
        numbers = ", ".join(str(number) for number in failed[:20]) + (" ..." if len(failed) > 20 else "")
        pattern = invocation.log.replace(invocation.array.name, "*") if invocation.array else invocation.log
        log.error(f"{len(failed)} of {count} jobs failed ({numbers}); the logs are {pattern}:")
    for number in failed[:_REPORTED_FAILURES]:
        if count > 1:
            sys.stderr.write(f"  {invocation.log_of(number)} ends:\n")
        for line in log_file.last_lines(invocation.log_of(number)):
            sys.stderr.write(f"    {line}\n")
