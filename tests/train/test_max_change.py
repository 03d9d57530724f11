"""Limits on the change of a minibatch, against their closed form."""

from __future__ import annotations

import math

import pytest

from nnet3py.train.max_change import MaxChangeCounts, limited_scales


def test_each_component_and_then_the_whole_is_scaled_down_to_its_limit() -> None:
    counts = MaxChangeCounts()
    scales = limited_scales({"a": 3.0, "b": 0.5, "c": 4.0}, {"a": 0.75, "b": 0.75, "c": 0.0}, 2.0, 1.0, 1.0, counts)
    assert scales is not None
    whole = math.sqrt(0.75**2 + 0.5**2 + 4.0**2)
    assert scales == pytest.approx({"a": 0.75 / 3.0 * 2.0 / whole, "b": 2.0 / whole, "c": 2.0 / whole})
    assert (counts.per_component, counts.global_, counts.minibatches) == ({"a": 1, "b": 0, "c": 0}, 1, 1)
    norms = {"a": 3.0, "b": 0.5, "c": 4.0}
    assert math.sqrt(sum((scales[name] * norms[name]) ** 2 for name in norms)) == pytest.approx(2.0)


def test_a_change_within_its_limits_is_kept() -> None:
    counts = MaxChangeCounts()
    assert limited_scales({"a": 0.5}, {"a": 0.75}, 2.0, 0.1, 1.0, counts) == {"a": 0.1}
    assert (counts.per_component["a"], counts.global_) == (0, 0)


def test_limits_hold_for_the_scaled_change_and_grow_with_their_own_scale() -> None:
    counts = MaxChangeCounts()
    scales = limited_scales({"a": 10.0}, {"a": 0.75}, 0.0, -0.3, 0.3, counts)
    assert scales == pytest.approx({"a": -0.3 * 0.75 * 0.3 / (10.0 * 0.3)})


def test_zero_means_no_limit() -> None:
    assert limited_scales({"a": 1e6}, {"a": 0.0}, 0.0, 1.0, 1.0, MaxChangeCounts()) == {"a": 1.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_change_that_is_not_finite_is_refused_and_counted(bad: float, capsys: pytest.CaptureFixture[str]) -> None:
    counts = MaxChangeCounts()
    assert limited_scales({"a": 1.0, "b": bad}, {"a": 0.75, "b": 0.75}, 2.0, 1.0, 1.0, counts) is None
    assert (counts.not_finite, counts.minibatches, counts.global_) == (1, 1, 0)
    counts.report()
    assert "1 of 1 minibatches" in capsys.readouterr().err


def test_final_lines_are_in_kaldis_wording(capsys: pytest.CaptureFixture[str]) -> None:
    MaxChangeCounts(40, {"affine1": 4, "affine2": 0}, 1).report()
    printed = capsys.readouterr().err
    assert "For affine1, per-component max-change was enforced 10 % of the time." in printed
    assert "affine2" not in printed
    assert "The global max-change was enforced 2.5 % of the time." in printed
