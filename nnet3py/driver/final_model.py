"""What comes after the last iteration: the combination of the last models, priors, the acoustic model.

Source: Kaldi egs/wsj/s5/steps/libs/nnet3/train/frame_level_objf/common.py (``combine_models``,
``compute_average_posterior``, ``adjust_am_priors``).
"""

from __future__ import annotations

import os

from nnet3py import log
from nnet3py.driver.alignments import alignment_rspecifier
from nnet3py.driver.engine import pipe, pipeline
from nnet3py.driver.experiment import copy_atomically
from nnet3py.driver.preparation import Egs
from nnet3py.driver.schedule import Schedule
from nnet3py.driver.stage import Stage
from nnet3py.errors import UserError


class FinalModel(Stage):
    """Makes ``final.raw`` and what follows from it."""

    def combine(self, egs: Egs, schedule: Schedule) -> None:
        """``final.raw``: the best of the running averages over the last models, or the last model."""
        models = schedule.models_to_combine(self.options.max_models_combine)
        if not self.options.do_final_combination or len(models) == 1:
            copy_atomically(self._raw(schedule.num_iterations), self._raw("final"))
            return
        for model in models:
            if not os.path.isfile(self._raw(model)):
                raise UserError(f"Cannot combine: {self._raw(model)} is missing. Go back with --stage.")
        merge = f"nnet-merge-egs --minibatch-size=1:{self.options.minibatch_size} ark:{egs.folder}/combine.egs ark:-"
        if not self.options.minibatch_size.isdigit():
            merge = merge.replace("=1:", "=")
        self._run(
            "combine",
            [
                "nnet-combine",
                f"--max-objective-evaluations={self.options.max_objective_evaluations}",
                *(self._raw(model) for model in reversed(models)),  # the newest first: its batch-norm statistics stay
                "ark,bg:" + pipe(merge),
                self._raw("final"),
            ],
            "Combining",
        )

    def compute_priors(self, egs: Egs) -> None:
        """The network's output averaged over training data, which serves as the classes' priors."""
        jobs = min(self.options.num_jobs_compute_prior, egs.num_archives)
        self._run(
            "get_post.final.JOB",
            pipeline(
                [
                    "nnet-subset-egs",
                    "--srand=JOB",
                    f"--n={self.options.prior_subset_size}",
                    f"ark:{egs.folder}/egs.JOB.ark",
                    "ark:-",
                ],
                ["nnet-merge-egs", "--minibatch-size=1:128", "ark:-", "ark:-"],
                ["nnet-compute-from-egs", "--apply-exp=true", self._raw("final"), "ark:-", "ark:-"],
                ["matrix-sum-rows", "ark:-", "ark:-"],
                ["vector-sum", "ark:-", self.experiment.path("post.final.JOB.vec")],
            ),
            "Averaging posteriors",
            jobs=jobs,
        )
        parts = [self.experiment.path(f"post.final.{job}.vec") for job in range(1, jobs + 1)]
        self._run(
            "vector_sum.final", ["vector-sum", *parts, self.experiment.path("post.final.vec")], "Summing posteriors"
        )
        self.experiment.remove(*(os.path.basename(path) for path in parts))

    def put_priors(self) -> None:
        """The last file: its presence says that training is finished."""
        posteriors = self.experiment.path("post.final.vec")
        if not self._has_transitions():
            copy_atomically(posteriors, self.experiment.path("final.priors"))
            return
        alignments = alignment_rspecifier(self.options.ali_dir)
        train_transitions = []
        if alignments is None:
            log.warning(
                f"{self.options.ali_dir} has no alignments: transition probabilities stay those of its final.mdl."
            )
        else:
            train_transitions.append(["nnet-am-train-transitions", "--set-priors=false", "-", alignments, "-"])
        self._run(
            "adjust_priors.final",
            pipeline(
                ["nnet-am-init", f"{self.options.ali_dir}/final.mdl", self._raw("final"), "-"],
                *train_transitions,
                ["nnet-am-adjust-priors", "-", posteriors, self.experiment.path("final.mdl")],
            ),
            "Making the acoustic model",
        )
