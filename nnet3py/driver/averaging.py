"""An iteration's average: by one job, or in a tree, and as a step with momentum where that is asked for.

One job reads every model through one machine's connection to the disk. With
``--trainer.optimization.average-group-size`` no job averages more than so many models, and no job ever averages more
than one command names: if there are more, they are averaged in groups of about equal size, side by side, then the
groups' averages, each weighted by its number of models.
The result is the same but for rounding. docs/scaling.md says when that is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nnet3py.driver.many_files import MOST_NAMED, groups, words_of
from nnet3py.driver.options import TrainingOptions
from nnet3py.driver.schedule import Iteration
from nnet3py.driver.stage import Stage
from nnet3py.errors import UserError
from nnet3py.text.lines import write_text


def check(options: TrainingOptions) -> None:
    """Raise UserError for a group size that leaves nothing to average."""
    if options.average_group_size == 1:
        raise UserError(
            "--trainer.optimization.average-group-size=1 is not possible: give the most models that one job is to "
            f"average, 2 to {MOST_NAMED}, or 0, which is {MOST_NAMED}."
        )


class Averaging(Stage):
    """Makes one model of the jobs' models."""

    def num_extra_models(self, iteration: Iteration) -> int:
        """How many models it writes beside the average: the velocity, the groups' averages."""
        extra = int(bool(self.outer_step(iteration.index)))
        count = iteration.jobs
        while count > self._most:
            count = len(groups(count, self._most))
            extra += count
        return extra

    @property
    def _most(self) -> int:
        """The most models that one job averages."""
        return min(self.options.average_group_size or MOST_NAMED, MOST_NAMED)

    def outer_step(self, index: int) -> list[str]:
        """What makes of the average a step with momentum; nothing where the plain average is wanted.

        The velocity of the step before is there unless that step was none, the best job's model having been kept.
        """
        momentum, rate = self.options.outer_momentum, self.options.outer_learning_rate
        if momentum == 0 and rate == 1:
            return []
        words = [f"--outer-momentum={momentum:g}", f"--outer-learning-rate={rate:g}"]
        words.append(f"--start-model={self._raw(index)}")
        if self.experiment.has(f"{index}.velocity.raw"):
            words.append(f"--velocity-in={self._raw(f'{index}.velocity')}")
        return [*words, f"--velocity-out={self._raw(f'{index + 1}.velocity')}"]

    def run(self, index: int, models: Sequence[str], made: str, recover: Callable[[str], bool]) -> bool:
        """Average ``models``, the jobs' of iteration ``index``, into the file ``made``.

        ``recover`` is called with what failed when a job has failed for the first time: whether models are to be
        trained again. If so, this ends with False, otherwise the job is given to the engine as any other.

        Raises:
            UserError: a job has failed, not for a model that cannot be read.
        """
        weights = [1] * len(models)
        level = 0
        while len(models) > self._most:
            level += 1
            parts = groups(len(models), self._most)
            for number, (first, end) in enumerate(parts, 1):
                words = [*_weights(weights[first:end]), *models[first:end]]
                write_text(self._list(index, level, str(number)), "\n".join(words) + "\n")
            command = ["nnet-average", words_of(self._list(index, level, "JOB")), self._group(index, level, "JOB")]
            name, what = f"average_{level}.{index}.JOB", f"Averaging in groups, iteration {index}"
            if not self._run_or_recover(name, command, what, len(parts), recover):
                return False
            models = [self._group(index, level, str(number)) for number in range(1, len(parts) + 1)]
            weights = [sum(weights[first:end]) for first, end in parts]
        command = ["nnet-average", *_weights(weights), *self.outer_step(index), *models, made]
        return self._run_or_recover(f"average.{index}", command, f"Averaging, iteration {index}", None, recover)

    def _run_or_recover(
        self, name: str, command: Sequence[str], what: str, jobs: int | None, recover: Callable[[str], bool]
    ) -> bool:
        if self.engine.start(self.experiment.log(name), command, what=what, jobs=jobs, max_retries=0).lost():
            if recover(what):
                return False
            self._run(name, command, what, jobs=jobs)
        return True

    def _group(self, index: int, level: int, number: str) -> str:
        return self._raw(f"{index + 1}.group{level}-{number}")

    def _list(self, index: int, level: int, number: str) -> str:
        """The file with the words of a group's command: its weights and models."""
        return self.experiment.path(f"{index + 1}.group{level}-{number}.list")


def _weights(counts: Sequence[int]) -> list[str]:
    if len(set(counts)) == 1:
        return []
    total = sum(counts)
    return ["--weights=" + ":".join(f"{count / total:.9g}" for count in counts)]
