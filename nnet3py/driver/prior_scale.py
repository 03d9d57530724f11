"""Scales for what goes into the softmax, from how often each pdf occurs: rare pdfs get larger steps at the beginning.

The scale of pdf i is (n_i + 0.01 mean(n))^power, n_i its frames, scaled so that the mean is one. A network has it as a
FixedScaleComponent before the softmax.

Source: Kaldi egs/wsj/s5/steps/libs/nnet3/train/common.py, ``compute_presoftmax_prior_scale``.
"""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Sequence

from nnet3py import log
from nnet3py.driver.engine import Engine
from nnet3py.driver.experiment import Experiment, link_atomically
from nnet3py.driver.pdf_counts import count_pdfs, read_counts
from nnet3py.errors import UserError
from nnet3py.text.lines import read_text, write_text

NAME = "presoftmax_prior_scale.vec"
"""The file of the scales; where a configuration names it, they are computed."""

_SMOOTHING = 0.01


def is_named(experiment: Experiment) -> bool:
    """Whether a configuration of the experiment names the file."""
    return any(NAME in read_text(path) for path in glob.glob(experiment.path("configs/*.config")))


def compute(experiment: Experiment, engine: Engine, ali_dir: str, power: float) -> None:
    """Make the file of the alignments' counts, if it is not there, and a link to it in ``configs/``.

    A file of the user's own in ``configs/``, which is no link, stays, and then nothing is made.

    Raises:
        UserError: there are no alignments, or counting failed.
    """
    link = experiment.path(f"configs/{NAME}")
    if os.path.isfile(link) and not os.path.islink(link):
        return
    if not experiment.has(NAME):
        log.log("Computing the scales before the softmax")
        counts = count_pdfs(experiment, engine, ali_dir, f"A configuration names {NAME}")
        write_text(experiment.path(NAME), vector_text(prior_scales(read_counts(counts), power)))
    link_atomically(f"../{NAME}", link)


def prior_scales(counts: Sequence[float], power: float) -> list[float]:
    """The scales of pdfs that have so many frames each.

    Raises:
        UserError: there are no frames, or the power is out of all proportion.
    """
    whole = [int(count) for count in counts]  # the half frame that analyze-counts adds is cut off again
    mean = sum(whole) / len(whole) if whole else 0.0
    if not mean > 0:
        raise UserError("The alignments have no frames to count pdfs in.")
    try:
        scales: list[float] = [(count + _SMOOTHING * mean) ** power for count in whole]
        total = sum(scales)
    except OverflowError:
        total = math.inf
    if not 0 < total < math.inf:
        raise UserError(f"Counts to the power {power:g} are too large or too small to compute with.")
    return [scale * len(scales) / total for scale in scales]


def vector_text(values: Sequence[float]) -> str:
    """A vector in Kaldi's text form, with all digits."""
    return f"[ {' '.join(map(str, values))} ]"
