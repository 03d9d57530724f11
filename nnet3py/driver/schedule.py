"""How long training runs, on how many jobs, at what rate, on which data: every number known before it starts.

An *archive* (shard) holds a job's data for one iteration. Where a job trains on one frame of each example, every
archive is read ``frames_per_eg`` times an epoch, with another frame each time, and counts as that many.

    archives to process  = epochs * archives * frames_per_eg
    iterations           = 2 * archives to process / (jobs_initial + jobs_final)
    jobs(i)              = jobs_initial + (jobs_final - jobs_initial) * i / iterations, rounded
    effective rate(i)    = initial * (final / initial) ^ (archives processed / archives to process)
    rate(i)              = jobs(i) * effective rate(i)

The effective rate is what one example sees: averaging N models divides what each has learned by N.

With extra epochs, as many iterations of ``jobs_final`` jobs at the final rate follow as these have data for: a stretch
in which nothing changes but the model, so that its models are alike and can be combined. What comes before is the same
as without them.

Source: arXiv:1410.7455 section 3 and appendices; Kaldi egs/wsj/s5/steps/nnet3/train_dnn.py and
steps/libs/nnet3/train/common.py (``get_current_num_jobs``, ``get_learning_rate``, ``get_model_combine_iters``); for the
extra epochs and the iteration of mixing up, egs/wsj/s5/steps/nnet2/train_pnorm.sh.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from nnet3py.driver.many_files import MOST_NAMED
from nnet3py.errors import UserError


@dataclass(frozen=True)
class Iteration:
    """One outer iteration: from model ``index`` to model ``index + 1``.

    Attributes:
        index: counted from 0.
        jobs: how many models are trained on a shard each.
        archives_before: archives processed before it.
        epoch: the same in passes over the data.
        share: the same as a share of all data that training will see.
        learning_rate: the actual rate of each job.
        adds_layer: the number of the layer that is added before it (2, 3, ...), or 0.
        mixes_up: whether softmax units are added before it.
        averages: whether the jobs' models are averaged; otherwise the best is taken, for the network changes too fast.
    """

    index: int
    jobs: int
    archives_before: int
    epoch: float
    share: float
    learning_rate: float
    adds_layer: int = 0
    mixes_up: bool = False

    @property
    def changes_shape(self) -> bool:
        """Whether the model it makes has other components than the one it starts from."""
        return self.mixes_up or self.adds_layer > 0

    @property
    def averages(self) -> bool:
        return self.index > 0 and not self.changes_shape


@dataclass(frozen=True)
class Schedule:
    """The numbers that the user chose, and what follows from them.

    Attributes:
        num_epochs: passes over the data while the rate decays.
        num_archives: archives on disk.
        passes_per_epoch: how often an archive is read in an epoch: the frames of an example where one is trained on
            at a time, else 1.
        num_layers, add_layers_period: layers are added one by one, each after so many iterations (0: all at once).
        num_epochs_extra: passes over the data after that, at the final rate.
        mix_up_iter: the iteration that starts with more softmax units; -1: halfway between the last added layer and the
            end; None: none does.
    """

    num_epochs: float
    num_archives: int
    passes_per_epoch: int
    jobs_initial: int
    jobs_final: int
    initial_effective_lrate: float
    final_effective_lrate: float
    jobs_step: int = 1
    num_layers: int = 1
    add_layers_period: int = 0
    num_epochs_extra: float = 0.0
    mix_up_iter: int | None = None

    def __post_init__(self) -> None:
        if min(self.jobs_initial, self.jobs_final, self.jobs_step) < 1:
            raise UserError("The numbers of jobs (--trainer.optimization.num-jobs-*) must be at least 1.")
        if not (self.initial_effective_lrate > 0 and self.final_effective_lrate > 0):
            raise UserError("The learning rates (--trainer.optimization.*-effective-lrate) must be above 0.")
        if not self.num_epochs > 0:
            raise UserError(f"--trainer.num-epochs must be above 0, found {self.num_epochs}.")
        if not 0 <= self.num_epochs_extra < math.inf:
            raise UserError(
                f"--trainer.optimization.num-epochs-extra must be a number from 0 on, found {self.num_epochs_extra}."
            )
        most = max(self.jobs_initial, self.jobs_final)
        if most > self.num_archives:
            raise UserError(
                f"{most} jobs cannot have an archive each: the examples are in {self.num_archives}. Lower "
                f"{self._options_of_jobs(self.num_archives)} to {self.num_archives}, or --trainer.samples-per-iter for "
                "more archives."
            )
        if self.decaying_iterations < 1:
            raise UserError(
                f"No iteration to run: {self.num_epochs:g} epochs have {self.decaying_archives} archives to "
                f"read, fewer than one iteration has jobs. Raise --trainer.num-epochs to {self._fewest_epochs:g}, or "
                "lower the numbers of jobs (--trainer.optimization.num-jobs-*)."
            )
        if self.num_layers > 1 and self._last_added_layer >= self.num_iterations:
            raise UserError(
                f"{self.num_layers} layers, one every {self.add_layers_period} iterations, are not in place before the "
                f"last of {self.num_iterations} iterations: lower --trainer.add-layers-period or train longer."
            )
        if self.num_epochs_extra > 0 and self.num_iterations == self.decaying_iterations:
            raise UserError(
                f"--trainer.optimization.num-epochs-extra={self.num_epochs_extra:g} is less than one iteration of "
                f"{self.jobs_final} jobs: raise it, or leave it at 0."
            )
        if self.mix_up_iter is not None and not self._last_added_layer < self.mix_up_iteration < self.num_iterations:
            raise UserError(
                f"Mixing up cannot come before iteration {self.mix_up_iteration}: of {self.num_iterations} iterations, "
                f"counted from 0, it can start those after iteration {self._last_added_layer}. Give such a one with "
                "--trainer.mix-up-iter, or train longer."
            )

    def _options_of_jobs(self, limit: int) -> str:
        """The options that give more jobs than ``limit``."""
        given = (("initial", self.jobs_initial), ("final", self.jobs_final))
        return " and ".join(f"--trainer.optimization.num-jobs-{name}" for name, jobs in given if jobs > limit)

    @property
    def archives_expanded(self) -> int:
        """Archives read in one epoch."""
        return self.num_archives * self.passes_per_epoch

    @property
    def total_epochs(self) -> float:
        """Passes over the data, those at the final rate included."""
        return self.num_epochs + self.num_epochs_extra

    @property
    def decaying_archives(self) -> int:
        """Archives read, about, while the rate decays."""
        return int(self.num_epochs * self.archives_expanded)

    @property
    def extra_archives(self) -> int:
        """Archives read, about, at the final rate after that."""
        return int(self.num_epochs_extra * self.archives_expanded)

    @property
    def archives_to_process(self) -> int:
        """Archives read in the whole training, about."""
        return self.decaying_archives + self.extra_archives

    @property
    def decaying_iterations(self) -> int:
        """Outer iterations while the rate decays; the last of them has the final rate."""
        return int(self.decaying_archives * 2 / (self.jobs_initial + self.jobs_final))

    @property
    def _fewest_epochs(self) -> float:
        """The least passes that have an iteration, to two decimals, upwards."""
        archives = -(-(self.jobs_initial + self.jobs_final) // 2)
        return math.ceil(100 * archives / self.archives_expanded) / 100

    @property
    def num_iterations(self) -> int:
        """Outer iterations; models 0 (initial) to this (last) are made."""
        decaying = self.decaying_iterations
        return decaying + self.extra_archives // self.jobs(decaying) if self.extra_archives else decaying

    def jobs(self, index: int) -> int:
        """Jobs of an iteration: linear from first to last, a multiple of ``jobs_step`` once it is that large."""
        decaying = self.decaying_iterations
        ideal = self.jobs_initial + (self.jobs_final - self.jobs_initial) * min(index, decaying) / decaying
        step = 1 if ideal < self.jobs_step else self.jobs_step
        return int(0.5 + ideal / step) * step

    def effective_rate(self, index: int, archives_before: int) -> float:
        """The rate per example; the last iteration of the decay, and those after it, have the final one exactly."""
        if index + 1 >= self.decaying_iterations:
            return self.final_effective_lrate
        decay = math.log(self.final_effective_lrate / self.initial_effective_lrate)
        return self.initial_effective_lrate * math.exp(archives_before * decay / self.decaying_archives)

    @property
    def _last_added_layer(self) -> int:
        """The iteration that starts with the last layer added, 0 where none is."""
        return (self.num_layers - 1) * self.add_layers_period

    @property
    def mix_up_iteration(self) -> int:
        """The iteration that starts with more softmax units, 0 where none does."""
        if self.mix_up_iter is None:
            return 0
        if self.mix_up_iter >= 0:
            return self.mix_up_iter
        return (self.num_iterations + self._last_added_layer) // 2

    def adds_layer(self, index: int) -> int:
        """The number of the layer to add before an iteration, or 0."""
        if self.add_layers_period < 1 or index < 1 or index % self.add_layers_period != 0:
            return 0
        layer = index // self.add_layers_period + 1
        return layer if layer <= self.num_layers else 0

    @cached_property
    def iterations(self) -> list[Iteration]:
        """Every iteration in order."""
        out = []
        archives = 0
        for index in range(self.num_iterations):
            jobs = self.jobs(index)
            rate = jobs * self.effective_rate(index, archives)
            share = archives / self.archives_to_process
            mixes_up = self.mix_up_iter is not None and index == self.mix_up_iteration
            layer = self.adds_layer(index)
            out.append(Iteration(index, jobs, archives, self.epoch(archives), share, rate, layer, mixes_up))
            archives += jobs
        return out

    def epoch(self, archives: int) -> float:
        """Passes over the data after so many archives."""
        return archives * self.num_epochs / self.decaying_archives

    @property
    def archives_processed(self) -> int:
        """Archives read when the last iteration is done."""
        last = self.iterations[-1]
        return last.archives_before + last.jobs

    def models_to_combine(self, max_models: int) -> list[int]:
        """The numbers of the models that the final combination weighs, ascending; the last one always.

        Half an epoch's models, at most half of all, or those made at the final rate after the decay, whichever are
        more; spread out where those are more than ``max_models``, or than one command names. None from before the last
        change of the network's shape.
        """
        max_models = min(max_models, MOST_NAMED // 2)  # spread out, they are up to twice as many
        last = self.num_iterations
        half_epoch = min(int(self.archives_expanded / self.jobs_final / 2) + 1, last // 2)
        newest = max(half_epoch, last - self.decaying_iterations)
        if newest > max_models:
            chosen = set(range(last - newest + 1, last + 1, newest // max_models))
        else:
            chosen = set(range(last - min(max_models, last // 2) + 1, last + 1))
        changed = max(self._last_added_layer, self.mix_up_iteration)
        return sorted({model for model in chosen if model > changed} | {last})


@dataclass(frozen=True)
class Shard:
    """What one job trains on: an archive (from 1), and which frame of each example (from 0)."""

    archive: int
    frame: int


def shard(position: int, num_archives: int, frames_per_eg: int) -> Shard:
    """The shard at a position (from 0) in the order in which jobs take them.

    Archives come in turn. The frame moves on by one with each pass over the archives, and starts at another one in
    each archive, so that every pass sees every frame position.
    """
    archive = position % num_archives + 1
    return Shard(archive, (position // num_archives + archive) % frames_per_eg)


def shard_expressions(archives_before: int, num_archives: int, frames_per_eg: int) -> tuple[str, str]:
    """The archive and the frame of job ``JOB`` as bash arithmetic, for a command that runs as ``JOB=1:N``.

    With them, one call of the engine starts all jobs of an iteration.
    """
    position = f"({archives_before}+JOB-1)"
    archive = f"({position}%{num_archives}+1)"
    return f"$(({archive}))", f"$((({position}/{num_archives}+{archive})%{frames_per_eg}))"
