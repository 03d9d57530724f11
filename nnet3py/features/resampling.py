"""A recording at another sample rate.

The output at time t is the input convolved with a windowed sinc::

    y(t) = 1/f_in Σ_n x_n h(n/f_in - t)        h(s) = sin(2π c s)/(π s) · (1 + cos(2π c s / Z))/2  for |s| < Z/(2c)

which passes what is below the cutoff ``c`` = 99 % of half the lower sample rate; Z = 6 is the number of the sinc's
zeros on either side that the window covers. The weights repeat: after f_out/g outputs, g the greatest common divisor of
the rates, input and output stand to each other as they did before. Weights are rounded where Kaldi rounds them, to
single precision.

Source: Kaldi src/feat/resample.cc, ``LinearResample`` and ``ResampleWaveform``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from nnet3py.errors import UserError

_ZEROS = 6
_CUTOFF = 0.99 * 0.5


def resample(samples: NDArray[np.float32], rate_in: float, rate_out: float) -> NDArray[np.float32]:
    """Samples (n,) float32 at ``rate_in`` a second as such at ``rate_out``; beyond its ends the input is zero.

    Raises:
        UserError: a rate is not a whole number.
    """
    for rate in (rate_in, rate_out):
        if rate != int(rate) or rate <= 0:
            raise UserError(f"Recordings are resampled between whole numbers of samples a second, found {rate:g}.")
    f_in, f_out = int(rate_in), int(rate_out)
    unit = math.gcd(f_in, f_out)
    in_unit, out_unit = f_in // unit, f_out // unit
    output = np.zeros(-(-len(samples) * out_unit // in_unit), np.float32)
    cutoff = float(np.float32(_CUTOFF * min(f_in, f_out)))
    half_width = _ZEROS / (2.0 * cutoff)
    margin = math.ceil(half_width * f_in) + 1
    padded = np.zeros(len(samples) + in_unit + 2 * margin, np.float32)
    padded[margin : margin + len(samples)] = samples
    for phase in range(min(out_unit, len(output))):
        time = phase / f_out
        first = math.ceil((time - half_width) * f_in)
        places = np.arange(first, math.floor((time + half_width) * f_in) + 1)
        weights = _filter(places / f_in - time, cutoff) / np.float32(f_in)
        wanted = output[phase::out_unit]
        inputs = sliding_window_view(padded[margin + first :], len(weights))[::in_unit]
        wanted[:] = inputs[: len(wanted)] @ weights
    return output


def _filter(times: NDArray[np.float64], cutoff: float) -> NDArray[np.float32]:
    """h at some distances in seconds."""
    s = times.astype(np.float32).astype(np.float64)
    window = 0.5 * (1.0 + np.cos(2.0 * math.pi * cutoff / _ZEROS * s))
    window[np.abs(s) >= _ZEROS / (2.0 * cutoff)] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        sinc = np.where(s == 0.0, 2.0 * cutoff, np.sin(2.0 * math.pi * cutoff * s) / (math.pi * s))
    return sinc.astype(np.float32) * window.astype(np.float32)
