"""The scales before the softmax."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnet3py.driver.pdf_counts import read_counts
from nnet3py.driver.prior_scale import prior_scales, vector_text
from nnet3py.errors import UserError


def test_rare_pdfs_get_larger_scales_and_the_mean_is_one() -> None:
    counts = [1000, 10, 0, 90]
    scales = prior_scales(counts, -0.25)
    smoothed = np.array(counts) + 0.01 * 275
    np.testing.assert_allclose(scales, smoothed**-0.25 / (smoothed**-0.25).mean(), rtol=1e-12)
    assert np.mean(scales) == pytest.approx(1)
    assert np.argsort(scales).tolist() == [0, 3, 1, 2]


def test_power_0_scales_nothing_and_halves_of_frames_do_not_count() -> None:
    assert prior_scales([5, 0, 7], 0.0) == [1, 1, 1]
    assert prior_scales([5.5, 0.5, 7.5], -0.25) == prior_scales([5, 0, 7], -0.25)


def test_no_frames_are_refused() -> None:
    for counts in ([], [0, 0], [0.5]):
        with pytest.raises(UserError, match="no frames"):
            prior_scales(counts, -0.25)


@pytest.mark.parametrize("power", [1000.0, -1000.0])
def test_a_power_that_cannot_be_computed_with_is_refused(power: float) -> None:
    with pytest.raises(UserError, match="to the power"):
        prior_scales([10, 20], power)


def test_counts_are_read_and_scales_written_as_vectors(tmp_path: Path) -> None:
    (tmp_path / "counts").write_text(vector_text([1.0, 2.5]))
    assert (tmp_path / "counts").read_text() == "[ 1.0 2.5 ]"
    assert read_counts(str(tmp_path / "counts")) == [1.0, 2.5]
    for text in ("", "1 2", "[ 1 x ]"):
        (tmp_path / "counts").write_text(text)
        with pytest.raises(UserError, match="Expected a vector"):
            read_counts(str(tmp_path / "counts"))
