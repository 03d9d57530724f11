"""What comes after the last iteration: the combination of the last models, priors, the acoustic model.

Source: Kaldi egs/wsj/s5/steps/libs/nnet3/train/frame_level_objf/common.py (``combine_models``,
``compute_average_posterior``, ``adjust_am_priors``).
"""

from __future__ import annotations

import os

from nnet3py.driver.engine import pipe
from nnet3py.driver.experiment import copy_atomically
from nnet3py.driver.minibatch_size import with_rest
from nnet3py.driver.preparation import Egs
from nnet3py.driver.priors import make_acoustic_model, prior_data, sum_posteriors
from nnet3py.driver.schedule import Schedule
from nnet3py.driver.stage import Stage
from nnet3py.errors import UserError


class FinalModel(Stage):
    """Makes ``final.raw`` and what follows from it."""

    def combine(self, egs: Egs, schedule: Schedule) -> None:
        """``final.raw``: the best running average or weighted sum of the last models, or the last model."""
        models = schedule.models_to_combine(self.options.max_models_combine)
        if not self.options.do_final_combination or len(models) == 1:
            copy_atomically(self._raw(schedule.num_iterations), self._raw("final"))
            return
        for model in models:
            if not os.path.isfile(self._raw(model)):
                raise UserError(f"Cannot combine: {self._raw(model)} is missing. Go back with --stage.")
        size = with_rest(self.options.minibatch_size)
        merge = f"nnet-merge-egs --minibatch-size={size} ark:{egs.folder}/combine.egs ark:-"
        self._run(
            "combine",
            [
                *self._combining_program(),
                *(self._raw(model) for model in reversed(models)),  # the newest first: its batch-norm statistics stay
                "ark,bg:" + pipe(merge),
                self._raw("final"),
            ],
            "Combining",
        )

    def _combining_program(self) -> list[str]:
        evaluations = self.options.max_objective_evaluations
        if self.options.combine_method == "weights":
            return ["nnet-combine-fast", f"--num-lbfgs-iters={evaluations}"]
        return ["nnet-combine", f"--max-objective-evaluations={evaluations}"]

    def compute_priors(self, egs: Egs) -> None:
        """The network's output averaged over training data, which serves as the classes' priors."""
        sum_posteriors(self.engine, self.experiment, "final", self._raw("final"), prior_data(self.options, egs))

    def put_priors(self, ali_dir: str) -> None:
        """The last file: its presence says that training is finished. ``ali_dir`` has the labels' alignments."""
        posteriors = self.experiment.path("post.final.vec")
        if not self._has_transitions():
            copy_atomically(posteriors, self.experiment.path("final.priors"))
            return
        make_acoustic_model(
            self.engine,
            self.experiment,
            "final",
            network=self._raw("final"),
            posteriors=posteriors,
            model_dir=self.options.ali_dir,
            ali_dir=ali_dir,
            target=self.experiment.path("final.mdl"),
        )
