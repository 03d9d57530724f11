"""The command-line options that feature programs share, with Kaldi's names and defaults.

Source: Kaldi src/feat/feature-window.h, mel-computations.h; src/featbin/compute-mfcc-feats.cc.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnet3py.program import option, option_without_effect

_OPTIONS = (
    option(
        "--sample-frequency",
        type=float,
        default=16000.0,
        help="Samples a second, as in the recordings unless they may be resampled.",
    ),
    option("--allow-downsample", type=bool, default=False, help="Resample recordings with more samples a second."),
    option("--allow-upsample", type=bool, default=False, help="Resample recordings with fewer samples a second."),
    option("--frame-length", type=float, default=25.0, help="Length of a frame in milliseconds."),
    option("--frame-shift", type=float, default=10.0, help="From one frame's start to the next, in milliseconds."),
    option("--preemphasis-coefficient", type=float, default=0.97, help="How much of the sample before is subtracted."),
    option("--remove-dc-offset", type=bool, default=True, help="Subtract the mean of each frame's samples."),
    option(
        "--dither",
        type=float,
        default=1.0,
        help="Standard deviation of the noise added to the samples (0 for none); depends on the utterance's name and "
        "--seed alone, so that the same input gives the same features.",
    ),
    option("--seed", type=int, default=0, help="Chooses the noise of --dither."),
    option("--window-type", default="povey", help="hamming, hanning, povey, rectangular, sine or blackman."),
    option("--blackman-coeff", type=float, default=0.42, help="The constant of the blackman window."),
    option("--round-to-power-of-two", type=bool, default=True, help="Pad frames with zeros to a power of two."),
    option(
        "--snip-edges",
        type=bool,
        default=True,
        help="Only frames that fit into the recording; otherwise as many as shifts fit, the ends mirrored.",
    ),
    option("--num-mel-bins", type=int, default=23, help="Number of triangular mel-frequency bins."),
    option("--low-freq", type=float, default=20.0, help="Lowest frequency of the bins, in Hz."),
    option("--high-freq", type=float, default=0.0, help="Highest; 0 or less: counted from half the sample frequency."),
    option("--vtln-warp", type=float, default=1.0, help="Warp the bins' frequencies by this (without --vtln-map)."),
    option("--vtln-map", default="", metavar="RSPECIFIER", help="Warp factors of utterances, or of speakers."),
    option("--utt2spk", default="", metavar="RSPECIFIER", help="Utterances' speakers, if --vtln-map is per speaker."),
    option("--vtln-low", type=float, default=100.0, help="Lower frequency where the warp changes its slope, in Hz."),
    option("--vtln-high", type=float, default=-500.0, help="Upper one; negative: from half the sample frequency."),
    option("--debug-mel", type=bool, default=False, help="Print the mel bins and each frame's energies."),
    option("--energy-floor", type=float, default=0.0, help="Floor of the energy with --use-energy; 0 for none."),
    option("--raw-energy", type=bool, default=True, help="Take the energy before preemphasis and windowing."),
    option("--htk-compat", type=bool, default=False, help="Put the energy or C0 last."),
    option("--channel", type=int, default=-1, help="Channel to use: 0 left, 1 right; -1: there should be one."),
    option("--min-duration", type=float, default=0.0, help="Pass over recordings of fewer seconds."),
    option("--subtract-mean", type=bool, default=False, help="Subtract each recording's mean; apply-cmvn does better."),
    option("--output-format", default="kaldi", help="kaldi; or htk: HTK feature files, as the table's values."),
    option_without_effect("--max-feature-vectors", type=int, default=-1),
    option("--write-utt2dur", default="", metavar="WSPECIFIER", help="Write seconds, e.g. ark,t:utt2dur."),
)


def extraction_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a program all options on frames, mel bins, dither and recordings."""
    for decorate in reversed(_OPTIONS):
        function = decorate(function)
    return function
