"""Trainings side by side: a table of what each reached, and a plot of how it got there.

Everything comes from files: ``progress.tsv`` of each training directory, and ``wer_X`` of a decoding directory in it.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass

from nnet3py import log
from nnet3py.driver.report import Progress, read_progress
from nnet3py.errors import UserError
from nnet3py.temporary_files import replacing
from nnet3py.text.lines import read_text, write_text

_WER = re.compile(r"^%WER ([0-9.]+) \[", re.MULTILINE)


@dataclass(frozen=True)
class Training:
    """One training. ``wer``: percent, nan if it was not decoded."""

    label: str
    folder: str
    rows: list[Progress]
    wer: float

    @property
    def last(self) -> Progress:
        """The newest model's row that has diagnostics; the final model's, if training came to its end."""
        return next(row for row in reversed(self.rows) if not math.isnan(row.valid_logprob))

    @property
    def limited(self) -> str:
        """How often the limits on the change were reached, over all iterations, in percent of the minibatches.

        That on the whole model's change, and of the components' that of the one which reached its limit most often.
        """
        rows = [row for row in self.rows if not math.isnan(row.max_change)]
        jobs = sum(row.jobs for row in rows)
        if not jobs:
            return "-"
        names = {name for row in rows for name in row.max_change_components}
        means = [sum(row.jobs * row.max_change_components.get(name, 0.0) for row in rows) / jobs for name in names]
        return f"{sum(row.jobs * row.max_change for row in rows) / jobs:.1f} / {max(means, default=0.0):.1f}"


def read_training(label: str, folder: str, decode_name: str) -> Training:
    """Read what a training left.

    Args:
        decode_name: the decoding directory's name in ``folder``; its best ``wer_X`` is taken. Empty: none.

    Raises:
        UserError: the training has not begun, or its decoding has no score.
    """
    rows = read_progress(os.path.join(folder, "progress.tsv"))
    if all(math.isnan(row.valid_logprob) for row in rows):
        raise UserError(f"{folder} has no progress.tsv with diagnostics: has the training run?")
    return Training(label, folder, rows, _wer(os.path.join(folder, decode_name)) if decode_name else math.nan)


def _wer(folder: str) -> float:
    rates = []
    try:
        names = sorted(name for name in os.listdir(folder) if name.startswith("wer_"))
        for name in names:
            rates += [float(rate) for rate in _WER.findall(read_text(os.path.join(folder, name)))]
    except OSError as problem:
        raise UserError(f"Cannot read the scores in {folder}: {problem.strerror}.") from problem
    if not rates:
        raise UserError(f"{folder} has no wer_X with a line %WER: run steps/score.py.")
    return min(rates)


def table(trainings: list[Training]) -> str:
    """The trainings as the rows of a table, in Markdown with aligned columns."""
    header = ["training", "epochs", "frame accuracy, %", "log-prob, valid", "log-prob, train", "WER, %"]
    header += ["max-change, %", "time, s"]
    lines = [header]
    for training in trainings:
        last = training.last
        lines.append(
            [
                training.label,
                f"{max(row.epoch for row in training.rows):.1f}",
                f"{100 * last.valid_accuracy:.2f}",
                f"{last.valid_logprob:.4f}",
                f"{last.train_logprob:.4f}",
                "-" if math.isnan(training.wer) else f"{training.wer:.2f}",
                training.limited,
                f"{last.seconds:.0f}",
            ]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    text = ""
    for line in lines:
        cells = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        text += "| " + " | ".join(cells) + " |\n"
    return text


def plot(trainings: list[Training], path: str, title: str) -> None:
    """Log-probability of the validation data against epochs and against time, as a PNG.

    Raises:
        UserError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        matplotlib.rcParams["text.parse_math"] = False  # a $ in a label is a $
        from matplotlib import pyplot
    except ImportError as problem:
        raise UserError(f"The plot needs matplotlib ({problem}): pip install nnet3py[recipes]") from problem
    figure, (by_epoch, by_time) = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    lowest = math.inf
    for training in trainings:
        rows = [row for row in training.rows if row.model != "final" and not math.isnan(row.valid_logprob)]
        values = [row.valid_logprob for row in rows]
        (line,) = by_epoch.plot([row.epoch for row in rows], values, marker=".", label=log.escaped(training.label))
        by_time.plot([row.seconds for row in rows], values, marker=".", color=line.get_color())
        if training.last.model == "final":
            # The combined model is one point: it is no later in training than the last that it was made of.
            by_epoch.plot([rows[-1].epoch], [training.last.valid_logprob], "*", color=line.get_color(), markersize=11)
            by_time.plot(
                [training.last.seconds], [training.last.valid_logprob], "*", color=line.get_color(), markersize=11
            )
        # An untrained network's first value would flatten all the rest.
        lowest = min([lowest, *values[max(1, len(values) // 8) :]])
    best = max(training.last.valid_logprob for training in trainings)
    if math.isfinite(lowest) and best > lowest:
        by_epoch.set_ylim(lowest - 0.05 * (best - lowest), best + 0.08 * (best - lowest))
    by_epoch.set_xlabel("epochs")
    by_epoch.set_ylabel("log-probability per frame, validation data")
    by_time.set_xlabel("seconds of training")
    for axes in (by_epoch, by_time):
        axes.grid(alpha=0.3)
    by_epoch.legend(title="star: final model" if any(t.last.model == "final" for t in trainings) else None)
    figure.suptitle(log.escaped(title))
    figure.tight_layout()
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
    except OSError as problem:
        raise UserError(f"Cannot write the plot {path}: {problem.strerror}.") from problem
    finally:
        pyplot.close(figure)


def write_table(text: str, path: str) -> None:
    """Write a table that :func:`table` made.

    Raises:
        UserError: it cannot be written.
    """
    write_text(path, text)
