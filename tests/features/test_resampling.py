"""Recordings at another sample rate."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nnet3py.errors import UserError
from nnet3py.features.resampling import resample


def by_the_formula(samples: np.ndarray, rate_in: int, rate_out: int) -> np.ndarray:
    """The sum over all inputs for each output, in float64."""
    cutoff = 0.99 * 0.5 * min(rate_in, rate_out)
    count = math.ceil(len(samples) * rate_out / rate_in)
    distances = np.arange(len(samples)) / rate_in - (np.arange(count) / rate_out)[:, None]
    window = np.where(np.abs(distances) < 3 / cutoff, 0.5 + 0.5 * np.cos(np.pi * cutoff * distances / 3), 0.0)
    return (2 * cutoff * np.sinc(2 * cutoff * distances) * window / rate_in) @ samples


@pytest.mark.parametrize(
    ("rate_in", "rate_out"), [(16000, 8000), (8000, 16000), (44100, 16000), (11025, 8000), (8000, 8001), (48000, 44100)]
)
@pytest.mark.parametrize("length", [1, 7, 100, 777])
def test_the_output_is_a_windowed_sinc_of_the_input(rate_in: int, rate_out: int, length: int) -> None:
    samples = (1000 * np.random.default_rng(0).standard_normal(length)).astype(np.float32)
    found = resample(samples, rate_in, rate_out)
    expected = by_the_formula(samples, rate_in, rate_out)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(samples).max() * 10)


def test_tones_below_the_cutoff_pass_and_others_do_not() -> None:
    def tone(frequency: float, rate: int) -> np.ndarray:
        return np.sin(2 * np.pi * frequency * np.arange(rate) / rate).astype(np.float32)

    middle = slice(100, 7900)
    np.testing.assert_allclose(resample(tone(1000, 16000), 16000, 8000)[middle], tone(1000, 8000)[middle], atol=0.003)
    assert np.abs(resample(tone(6000, 16000), 16000, 8000)[middle]).max() < 0.003
    np.testing.assert_allclose(
        resample(tone(1000, 8000), 8000, 16000)[200:15800], tone(1000, 16000)[200:15800], atol=0.003
    )


def test_nothing_gives_nothing() -> None:
    assert resample(np.zeros(0, np.float32), 16000, 8000).shape == (0,)


def test_rates_are_whole_numbers() -> None:
    with pytest.raises(UserError, match=r"found 8000\.5"):
        resample(np.zeros(10, np.float32), 16000, 8000.5)
