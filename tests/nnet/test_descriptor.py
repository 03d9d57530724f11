"""Descriptors: Kaldi's normal form and text, dimensions, the times they read."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from nnet3py.errors import UserError
from nnet3py.nnet.descriptor import parse_descriptor

DIMS = {"a": 10, "b": 10, "c": 4, "ivector": 3, "tdnn1.relu": 10}


def dim(text: str) -> int:
    return parse_descriptor(text).dim(DIMS.__getitem__)


def resolved(text: str, times: list[int], available: dict[str, list[int]]) -> tuple[list[bool], list[tuple]]:
    """Which times can be computed, and (node, positions, times, scale) of each term."""

    def computable(node: str, wanted: np.ndarray) -> np.ndarray:
        return np.isin(wanted, available.get(node, []))

    where = np.asarray(times)
    mask, terms = parse_descriptor(text).resolve(where, np.arange(len(where)), computable)
    return mask.tolist(), [(t.node, t.positions.tolist(), t.times.tolist(), t.scale) for t in terms]


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "tdnn1.relu",
        "Offset(a, -3)",
        "Append(Offset(a, -1), a, Offset(a, 1), ReplaceIndex(ivector, t, 0))",
        "Sum(a, b)",
        "Sum(Scale(0.66, a), b)",
        "Sum(a, Const(1, 10))",
        "Failover(Offset(a, 1), a)",
        "IfDefined(Offset(a, -3))",
        "Append(Sum(a, Sum(b, a)), IfDefined(c))",
        "Switch(a, Offset(b, 1))",
        "Round(ivector, 10)",
        "ReplaceIndex(a, x, 2)",
        "Offset(a, 0, 1)",
    ],
)
def test_normal_forms_are_printed_as_they_were_read(text: str) -> None:
    assert str(parse_descriptor(text)) == text
    assert parse_descriptor(text) == parse_descriptor(text.replace(" ", ""))
    assert hash(parse_descriptor(text)) == hash(parse_descriptor(text))


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Append(a)", "a"),
        ("Append(a, Append(b, c))", "Append(a, b, c)"),
        ("Offset(a, 0)", "a"),
        ("Offset(Offset(a, 2), -5)", "Offset(a, -3)"),
        ("Offset(Offset(a, 2), -2)", "a"),
        ("Offset(Append(a, Offset(b, 1)), 1)", "Append(Offset(a, 1), Offset(b, 2))"),
        ("Sum(a, b, a)", "Sum(a, Sum(b, a))"),
        ("Sum(a)", "a"),
        ("Sum(Append(a, c), Append(b, c))", "Append(Sum(a, b), Sum(c, c))"),
        ("Offset(Sum(a, b), 1)", "Sum(Offset(a, 1), Offset(b, 1))"),
        ("Round(Failover(a, Offset(b, 1)), 3)", "Failover(Round(a, 3), Round(Offset(b, 1), 3))"),
        ("Offset(IfDefined(a), 2)", "IfDefined(Offset(a, 2))"),
        ("Scale(2, Scale(0.25, a))", "Scale(0.5, a)"),
        ("Scale(2, Sum(a, Offset(b, 1)))", "Sum(Scale(2, a), Offset(Scale(2, b), 1))"),
        ("Scale(-1.0, Append(a, b))", "Append(Scale(-1, a), Scale(-1, b))"),
        ("Offset(ReplaceIndex(ivector, t, 0), 3)", "Offset(ReplaceIndex(ivector, t, 0), 3)"),
    ],
)
def test_other_forms_are_brought_into_kaldis_normal_form(text: str, normal: str) -> None:
    assert str(parse_descriptor(text)) == normal
    assert str(parse_descriptor(normal)) == normal


@pytest.mark.parametrize("model", ["pnorm", "sgd", "sigmoid_mixtures", "tdnn_relu", "tdnnf"])
def test_descriptors_in_kaldis_models_keep_their_text(model: str, kaldi_reference: Path) -> None:
    lines = (kaldi_reference / "models" / f"{model}.txt").read_text().splitlines()
    texts = [match[1] for line in lines if (match := re.search(r" input=(.*?)(?: objective=\w+)?$", line))]
    assert len(texts) >= 9
    for text in texts:
        assert str(parse_descriptor(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Append(",
        "Append()",
        "Append(a,)",
        "Append(a b)",
        "a b",
        "Offset(a)",
        "Offset(a, 1.5)",
        "Offset(a, 1",
        "Round(a, 0)",
        "Const(nan, 3)",
        "Const(1.0, -3)",
        "Scale(a, b)",
        "ReplaceIndex(a, n, 0)",
        "Failover(a)",
        "Failover(a, b, c)",
        "Plus(a, b)",
        "Sum",
        "(a)",
        "Switch(Sum(a, b), a)",
        "Sum(Append(a, b), a)",
        "Scale(2, Switch(a, b))",
        "IfDefined(Const(1.0, 3))",
        "Offset(Const(1.0, 3), 1)",
        "Offset(" * 2000 + "a" + ", 1)" * 2000,
        "Sum(a" + ", a" * 5000 + ")",
    ],
)
def test_what_is_no_descriptor_is_a_user_error(text: str) -> None:
    with pytest.raises(UserError):
        parse_descriptor(text)


def test_an_error_shows_the_descriptor_and_what_was_expected() -> None:
    with pytest.raises(UserError, match=r"Expected a whole number, found 'x' in the descriptor 'Offset\(a, x\)'"):
        parse_descriptor("Offset(a, x)")
    with pytest.raises(UserError, match="Expected a whole number of 32 bits, found '99999999999999999999'"):
        parse_descriptor("Offset(a, 99999999999999999999)")


def test_dimensions_add_up() -> None:
    assert dim("Append(a, Offset(c, 1), ReplaceIndex(ivector, t, 0), Const(0, 5))") == 22
    assert dim("Sum(a, Scale(2, b))") == 10
    with pytest.raises(UserError, match="10, 4"):
        dim("Sum(a, c)")


def test_the_modulus_is_that_of_rounding_and_switching() -> None:
    assert parse_descriptor("Append(a, Offset(b, 3))").modulus() == 1
    assert parse_descriptor("Append(Round(a, 4), Switch(a, Round(b, 3)))").modulus() == 12


def test_dependencies_name_all_nodes_and_times_that_may_be_read() -> None:
    found = parse_descriptor("Append(Offset(a, -1), Failover(b, c), ReplaceIndex(ivector, t, 0))").dependencies(
        np.array([4, 5])
    )
    assert [(node, times.tolist()) for node, times in found] == [
        ("a", [3, 4]),
        ("b", [4, 5]),
        ("c", [4, 5]),
        ("ivector", [0, 0]),
    ]


def test_negative_times_round_and_switch_downwards() -> None:
    mask, terms = resolved("Round(a, 3)", [-4, -3, -1, 0, 2], {"a": [-6, -3, 0]})
    assert mask == [True] * 5
    assert terms == [("a", [0, 1, 2, 3, 4], [-6, -3, -3, 0, 0], 1.0)]
    mask, terms = resolved("Switch(a, b)", [-2, -1, 0, 1], {"a": [-2, 0], "b": [-1, 1]})
    assert mask == [True] * 4
    assert terms == [("a", [0, 2], [-2, 0], 1.0), ("b", [1, 3], [-1, 1], 1.0)]


def test_a_sum_needs_all_of_its_parts() -> None:
    mask, terms = resolved("Sum(Scale(0.5, a), Offset(b, 1))", [0, 1, 2], {"a": [0, 1], "b": [2, 3]})
    assert mask == [False, True, False]
    assert terms == [("a", [1], [1], 0.5), ("b", [1], [2], 1.0)]


def test_if_defined_leaves_out_what_is_missing() -> None:
    mask, terms = resolved("Sum(a, IfDefined(Offset(b, -1)))", [0, 1], {"a": [0, 1], "b": [0]})
    assert mask == [True, True]
    assert terms == [("a", [0, 1], [0, 1], 1.0), ("b", [1], [0], 1.0)]


def test_failover_takes_the_second_where_the_first_is_missing() -> None:
    mask, terms = resolved("Failover(a, b)", [0, 1, 2], {"a": [1], "b": [0, 1]})
    assert mask == [True, True, False]
    assert terms == [("a", [1], [1], 1.0), ("b", [0], [0], 1.0)]


def test_deep_and_wide_descriptors_are_normalised_in_linear_time() -> None:
    wide = "Sum(" + ", ".join(["a"] * 190) + ")"
    found = parse_descriptor("Offset(" * 60 + wide + ", 1)" * 60)
    assert list(found.node_names()) == ["a"] * 190
    assert {times.item() for _, times in found.dependencies(np.array([0]))} == {60}
