"""What a run of training may hand on to the next: see :mod:`nnet3py.train.optimizer_state_file` for its file."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from nnet3py.train.natural_gradient import NaturalGradientState

Array = np.ndarray
Estimates = dict[tuple[str, str], NaturalGradientState]


@dataclass
class OptimizerState:
    """The state of the optimiser between two minibatches.

    minibatches: how many there have been. estimates: by component, then by side (``in``: of its inputs, ``out``: of its
    output derivatives) and field. momentum: by component, then by field, float32 of the field's shape: what momentum
    adds to the next change; empty without momentum.
    """

    minibatches: int = 0
    estimates: dict[str, Estimates] = field(default_factory=dict)
    momentum: dict[str, dict[str, Array]] = field(default_factory=dict)
