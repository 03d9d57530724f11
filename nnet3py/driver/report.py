"""What training has reached so far, for people (``accuracy.report``) and for programs (``progress.tsv``).

Source of the report's form: Kaldi egs/wsj/s5/steps/libs/nnet3/report/log_parse.py (``generate_acc_logprob_report``).
"""

from __future__ import annotations

import datetime
import math
from dataclasses import dataclass, fields

from nnet3py.driver.experiment import write_atomically
from nnet3py.errors import UserError


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


_COLUMNS = [field.name for field in fields(Progress)]


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def write_progress(path: str, rows: list[Progress]) -> None:
    """Write ``progress.tsv``: a line of column names, then a line a model."""
    lines = ["\t".join(_COLUMNS)]
    lines += ["\t".join(_text(getattr(row, name)) for name in _COLUMNS) for row in rows]
    write_atomically(path, "\n".join(lines) + "\n")


def read_progress(path: str) -> list[Progress]:
    """Read ``progress.tsv``; no rows where there is no file.

    Raises:
        UserError: it is not such a file.
    """
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return []
    if not lines or lines[0].split("\t") != _COLUMNS:
        raise UserError(f"{path}: expected the columns {' '.join(_COLUMNS)}, found another first line.")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        words = line.split("\t")
        try:
            values = [float(word) for word in words[1:]]
            rows.append(Progress(words[0], values[0], int(values[1]), *values[2:]))
        except (ValueError, TypeError):
            raise UserError(f"{path}:{number}: expected {len(_COLUMNS)} values, found {line!r}.") from None
    return rows


def accuracy_report(rows: list[Progress]) -> str:
    """The report: a table of accuracy, one of log-probability, the time.

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
    return "\n\n".join(blocks) + "\n"
