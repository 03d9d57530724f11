"""Descriptors of xconfig: short forms written out, dimensions, errors."""

from __future__ import annotations

import pytest

from nnet3py.xconfig.descriptor import DescriptorError, parse_descriptor

PREVIOUS = ["ivector", "input", "tdnn1"]
DIMS = {"ivector": 100, "input": 40, "tdnn1": 40}


@pytest.mark.parametrize(
    ("short", "long", "dim"),
    [
        ("tdnn1", "tdnn1", 40),
        ("[-1]", "tdnn1", 40),
        (" [ -2 ] ", "input", 40),
        ("0", "tdnn1", 40),
        ("-3", "Offset(tdnn1, -3)", 40),
        ("input@2", "Offset(input, 2)", 40),
        ("input@0", "input", 40),
        ("[-3]@1", "Offset(ivector, 1)", 100),
        ("Append(-1,0,1)", "Append(Offset(tdnn1, -1), tdnn1, Offset(tdnn1, 1))", 120),
        ("Append(-2, ReplaceIndex(ivector,t,0))", "Append(Offset(tdnn1, -2), ReplaceIndex(ivector, t, 0))", 140),
        ("Append(input)", "Append(input)", 40),
        ("Sum(input,Scale(.5,tdnn1))", "Sum(input, Scale(0.5, tdnn1))", 40),
        ("Sum(input,Const(1,40))", "Sum(input, Const(1.0, 40))", 40),
        ("Failover(tdnn1@-1,input)", "Failover(Offset(tdnn1, -1), input)", 40),
        ("IfDefined(-1)", "IfDefined(Offset(tdnn1, -1))", 40),
        ("Switch(tdnn1, input, tdnn1@1)", "Switch(tdnn1, input, Offset(tdnn1, 1))", 40),
        ("Round(Offset(ivector, -1), 3)", "Round(Offset(ivector, -1), 3)", 100),
        ("Offset(input,-3,1)", "Offset(input, -3, 1)", 40),
    ],
)
def test_short_forms_are_written_out(short: str, long: str, dim: int) -> None:
    descriptor = parse_descriptor(short, PREVIOUS)
    assert descriptor.text() == long
    assert descriptor.dim(DIMS.__getitem__) == dim
    assert parse_descriptor(long, PREVIOUS) == descriptor


def test_names_are_replaced_by_nodes() -> None:
    descriptor = parse_descriptor("Append(-1, 0, Scale(2, input))", PREVIOUS)
    assert descriptor.text({"tdnn1": "tdnn1.relu", "input": "input"}.__getitem__) == (
        "Append(Offset(tdnn1.relu, -1), tdnn1.relu, Scale(2.0, input))"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a descriptor, found 'the end'"),
        ("Append(-1,", "expected a descriptor, found 'the end'"),
        ("Append(-1", r"expected '\)' in Append\(\), found 'the end'"),
        ("Append(-1,0))", r"expected the end, found '\)'"),
        ("Append", r"expected '\(' in Append\(\)"),
        ("input tdnn1", "expected the end, found 'tdnn1'"),
        ("1.5", "expected a descriptor, found '1.5'"),
        ("input@x", "expected a whole number in input@, found 'x'"),
        ("[-4]", r"\[-4\] must count back over the 3 lines before"),
        ("[0]", r"\[0\] must count back"),
        ("[x]", r"\[x\] must count back"),
        ("[-1", "a square bracket has no partner"),
        ("Offset(input)", r"expected ',' in Offset\(\), found '\)'"),
        ("Offset(input, t)", "expected a whole number in Offset, found 't'"),
        ("Round(input, 0)", "expected a whole number above zero in Round, found 0"),
        ("ReplaceIndex(input, y, 0)", "expected t or x in ReplaceIndex, found 'y'"),
        ("Scale(input, 2)", "expected a number in Scale, found 'input'"),
        ("Scale(nan, input)", "expected a number in Scale, found 'nan'"),
        ("Failover(input)", r"Failover\(\) takes 2, found 1"),
        ("IfDefined(input, tdnn1)", r"IfDefined\(\) takes 1, found 2"),
        ("Scale(1," * 200 + "input" + ")" * 200, "more than 100 expressions stand inside each other"),
    ],
)
def test_what_is_no_descriptor_is_refused(text: str, message: str) -> None:
    with pytest.raises(DescriptorError, match=message):
        parse_descriptor(text, PREVIOUS)


@pytest.mark.parametrize("text", ["[-1]", "-1", "Append(0)"])
def test_the_first_line_has_none_before_it(text: str) -> None:
    with pytest.raises(DescriptorError, match="there is none"):
        parse_descriptor(text, [])


def test_parts_of_a_sum_must_have_one_dimension() -> None:
    with pytest.raises(DescriptorError, match=r"Sum\(input, ivector\) joins the dimensions 40, 100"):
        parse_descriptor("Sum(input, ivector)", PREVIOUS).dim(DIMS.__getitem__)
