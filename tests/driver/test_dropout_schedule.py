"""Dropout schedules, against values that Kaldi's dropout_schedule.py gives for the same options."""

from __future__ import annotations

import pytest

from nnet3py.driver.dropout_schedule import edits, parse_dropout_schedules
from nnet3py.errors import UserError

# option -> share of the data -> (pattern, proportion), as Kaldi's _get_dropout_proportions prints them.
KALDI = {
    "*=0.0,0.5,0.0 lstm.*=0.0,0.3@0.75,0.0": {
        0.75: [("*", 0.25), ("lstm.*", 0.3)],
        0.5: [("*", 0.5), ("lstm.*", 0.2)],
        0.25: [("*", 0.25), ("lstm.*", 0.1)],
    },
    "0.0,0.3,0.0": {0.5: [("*", 0.3)], 0.0: [("*", 0.0)], 1.0: [("*", 0.0)], 0.25: [("*", 0.15)]},
    "0.0,0.5@0.25,0.0,0.6@0.75,0.0": {0.25: [("*", 0.5)], 0.1: [("*", 0.2)]},
    "lstm.*=0.0,0.3,0.0@0.75,1.0": {0.25: [("lstm.*", 0.15)], 0.5: [("lstm.*", 0.3)], 0.9: [("lstm.*", 0.6)]},
    "0.1,0.4": {0.0: [("*", 0.1)], 0.5: [("*", 0.25)], 1.0: [("*", 0.4)]},
    "0,0@0.2,0.3@0.2,0": {0.1: [("*", 0.0)], 0.2: [("*", 0.3)], 0.6: [("*", 0.15)]},
}


@pytest.mark.parametrize("option", KALDI)
def test_proportions_are_kaldis(option: str) -> None:
    schedules = parse_dropout_schedules(option)
    for share, expected in KALDI[option].items():
        found = [(schedule.pattern, schedule.proportion(share)) for schedule in schedules]
        assert [pattern for pattern, _ in found] == [pattern for pattern, _ in expected]
        assert [proportion for _, proportion in found] == pytest.approx([value for _, value in expected])


def test_after_the_last_archive_the_proportion_is_the_last_one() -> None:
    assert parse_dropout_schedules("0,0.5")[0].proportion(1.02) == 0.5


def test_directives_come_in_the_order_of_the_patterns() -> None:
    assert edits(parse_dropout_schedules("0.1,0.1 final*=0,0.5"), 0.5) == (
        "set-dropout-proportion name=* proportion=0.1;set-dropout-proportion name=final* proportion=0.25"
    )
    assert parse_dropout_schedules("") == []


@pytest.mark.parametrize(
    "option",
    [
        "0.3",
        "a=0.3",
        "0,x,0",
        "0,1.2,0",
        "0,0.2@0.7,0.3@0.5,0",
        "0@0.1,0.3",
        "0,0.3@,0",
        "=0,0.3",
        "$(id)=0,1",
        "0,nan",
    ],
)
def test_what_is_no_schedule_is_refused(option: str) -> None:
    with pytest.raises(UserError, match="dropout-schedule"):
        parse_dropout_schedules(option)
