"""The model that the jobs of an iteration start from: the last average, perhaps grown, with the iteration's rates.

It is no file but a pipe of programs, which every job runs for itself with the same seed, so that nothing but an
iteration's result has to be kept:

    nnet-copy --scale                                shrinking, where a layer is added after it
    nnet-init                                        a layer added, the last layer replaced
    nnet-copy --learning-rate [--scale] [--edits]    rates, shrinking, dropout, factors of the rates
    nnet-mix-up                                      more softmax units

A layer that is added trains at the iteration's rate like all others.

Source: Kaldi egs/wsj/s5/steps/libs/nnet3/train/frame_level_objf/common.py (``train_one_iteration``).
"""

from __future__ import annotations

from nnet3py.driver import dropout_schedule, learning_rate_factors
from nnet3py.driver.engine import Engine, pipe, shell_word
from nnet3py.driver.mix_up import MixUp
from nnet3py.driver.options import TrainingOptions
from nnet3py.driver.schedule import Iteration, Schedule
from nnet3py.driver.stage import Stage
from nnet3py.errors import UserError
from nnet3py.text.lines import read_text


class StartingModel(Stage):
    """What the options say about the model of each iteration."""

    def __init__(self, options: TrainingOptions, engine: Engine, layers: list[str]) -> None:
        """``layers``: configurations of the layers to add, layer 2 first.

        Raises:
            UserError: a schedule or a factor in the options is not written as it must be.
        """
        super().__init__(options, engine)
        self.layers = layers
        self.mix_up = MixUp(options, engine)
        self.dropout_schedules = dropout_schedule.parse_dropout_schedules(options.dropout_schedule)
        self.factors = learning_rate_factors.parse_learning_rate_factors(options.learning_rate_factors)

    def prepare(self, schedule: Schedule) -> None:
        """Make what the pipes read, and find out before the first iteration what would fail in a later one.

        Raises:
            UserError: mixing up is not possible, or a pattern of the options matches no component.
        """
        self.mix_up.prepare(schedule)
        if self.factors and self.experiment.last_model() == 0:
            self._run("components", ["nnet-info", self._raw(0)], "Finding the components of the initial model")
            paths = [self.experiment.log("components"), *self.layers]
            info, *configs = map(read_text, paths)
            learning_rate_factors.require_matches(self.factors, info, configs)

    def rxfilename(self, iteration: Iteration) -> str:
        """The pipe. Raises UserError if the model would be shrunk to half or less."""
        shrink = 1 - self.options.proportional_shrink * iteration.learning_rate
        if shrink <= 0.5:
            raise UserError(
                f"--trainer.optimization.proportional-shrink is too large: parameters would be scaled by {shrink:.3g}."
            )
        scale = f" --scale={shrink:.8g}" if shrink != 1 else ""
        source, commands = self._raw(iteration.index), []
        seed = iteration.index + self.options.srand
        if iteration.adds_layer:
            if scale:
                commands.append(f"nnet-copy{scale} {source} -")
                source, scale = "-", ""
            commands.append(f"nnet-init --srand={seed} {source} {self.layers[iteration.adds_layer - 2]} -")
            source = "-"
        rate = f"--learning-rate={iteration.learning_rate:.8g}"
        commands.append(f"nnet-copy {rate}{scale}{self._edits(iteration)} {source} -")
        if iteration.mixes_up:
            commands.append(self.mix_up.command(iteration.index))
        return pipe(*commands)

    def _edits(self, iteration: Iteration) -> str:
        """The option with the edits of an iteration, and a space before it; nothing without edits."""
        words = learning_rate_factors.edits(self.factors, iteration.learning_rate)
        if self.dropout_schedules:
            words.append(dropout_schedule.edits(self.dropout_schedules, iteration.share))
        return f" --edits={shell_word(';'.join(words))}" if words else ""
