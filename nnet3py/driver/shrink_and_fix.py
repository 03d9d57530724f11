"""Shrinking an iteration's average and fixing its saturated units, every so many iterations.

Where one is due, the average is ``<i+1>.average.raw``, and ``<i+1>.raw`` what nnet-fix and nnet-shrink make of it, in
this order: nnet-fix needs the statistics of the model as it was trained. The factors that shrinking finds are judged on
a part of the training data's diagnostic set, another one in each iteration.

Source: Kaldi egs/wsj/s5/steps/nnet2/train_tanh.sh (``shrink_interval``, ``num_frames_shrink``), which shrinks in every
fifth iteration and fixes in the others.
"""

from __future__ import annotations

from nnet3py.driver.engine import pipe, pipeline
from nnet3py.driver.preparation import Egs
from nnet3py.driver.schedule import Iteration
from nnet3py.driver.stage import Stage

_SHRINK_FRAMES = 2000


class ShrinkAndFix(Stage):
    """What ``--trainer.shrink-period`` and ``--trainer.fix-period`` ask for."""

    def is_due(self, iteration: Iteration) -> bool:
        """Whether the average of this iteration is to be changed; never where there is no average."""
        return self._shrinks(iteration) or self._fixes(iteration)

    def average(self, iteration: Iteration) -> str:
        """The file for the average of an iteration in which a change of it is due."""
        return self._raw(f"{iteration.index + 1}.average")

    def run(self, egs: Egs, iteration: Iteration) -> None:
        """Make the iteration's result of its average. Raises UserError if a job fails."""
        result = self._raw(iteration.index + 1)
        fix, shrink = ["nnet-fix", self.average(iteration)], ["nnet-shrink", self.average(iteration)]
        shrink += [self._examples(egs, iteration), result]
        if not self._shrinks(iteration):
            self._run(f"fix.{iteration.index}", [*fix, result], f"Fixing units, iteration {iteration.index}")
            return
        if self._fixes(iteration):
            shrink = pipeline([*fix, "-"], ["nnet-shrink", "-", *shrink[2:]])
        self._run(f"shrink.{iteration.index}", shrink, f"Shrinking, iteration {iteration.index}")

    def _shrinks(self, iteration: Iteration) -> bool:
        return iteration.averages and _is_turn(iteration, self.options.shrink_period)

    def _fixes(self, iteration: Iteration) -> bool:
        return iteration.averages and _is_turn(iteration, self.options.fix_period)

    def _examples(self, egs: Egs, iteration: Iteration) -> str:
        count = -(-_SHRINK_FRAMES // egs.frames_per_eg)
        seed = iteration.index + self.options.srand
        return "ark:" + pipe(
            f"nnet-subset-egs --n={count} --srand={seed} ark:{egs.folder}/train_diagnostic.egs ark:-",
            "nnet-merge-egs --minibatch-size=1:64 ark:- ark:-",
        )


def _is_turn(iteration: Iteration, period: int) -> bool:
    return period > 0 and iteration.index % period == 0
