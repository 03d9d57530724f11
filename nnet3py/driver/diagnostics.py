"""What the logs of training and of the diagnostic programs say about a model.

Source of the lines: Kaldi src/nnet3/nnet-diagnostics.cc (``PrintTotalStats``), src/nnet3/nnet-training.cc
(``PrintTotalStats``, ``PrintMaxChangeStats``), src/nnet3/nnet-utils.cc (``UpdateNnetWithMaxChange``) and
src/nnet3/nnet-example-utils.cc (``ExampleMergingStats``); of reading them, Kaldi
egs/wsj/s5/steps/libs/nnet3/train/common.py (``get_successful_models``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from nnet3py.errors import UserError
from nnet3py.text.lines import BLANKS, read_text

_NUMBER = r"([-+0-9.eE]+|-?nan|-?inf)"
_PROBABILITY = re.compile(
    rf"Overall (log-likelihood|log-probability|objective) for 'output' is {_NUMBER} per frame, over {_NUMBER}"
)
_ACCURACY = re.compile(rf"Overall accuracy for 'output' is {_NUMBER} per frame")
_TRAINING = re.compile(
    rf"Overall average objective function for 'output' is (?:{_NUMBER} \+ {_NUMBER} = )?{_NUMBER} over {_NUMBER} frames"
)

_COMPONENT_LIMIT = re.compile(rf"For ([^{BLANKS}]+), per-component max-change was enforced {_NUMBER} ?% of the time")
_WHOLE_LIMIT = re.compile(rf"The global max-change was enforced {_NUMBER} ?% of the time")
_MERGED = re.compile(r"Processed (\d+) egs of avg\. size \S+ into (\d+) minibatches, discarding ")
_DISCARDED = re.compile(r"=\{[^{}]*d=(\d+)\}")  # of each size of example
_NOT_FINITE = "Infinite parameter change, will not apply"


@dataclass(frozen=True)
class Probability:
    """What nnet-compute-prob found: natural-log probability and accuracy (a fraction) per frame; nan if not said."""

    log_probability: float = math.nan
    accuracy: float = math.nan


def read_probability(path: str) -> Probability:
    """What a log of nnet-compute-prob says about the output ``output``.

    Raises:
        UserError: it says nothing.
    """
    text = read_text(path)
    found = _PROBABILITY.findall(text)
    if not found:
        raise UserError(f"{path}: expected \"Overall log-likelihood for 'output' is ...\", found no such line.")
    accuracy = _ACCURACY.findall(text)
    return Probability(float(found[-1][1]), float(accuracy[-1]) if accuracy else math.nan)


def read_training_objective(path: str) -> float:
    """The objective per frame that a training job reached over its shard.

    Raises:
        UserError: its log does not say.
    """
    found = _TRAINING.findall(read_text(path))
    if not found:
        raise UserError(f"{path}: expected \"Overall average objective function for 'output' is ...\", found none.")
    return float(found[-1][2])


@dataclass(frozen=True)
class LimitedChanges:
    """How often the limits on the change in a minibatch were reached in an iteration.

    Attributes:
        whole: percent of the minibatches in which the limit on the whole model's change was; nan if not known.
        components: the same of each component's own limit, by name, in the model's order; without those never reached.
        not_finite: changes that were not finite and so not applied, in all jobs together; nan if not known.
    """

    whole: float = math.nan
    components: dict[str, float] = field(default_factory=dict)
    not_finite: float = math.nan


def read_limited_changes(paths: Sequence[str]) -> LimitedChanges:
    """The mean over the training jobs with these logs, whose shards are about equal; nothing known without logs.

    Raises:
        UserError: a log cannot be read.
    """
    if not paths:
        return LimitedChanges()
    whole, not_finite, components = 0.0, 0, dict[str, float]()
    for path in paths:
        text = read_text(path)
        whole += sum(map(float, _WHOLE_LIMIT.findall(text)[-1:])) / len(paths)
        not_finite += text.count(_NOT_FINITE)
        for name, percent in dict(_COMPONENT_LIMIT.findall(text)).items():
            components[name] = components.get(name, 0.0) + float(percent) / len(paths)
    return LimitedChanges(whole, components, not_finite)


@dataclass(frozen=True)
class ExamplesUsed:
    """What became of the examples that an iteration's jobs read; nan where it is not known.

    Attributes:
        examples: examples (or single frames of them) that were read.
        discarded: those that were too few to fill a minibatch of an allowed size.
        minibatches: minibatches that were trained on.
        frames: weight of the labels that were trained on, 1 a frame as a rule.
    """

    examples: float = math.nan
    discarded: float = math.nan
    minibatches: float = math.nan
    frames: float = math.nan


def read_examples_used(paths: Sequence[str]) -> ExamplesUsed:
    """The sums over the training jobs with these logs; nothing known without logs, or where one does not say.

    Raises:
        UserError: a log cannot be read.
    """
    examples = discarded = minibatches = 0
    frames = 0.0
    for path in paths:
        text = read_text(path)
        merged = _MERGED.findall(text)
        if not merged:
            return ExamplesUsed()
        examples += sum(int(number) for number, _ in merged)
        minibatches += sum(int(number) for _, number in merged)
        discarded += sum(map(int, _DISCARDED.findall(text)))
        frames += sum(float(found[3]) for found in _TRAINING.findall(text)[-1:])
    return ExamplesUsed(examples, discarded, minibatches, frames) if paths else ExamplesUsed()


@dataclass(frozen=True)
class Selection:
    """Which of an iteration's models to go on with, by their jobs' numbers (from 1)."""

    accepted: list[int]
    best: int


def select_models(objectives: list[float], threshold: float = 1.0) -> Selection:
    """The best of the jobs, and those whose objective per frame is within ``threshold`` of its.

    A job whose training diverged would spoil the average. Of equals the first is the best.

    Raises:
        UserError: no job has a finite objective.
    """
    finite = [value for value in objectives if math.isfinite(value)]
    if not finite:
        raise UserError(
            "No training job reached a finite objective: training diverged. Lower the learning rate, or look into the "
            "jobs' logs."
        )
    best = max(finite)
    accepted = [job for job, value in enumerate(objectives, 1) if math.isfinite(value) and best - value <= threshold]
    return Selection(accepted, objectives.index(best) + 1)
