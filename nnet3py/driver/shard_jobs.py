"""The training jobs of one iteration, and what becomes of those that are lost.

A job is lost if it was killed, hangs or fails, and also if it ends well but leaves no model, or one that cannot be
read or has parameters that are no finite numbers. It is started again, ``--max-retries`` times; the result is the same,
for a job depends on nothing but its shard and the model it starts from. A job that stays lost is left out of the
average if the share of the others is at least ``--min-successful-share``: that is written down before anything follows
from it (:mod:`nnet3py.driver.faults`), so that the same job is left out if training is stopped and goes on.

Models are read by programs, not here: whether one can be is only asked (by a program that copies it to nowhere) where
averaging has failed, and where a job's model becomes the iteration's without being read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from nnet3py import log
from nnet3py.driver.diagnostics import read_training_objective
from nnet3py.driver.engine import Engine, Fault
from nnet3py.driver.faults import FaultRecord
from nnet3py.driver.options import TrainingOptions
from nnet3py.driver.schedule import Iteration
from nnet3py.driver.space import require_space
from nnet3py.driver.stage import Stage
from nnet3py.errors import UserError

LOG_BYTES = 1 << 16
"""What a job's log may need on the disk, generously."""


class ShardJobs(Stage):
    """Runs them; ``ready`` are the jobs, by number, whose models are there to go on with."""

    def __init__(
        self,
        options: TrainingOptions,
        engine: Engine,
        faults: FaultRecord,
        iteration: Iteration,
        command: Sequence[str],
        outputs: Sequence[str],
    ) -> None:
        """``command`` trains shard ``JOB`` and leaves ``outputs``, files with ``JOB`` in their names, a model first."""
        super().__init__(options, engine)
        self._faults = faults
        self._iteration = iteration
        self._command = command
        self._outputs = outputs
        self._attempts: dict[int, int] = {}
        self.ready: list[int] = []

    @property
    def lost(self) -> list[int]:
        """The jobs that the iteration goes on without."""
        return [job for job in range(1, self._iteration.jobs + 1) if job not in self.ready]

    def model(self, job: int) -> str:
        """A job's model."""
        return self._outputs[0].replace("JOB", str(job))

    def log(self, job: int) -> str:
        """A job's log."""
        return self.experiment.log(f"train.{self._iteration.index}.{job}")

    def run(self) -> None:
        """Train every shard but those that the iteration was already decided to go on without.

        Raises:
            UserError: too many jobs stay lost.
        """
        left_out = self._faults.left_out(self._iteration.index)
        if left_out:
            log.warning(
                f"Iteration {self._iteration.index} goes on without {_jobs(sorted(left_out))}, as before it was "
                f"stopped; --stage={self._iteration.index} starts it again with all."
            )
        self._train([job for job in range(1, self._iteration.jobs + 1) if job not in left_out])

    def train_unreadable(self, jobs: Sequence[int]) -> bool:
        """Train those of the jobs again whose models cannot be read; whether there were any.

        Raises:
            UserError: too many jobs stay lost.
        """
        index = self._iteration.index
        checking = self.engine.start(
            self.experiment.log(f"check.{index}.JOB"),
            ["nnet-copy", self._outputs[0], "-", ">", "/dev/null"],
            what=f"Reading the jobs' models, iteration {index}",
            jobs=jobs,
            max_retries=0,
        )
        bad = {number: reason for number, reason in checking.lost().items() if number is not None}
        if not bad:
            return False
        self.ready = [job for job in self.ready if job not in bad]
        again, gone = [], {}
        for job, reason in bad.items():
            self._attempts[job] = self._attempts.get(job, 0) + 1
            reason = f"its model is not to be used, {reason}"
            is_again = self._attempts[job] <= self.engine.max_retries
            self.engine.report(
                f"Training, iteration {index}", Fault(self.log(job), self._attempts[job], reason, is_again)
            )
            if is_again:
                again.append(job)
            else:
                gone[job] = reason
        self.experiment.remove(*(os.path.basename(self.model(job)) for job in bad))
        if gone:
            count = f"{len(gone)} of {self._iteration.jobs} failed"
            problem = f"Training, iteration {index}: {count}; {next(iter(gone.values()))}."
            self._go_on_without(gone, problem, waiting=len(again))
        self._train(again)
        return True

    def _train(self, jobs: Sequence[int]) -> None:
        if not jobs:
            return
        running = self.engine.start(
            self.experiment.log(f"train.{self._iteration.index}.JOB"),
            self._command,
            what=f"Training, iteration {self._iteration.index}",
            jobs=jobs,
            options=self._engine_options(),
            check=self._problem,
            attempts=self._attempts,
        )
        lost = running.lost()
        self._attempts |= {number: count for number, count in running.attempts.items() if number is not None}
        self.ready = sorted({*self.ready, *(job for job in jobs if job not in lost)})
        if lost:
            gone = {number: reason for number, reason in lost.items() if number is not None}
            self._go_on_without(gone, running.explain(lost))

    def _engine_options(self) -> list[str]:
        """What the engine is told that a job needs."""
        threads, gpu = self.options.num_threads, self.options.use_gpu_of_jobs != "no"
        return [*(["--num-threads", str(threads)] if threads > 1 else []), *(["--gpu", "1"] if gpu else [])]

    def _problem(self, job: int) -> str:
        """What is wrong with the result of a job that has ended well; "" if nothing is, as far as is cheap to see."""
        for name in self._outputs:
            path = name.replace("JOB", str(job))
            if not os.path.isfile(path):
                os.listdir(self.options.dir)  # has a shared disk tell what is there now
            if not os.path.isfile(path) or os.path.getsize(path) == 0:
                return f"it ended well and left no {path}"
        try:
            read_training_objective(self.log(job))
        except UserError as problem:
            return str(problem).rstrip(".")
        return ""

    def _go_on_without(self, gone: Mapping[int, str], problem: str, waiting: int = 0) -> None:
        """Leave jobs out that stay lost, or end with ``problem``; ``waiting`` jobs are still to be trained again."""
        index, total = self._iteration.index, self._iteration.jobs
        size = os.path.getsize(self._raw(index)) + LOG_BYTES
        require_space(self.options.dir, size * len(gone), f"{problem}\nIteration {index}")  # a full disk is no lost job
        successful, needed = len(self.ready) + waiting, self.options.min_successful_share
        if successful < needed * total - 1e-9:
            if total > 1:
                problem += f"\n(--min-successful-share={needed:g} does not let {successful} of {total} jobs do.)"
            raise UserError(problem)
        for job, reason in gone.items():
            self._faults.leave_out(self.log(job), self._attempts.get(job, 0), reason)
        log.warning(
            f"Iteration {index} goes on without {_jobs(list(gone))} of {total}: its average is that of the others, and "
            f"{_shards(len(gone))} not been trained on. {problem}"
        )


def _jobs(numbers: Sequence[int]) -> str:
    return f"job{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _shards(count: int) -> str:
    return "its shard has" if count == 1 else "their shards have"
