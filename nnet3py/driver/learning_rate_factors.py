"""Factors of the learning rate by layer: ``affine1=0.5 output*=2``, patterns of components' names and numbers.

Where several patterns match a component, the last one counts; where none does, the factor that the model has stays.
With a factor of 0 a component is not trained.

Source: Kaldi egs/wsj/s5/steps/nnet2/train_pnorm.sh (``softmax_learning_rate_factor``, for the last layers); the edit
``set-learning-rate-factor`` of src/nnet3/nnet-utils.cc.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from nnet3py.errors import UserError

_PATTERN = re.compile(r"[A-Za-z0-9_.*-]+")
_INFO_LINE = re.compile(r"^component name=([\w.-]+) type=.*, learning-rate=", re.MULTILINE)
_CONFIG_LINE = re.compile(r"^\s*component\s(?:.*\s)?name=([\w.-]+)", re.MULTILINE)


@dataclass(frozen=True)
class LearningRateFactor:
    """The factor of the components whose names match ``pattern`` (``*``: any characters)."""

    pattern: str
    factor: float


def parse_learning_rate_factors(text: str) -> list[LearningRateFactor]:
    """The factors of an option ``--trainer.learning-rate-factors``; none for an empty text.

    Raises:
        UserError: it is not written as the module's text says.
    """
    return [_parse(part, text) for part in text.split()]


def _parse(part: str, text: str) -> LearningRateFactor:
    pattern, _, number = part.rpartition("=")
    try:
        factor = float(number)
    except ValueError:
        factor = math.nan
    if not (_PATTERN.fullmatch(pattern) and 0.0 <= factor < math.inf):
        raise UserError(
            f"--trainer.learning-rate-factors={text!r}: expected words like affine1=0.5 or output*=0, a pattern of "
            f"components' names and a number from 0 on; found {part!r}."
        )
    return LearningRateFactor(pattern, factor)


def edits(factors: Iterable[LearningRateFactor], learning_rate: float) -> list[str]:
    """The directives for ``nnet-copy --edits`` that set the factors and then the rates; none without factors."""
    words = [f"set-learning-rate-factor name={f.pattern} learning-rate-factor={f.factor:.8g}" for f in factors]
    return [*words, f"set-learning-rate learning-rate={learning_rate:.8g}"] if words else []


def require_matches(factors: Iterable[LearningRateFactor], info: str, configs: Iterable[str]) -> None:
    """Refuse a pattern that matches no trained component, for it is likely misspelt.

    Args:
        info: what nnet-info says of the initial model.
        configs: configurations of layers that will be added to it.

    Raises:
        UserError: a pattern matches none of the initial model's trained components and none of the added layers'.
    """
    trained = _INFO_LINE.findall(info)
    later = [name for config in configs for name in _CONFIG_LINE.findall(config)]
    for factor in factors:
        if not any(fnmatchcase(name, factor.pattern) for name in trained + later):
            raise UserError(
                f"--trainer.learning-rate-factors: no trained component matches {factor.pattern!r}; the model has "
                f"{', '.join(trained)}."
            )
