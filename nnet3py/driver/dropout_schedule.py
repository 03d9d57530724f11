"""How the dropout proportion changes while training goes on: lines between points, for patterns of components.

A schedule such as ``0,0.3@0.5,0`` is read as points ``(share of the data seen, proportion)``: the first value holds at
the start, the last at the end, those between at the share after ``@`` (half, where it is left out). Proportions lie on
straight lines between the points. Several schedules are separated by spaces, each with the pattern of the components
it is for: ``*=0,0.2,0 final*=0,0.5@0.7,0``; where two patterns match a component, the later one counts.

Source: Kaldi egs/wsj/s5/steps/libs/nnet3/train/dropout_schedule.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from nnet3py.errors import UserError

_PATTERN = re.compile(r"[A-Za-z0-9_.*-]+")


@dataclass(frozen=True)
class DropoutSchedule:
    """The schedule of the components whose names match ``pattern`` (``*``: any characters).

    points: ``(share of the data, proportion)``, both in [0, 1], ordered by share, the first at 0 and the last at 1.
    """

    pattern: str
    points: tuple[tuple[float, float], ...]

    def proportion(self, share: float) -> float:
        """The proportion when ``share`` of the data has been seen; beyond 1 it stays as it was there."""
        share = min(max(share, 0.0), 1.0)
        (before, value), *rest = self.points
        for after, next_value in rest:
            if share < after:
                return value + (share - before) / (after - before) * (next_value - value)
            before, value = after, next_value
        return value


def parse_dropout_schedules(text: str) -> list[DropoutSchedule]:
    """The schedules of an option ``--trainer.dropout-schedule``; none for an empty text.

    Raises:
        UserError: it is not written as the module's text says.
    """
    return [_parse(part, text) for part in text.split()]


def edits(schedules: list[DropoutSchedule], share: float) -> str:
    """The directives for ``nnet-copy --edits`` that set the proportions when ``share`` of the data has been seen."""
    return ";".join(
        f"set-dropout-proportion name={schedule.pattern} proportion={schedule.proportion(share):.8g}"
        for schedule in schedules
    )


def _parse(part: str, text: str) -> DropoutSchedule:
    pattern, equals, values = part.rpartition("=")
    pattern = pattern if equals else "*"
    points = [_point(value, position, values.count(",")) for position, value in enumerate(values.split(","))]
    known = [point for point in points if point is not None]
    shares = [share for share, _ in known]
    if not _PATTERN.fullmatch(pattern) or len(known) < 2 or len(known) < len(points) or sorted(shares) != shares:
        raise UserError(
            f"--trainer.dropout-schedule={text!r}: expected words like 0,0.2@0.5,0 or final*=0,0.5@0.7,0, with a "
            "proportion at the start and one at the end at least, all numbers from 0 to 1 and the shares of the data "
            f"(after @) rising; found {part!r}."
        )
    return DropoutSchedule(pattern, tuple(known))


def _point(value: str, position: int, last: int) -> tuple[float, float] | None:
    """``(share, proportion)`` of a value at a position, or None for one that makes no sense."""
    proportion, at, share = value.partition("@")
    if at and position in (0, last):
        return None
    try:
        point = (
            0.0 if position == 0 else 1.0 if position == last else float(share) if at else 0.5,
            float(proportion),
        )
    except ValueError:
        return None
    return point if all(0.0 <= number <= 1.0 for number in point) else None
