"""Filterbanks and cepstra whose mel bins are warped for a speaker: vocal tract length normalisation (VTLN).

kaldi-native-fbank says what the warped bins are, but its extractors know only bins that are not warped. What they do
is therefore done here with NumPy: frames, window, power spectrum, bins, logarithm, cosine transform. A warp factor of
1 gives the library's own features, which is what the tests compare.

Source: Kaldi src/feat/feature-window.cc, feature-fbank.cc, feature-mfcc.cc; the warp itself mel-computations.cc.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import scipy.fft
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from nnet3py.errors import UserError

_EPSILON = np.finfo(np.float32).eps

Array = NDArray[np.float32]


class WarpedFeatures:
    """Features of the kind that the library's options describe, by warp factor."""

    def __init__(self, library: Any, options: Any) -> None:
        """``library`` is kaldi_native_fbank, ``options`` its MfccOptions or FbankOptions."""
        self._library = library
        self._options = options
        frame = options.frame_opts
        self._shift = int(frame.samp_freq * 0.001 * frame.frame_shift_ms)
        self._length = int(frame.samp_freq * 0.001 * frame.frame_length_ms)
        self._padded = 1 << (self._length - 1).bit_length() if frame.round_to_power_of_two else self._length
        self._window = np.array(library.FeatureWindowFunction(frame).window, np.float32)
        self._bins = functools.lru_cache(maxsize=64)(self._bins_of)

    def features(self, samples: Array, warp: float) -> Array:
        """(frames, dim) float32 for the samples (n,) float32; no frames if they are too few for one.

        Raises:
            UserError: the factor is not above zero, or does not go together with the options' frequencies.
        """
        bins = self._bins(warp)
        frames = self._frames(samples)
        options = self._options
        if options.frame_opts.remove_dc_offset:
            frames -= frames.mean(axis=1, keepdims=True)
        raw_energy = _log_energy(frames)
        coefficient = np.float32(options.frame_opts.preemph_coeff)
        frames[:, 1:] -= coefficient * frames[:, :-1]
        frames[:, 0] -= coefficient * frames[:, 0]
        frames *= self._window
        energy = raw_energy if options.raw_energy else _log_energy(frames)
        if options.energy_floor > 0.0:
            energy = np.maximum(energy, np.float32(math.log(options.energy_floor)))
        spectrum = scipy.fft.rfft(frames, self._padded, axis=1)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        return self._cepstra(power @ bins.T, energy) if self._makes_cepstra else self._banks(power, bins, energy)

    @property
    def _makes_cepstra(self) -> bool:
        return isinstance(self._options, self._library.MfccOptions)

    def _bins_of(self, warp: float) -> Array:
        """The weights (bins, padded length / 2 + 1) of the power spectrum's frequencies."""
        if not (math.isfinite(warp) and warp > 0.0):
            raise UserError(f"Expected a VTLN warp factor above 0, such as 0.9 or 1.1, found {warp:g}.")
        try:
            bins = self._library.MelBanks(self._options.mel_opts, self._options.frame_opts, warp)
            return np.array(bins.get_matrix(), np.float32)
        except (ValueError, RuntimeError) as problem:
            raise UserError(f"The VTLN warp factor {warp:g} is not possible with these options: {problem}.") from None

    def _frames(self, samples: Array) -> Array:
        """(frames, length), a copy; without snip_edges the recording goes on mirrored at its ends."""
        if self._options.frame_opts.snip_edges:
            if len(samples) < self._length:
                return np.empty((0, self._length), np.float32)
            return sliding_window_view(samples, self._length)[:: self._shift].astype(np.float32)
        count = (len(samples) + self._shift // 2) // self._shift
        starts = self._shift * np.arange(count) + self._shift // 2 - self._length // 2
        places = (starts[:, None] + np.arange(self._length)) % (2 * len(samples))
        return samples[np.minimum(places, 2 * len(samples) - 1 - places)].astype(np.float32)

    def _banks(self, power: Array, bins: Array, energy: Array) -> Array:
        options = self._options
        banks = (power if options.use_power else np.sqrt(power)) @ bins.T
        if options.use_log_fbank:
            banks = np.log(np.maximum(banks, _EPSILON))
        if not options.use_energy:
            return banks
        parts = [banks, energy[:, None]] if options.htk_compat else [energy[:, None], banks]
        return np.concatenate(parts, axis=1)

    def _cepstra(self, banks: Array, energy: Array) -> Array:
        options = self._options
        logs = np.log(np.maximum(banks, _EPSILON))
        cepstra: Array = scipy.fft.dct(logs, type=2, norm="ortho", axis=1)[:, : options.num_ceps]
        if options.cepstral_lifter != 0.0:
            angles = np.pi * np.arange(options.num_ceps) / options.cepstral_lifter
            cepstra *= (1.0 + 0.5 * options.cepstral_lifter * np.sin(angles)).astype(np.float32)
        if options.use_energy:
            cepstra[:, 0] = energy
        if options.htk_compat:
            if not options.use_energy:
                cepstra[:, 0] *= np.float32(math.sqrt(2.0))
            cepstra = np.roll(cepstra, -1, axis=1)
        return cepstra


def _log_energy(frames: Array) -> Array:
    """(frames,): the logarithm of each frame's sum of squares."""
    return np.log(np.maximum(np.einsum("ij,ij->i", frames, frames), _EPSILON))
