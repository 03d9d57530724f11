"""MFCCs and filterbanks of recordings."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.fft import dct

pytest.importorskip("kaldi_native_fbank", reason="kaldi-native-fbank is not installed; features need it")

from feature_options import OPTIONS, RATE, samples

from nnet3py.errors import UserError
from nnet3py.features.extraction import Extractor
from nnet3py.tables.holders import DOUBLE, MATRIX, WAVE
from nnet3py.tables.htk_and_sphinx import HTK
from nnet3py.tables.table import SequentialReader, TableWriter
from nnet3py.tables.wave import Wave

Array = np.ndarray[Any, Any]


def mel_bins(num_bins: int, size: int, low: float, high: float) -> Array:
    """Triangles that are evenly spaced in mel and overlap by half, over the bins of an FFT of ``size``."""

    def mel(frequency: Any) -> Any:
        return 1127.0 * np.log(1.0 + frequency / 700.0)

    edges = np.linspace(mel(low), mel(high), num_bins + 2)
    frequencies = mel(np.arange(size // 2) * RATE / size)
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rising, falling))


def reference_fbank(signal: Array) -> Array:
    """Log mel energies by the textbook, in float64, to compare with."""
    frames = np.lib.stride_tricks.sliding_window_view(signal.astype(np.float64), 200)[::80]
    frames = frames - frames.mean(axis=1, keepdims=True)
    frames = np.concatenate([frames[:, :1] * (1 - 0.97), frames[:, 1:] - 0.97 * frames[:, :-1]], axis=1)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(200) / 199)) ** 0.85
    power = np.abs(np.fft.rfft(frames * window, 256)) ** 2
    return np.log(power[:, :128] @ mel_bins(23, 256, 20, RATE / 2).T)


def test_filterbanks_agree_with_the_textbook() -> None:
    found = Extractor("fbank", OPTIONS).features("u", samples(), RATE)
    expected = reference_fbank(samples())
    assert found.shape == expected.shape == (48, 23)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_cepstra_are_the_liftered_cosine_transform_of_the_filterbanks() -> None:
    found = Extractor("mfcc", OPTIONS).features("u", samples(), RATE)
    cepstra = dct(reference_fbank(samples()), type=2, norm="ortho", axis=1)[:, :13]
    lifter = 1 + 11.0 * np.sin(np.pi * np.arange(13) / 22)
    np.testing.assert_allclose(found, cepstra * lifter, atol=2e-2)


def test_the_energy_takes_the_place_of_c0() -> None:
    found = Extractor("mfcc", OPTIONS | {"use_energy": True}).features("u", samples(), RATE)
    frames = np.lib.stride_tricks.sliding_window_view(samples().astype(np.float64), 200)[::80]
    frames = frames - frames.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found[:, 0], np.log((frames**2).sum(axis=1)), atol=1e-3)
    np.testing.assert_array_equal(found[:, 1:], Extractor("mfcc", OPTIONS).features("u", samples(), RATE)[:, 1:])


def test_dither_depends_on_the_utterance_and_the_seed_alone() -> None:
    dithered = Extractor("mfcc", OPTIONS | {"dither": 1.0})
    first = dithered.features("u", samples(), RATE)
    other = dithered.features("v", samples(), RATE)
    again = dithered.features("u", samples(), RATE)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, Extractor("mfcc", OPTIONS | {"dither": 1.0}).features("u", samples(), RATE))
    assert (first != other).any()
    assert (first != Extractor("mfcc", OPTIONS | {"dither": 1.0, "seed": 1}).features("u", samples(), RATE)).any()
    plain = Extractor("mfcc", OPTIONS).features("u", samples(), RATE)
    np.testing.assert_allclose(first, plain, atol=3)
    assert np.isfinite(dithered.features("u", np.zeros(4000, np.float32), RATE)).all()


def test_frames_are_as_many_as_fit() -> None:
    def count(length: int, **options: Any) -> int:
        return len(Extractor("fbank", OPTIONS | options).features("u", samples(1)[:length], RATE))

    assert [count(n) for n in (199, 200, 279, 280)] == [0, 1, 1, 2]
    assert [count(n, snip_edges=False) for n in (199, 280, 400)] == [2, 4, 5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frame_shift": 0.0}, "two samples or more"),
        ({"frame_length": 0.1}, "two samples or more"),
        ({"frame_length": float("nan")}, "two samples or more"),
        ({"sample_frequency": -1.0}, "two samples or more"),
        ({"window_type": "triangle"}, "Expected --window-type"),
        ({"low_freq": float("inf")}, "Expected a number for --low-freq"),
        ({"high_freq": 5000.0}, "do not go together"),
        ({"num_mel_bins": 1}, "do not go together"),
        ({"num_ceps": 24}, "do not go together"),
        ({"num_ceps": 0}, "Expected --num-ceps"),
    ],
)
def test_options_that_contradict_each_other_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Extractor("mfcc", OPTIONS | options)


def test_another_sample_rate_is_an_error() -> None:
    with pytest.raises(UserError, match="Expected 8000 samples a second, found 16000"):
        Extractor("mfcc", OPTIONS).features("u", samples(), 16000)


# ----------------------------------------------------------------------------------------------------------- programs


@pytest.fixture
def _recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out.scp").write_text("u1 u1.wav\nu2 u2.wav\nshort short.wav\nstereo stereo.wav\nwide wide.wav\n")
    with TableWriter("scp:out.scp", WAVE) as writer:
        writer.write("u1", Wave(RATE, samples()[None]))
        writer.write("u2", Wave(RATE, samples(0.3, 1)[None]))
        writer.write("short", Wave(RATE, samples(0.01)[None]))
        writer.write("stereo", Wave(RATE, np.stack([samples(), samples(seed=1)])))
        writer.write("wide", Wave(16000, samples()[None]))
    Path("wav.scp").write_text("u1 u1.wav\nu2 cat u2.wav |\n")


def run(command: str, status: int = 0) -> str:
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.usefixtures("_recordings")
def test_the_same_recordings_give_the_same_bytes_in_any_order() -> None:
    run("compute-mfcc-feats --sample-frequency=8000 --write-utt2dur=ark,t:utt2dur scp:wav.scp ark:a.ark")
    run("sort -r wav.scp | compute-mfcc-feats --sample-frequency=8000 scp:- ark:b.ark")
    first, second = (dict(SequentialReader(f"ark:{name}.ark", MATRIX)) for name in "ab")
    assert list(first) == ["u1", "u2"]
    for key, matrix in first.items():
        assert matrix.shape[1] == 13
        np.testing.assert_array_equal(matrix, second[key])
    assert dict(SequentialReader("ark:utt2dur", DOUBLE)) == {"u1": 0.5, "u2": 0.3}


@pytest.mark.usefixtures("_recordings")
def test_recordings_that_will_not_do_get_a_warning_and_no_features() -> None:
    Path("conf").write_text("--sample-frequency=8000  # as recorded\n--num-mel-bins=40\n")
    messages = run("compute-fbank-feats --config=conf --channel=1 scp:out.scp ark:a.ark")
    assert "Done 1 out of 5 utterances." in messages
    assert "u1: The recording has 1 channels, no channel 1." in messages
    found = dict(SequentialReader("ark:a.ark", MATRIX))
    assert found["stereo"].shape == (48, 40)
    messages = run(
        "compute-fbank-feats --config=conf --dither=0 --min-duration=0.2 --subtract-mean scp:out.scp ark:a.ark"
    )
    assert "Done 3 out of 5 utterances." in messages
    assert "too short" in messages
    assert "give --sample-frequency=16000" in messages
    assert "stereo: 2 channels; the first is used" in messages
    found = dict(SequentialReader("ark:a.ark", MATRIX))
    np.testing.assert_allclose(found["u1"].mean(axis=0), 0, atol=1e-4)
    np.testing.assert_array_equal(found["u1"], found["stereo"])


@pytest.mark.usefixtures("_recordings")
def test_recordings_of_other_rates_are_resampled_if_allowed() -> None:
    Path("conf").write_text("--dither=0\n--max-feature-vectors=1000\n")
    command = "compute-fbank-feats --config=conf --sample-frequency={} {} scp:out.scp ark:a.ark"
    messages = run(command.format(8000, "--allow-downsample=true --allow-upsample=false"))
    assert "Done 4 out of 5 utterances." in messages  # all but the one shorter than a frame
    assert len(dict(SequentialReader("ark:a.ark", MATRIX))["wide"]) == 23  # a quarter of a second
    messages = run(command.format(16000, "--allow-downsample=true"))
    assert "Done 1 out of 5 utterances." in messages
    assert "give --sample-frequency=8000 or --allow-upsample=true, or convert" in messages
    run(command.format(16000, "--allow-upsample=true"))
    found = dict(SequentialReader("ark:a.ark", MATRIX))
    assert [len(found[key]) for key in ("u1", "wide")] == [48, 23]
    # Twice the samples give four times the power.
    below = "--low-freq=200 --high-freq=3000 --preemphasis-coefficient=0"
    run(command.format(16000, f"--allow-upsample=true {below}"))
    run(command.format(8000, below).replace("a.ark", "b.ark"))
    before, after = (dict(SequentialReader(f"ark:{name}.ark", MATRIX))["u1"] for name in "ba")
    np.testing.assert_allclose(after - before, np.log(4), atol=0.3)


@pytest.mark.usefixtures("_recordings")
def test_warp_factors_are_those_of_utterances_or_speakers() -> None:
    Path("warps").write_text("u1 0.9\ns2 1.15\n")
    Path("utt2spk").write_text("u1 s1\nu2 s2\n")
    command = "compute-mfcc-feats --sample-frequency=8000 --dither=0 {} scp:wav.scp ark:a.ark"

    def found(options: str) -> dict[str, Any]:
        messages = run(command.format(options))
        assert ("No vtln-map entry" in messages) == ("vtln-map" in options)
        return dict(SequentialReader("ark:a.ark", MATRIX))

    plain, narrow, wide = found(""), found("--vtln-warp=0.9"), found("--vtln-warp=1.15")
    assert np.abs(plain["u1"] - narrow["u1"]).max() > 1
    by_utterance = found("--vtln-map=ark:warps --vtln-warp=7")
    assert list(by_utterance) == ["u1"]
    np.testing.assert_array_equal(by_utterance["u1"], narrow["u1"])
    by_speaker = found("--vtln-map=ark:warps --utt2spk=ark:utt2spk")
    assert list(by_speaker) == ["u2"]
    np.testing.assert_array_equal(by_speaker["u2"], wide["u2"])
    assert "--utt2spk is for --vtln-map" in run(command.format("--utt2spk=ark:utt2spk"), 1)


@pytest.mark.usefixtures("_recordings")
@pytest.mark.parametrize(("kind", "number"), [("mfcc", 6), ("fbank", 7)])
def test_htk_output_holds_the_same_numbers(kind: str, number: int) -> None:
    command = f"compute-{kind}-feats --sample-frequency=8000 --use-energy={{}} scp:wav.scp ark:"
    run(command.format("true") + "kaldi.ark")
    run(command.format("true").replace("scp:", "--output-format=htk scp:") + "htk.ark")
    run("copy-feats --htk-in=true ark:htk.ark ark:copied.ark")
    assert Path("copied.ark").read_bytes() == Path("kaldi.ark").read_bytes()
    first = next(iter(dict(SequentialReader("ark:htk.ark", HTK)).values()))
    assert (first.period, first.kind) == (100000, number | 0o100)
    assert "kaldi or htk" in run(command.format("true").replace("scp:", "--output-format=hdf scp:") + "x.ark", 1)


@pytest.mark.usefixtures("_recordings")
def test_the_mel_bins_can_be_printed() -> None:
    assert "bin 22, offset" in run("compute-fbank-feats --debug-mel=true --sample-frequency=8000 scp:wav.scp ark:a.ark")


@pytest.mark.usefixtures("_recordings")
def test_no_features_at_all_is_an_error_and_no_file() -> None:
    messages = run("compute-mfcc-feats --sample-frequency=11025 scp:wav.scp ark,scp:a.ark,a.scp", 1)
    assert "None of the 2 recordings" in messages
    assert not Path("a.ark").exists()


@pytest.mark.usefixtures("_recordings")
def test_a_missing_library_is_said() -> None:
    Path("kaldi_native_fbank.py").write_text("raise ImportError")
    messages = run("PYTHONPATH=. compute-mfcc-feats --sample-frequency=8000 scp:wav.scp ark:a.ark", 1)
    assert messages.count("ERROR (") == 1
    assert "pip install kaldi-native-fbank" in messages
