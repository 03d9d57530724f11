"""What an engine says on standard error about jobs that failed: their logs' names and what explains it in them."""

from __future__ import annotations

from nnet3py import log
from nnet3py.jobs import log_file
from nnet3py.jobs.command_line import Invocation

_REPORTED_FAILURES = 3


def report(invocation: Invocation, failed: list[int | None]) -> None:
    """One ERROR that counts the failures, then what explains them in the first few logs.

    Args:
        invocation: what the engine was asked for.
        failed: the numbers of the jobs that failed, at least one, in any order.
    """
    count = len(invocation.numbers())
    failed = sorted(failed, key=lambda number: number or 0)
    if count == 1:
        path = invocation.log_of(failed[0])
        log.error("\n".join([f"The job failed; its log {path} says:", *log_file.explanation(path)]))
        return
    numbers = ", ".join(str(number) for number in failed[:20]) + (" ..." if len(failed) > 20 else "")
    pattern = invocation.log.replace(invocation.array.name, "*") if invocation.array else invocation.log
    lines = [f"{len(failed)} of {count} jobs failed ({numbers}); the logs are {pattern}:"]
    for path in map(invocation.log_of, failed[:_REPORTED_FAILURES]):
        lines += [f"{path} says:", *(f"  {line}" for line in log_file.explanation(path))]
    log.error("\n".join(lines))
