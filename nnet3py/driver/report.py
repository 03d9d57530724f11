"""What training has reached so far, for people (``accuracy.report``) and for programs (``progress.tsv``).

Source of the report's form: Kaldi egs/wsj/s5/steps/libs/nnet3/report/log_parse.py (``generate_acc_logprob_report``).
"""

from __future__ import annotations

import datetime
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from nnet3py.errors import UserError
from nnet3py.text.lines import read_lines, write_text


@dataclass(frozen=True)
class Progress:
    """One model: what it has seen and what it reaches. A row of ``progress.tsv``, whose columns are these fields.

    Attributes:
        model: its number, or ``final``.
        epoch: passes over the data before it.
        archives: archives processed before it.
        jobs, learning_rate: of the iteration that starts from it; nan for the last and the final model.
        train_logprob, valid_logprob: natural-log probability of the right class per frame, on the diagnostic subset of
            the training data and on the validation data.
        train_accuracy, valid_accuracy: fraction of frames.
        iteration_seconds: wall time of the iteration that starts from it, nan for the last and the final model.
        seconds: wall time of all iterations before it.
        max_change, max_change_components, not_finite: of the iteration that starts from it, how often the limits on the
            change in a minibatch were reached (:class:`nnet3py.driver.diagnostics.LimitedChanges`). Files of older
            versions do not have them, nor what follows.
        examples, discarded, minibatches, frames: of the same iteration, what became of the examples that its jobs read
            (:class:`nnet3py.driver.diagnostics.ExamplesUsed`).
    """

    model: str
    epoch: float
    archives: int
    jobs: float
    learning_rate: float
    train_logprob: float
    valid_logprob: float
    train_accuracy: float
    valid_accuracy: float
    iteration_seconds: float
    seconds: float
    max_change: float = math.nan
    max_change_components: Mapping[str, float] = field(default_factory=dict)
    not_finite: float = math.nan
    examples: float = math.nan
    discarded: float = math.nan
    minibatches: float = math.nan
    frames: float = math.nan


_COLUMNS = [column.name for column in fields(Progress)]
_OF_EXAMPLES = ("examples", "discarded", "frames")
_FIRST_COLUMNS = [column.name for column in fields(Progress) if column.default is column.default_factory is MISSING]


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{name}:{number:.4g}" for name, number in value.items()) or "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def write_progress(path: str, rows: list[Progress]) -> None:
    """Write ``progress.tsv``: a line of column names, then a line a model."""
    lines = ["\t".join(_COLUMNS)]
    lines += ["\t".join(_text(getattr(row, name)) for name in _COLUMNS) for row in rows]
    write_text(path, "\n".join(lines) + "\n")


def read_progress(path: str) -> list[Progress]:
    """Read ``progress.tsv``; no rows where there is no file.

    Raises:
        UserError: it is not such a file.
    """
    try:
        lines = read_lines(path)
    except UserError:
        if os.path.exists(path):
            raise
        return []
    columns = lines[0].split("\t") if lines else []
    if len(columns) < len(_FIRST_COLUMNS) or columns != _COLUMNS[: len(columns)]:  # older versions have fewer
        raise UserError(f"{path}: expected the columns {' '.join(_COLUMNS)}, found another first line.")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        try:
            values = {name: _value(name, word) for name, word in zip(columns, line.split("\t"), strict=True)}
        except ValueError:
            raise UserError(f"{path}:{number}: expected {len(columns)} values, found {line!r}.") from None
        rows.append(Progress(**values))
    return rows


def _value(column: str, word: str) -> Any:
    """What stands in a column. Raises ValueError for what does not belong there."""
    if column == "model":
        return word
    if column == "archives":
        return int(word)
    if column == "max_change_components":
        parts = [part.rpartition(":") for part in word.split(",")] if word != "-" else []
        return {name: float(percent) for name, _, percent in parts}
    return float(word)


def data_report(data_used: str, rows: Sequence[Progress] = ()) -> str:
    """The part about the data: the line about what examples were made of, and what training did with the examples."""
    lines = [data_used] if data_used else []
    known = [row for row in rows if not math.isnan(row.examples)]
    if known:
        read, discarded, frames = (sum(getattr(row, name) for row in known) for name in _OF_EXAMPLES)
        lines.append(
            f"Training read {read:.0f} examples and discarded {discarded:.0f} of them ({_percent(discarded, read)}), "
            f"which filled no minibatch of an allowed size; it saw {frames:.10g} frames."
        )
        if lost := sum(row.not_finite for row in known if not math.isnan(row.not_finite)):
            of = sum(row.minibatches for row in known)
            lines.append(
                f"{lost:.0f} of {of:.0f} minibatches ({_percent(lost, of)}) gave a change that was not finite."
            )
    return "\n".join(["# data", *lines]) if lines else ""


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.3g} %" if whole else "0 %"


def accuracy_report(rows: list[Progress], more: Sequence[str] = ()) -> str:
    """The report: a table of accuracy, one of log-probability, the time, one of the limits on the change.

    ``more``: parts to put after these, about data left out and lost jobs
    (:func:`data_report`, :func:`nnet3py.driver.faults.fault_report`); an empty one is left out.

    A row without diagnostics is left out, as the final model is from the table Kaldi's scripts read.
    """
    numbered = [row for row in rows if row.model != "final"]
    blocks = []
    for title, key in (("accuracy", "accuracy"), ("log-probability", "logprob")):
        lines = [] if title == "accuracy" else [f"# {title}"]
        lines.append("%Iter\tduration\ttrain_objective\tvalid_objective\tdifference")
        for row in numbered:
            train, valid = getattr(row, f"train_{key}"), getattr(row, f"valid_{key}")
            if not math.isnan(row.iteration_seconds) and not math.isnan(valid):
                duration = round(row.iteration_seconds, 1)
                lines.append(f"{row.model}\t{duration}\t{train:g}\t{valid:g}\t{valid - train:g}")
        blocks.append("\n".join(lines))
    total = sum(row.iteration_seconds for row in numbered if not math.isnan(row.iteration_seconds))
    blocks[0] += f"\nTotal training time is {datetime.timedelta(seconds=round(total))}"
    limited = [row for row in numbered if not math.isnan(row.max_change)]
    if limited:
        lines = ["# max-change: how often it was enforced, % of the minibatches, and changes that were not finite"]
        lines.append("%Iter\tglobal\tcomponents\tnot_finite")
        for row in limited:
            lines.append(f"{row.model}\t{row.max_change:.4g}\t{_text(row.max_change_components)}\t{row.not_finite:g}")
        blocks.append("\n".join(lines))
    blocks += [part.rstrip("\n") for part in more if part]
    return "\n\n".join(blocks) + "\n"
