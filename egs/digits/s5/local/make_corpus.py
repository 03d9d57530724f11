#!/usr/bin/env python3
"""Connected digit strings spoken by espeak-ng, with noise, as Kaldi data directories; see --help."""

from __future__ import annotations

import multiprocessing
import os
import sys
import wave
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from nnet3py import log
from nnet3py.errors import UserError, reason
from nnet3py.program import argument, option, program
from nnet3py.text.lines import joined, write_text

DIGITS = ("zero", "oh", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = {
    "us": "en-us",
    "gb": "en",
    "sc": "en-gb-scotland",
    "rp": "en-gb-x-rp",
    "la": "en-gb-x-gbclan",
    "ny": "en-us-nyc",
    "wm": "en-gb-x-gbcwmd",
    "ca": "en-029",
}
# espeak-ng's voice variants. One is in one list only, and so are those that are one voice with other settings
# (iven, iven3; steph, steph2): no voice of the test is heard in training or in the babble.
_TRAIN = (
    "f1 m1 Alicia Andy f3 m2 aunty benjamin f4 m4 belinda boris caleb m6 grandma david Diogo m8 linda ed edward Gene "
    "shelby Hugo iven iven3 klatt2 steph marcelo Marco max michel Mike steph2 norbert pablo quincy RicishayMax travis "
    "Mario"
)
_DEV = "f5 m5 Nguyen paul Reed rob"
_TEST = "f2 m3 Annie Alex Andrea antonio gustave Jacky john Michael miguel victor"
_BABBLE = "robert sandro Denis Storm Lee zac"
TRAIN_VOICES, DEV_VOICES, TEST_VOICES, BABBLE_VOICES = (
    tuple(voices.split()) for voices in (_TRAIN, _DEV, _TEST, _BABBLE)
)

# espeak's mnemonics (stress marks removed) to phones. Those that differ only between accents share a phone.
PHONES = {
    **dict.fromkeys(("z",), "Z"),
    **dict.fromkeys(("i@", "i@3"), "IA"),
    **dict.fromkeys(("r", "r-"), "R"),
    **dict.fromkeys(("oU",), "OW"),
    **dict.fromkeys(("w",), "W"),
    **dict.fromkeys(("V",), "AH"),
    **dict.fromkeys(("0",), "OH"),
    **dict.fromkeys(("n",), "N"),
    **dict.fromkeys(("t", "t["), "T"),
    **dict.fromkeys(("u:",), "UW"),
    **dict.fromkeys(("T",), "TH"),
    **dict.fromkeys(("i:",), "IY"),
    **dict.fromkeys(("f",), "F"),
    **dict.fromkeys(("o@", "O@"), "AO"),
    **dict.fromkeys(("aI", "aI2"), "AY"),
    **dict.fromkeys(("v",), "V"),
    **dict.fromkeys(("s",), "S"),
    **dict.fromkeys(("I",), "IH"),
    **dict.fromkeys(("k",), "K"),
    **dict.fromkeys(("E",), "EH"),
    **dict.fromkeys(("@",), "AX"),
    **dict.fromkeys(("eI",), "EY"),
}
SILENCE = "SIL"
RATE = 8000
MAX_DIGITS = 7
NOISES = ("white", "pink", "babble")


@dataclass
class Speaker:
    """A voice, and where the random numbers of what it says come from."""

    name: str
    voice: str
    seed: tuple[int, ...]


@dataclass
class Utterance:
    """What was said and when. ``segments``: phone, first sample and end, at :data:`RATE`."""

    key: str
    words: list[str]
    segments: list[tuple[str, int, int]]
    prons: list[tuple[str, list[str]]]
    num_samples: int
    noise: str
    snr: float


@dataclass
class Spoken:
    """A clean utterance at :data:`RATE`; samples float64 within [-1, 1]."""

    samples: object
    segments: list[tuple[str, int, int]]
    words: list[str]
    prons: list[tuple[str, list[str]]] = field(default_factory=list)


def speakers(voices: tuple[str, ...], seed: int, group: int) -> list[Speaker]:
    """The voices with accents in turn. ``group`` keeps the random numbers of the sets apart."""
    accents = list(ACCENTS.items())
    found = []
    for index, variant in enumerate(voices):
        short, language = accents[(index + 3 * group) % len(accents)]
        found.append(Speaker(f"{variant.lower()}-{short}", f"{language}+{variant}", (seed, group, index)))
    return found


def say_digits(synthesiser, speaker: Speaker, rng) -> Spoken:
    """One random digit string in the speaker's voice, between random silences."""
    import numpy as np
    from scipy.signal import resample_poly

    words = [DIGITS[i] for i in rng.integers(0, len(DIGITS), size=rng.integers(1, MAX_DIGITS + 1))]
    # A comma makes espeak pause and let the pitch fall, as people do within telephone numbers.
    text = words[0] + "".join((", " if rng.random() < 0.15 else " ") + word for word in words[1:])
    samples, phonemes = synthesiser.speak(
        text,
        voice=speaker.voice,
        rate=int(rng.integers(130, 211)),
        pitch=int(rng.integers(30, 71)),
        pitch_range=int(rng.integers(20, 81)),
        seed=int(rng.integers(0, 2**31)),
    )
    lead, trail = (int(RATE * seconds) for seconds in rng.uniform(0.1, 0.4, size=2))
    speech = resample_poly(samples / 32768.0, 160, 160 * synthesiser.rate // RATE)
    padded = np.concatenate([np.zeros(lead), speech, np.zeros(trail)])
    segments, prons = _phone_segments(phonemes, words, RATE / synthesiser.rate, lead, len(padded))
    return Spoken(padded, segments, words, prons)


def _phone_segments(phonemes, words, scale, lead, num_samples):
    """Phones with first sample and end, silence where espeak pauses; and each word's phones as it was said."""
    marks: list[tuple[str, int]] = [(SILENCE, 0)]
    prons: list[tuple[str, list[str]]] = [(word, []) for word in words]
    for phoneme in phonemes:
        name = phoneme.mnemonic.lstrip("',%=|")
        if name == ";":  # the end of a long vowel before another: part of it
            continue
        pause = name.startswith("_") or name == ""
        phone = SILENCE if pause else PHONES.get(name)
        if phone is None:
            raise UserError(
                f"espeak-ng used the phoneme {phoneme.mnemonic!r} in {words[phoneme.word]!r}, which make_corpus.py "
                "does not know: this release of espeakng-loader differs from the one tried (0.2.4)."
            )
        if not pause:
            prons[phoneme.word][1].append(phone)
        if not (pause and marks[-1][0] == SILENCE):
            marks.append((phone, lead + round(phoneme.sample * scale)))
    if marks[-1][0] != SILENCE:
        raise UserError(f"espeak-ng gave no end of the last word of {' '.join(words)!r}.")
    ends = [start for _, start in marks[1:]] + [num_samples]
    segments = [(phone, start, end) for (phone, start), end in zip(marks, ends, strict=True) if end > start]
    return segments, prons


def noise(kind: str, num_samples: int, babble, rng):
    """Noise of a kind in :data:`NOISES`, of unit power. ``babble``: (talkers, samples), each of them looped."""
    import numpy as np

    if kind == "babble":
        tracks = [
            np.roll(track, -int(start))[:num_samples]
            for track, start in zip(babble, rng.integers(0, babble.shape[1], size=len(babble)), strict=True)
        ]
        signal = np.sum(tracks, axis=0)
    else:
        signal = rng.standard_normal(num_samples)
        if kind == "pink":
            spectrum = np.fft.rfft(signal)
            spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
            spectrum[0] = 0.0
            signal = np.fft.irfft(spectrum, num_samples)
    return signal / np.sqrt(np.mean(signal**2))


def add_noise(spoken: Spoken, kind: str, snr: float, level: float, babble, rng):
    """Speech and noise, int16. The ratio is that of the powers while someone speaks; ``level``: dB of the speech."""
    import numpy as np

    spoken_part = np.concatenate([spoken.samples[a:b] for phone, a, b in spoken.segments if phone != SILENCE])
    power = np.mean(spoken_part**2)
    mixed = spoken.samples / np.sqrt(power) + 10 ** (-snr / 20) * noise(kind, len(spoken.samples), babble, rng)
    mixed *= 10 ** (level / 20)
    mixed *= min(1.0, 0.99 / np.abs(mixed).max())
    return np.round(mixed * 32767).astype("<i2")


def make_babble(seed: int, talkers: list[Speaker], seconds: float):
    """Digits spoken by several voices without end, (talkers, samples), each of unit power."""
    import numpy as np
    from espeak import Synthesiser

    tracks = []
    for talker in talkers:
        synthesiser, rng, pieces = Synthesiser(), np.random.default_rng((*talker.seed, seed)), []
        while sum(map(len, pieces)) < seconds * RATE:
            pieces.append(say_digits(synthesiser, talker, rng).samples)
        track = np.concatenate(pieces)[: int(seconds * RATE)]
        tracks.append(track / np.sqrt(np.mean(track**2)))
    return np.stack(tracks)


@dataclass
class Task:
    """All that one process needs to speak for one speaker."""

    speaker: Speaker
    folder: str
    seconds: float
    snr: tuple[float, float]
    babble: object


def speak_for(task: Task) -> list[Utterance]:
    """Utterances until ``task.seconds`` of audio are made; writes their wave files. Run in a process of its own."""
    import numpy as np
    from espeak import Synthesiser

    synthesiser = Synthesiser()
    rng = np.random.default_rng(task.speaker.seed)
    utterances: list[Utterance] = []
    made = 0.0
    while made < task.seconds:
        spoken = say_digits(synthesiser, task.speaker, rng)
        kind = NOISES[rng.integers(0, len(NOISES))]
        snr = float(rng.uniform(*task.snr))
        samples = add_noise(spoken, kind, snr, float(rng.uniform(-32.0, -20.0)), task.babble, rng)
        key = f"{task.speaker.name}-{len(utterances):05d}"
        _write_wave(Path(task.folder) / f"{key}.wav", samples.tobytes())
        utterances.append(Utterance(key, spoken.words, spoken.segments, spoken.prons, len(samples), kind, snr))
        made += len(samples) / RATE
    return utterances


def _write_wave(path: Path, samples: bytes) -> None:
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(samples)


def in_fresh_processes(function, tasks, num_processes):
    """Results of ``function(task)`` in order, each from a process that has done nothing before."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scipy.signal", "nnet3py.program"])
    with context.Pool(num_processes, maxtasksperchild=1) as pool:
        yield from pool.imap(function, tasks, chunksize=1)


def write_data_dir(folder: Path, wav_folder: Path, by_speaker: dict[str, list[Utterance]]) -> None:
    """Kaldi's files, sorted by key, and beside them the phones with their times and what was mixed in."""
    utterances = sorted((u for spoken in by_speaker.values() for u in spoken), key=lambda u: u.key)
    speaker_of = {u.key: name for name, spoken in by_speaker.items() for u in spoken}
    lines = {
        "wav.scp": [f"{u.key} {wav_folder / speaker_of[u.key] / u.key}.wav" for u in utterances],
        "text": [f"{u.key} {' '.join(u.words)}" for u in utterances],
        "utt2spk": [f"{u.key} {speaker_of[u.key]}" for u in utterances],
        "spk2utt": [f"{name} {' '.join(sorted(u.key for u in by_speaker[name]))}" for name in sorted(by_speaker)],
        "utt2dur": [f"{u.key} {u.num_samples / RATE:.3f}" for u in utterances],
        "utt2noise": [f"{u.key} {u.noise} {u.snr:.1f}" for u in utterances],
        "prons.txt": [f"{u.key} {word} {' '.join(phones)}" for u in utterances for word, phones in u.prons],
        "phones.ctm": [
            f"{u.key} 1 {start / RATE:.6f} {(end - start) / RATE:.6f} {phone}"
            for u in utterances
            for phone, start, end in u.segments
        ],
    }
    for name, content in lines.items():
        write_text(folder / name, joined(content))


@program(
    usage="make_corpus.py [options] <data-dir>",
    example="local/make_corpus.py --hours=0.5 --nj=2 data",
)
@option("--hours", type=float, default=0.5, help="Hours of training speech; the dev and test sets do not grow with it.")
@option("--dev-minutes", type=float, default=4.0, help="Minutes of the dev set.")
@option("--test-minutes", type=float, default=15.0, help="Minutes of the test set.")
@option("--snr", default="0:15", metavar="LOW:HIGH", help="Signal-to-noise ratio in dB, uniform between the two.")
@option("--seed", type=int, default=1, help="The same seed gives the same bytes, whatever --nj.")
@option("--nj", type=int, default=2, help="Processes at once.")
@argument("data_dir", metavar="<data-dir>")
def main(hours: float, dev_minutes: float, test_minutes: float, snr: str, seed: int, nj: int, data_dir: str) -> None:
    """Make a corpus of connected digit strings: <data-dir>/train, dev and test, and the wave files in <data-dir>/wav.

    Strings of 1 to 7 digits (with "oh" beside "zero"), 8 kHz, spoken by espeak-ng (package espeakng-loader) in 58
    voices with 8 accents of English, at 130 to 210 words a minute and varied pitch; white noise, pink noise or babble
    of six other voices is added. No voice is in two sets. A data directory has wav.scp, text, utt2spk, spk2utt,
    utt2dur, utt2noise (kind and ratio), phones.ctm (espeak's own phone times) and prons.txt (each word's phones as
    spoken). In a larger corpus each voice begins with what it says in a smaller one.
    """
    low, high = _range(snr)
    if not 0 < hours < 1e5 or dev_minutes <= 0 or test_minutes <= 0 or nj < 1:
        raise UserError("--hours, --dev-minutes, --test-minutes and --nj must be above 0.")
    root = Path(data_dir)
    talkers = speakers(BABBLE_VOICES, seed, group=3)
    tasks, set_of = [], {}
    sets = (
        ("train", TRAIN_VOICES, hours * 3600),
        ("dev", DEV_VOICES, dev_minutes * 60),
        ("test", TEST_VOICES, test_minutes * 60),
    )
    babble = next(in_fresh_processes(_babble, [(seed, talkers)], 1))
    for group, (name, voices, seconds) in enumerate(sets):
        for speaker in speakers(voices, seed, group):
            folder = root / "wav" / name / speaker.name
            try:
                folder.mkdir(parents=True, exist_ok=True)
                (root / name).mkdir(parents=True, exist_ok=True)
            except OSError as problem:
                raise UserError(f"Cannot make the directory {folder}: {reason(problem)}.") from problem
            tasks.append(Task(speaker, str(folder), seconds / len(voices), (low, high), babble))
            set_of[speaker.name] = name
    spoken: dict[str, dict[str, list[Utterance]]] = {name: {} for name, _, _ in sets}
    for task, utterances in zip(tasks, in_fresh_processes(speak_for, tasks, nj), strict=True):
        spoken[set_of[task.speaker.name]][task.speaker.name] = utterances
    for name, by_speaker in spoken.items():
        write_data_dir(root / name, root / "wav" / name, by_speaker)
        everything = [u for utterances in by_speaker.values() for u in utterances]
        minutes = sum(u.num_samples for u in everything) / RATE / 60
        words = sum(len(u.words) for u in everything)
        log.log(
            f"{root / name}: {len(everything)} utterances, {words} digits, {len(by_speaker)} voices, "
            f"{minutes:.1f} minutes."
        )


def _babble(arguments):
    return make_babble(arguments[0], arguments[1], seconds=30.0)


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        raise UserError(f"--snr: expected two numbers LOW:HIGH, in dB, found {text!r}.") from None
    if not -30 <= low <= high <= 100:
        raise UserError(f"--snr: expected -30 <= LOW <= HIGH <= 100, found {text!r}.")
    return low, high


if __name__ == "__main__":
    main()
