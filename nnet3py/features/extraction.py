"""Features of recordings, computed by kaldi-native-fbank.

The library's own dither draws from one stream for all calls, so that an utterance's features would depend on what came
before it. Here the noise is added to the samples before they are cut into frames, and is drawn from the utterance's
name: same features in any order, any split. (Kaldi adds other noise to each frame.)

Source of what goes on around it: Kaldi src/featbin/compute-mfcc-feats.cc.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.features.resampling import resample
from nnet3py.features.warped import WarpedFeatures
from nnet3py.tables.holders import DOUBLE, FLOAT, MATRIX, WAVE
from nnet3py.tables.htk_and_sphinx import HTK, HTK_C0, HTK_ENERGY, HTK_FBANK, HTK_MFCC, HtkFeatures
from nnet3py.tables.table import RandomAccessReaderMapped, SequentialReader, TableWriter
from nnet3py.tables.wave import Wave
from nnet3py.text.lines import encode

_WINDOWS = ("hamming", "hanning", "povey", "rectangular", "sine", "blackman")
_FINITE = ("dither", "low_freq", "high_freq", "vtln_warp", "vtln_low", "vtln_high", "energy_floor",
           "preemphasis_coefficient", "blackman_coeff")  # fmt: skip


def _library() -> Any:
    try:
        import kaldi_native_fbank
    except ImportError as problem:
        raise UserError(
            "Features need the package kaldi-native-fbank, which is not installed: pip install kaldi-native-fbank."
        ) from problem
    return kaldi_native_fbank


class Extractor:
    """Computes the features of one recording after the other."""

    def __init__(self, kind: str, options: dict[str, Any]) -> None:
        """Prepare.

        Args:
            kind: ``mfcc`` or ``fbank``.
            options: the command-line options, by their names with underscores.

        Raises:
            UserError: the library is not installed, or the options contradict each other.
        """
        library = _library()
        self._options = library.MfccOptions() if kind == "mfcc" else library.FbankOptions()
        self._compute = library.OnlineMfcc if kind == "mfcc" else library.OnlineFbank
        self._rate = float(options["sample_frequency"])
        self._may_resample = {"down": bool(options["allow_downsample"]), "up": bool(options["allow_upsample"])}
        self._dither = float(options["dither"])
        self._seed = int(options["seed"])
        _check(options)
        try:
            _set_options(self._options, kind, options)
            self._compute(self._options)
            self._warped = WarpedFeatures(library, self._options)
        except (ValueError, TypeError, RuntimeError) as problem:
            raise UserError(f"These options do not go together: {str(problem).splitlines()[0]}") from problem

    def features(
        self, utterance: str, samples: NDArray[np.float32], rate: float, warp: float = 1.0
    ) -> NDArray[np.float32]:
        """The features of a recording, (frames, dim) float32; no frames if it is shorter than one.

        Args:
            utterance: its name, which the dither depends on.
            samples: (samples,) float32 in the range of 16-bit integers.
            rate: samples a second.
            warp: VTLN warp factor.

        Raises:
            UserError: the rate is not the one of ``--sample-frequency`` and may not be changed, the warp factor is
                not possible, or numbers become too large.
        """
        if rate != self._rate:
            way = "down" if rate > self._rate else "up"
            if not self._may_resample[way]:
                raise UserError(
                    f"Expected {self._rate:g} samples a second, found {rate:g}: give --sample-frequency={rate:g} or "
                    f"--allow-{way}sample=true, or convert the recording."
                )
            samples = resample(samples, rate, self._rate)
        samples = self._dithered(utterance, samples)
        if warp != 1.0:
            return self._warped.features(samples, warp)
        computer = self._compute(self._options)
        try:
            computer.accept_waveform(self._rate, samples)
            computer.input_finished()
        except (ValueError, RuntimeError) as problem:
            raise UserError(f"The features cannot be computed: {problem}.") from problem
        frames = [np.array(computer.get_frame(index)) for index in range(computer.num_frames_ready)]
        return np.array(frames, np.float32) if frames else np.empty((0, computer.dim), np.float32)

    def _dithered(self, utterance: str, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._dither == 0.0:
            return samples
        name = encode(f"{self._seed} {utterance}")
        noise = np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(name).digest(), "little")))
        with np.errstate(over="ignore"):  # the library says what it makes of infinite samples
            return samples + np.float32(self._dither) * noise.standard_normal(len(samples), np.float32)


def _check(options: dict[str, Any]) -> None:
    """What the library would not survive."""
    rate, shift, length = (float(options[name]) for name in ("sample_frequency", "frame_shift", "frame_length"))
    if not (0 < rate < 1e9 and rate * shift / 1000 >= 1 and rate * length / 1000 >= 2 and shift + length < 1e6):
        raise UserError(
            f"Expected frames of two samples or more that move on by one or more, found --sample-frequency={rate:g} "
            f"--frame-length={length:g} --frame-shift={shift:g}."
        )
    if options["window_type"] not in _WINDOWS:
        raise UserError(f"Expected --window-type to be one of {', '.join(_WINDOWS)}, found {options['window_type']!r}.")
    for name in _FINITE:
        if not math.isfinite(options[name]):
            raise UserError(f"Expected a number for --{name.replace('_', '-')}, found {options[name]}.")
    if not 0.0 <= options["preemphasis_coefficient"] <= 1.0:
        raise UserError(
            f"Expected --preemphasis-coefficient from 0 to 1, found {options['preemphasis_coefficient']:g}."
        )
    if options.get("num_ceps", 1) < 1:
        raise UserError(f"Expected --num-ceps to be 1 or more, found {options['num_ceps']}.")


def _set_options(target: Any, kind: str, options: dict[str, Any]) -> None:
    """The options under the library's names. Raises what the library raises for those that it does not take."""
    frame, mel = target.frame_opts, target.mel_opts
    frame.samp_freq = options["sample_frequency"]
    frame.frame_length_ms = options["frame_length"]
    frame.frame_shift_ms = options["frame_shift"]
    frame.preemph_coeff = options["preemphasis_coefficient"]
    frame.dither = 0.0
    for name in ("remove_dc_offset", "window_type", "blackman_coeff", "round_to_power_of_two", "snip_edges"):
        setattr(frame, name, options[name])
    mel.num_bins = options["num_mel_bins"]
    for name in ("low_freq", "high_freq", "vtln_low", "vtln_high", "debug_mel"):
        setattr(mel, name, options[name])
    own = ("num_ceps", "cepstral_lifter") if kind == "mfcc" else ("use_log_fbank", "use_power")
    for name in ("use_energy", "energy_floor", "raw_energy", "htk_compat", *own):
        setattr(target, name, options[name])


