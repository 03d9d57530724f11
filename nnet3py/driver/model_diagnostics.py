"""Every model's log-probability and accuracy on two small sets, computed beside the training, and their record.

The record is ``progress.tsv`` in the training's directory, a line a model (:mod:`nnet3py.driver.report`).

Source: Kaldi egs/wsj/s5/steps/libs/nnet3/train/frame_level_objf/common.py (``compute_train_cv_probabilities``,
``compute_progress``).
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

from nnet3py import log
from nnet3py.driver.data_used import is_much
from nnet3py.driver.diagnostics import (
    ExamplesUsed,
    LimitedChanges,
    Probability,
    read_examples_used,
    read_limited_changes,
    read_probability,
)
from nnet3py.driver.engine import Engine, Running
from nnet3py.driver.minibatch_size import with_rest
from nnet3py.driver.options import TrainingOptions
from nnet3py.driver.realignment import labels_of
from nnet3py.driver.report import Progress, read_progress, write_progress
from nnet3py.driver.schedule import Iteration, Schedule
from nnet3py.driver.stage import DIAGNOSTIC_SETS, Stage
from nnet3py.errors import UserError
from nnet3py.jobs import log_file


class ModelDiagnostics(Stage):
    """Starts the programs that look at a model, and reads what they found."""

    def __init__(self, options: TrainingOptions, engine: Engine, schedule: Schedule) -> None:
        """``schedule`` says where a model stands in the training."""
        super().__init__(options, engine)
        self.schedule = schedule
        self._warned_of_discarded = False

    def start(self, model: int | str) -> list[Running]:
        """Log-probability on both diagnostic sets, and what has changed since the model before."""
        running = []
        for kind in DIAGNOSTIC_SETS:
            name = f"compute_prob_{kind}.{model}"
            examples = self.experiment.path(self._minibatches(kind, labels_of(self.options, self.schedule, model)))
            if log_file.status(self.experiment.log(name)) == 0:  # of this model: an older one's log has been removed
                continue
            command = ["nnet-compute-prob", *self._probability_options(), self._raw(model), f"ark:{examples}"]
            running.append(self.engine.start(self.experiment.log(name), command, what=f"Diagnostics of model {model}"))
        if isinstance(model, int) and model > 0 and not self.schedule.iterations[model - 1].changes_shape:
            running += self._start_comparison(model)
        return running

    def row(self, model: int | str, running: Sequence[Running], seconds: float, rows: list[Progress]) -> Progress:
        """A model's row, once its diagnostics have ended: ``rows`` are those before, ``seconds`` its iteration took."""
        for jobs in running:
            jobs.wait()
        valid, train = (
            read_probability(self.experiment.log(f"compute_prob_{kind}.{model}")) for kind in DIAGNOSTIC_SETS
        )
        return self._row(model, valid, train, seconds, rows)

    def known_rows(self, first: int) -> list[Progress]:
        """The rows of earlier runs, and those that an interruption kept from being written."""
        path = self.experiment.path("progress.tsv")
        rows = [row for row in read_progress(path) if row.model != "final" and int(row.model) < first]
        for model in range(len(rows), first):
            if not os.path.isfile(self._raw(model)):
                raise UserError(
                    f"{path} has no line for model {model}, whose file is gone: remove {path} lines after it and give "
                    f"--stage {first}, or --stage -1 to train again."
                )
            running = self.start(model)
            jobs = self.schedule.iterations[model].jobs
            seconds = max(log_file.elapsed(self.experiment.log(f"train.{model}.{job}")) for job in range(1, jobs + 1))
            rows.append(self.row(model, running, seconds, rows))
        if rows:
            self.write(rows)
        return rows

    def write(self, rows: list[Progress]) -> None:
        """Write the record anew."""
        write_progress(self.experiment.path("progress.tsv"), rows)

    def _probability_options(self) -> list[str]:
        return ["--compute-per-dim-accuracy=true"] if self.options.compute_per_dim_accuracy else []

    def _start_comparison(self, model: int) -> list[Running]:
        if not os.path.isfile(self._raw(model - 1)):
            return []
        command = ["nnet-show-progress", self._raw(model - 1), self._raw(model)]
        if model % 10 == 0:  # now and then the whole network as well
            command = ["nnet-info", self._raw(model), "&&", *command]
        path = self.experiment.log(f"progress.{model}")
        return [self.engine.start(path, command, what=f"Comparing models {model - 1} and {model}")]

    def _row(
        self,
        model: int | str,
        valid: Probability,
        train: Probability,
        seconds: float,
        rows: list[Progress],
    ) -> Progress:
        starts = isinstance(model, int) and model < self.schedule.num_iterations
        iteration = self.schedule.iterations[model] if isinstance(model, int) and starts else None
        archives = iteration.archives_before if iteration else self.schedule.archives_processed
        before = sum(row.iteration_seconds for row in rows if not math.isnan(row.iteration_seconds))
        limited = self._limited_changes(iteration) if iteration else LimitedChanges()
        used = self._examples_used(iteration) if iteration else ExamplesUsed()
        return Progress(
            model=str(model),
            epoch=self.schedule.epoch(archives),
            archives=archives,
            jobs=iteration.jobs if iteration else math.nan,
            learning_rate=iteration.learning_rate if iteration else math.nan,
            train_logprob=train.log_probability,
            valid_logprob=valid.log_probability,
            train_accuracy=train.accuracy,
            valid_accuracy=valid.accuracy,
            iteration_seconds=seconds if iteration else math.nan,
            seconds=before,
            max_change=limited.whole,
            max_change_components=limited.components,
            not_finite=limited.not_finite,
            examples=used.examples,
            discarded=used.discarded,
            minibatches=used.minibatches,
            frames=used.frames,
        )

    def _training_logs(self, iteration: Iteration) -> list[str]:
        """The logs of an iteration's jobs; those of an older iteration may have been removed."""
        paths = [self.experiment.log(f"train.{iteration.index}.{job}") for job in range(1, iteration.jobs + 1)]
        return [path for path in paths if os.path.isfile(path)]

    def _examples_used(self, iteration: Iteration) -> ExamplesUsed:
        """What became of an iteration's examples, with a warning, one a run, where many were discarded."""
        used = read_examples_used(self._training_logs(iteration))
        if is_much(used.discarded, used.examples) and not self._warned_of_discarded:
            self._warned_of_discarded = True
            size = self.options.minibatch_size
            log.warning(
                f"Iteration {iteration.index} discarded {used.discarded:.0f} of {used.examples:.0f} examples, which "
                f"filled no minibatch that --trainer.optimization.minibatch-size={size} allows: give {with_rest(size)} "
                "to train on what is left over too, or larger archives (--trainer.samples-per-iter). Later iterations "
                "are not warned of; accuracy.report has the share of all."
            )
        return used

    def _limited_changes(self, iteration: Iteration) -> LimitedChanges:
        """How often limits were reached, by the logs of an iteration's jobs."""
        found = read_limited_changes(self._training_logs(iteration))
        if found.not_finite > 0:
            log.warning(
                f"Iteration {iteration.index}: {found.not_finite:g} minibatches gave a change that was not finite and "
                f"was not applied; see {self.experiment.log(f'train.{iteration.index}.*')}. If they are many, lower "
                "the learning rate."
            )
        return found
