"""The state of a training on one line: rewritten in place on a terminal, a line an iteration in a log."""

from __future__ import annotations

import math
import sys

from nnet3py import log
from nnet3py.driver.report import Progress
from nnet3py.driver.schedule import Iteration, Schedule


def clock(seconds: float) -> str:
    """Hours, minutes and seconds: ``1:02:03``, ``2:03``."""
    whole = max(0, round(seconds))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


class ProgressLine:
    """Tells how far a training is.

    Time left is estimated from the archives processed since this driver started, for an archive takes the same time in
    every iteration where the slots are fewer than the jobs.
    """

    def __init__(self, schedule: Schedule, *, terminal: bool | None = None) -> None:
        """``terminal``: rewrite one line; None finds out whether standard error is a terminal."""
        self._schedule = schedule
        self._terminal = sys.stderr.isatty() if terminal is None else terminal
        self._archives = 0
        self._seconds = 0.0
        self._shown = False

    def iteration_done(self, iteration: Iteration, seconds: float, latest: Progress | None) -> None:
        """Show that an iteration is finished; ``latest`` is the newest model whose diagnostics are known."""
        self._archives += iteration.jobs
        self._seconds += seconds
        schedule = self._schedule
        done = iteration.archives_before + iteration.jobs
        left = (schedule.archives_processed - done) * self._seconds / self._archives
        if self._terminal:
            self._show(
                f"iteration {iteration.index + 1}/{schedule.num_iterations}  "
                f"epoch {schedule.epoch(done):.2f}/{schedule.total_epochs:g}  jobs {iteration.jobs}"
                f"{_reached(latest, '  valid log-prob ', '  accuracy ')}  {clock(left)} left"
            )
        else:
            percent = 100 * iteration.archives_before / schedule.archives_to_process
            log.log(
                f"Iter: {iteration.index}/{schedule.num_iterations - 1}   Jobs: {iteration.jobs}   "
                f"Epoch: {iteration.epoch:.2f}/{schedule.total_epochs:.1f} ({percent:.1f}% complete)   "
                f"lr: {iteration.learning_rate:.6f}{_reached(latest, '   valid log-prob: ', '   accuracy: ')}   "
                f"took {seconds:.1f} s, {clock(left)} left"
            )

    def stage(self, text: str) -> None:
        """Say that something other than an iteration begins."""
        if self._terminal:
            self._show(text)
        else:
            log.log(text)

    def end(self) -> None:
        """Leave the terminal's line as it is; what is printed next starts on a new one."""
        if self._shown:
            sys.stderr.write("\n")
            self._shown = False

    def _show(self, text: str) -> None:
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()
        self._shown = True


def _reached(latest: Progress | None, probability: str, accuracy: str) -> str:
    if latest is None or math.isnan(latest.valid_logprob):
        return ""
    text = f"{probability}{latest.valid_logprob:.4f}"
    if not math.isnan(latest.valid_accuracy):
        text += f"{accuracy}{100 * latest.valid_accuracy:.2f} %"
    return f"{text} (model {latest.model})"
