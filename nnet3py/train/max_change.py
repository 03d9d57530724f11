"""Limits on how far one minibatch may move the parameters.

With Δ_c the change of component c before the limits and ‖·‖ the Euclidean norm of all its numbers,

    f_c = min(1, max_change_c / ‖Δ_c‖)                    each component by its own limit (0: none)
    f   = min(1, max_param_change / sqrt(Σ_c f_c² ‖Δ_c‖²))   then the whole model

and component c changes by ``f f_c Δ_c``. A limit that is reached now and then keeps a single odd minibatch from
throwing the model far off; one that is always reached says that the learning rate is too high, hence the counts.

Source: arXiv:1410.7455, section 3.2.2; Kaldi src/nnet3/nnet-utils.cc, UpdateNnetWithMaxChange.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from nnet3py import log


@dataclass
class MaxChangeCounts:
    """In how many minibatches each limit was reached, and how many changes were not finite and so not applied."""

    minibatches: int = 0
    per_component: dict[str, int] = field(default_factory=dict)
    global_: int = 0
    not_finite: int = 0

    def add(self, other: MaxChangeCounts) -> None:
        """Count what another thread has counted too."""
        self.minibatches += other.minibatches
        self.global_ += other.global_
        self.not_finite += other.not_finite
        for name, count in other.per_component.items():
            self.per_component[name] = self.per_component.get(name, 0) + count

    def report(self) -> None:
        """Kaldi's lines at the end of training."""
        for name, count in self.per_component.items():
            if count > 0:
                share = 100.0 * count / self.minibatches
                log.log(f"For {name}, per-component max-change was enforced {share:g} % of the time.")
        if self.global_ > 0:
            log.log(f"The global max-change was enforced {100.0 * self.global_ / self.minibatches:g} % of the time.")
        if self.not_finite > 0:
            log.warning(
                f"In {self.not_finite} of {self.minibatches} minibatches the parameter change was not finite and was "
                f"not applied."
            )


def limited_scales(
    norms: Mapping[str, float],
    max_changes: Mapping[str, float],
    max_param_change: float,
    scale: float,
    max_change_scale: float,
    counts: MaxChangeCounts,
) -> dict[str, float] | None:
    """By what to multiply each component's change Δ_c before it is added; None if the change is not finite.

    norms: ‖Δ_c‖ by component. max_changes: max_change_c, 0 for no limit. scale: what Δ is meant to be multiplied by;
    the limits hold for the product. max_change_scale: multiplies all limits (backstitch).
    """
    counts.minibatches += 1
    if not all(math.isfinite(norm) for norm in norms.values()):
        counts.not_finite += 1
        log.warning("Infinite parameter change, will not apply.")
        return None
    factors = {}
    for name, norm in norms.items():
        limit = max_changes[name] * max_change_scale
        factors[name] = 1.0
        if max_changes[name] != 0.0 and norm * abs(scale) > limit:
            factors[name] = limit / (norm * abs(scale))
            counts.per_component[name] = counts.per_component.get(name, 0) + 1
        counts.per_component.setdefault(name, 0)
    whole = abs(scale) * math.sqrt(sum((factors[name] * norm) ** 2 for name, norm in norms.items()))
    global_factor = 1.0
    if max_param_change != 0.0 and whole > max_param_change * max_change_scale:
        global_factor = max_param_change * max_change_scale / whole
        counts.global_ += 1
    _report_minibatch(factors, max_changes, global_factor, max_param_change)
    return {name: factor * global_factor * scale for name, factor in factors.items()}


def _report_minibatch(
    factors: Mapping[str, float], max_changes: Mapping[str, float], global_factor: float, max_param_change: float
) -> None:
    """Kaldi's line when a limit was reached."""
    limited = [name for name, factor in factors.items() if factor < 1.0]
    text = ""
    if limited:
        tightest = min(limited, key=lambda name: factors[name])
        text = (
            f"Per-component max-change active on {len(limited)} / {len(factors)} Updatable Components. (Smallest "
            f"factor={factors[tightest]:g} on {tightest} with max-change={max_changes[tightest]:g}). "
        )
    if global_factor < 1.0:
        text += f"Global max-change factor was {global_factor:g} with max-change={max_param_change:g}."
    if text:
        log.log(text)
