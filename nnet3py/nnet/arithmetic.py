"""Scaling and adding components: what averaging, combining and shrinking models are made of.

Parameters and statistics take part, by the role their fields declare; settings do not.

Source: Kaldi's ``Component::Scale`` and ``Component::Add``.
"""

from __future__ import annotations

import numpy as np

from nnet3py.nnet.component import Component, Role

_PIECE = 1 << 16  # numbers: it and the product stay in a core's cache
_ROLES = (Role.PARAMETER, Role.STATISTIC)


def scale_component(component: Component, scale: float) -> None:
    """Multiply in place. A scale of zero gives zeros even where there were infinities or NaNs."""
    for field in component.fields:
        if field.role not in _ROLES or field.obsolete:
            continue
        value = getattr(component, field.attribute)
        if not isinstance(value, np.ndarray):
            setattr(component, field.attribute, type(value)(value * scale if scale else 0))
        elif scale == 0.0:
            value[...] = 0
        else:
            value *= value.dtype.type(scale)


def add_component(component: Component, alpha: float, other: Component) -> None:
    """Add ``alpha`` times ``other``, a component of the same type and shape, in place.

    Statistics that one of the two has not gathered yet (arrays without elements) count as zero.
    """
    _add_fields(component, alpha, other, _ROLES)


def add_statistics(component: Component, other: Component) -> None:
    """As :func:`add_component` with ``alpha`` 1, of the statistics alone."""
    _add_fields(component, 1.0, other, (Role.STATISTIC,))


def _add_fields(component: Component, alpha: float, other: Component, roles: tuple[Role, ...]) -> None:
    assert type(component) is type(other)
    for field in component.fields:
        if field.role not in roles or field.obsolete:
            continue
        mine, theirs = getattr(component, field.attribute), getattr(other, field.attribute)
        if not isinstance(mine, np.ndarray):
            setattr(component, field.attribute, type(mine)(mine + alpha * theirs))
        elif field.role is Role.STATISTIC and theirs.size == 0:
            continue
        elif field.role is Role.STATISTIC and mine.size == 0:
            setattr(component, field.attribute, theirs * mine.dtype.type(alpha))
        else:
            _add_scaled(mine, alpha, theirs)


def _add_scaled(target: np.ndarray, alpha: float, addend: np.ndarray) -> None:
    """``target += alpha * addend`` in place, some rows at a time: the product is never held as a whole."""
    rows = max(1, _PIECE // max(1, addend[:1].size))
    for start in range(0, len(target), rows):
        piece = addend[start : start + rows]
        target[start : start + rows] += piece if alpha == 1.0 else piece * target.dtype.type(alpha)
