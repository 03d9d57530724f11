"""The states of the optimiser that the jobs of an iteration leave for those of the next.

Job ``j`` of iteration ``i`` leaves ``<i+1>.<j>.state.h5`` beside its model and starts from the state that job ``j`` of
the iteration before has left; where there are more jobs than before, the states go round. Models are averaged, states
are not: what the estimates of natural gradient describe, inputs and derivatives, differs little from job to job.

A state is kept as long as an interrupted training may need it: until the next iteration is done, and without
``--cleanup`` as long as its models, so that ``--stage`` can go back.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from nnet3py.driver.experiment import copy_atomically
from nnet3py.driver.options import TrainingOptions
from nnet3py.driver.schedule import Iteration
from nnet3py.driver.stage import Stage
from nnet3py.errors import UserError

_STATE = re.compile(r"(\d+)\.(\d+)\.state\.h5")


def check(options: TrainingOptions) -> None:
    """Raise UserError for options that contradict each other; those about threads too."""
    if options.num_threads > 1 and options.backstitch_training_scale > 0:
        raise UserError("Backstitch is for one thread: leave it at 0, or --trainer.num-threads at 1.")
    if not options.carry_natural_gradient:
        return
    if options.update_method != "online-ng":
        raise UserError(
            f"--trainer.carry-natural-gradient=true has nothing to carry with --trainer.update-method="
            f"{options.update_method}: only the online estimates of natural gradient last beyond a minibatch."
        )
    if options.num_threads > 1 and options.momentum > 0:
        raise UserError(
            "--trainer.carry-natural-gradient=true carries momentum too, which threads have each their own of: leave "
            "--trainer.num-threads at 1 or --trainer.optimization.momentum at 0."
        )


class OptimizerStates(Stage):
    """What ``--trainer.carry-natural-gradient`` asks for."""

    def words(self, iteration: Iteration) -> list[str]:
        """Options of nnet-train-shard for the jobs of an iteration.

        Raises:
            UserError: states that the iteration before has left are not there.
        """
        if not self.options.carry_natural_gradient:
            return []
        words = [f"--optimizer-state-out={self.outputs(iteration)[0]}"]
        if iteration.index > 0:
            job = f"$(((JOB-1)%{self._count(iteration.index)}+1))"
            words.append(f"--optimizer-state-in={self.experiment.path(f'{iteration.index}.{job}.state.h5')}")
        if iteration.changes_shape:
            words.append("--optimizer-state-must-fit=false")
        return words

    def outputs(self, iteration: Iteration) -> list[str]:
        """What each job of an iteration leaves, with ``JOB`` for its number; nothing where states are not carried."""
        if not self.options.carry_natural_gradient:
            return []
        return [self.experiment.path(f"{iteration.index + 1}.JOB.state.h5")]

    def bytes_needed(self, iteration: Iteration, model: int) -> int:
        """Bytes of the states that an iteration writes, guessed: as those it starts from, or as a model."""
        if not self.options.carry_natural_gradient:
            return 0
        before = self._found().get(iteration.index, [])
        sizes = [os.path.getsize(self.experiment.path(f"{iteration.index}.{job}.state.h5")) for job in before]
        return iteration.jobs * max(sizes, default=model)

    def stand_in(self, model: int, lost: Sequence[int], ready: Sequence[int]) -> None:
        """In place of the states of lost jobs, those of the next jobs that have left one."""
        if not self.options.carry_natural_gradient:
            return
        for job in lost:
            other = next((each for each in ready if each > job), ready[0])
            source, target = (self.experiment.path(f"{model}.{each}.state.h5") for each in (other, job))
            copy_atomically(source, target)

    def require(self, model: int) -> None:
        """Raise UserError if the iteration that starts from ``model`` lacks a state."""
        if self.options.carry_natural_gradient and model > 0:
            self._count(model)

    def remove_before(self, model: int) -> None:
        """Remove the states that only iterations before ``model`` have a use for."""
        self._remove(range(model))

    def remove_after(self, model: int) -> None:
        """Remove the states that were left with later models."""
        self._remove(range(model + 1, max(self._found(), default=0) + 1))

    def _found(self) -> dict[int, list[int]]:
        """The jobs that have left a state, by model."""
        found: dict[int, list[int]] = {}
        for name in os.listdir(self.experiment.folder):
            match = _STATE.fullmatch(name)
            if match:
                found.setdefault(int(match[1]), []).append(int(match[2]))
        return found

    def _count(self, model: int) -> int:
        """How many jobs have left a state with ``model``: 1 to this many."""
        jobs = self._found().get(model, [])
        missing = next(number for number in range(1, len(jobs) + 2) if number not in jobs)
        if not jobs or missing <= max(jobs):
            raise UserError(
                f"Cannot go on from model {model} with what its jobs left: "
                f"{self.experiment.path(f'{model}.{missing}.state.h5')} is not there. States are kept for the newest "
                "model, and for others with --cleanup=false: give --stage=0 to start again, or this stage with "
                "--trainer.carry-natural-gradient=false."
            )
        return len(jobs)

    def _remove(self, models: range) -> None:
        for model, jobs in self._found().items():
            if model in models:
                self.experiment.remove(*(f"{model}.{job}.state.h5" for job in jobs))
