"""The record of an experiment's lost jobs, ``<dir>/faults.tsv``: what was started again, what was left out.

A line a fault: the iteration and the job (``-`` for what is not a training job), the log, which attempt it was, what
was done (``again``, ``failed``, or ``left out``: the average was made without the job's model), and why. The lines
``left out`` are also read: a training that is stopped and goes on leaves the same jobs out, so that it ends with the
same bytes as if it had not been stopped. Going back with ``--stage`` forgets the lines of the iterations that are to be
run again.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass

from nnet3py.driver.engine import Fault
from nnet3py.driver.experiment import Experiment
from nnet3py.errors import UserError
from nnet3py.text.lines import fields, read_lines, write_text

NAME = "faults.tsv"
AGAIN, FAILED, LEFT_OUT = "again", "failed", "left out"
_COLUMNS = ("iteration", "job", "log", "attempt", "outcome", "reason")
_TRAINING_LOG = re.compile(r"(?:.*/)?train\.(\d+)\.(\d+)\.log")


@dataclass(frozen=True)
class Row:
    """A line of the record; ``iteration`` and ``job`` are None for what is not a training job."""

    iteration: int | None
    job: int | None
    log: str
    attempt: int
    outcome: str
    reason: str


class FaultRecord:
    """Reads and writes the record; every change is on the disk before it has consequences."""

    def __init__(self, experiment: Experiment) -> None:
        """The record of this experiment."""
        self._path = experiment.path(NAME)

    def note(self, fault: Fault) -> None:
        """A job was lost, and is perhaps started again."""
        self._add(fault.log, fault.attempt, AGAIN if fault.again else FAILED, fault.reason)

    def leave_out(self, log: str, attempts: int, reason: str) -> None:
        """The iteration goes on without the training job that has this log."""
        self._add(log, attempts, LEFT_OUT, reason)

    def left_out(self, iteration: int) -> set[int]:
        """The jobs that the iteration goes on without."""
        rows = self.rows()
        return {
            row.job for row in rows if row.iteration == iteration and row.outcome == LEFT_OUT and row.job is not None
        }

    def forget(self, first: int) -> None:
        """Drop the lines of iterations from ``first`` on; with a negative number all lines."""
        rows = self.rows()
        kept = [row for row in rows if first >= 0 and (row.iteration is None or row.iteration < first)]
        if len(kept) < len(rows):
            self._write(kept)

    def rows(self) -> list[Row]:
        """The record. Raises UserError if the file is not such a record."""
        if not os.path.exists(self._path):
            return []
        lines = read_lines(self._path)
        if not lines or tuple(lines[0].split("\t")) != _COLUMNS:
            raise UserError(f"{self._path}: expected the columns {' '.join(_COLUMNS)}, found another first line.")
        return [self._row(number, line) for number, line in enumerate(lines[1:], 2)]

    def _row(self, number: int, line: str) -> Row:
        words = line.split("\t")
        try:
            iteration, job, log, attempt, outcome, reason = words
            return Row(_number(iteration), _number(job), log, int(attempt), outcome, reason)
        except ValueError:
            raise UserError(f"{self._path}:{number}: expected {len(_COLUMNS)} values, found {line!r}.") from None

    def _add(self, log: str, attempt: int, outcome: str, reason: str) -> None:
        found = _TRAINING_LOG.fullmatch(log)
        iteration, job = (int(found[1]), int(found[2])) if found else (None, None)
        self._write([*self.rows(), Row(iteration, job, log, attempt, outcome, " ".join(fields(reason)))])

    def _write(self, rows: list[Row]) -> None:
        lines = ["\t".join(_COLUMNS)]
        for row in rows:
            values = (row.iteration, row.job, row.log, row.attempt, row.outcome, row.reason)
            lines.append("\t".join("-" if value is None else str(value) for value in values))
        write_text(self._path, "\n".join(lines) + "\n")


def _number(word: str) -> int | None:
    return None if word == "-" else int(word)


def fault_report(rows: list[Row]) -> str:
    """The part of ``accuracy.report`` about lost jobs: how many were started again and left out; "" where none was."""
    if not rows:
        return ""
    again = Counter(row.iteration for row in rows if row.outcome == AGAIN)
    left_out: dict[int | None, list[str]] = {}
    for row in rows:
        if row.outcome == LEFT_OUT:
            left_out.setdefault(row.iteration, []).append(str(row.job))
    lines = [f"# lost jobs (all of them in {NAME}): how many were started again, which the average was made without"]
    lines.append("%Iter\tstarted_again\tleft_out")
    for iteration in sorted({*again, *left_out}, key=lambda each: -1 if each is None else each):
        name = "other" if iteration is None else iteration
        lines.append(f"{name}\t{again[iteration]}\t{','.join(left_out.get(iteration, [])) or '-'}")
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""
