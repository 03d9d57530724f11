"""Keeping a parameter matrix near a multiple of one with orthonormal rows, as factored TDNN layers need.

With P = M Mᵀ for M (rows <= columns), the step ``M -= 4 ν/s² (P - s² I) M`` is one of gradient descent on
``tr((P - s² I)²)``; with ν = 1/8 it converges quadratically near the solution. A negative constraint lets the scale
float: ``s² = tr(P²)/tr(P)`` makes the step orthogonal to M, so that it does not change M's norm to first order. Far
from convergence, which ``tr(P²) rows / tr(P)²`` (1 at the solution) tells, ν is halved once or twice.

Source: D. Povey et al., "Semi-orthogonal low-rank matrix factorization for deep neural networks", Interspeech 2018,
section 2; Kaldi src/nnet3/nnet-utils.cc, ConstrainOrthonormal.
"""

from __future__ import annotations

import math

import numpy as np

from nnet3py.nnet.component import Array, Component

_SPEED = 0.125
_PROBABILITY = 0.25  # of taking the step after a minibatch: it does not drift far in four of them


def takes_orthonormal_step(component: Component, random: np.random.Generator) -> bool:
    """Whether the component asks for the constraint and it is its turn: a random quarter of the calls."""
    return getattr(component, "orthonormal_constraint", 0.0) != 0.0 and random.random() < _PROBABILITY


def constrain_orthonormal(component: Component, random: np.random.Generator) -> None:
    """On a random quarter of the calls, take the step for a component that asks for it; for others do nothing."""
    if not takes_orthonormal_step(component, random):
        return
    matrix = next(array for array in component.parameters().values() if array.ndim == 2)
    constraint = float(component.orthonormal_constraint)  # type: ignore[attr-defined]
    orthonormal_step(matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T, constraint)


def orthonormal_step(M: Array, constraint: float) -> None:
    """One step in place for M (rows, columns), rows <= columns; ``constraint`` is s, or negative to let it float."""
    correction = orthonormal_correction(M @ M.T, constraint)
    if correction is None:
        return
    step = correction @ M
    if math.isfinite(float(step.sum())):
        M += step


def orthonormal_correction(products: Array, constraint: float) -> Array | None:
    """What times M is to be added to M, from ``M Mᵀ``, (rows, rows) both; None where M is nearly zero."""
    P = products.astype(np.float64)
    speed = _SPEED
    scale_squared = constraint**2
    if constraint < 0.0:
        trace = float(np.trace(P))
        if not trace >= 1.0e-15:
            return None  # nearly zero: a component that nothing reaches
        sum_squares = float(np.vdot(P, P))
        scale_squared = sum_squares / trace
        spread = sum_squares * len(P) / trace**2
        if spread > 1.02:
            speed *= 0.25 if spread > 1.1 else 0.5
    P[np.diag_indices_from(P)] -= scale_squared
    return np.asarray((-4.0 * speed / scale_squared * P).astype(np.float32))
