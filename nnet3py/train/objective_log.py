"""Running averages of the objectives, printed as training goes on, in the wording that Kaldi's scripts parse.

Source: Kaldi src/nnet3/nnet-training.cc, ObjectiveFunctionInfo.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from nnet3py import log


@dataclass
class _Total:
    weight: float = 0.0
    objective: float = 0.0
    minibatches: int = 0

    def add(self, weight: float, objective: float) -> None:
        self.weight += weight
        self.objective += objective
        self.minibatches += 1

    @property
    def average(self) -> float:
        return self.objective / self.weight if self.weight else float("nan")


class ObjectiveLog:
    """The objective of one output, over the whole run and over the present interval of minibatches.

    Threads may add to it at the same time: a minibatch that comes after the first of the next interval counts there.
    """

    def __init__(self, name: str, interval: int) -> None:
        self.name = name
        self.interval = interval
        self.overall = _Total()
        self._present = _Total()
        self._phase = 0
        self._adding = threading.Lock()

    def add(self, minibatch: int, weight: float, objective: float) -> None:
        """Count the objective (a sum, to be divided by ``weight``) of the minibatch with this number."""
        phase = minibatch // self.interval
        with self._adding:
            if phase > self._phase:
                self._report_phase(phase)
                self._phase, self._present = phase, _Total()
            self._present.add(weight, objective)
            self.overall.add(weight, objective)

    def _report_phase(self, next_phase: int) -> None:
        present = self._present
        if present.minibatches == 0:
            return
        span = f"{self._phase * self.interval}-{next_phase * self.interval - 1}"
        which = f"for minibatches {span}"
        if present.minibatches != self.interval:
            which = f"using {present.minibatches} minibatches in minibatch range {span}"
        log.log(
            f"Average objective function for '{self.name}' {which} is {present.average:.6g} "
            f"over {present.weight:.6g} frames."
        )

    def report(self) -> None:
        """The lines at the end of the run."""
        average = f"{self.overall.average:.6g}"
        log.log(
            f"Overall average objective function for '{self.name}' is {average} over {self.overall.weight:.6g} frames."
        )
        log.log(f"[this line is to be parsed by a script:] log-prob-per-frame={average}")
