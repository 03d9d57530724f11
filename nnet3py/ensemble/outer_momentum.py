"""An outer optimiser: the averaged change of an iteration is taken as a gradient and applied with Nesterov momentum.

Averaging N models divides what each has learned by N, which the N times larger rate of the jobs makes good. That rate
cannot grow without end. With θ the parameters that an iteration starts from and θ̄ the average of what its jobs made of
them, the step taken here is not θ̄ - θ alone but also a share of the steps before:

    v' = μ v + (θ̄ - θ)                                                          (velocity)
    θ' = θ + ρ ((θ̄ - θ) + μ v')                                                 (step)

with the momentum μ and the outer learning rate ρ; μ = 0 and ρ = 1 give θ' = θ̄, the plain average. A steady direction is
followed 1 / (1 - μ) times as far as the average goes, so the jobs can do with a lower rate and stay closer together.

Source: the outer optimiser of DiLoCo (arXiv:2311.08105, algorithm 1), which is that of block-wise model-update
filtering (K. Chen, Q. Huo, ICASSP 2016) with Nesterov's form of the step.
"""

from __future__ import annotations

import math

import numpy as np

from nnet3py.errors import UserError
from nnet3py.nnet.network import Network


def velocity_like(network: Network) -> Network:
    """A velocity of zero for a network's parameters: a network of the same structure whose numbers are all zero."""
    velocity = network.copy()
    velocity.scale(0.0)
    return velocity


def step_with_momentum(mean: Network, start: Network, velocity: Network, momentum: float, rate: float) -> None:
    """Turn ``mean``, an iteration's average, into the model after a step with momentum, and update ``velocity``.

    Both change in place; statistics stay those of the average. The three must have the same structure.

    Raises:
        UserError: momentum or rate make no sense, or the step's parameters are not finite.
    """
    if not 0.0 <= momentum < 1.0:
        raise UserError(f"--outer-momentum={momentum:g} is not possible: give a number from 0 to below 1.")
    if not (0.0 < rate < math.inf):
        raise UserError(f"--outer-learning-rate={rate:g} is not possible: give a number above 0.")
    starts, velocities = start.updatable_components(), velocity.updatable_components()
    for name, component in mean.updatable_components().items():
        for field, parameter in component.parameters().items():
            before, moving = starts[name].parameters()[field], velocities[name].parameters()[field]
            kind = parameter.dtype.type
            with np.errstate(over="ignore", invalid="ignore"):  # looked at below
                change = parameter - before
                moving *= kind(momentum)
                moving += change
                parameter[...] = before + kind(rate) * (change + kind(momentum) * moving)
            if not np.isfinite(parameter).all():
                raise UserError(
                    f"The step with outer momentum made parameters of {name} that are not finite: lower "
                    "--outer-momentum or the learning rate of the jobs."
                )
