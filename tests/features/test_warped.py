"""Features with warped mel bins: as the library's where nothing is warped, as the textbook's where something is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("kaldi_native_fbank", reason="kaldi-native-fbank is not installed; features need it")

from feature_options import OPTIONS, RATE, samples

from nnet3py.errors import UserError
from nnet3py.features.extraction import Extractor
from nnet3py.features.warped import WarpedFeatures


def unwarped(kind: str, options: dict[str, Any], signal: np.ndarray) -> np.ndarray:
    """What this implementation makes of the options with a factor of 1."""
    extractor = Extractor(kind, OPTIONS | options)
    assert isinstance(extractor._warped, WarpedFeatures)
    return extractor._warped.features(signal, 1.0)


@pytest.mark.parametrize("kind", ["mfcc", "fbank"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_energy": True},
        {"use_energy": True, "raw_energy": False, "htk_compat": True},
        {"use_energy": True, "energy_floor": 1e9},
        {"htk_compat": True},
        {"snip_edges": False},
        {"frame_length": 30.0, "frame_shift": 12.5, "remove_dc_offset": False, "preemphasis_coefficient": 0.0},
        {"round_to_power_of_two": False, "window_type": "hamming"},
        {"window_type": "blackman", "low_freq": 60.0, "high_freq": -300.0, "num_mel_bins": 15},
        {"cepstral_lifter": 0.0, "num_ceps": 20, "use_power": False},
        {"use_log_fbank": False},
    ],
)
def test_without_a_warp_it_is_what_the_library_makes(kind: str, options: dict[str, Any]) -> None:
    expected = Extractor(kind, OPTIONS | options).features("u", samples(), RATE)
    found = unwarped(kind, options, samples())
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("length", [1, 100, 199, 200, 279, 280])
@pytest.mark.parametrize("snip_edges", [True, False])
def test_short_recordings_have_the_librarys_frames(length: int, snip_edges: bool) -> None:
    options = {"snip_edges": snip_edges}
    expected = Extractor("mfcc", OPTIONS | options).features("u", samples()[:length], RATE)
    found = unwarped("mfcc", options, samples()[:length])
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-3)


def warped_frequency(frequency: np.ndarray, factor: float) -> np.ndarray:
    """Slope 1/factor in the middle; the ends, 20 Hz and half the sample rate, stay where they are."""
    low, high = 100 * max(1.0, factor), 3500 * min(1.0, factor)
    return np.interp(frequency, [20, low, high, RATE / 2], [20, low / factor, high / factor, RATE / 2])


@pytest.mark.parametrize("factor", [0.85, 0.95, 1.1, 1.25])
def test_warped_bins_are_triangles_between_warped_frequencies(factor: float) -> None:
    def mel(frequency: Any) -> Any:
        return 1127.0 * np.log(1.0 + frequency / 700.0)

    edges = 700 * (np.exp(np.linspace(mel(20), mel(RATE / 2), 25) / 1127) - 1)
    edges = mel(warped_frequency(edges, factor))
    places = mel(np.arange(128) * RATE / 256)
    rising = (places - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - places) / (edges[2:] - edges[1:-1])[:, None]
    bins = np.maximum(0, np.minimum(rising, falling))
    frames = np.lib.stride_tricks.sliding_window_view(samples().astype(np.float64), 200)[::80]
    frames = frames - frames.mean(axis=1, keepdims=True)
    frames = np.concatenate([frames[:, :1] * (1 - 0.97), frames[:, 1:] - 0.97 * frames[:, :-1]], axis=1)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(200) / 199)) ** 0.85
    expected = np.log(np.abs(np.fft.rfft(frames * window, 256))[:, :128] ** 2 @ bins.T)
    found = Extractor("fbank", OPTIONS).features("u", samples(), RATE, factor)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert np.abs(found - Extractor("fbank", OPTIONS).features("u", samples(), RATE)).max() > 0.1


@pytest.mark.parametrize(
    ("options", "factor", "message"),
    [
        ({}, 0.0, "Expected a VTLN warp factor above 0"),
        ({}, -1.0, "Expected a VTLN warp factor above 0"),
        ({}, float("nan"), "Expected a VTLN warp factor above 0"),
        ({"vtln_low": 10.0}, 1.1, "warp factor 1.1 is not possible"),
        ({"vtln_high": 4000.0}, 0.9, "warp factor 0.9 is not possible"),
    ],
)
def test_impossible_factors_are_refused(options: dict[str, Any], factor: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Extractor("mfcc", OPTIONS | options).features("u", samples(), RATE, factor)