def extract_table(kind: str, options: dict[str, Any], recordings: str, features: str) -> tuple[int, int]:
    """The features of a table of recordings, written as a table: what the programs do.

    What a recording lacks (the channel, the length, the sample rate, a warp factor) is a warning, and it gets no
    features.

    Args:
        kind: ``mfcc`` or ``fbank``.
        options: the command-line options, by their names with underscores.
        recordings: rspecifier of the recordings.
        features: wspecifier of the features.

    Returns:
        How many recordings got features, and how many there were.

    Raises:
        UserError: no recording got features, one cannot be read, or the options contradict each other.
    """
    extractor = Extractor(kind, options)
    output_format = options["output_format"]
    if output_format not in ("kaldi", "htk"):
        raise UserError(f"Expected --output-format to be kaldi or htk, found {output_format!r}.")
    if options["utt2spk"] and not options["vtln_map"]:
        raise UserError("--utt2spk is for --vtln-map, which is not given.")
    done = total = 0
    with contextlib.ExitStack() as stack:
        reader = stack.enter_context(SequentialReader(recordings, WAVE))
        warps = None
        if options["vtln_map"]:
            warps = stack.enter_context(RandomAccessReaderMapped(options["vtln_map"], options["utt2spk"], FLOAT))
        holder: Any = HTK if output_format == "htk" else MATRIX
        writer = stack.enter_context(TableWriter(features, holder))
        durations = options["write_utt2dur"]
        lengths = stack.enter_context(TableWriter(durations, DOUBLE)) if durations else None
        for utterance, wave in reader:
            total += 1
            try:
                matrix = _features(extractor, options, utterance, wave, warps)
            except UserError as problem:
                log.warning(f"{utterance}: {problem} No features for it.")
                continue
            writer.write(utterance, _as_htk(kind, options, matrix) if output_format == "htk" else matrix)
            if lengths is not None:
                lengths.write(utterance, wave.duration)
            done += 1
        if done == 0:
            raise UserError(f"None of the {total} recordings in {recordings} got features; nothing is written.")
    return done, total


def _features(
    extractor: Extractor,
    options: dict[str, Any],
    utterance: str,
    wave: Wave,
    warps: RandomAccessReaderMapped[float] | None,
) -> NDArray[np.float32]:
    channel, channels = options["channel"], len(wave.samples)
    if wave.duration < options["min_duration"]:
        raise UserError(f"The recording is too short, {wave.duration:g} seconds.")
    if channel >= channels:
        raise UserError(f"The recording has {channels} channels, no channel {channel}.")
    if channel < 0 and channels > 1:
        log.warning(f"{utterance}: {channels} channels; the first is used (--channel chooses).")
    warp = options["vtln_warp"]
    if warps is not None:
        if utterance not in warps:
            raise UserError("No vtln-map entry for this utterance-id (or its speaker-id).")
        warp = warps[utterance]
    matrix = extractor.features(utterance, wave.samples[max(channel, 0)], wave.sample_rate, warp)
    if len(matrix) == 0:
        raise UserError(f"The recording is shorter than one frame, {wave.duration:g} seconds.")
    return matrix - matrix.mean(axis=0, dtype=np.float32) if options["subtract_mean"] else matrix


def _as_htk(kind: str, options: dict[str, Any], matrix: NDArray[np.float32]) -> HtkFeatures:
    number = HTK_MFCC if kind == "mfcc" else HTK_FBANK
    qualifier = HTK_ENERGY if options["use_energy"] else HTK_C0
    return HtkFeatures(matrix, round(options["frame_shift"] * 10000), number | qualifier)
