"""Lines of an xconfig file: what is read of them, and what is said about wrong ones."""

from __future__ import annotations

import pytest

from nnet3py.errors import UserError
from nnet3py.xconfig.xconfig_line import XconfigLine, parse_line


def parsed(text: str) -> XconfigLine:
    line = parse_line(text, "n.xconfig:4")
    assert line is not None
    return line


def test_values_may_hold_blanks_and_equals_signs_in_quotes() -> None:
    line = parsed(
        '  relu-layer  name=a input=Append( -1,\t0, 1)  ng-affine-options=" rank-in=3  update-period=2" dim=5\n'
    )
    assert line.first_word == "relu-layer"
    assert line.values == {
        "name": "a",
        "input": "Append( -1, 0, 1)",
        "ng-affine-options": "rank-in=3 update-period=2",
        "dim": "5",
    }


def test_comments_and_empty_lines_are_nothing() -> None:
    assert parse_line("   # relu-layer name=a, with any characters: ä ' %", "n.xconfig:1") is None
    assert parse_line(" \t\n", "n.xconfig:2") is None
    assert parsed("input name=input dim=4 # forty in truth").text == "input name=input dim=4"


def test_a_value_may_be_empty() -> None:
    assert parsed("relu-layer l2-regularize= name=a").values == {"l2-regularize": "", "name": "a"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("relu-layer name=a dim='5'", '"\'" cannot stand in an xconfig file'),
        ("relu-layer name=a dim=5;", "';' cannot stand"),
        ("Relu name=a", "expected a type of layer such as relu-layer as the first word, found 'Relu'"),
        ('relu-layer name=a ng-affine-options="rank-in=3', "a double quote has no partner"),
        ("relu-layer a name=a", "expected key=value after relu-layer"),
        ("relu-layer a", "expected key=value after relu-layer"),
        ("relu-layer name=a =5", "expected a key before '='"),
        ("relu-layer name=a dim=5 dim=6", "dim= is given twice"),
    ],
)
def test_a_line_of_another_form_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_line(text, "n.xconfig:4")
    assert message in str(caught.value)
    assert str(caught.value).startswith("n.xconfig:4: ")
    assert text in str(caught.value)
