#!/usr/bin/env python3
"""Train a network on many jobs: iterations of parallel SGD, averaging, combination, priors."""

from __future__ import annotations

import os
import sys
from typing import Any

from nnet3py.driver.options import TrainingOptions, declares
from nnet3py.program import program


@program(
    usage="train_dnn.py [options]",
    example="train_dnn.py --cmd='run-local --max-jobs-run 4' --feat-dir=data/train --ali-dir=exp/ali --dir=exp/dnn "
    "--trainer.num-epochs=4 --trainer.optimization.num-jobs-initial=2 --trainer.optimization.num-jobs-final=4",
)
@declares(TrainingOptions)
def main(**values: Any) -> None:
    """Train a feed-forward network by natural-gradient SGD on many jobs with parameter averaging.

    Reads <dir>/configs: final.config, the network's configuration lines; init.config, if a transform is to decorrelate
    the input, the network up to it (its output is spliced frames; the transform is then <dir>/lda.mat, also linked as
    configs/lda.mat, for final.config to name); vars, the lines model_left_context=N and model_right_context=N, without
    which the context is found with nnet-info. Features and alignments are as get_egs.py has them.

    Writes <dir>/final.raw, with <dir>/final.priors, the sums of its posteriors; or, where <ali-dir>/final.mdl has a
    transition model, <dir>/final.mdl with both. progress.tsv has a line a model with log-probabilities, accuracies and
    times, accuracy.report the same for people, log/ every job's log.

    Stopped at any moment, the same command goes on from the last finished iteration, and ends with the same bytes.

    Kaldi counterpart: steps/nnet3/train_dnn.py.
    """
    from nnet3py.driver.training import train

    steps = os.path.dirname(os.path.abspath(__file__))
    get_egs, align = (os.path.join(steps, name) for name in ("get_egs.py", "align.py"))
    train(TrainingOptions(**values), get_egs=get_egs, align=align)


if __name__ == "__main__":
    sys.exit(main())
