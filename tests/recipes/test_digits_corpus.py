"""The synthetic corpus: the same bytes for the same seed, voices apart, alignments that fit."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

from nnet3py.nnet.transition_model import read_transition_model
from nnet3py.tables.holders import INT_VECTOR, MATRIX
from nnet3py.tables.table import SequentialReader
from nnet3py.text.symbols import read_symbols

pytestmark = pytest.mark.slow  # a corpus is spoken first

pytest.importorskip("espeakng_loader")
ROOT = Path(__file__).resolve().parents[2]
LOCAL = ROOT / "egs" / "digits" / "s5" / "local"


def run(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def make_corpus(folder: Path, *options: str) -> Path:
    folder.mkdir()
    defaults = ["--hours=0.05", "--dev-minutes=0.3", "--test-minutes=0.6"]
    run(sys.executable, LOCAL / "make_corpus.py", *defaults, *options, "data", cwd=folder)
    return folder / "data"


def digests(data: Path) -> dict[str, str]:
    files = sorted(path for path in data.rglob("*") if path.is_file())
    return {str(path.relative_to(data)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def lines(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("digits") / "one", "--nj=1")


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_processes(data: Path, tmp_path: Path) -> None:
    assert digests(make_corpus(tmp_path / "again", "--nj=3")) == digests(data)


def test_another_seed_gives_other_speech(data: Path, tmp_path: Path) -> None:
    other = digests(make_corpus(tmp_path / "other", "--seed=2"))
    mine = digests(data)
    waves = [name for name in mine if name.endswith(".wav") and name in other]
    assert len(waves) > 20
    assert not [name for name in waves if mine[name] == other[name]]


def test_a_larger_corpus_keeps_what_a_smaller_one_says(data: Path, tmp_path: Path) -> None:
    larger = digests(make_corpus(tmp_path / "larger", "--hours=0.1", "--nj=2"))
    mine = {name: digest for name, digest in digests(data).items() if name.endswith(".wav")}
    assert {name: larger[name] for name in mine} == mine
    assert len([name for name in larger if name.startswith("wav/train")]) > 1.5 * len(
        [name for name in mine if name.startswith("wav/train")]
    )


def test_no_voice_is_in_two_sets_and_there_are_enough(data: Path) -> None:
    voices = {
        name: {speaker.rsplit("-", 1)[0] for speaker, *_ in lines(data / name / "spk2utt")}
        for name in ("train", "dev", "test")
    }
    assert len(voices["train"]) >= 20
    assert not voices["train"] & voices["dev"]
    assert not voices["train"] & voices["test"]
    assert not voices["dev"] & voices["test"]


def test_data_directories_agree_with_themselves(data: Path) -> None:
    for name in ("train", "dev", "test"):
        folder = data / name
        keys = [row[0] for row in lines(folder / "wav.scp")]
        assert keys == sorted(keys)
        for file in ("text", "utt2spk", "utt2dur", "utt2noise"):
            assert [row[0] for row in lines(folder / file)] == keys
        said = {row[0]: row[1:] for row in lines(folder / "text")}
        spoken: dict[str, list[str]] = {key: [] for key in keys}
        for key, word, *phones in lines(folder / "prons.txt"):
            assert phones
            spoken[key].append(word)
        assert spoken == said


def test_phone_times_cover_each_utterance(data: Path) -> None:
    times: dict[str, list[tuple[float, float]]] = {}
    for key, _, start, duration, _ in lines(data / "test" / "phones.ctm"):
        times.setdefault(key, []).append((float(start), float(duration)))
    for key, seconds in lines(data / "test" / "utt2dur"):
        ends = [start + duration for start, duration in times[key]]
        assert times[key][0][0] == 0.0
        assert ends[:-1] == pytest.approx([start for start, _ in times[key][1:]], abs=1e-5)
        assert ends[-1] == pytest.approx(float(seconds), abs=1e-3)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("clean") / "one", "--snr=90:90")


def test_speech_is_where_the_phone_times_say(clean: Path) -> None:
    """With next to no noise, what is called silence is far weaker than the vowels."""
    power: dict[bool, list[float]] = {True: [], False: []}
    waves = dict(lines(clean / "test" / "wav.scp"))
    for key, _, start, duration, phone in lines(clean / "test" / "phones.ctm"):
        with wave.open(str(clean.parent / waves[key])) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float)
        first, end = int(8000 * float(start)), int(8000 * (float(start) + float(duration)))
        if phone in ("SIL", "AY", "IY", "UW", "OW"):
            power[phone == "SIL"].append(float(np.mean(samples[first:end] ** 2)))
    assert np.median(power[False]) > 1000 * np.median(power[True])


def test_the_noise_has_the_stated_ratio(clean: Path, tmp_path: Path) -> None:
    noisy = make_corpus(tmp_path / "noisy", "--snr=5:5")
    ratios = []
    speech: dict[str, list[tuple[int, int]]] = {}
    for key, _, start, duration, phone in lines(clean / "test" / "phones.ctm"):
        if phone != "SIL":
            speech.setdefault(key, []).append(
                (round(8000 * float(start)), round(8000 * (float(start) + float(duration))))
            )
    for key, path in lines(clean / "test" / "wav.scp"):
        spoken, mixed = (read_wave(folder.parent / path) for folder in (clean, noisy))
        # The levels differ by a factor (clipping is avoided); the noise is what is left of the best fit.
        part = np.concatenate([np.arange(a, b) for a, b in speech[key]])
        gain = (spoken[part] @ mixed[part]) / (spoken[part] @ spoken[part])
        noise = mixed - gain * spoken
        ratios.append(10 * np.log10(gain**2 * np.mean(spoken[part] ** 2) / np.mean(noise**2)))
    assert np.mean(ratios) == pytest.approx(5.0, abs=0.2)
    assert np.max(np.abs(np.array(ratios) - 5.0)) < 1.5


def read_wave(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (8000, 1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float)


def test_alignments_are_as_long_as_the_features_and_name_the_phones(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("kaldi_native_fbank")
    pytest.importorskip("kaldifst")
    work = data.parent
    config = LOCAL.parent / "conf" / "mfcc.conf"
    run("compute-mfcc-feats", f"--config={config}", "scp:data/test/wav.scp", f"ark:{tmp_path}/feats.ark", cwd=work)
    run("feat-to-len", f"ark:{tmp_path}/feats.ark", "ark,t:data/test/utt2num_frames", cwd=work)
    run(sys.executable, LOCAL / "prepare_lexicon.py", "data/train/prons.txt", tmp_path / "lexicon.txt", cwd=work)
    prepare = ROOT / "steps" / "prepare_lang.py"
    run(sys.executable, prepare, "--num-sil-states=3", tmp_path / "lexicon.txt", tmp_path / "lang", cwd=work)
    run(sys.executable, LOCAL / "align_phones.py", "--nj=2", "data/test", tmp_path / "lang", tmp_path / "ali", cwd=work)
    (data / "test" / "utt2num_frames").unlink()
    model = read_transition_model(str(tmp_path / "ali" / "final.mdl"))
    names = {number: name for name, number in read_symbols(str(tmp_path / "lang" / "phones.txt")).items()}
    with SequentialReader(f"ark:{tmp_path}/feats.ark", MATRIX) as reader:
        lengths = {key: len(matrix) for key, matrix in reader}
    expected: dict[str, list[str]] = {}
    for key, _, _, _, phone in lines(data / "test" / "phones.ctm"):
        expected.setdefault(key, []).append(phone)
    seen = {}
    for job in (1, 2):
        with SequentialReader(f"ark:gunzip -c {tmp_path}/ali/ali.{job}.gz |", INT_VECTOR) as reader:
            for key, alignment in reader:
                assert len(alignment) == lengths[key]
                pdfs = model.pdfs(alignment)
                # A phone begins where its first pdf does, after another pdf: phones may follow themselves.
                first = [t for t in range(len(pdfs)) if pdfs[t] % 3 == 0 and (t == 0 or pdfs[t] != pdfs[t - 1])]
                seen[key] = [names[int(model.phone_of_transition[alignment[t]])] for t in first]
    assert seen == expected


def test_bad_options_are_one_line(tmp_path: Path) -> None:
    for option in ("--snr=5", "--snr=9:1", "--hours=0", "--nj=0"):
        done = subprocess.run(
            [sys.executable, str(LOCAL / "make_corpus.py"), option, "data"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1, option
        assert done.stderr.count("ERROR (") == 1
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists()
