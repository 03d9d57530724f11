"""steps/align_gmm.py on real recordings, where the archive is there, and its messages where something is wrong."""

from __future__ import annotations

import gzip
import importlib.util
import itertools
import os
import shutil
import subprocess
import sys
import tarfile
import wave
from pathlib import Path

import numpy as np
import pytest

from nnet3py.alignment.language import Language, read_language
from nnet3py.nnet.transition_model import TransitionModel, read_transition_model
from nnet3py.tables.holders import INT_VECTOR, MATRIX
from nnet3py.tables.table import SequentialReader, TableWriter

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "egs" / "fsdd" / "s5"
_SPEAKERS, _INDICES = ("george", "jackson", "lucas"), range(5)
_VOWELS = {"AH", "AO", "AY", "EH", "EY", "IH", "IY", "OW", "UW"}

needs_libraries = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("kaldi_hmm_gmm", "kaldifst", "kaldi_native_fbank")),
    reason="the libraries of nnet3py[recipes] are not installed",
)


def _run(*command: str | Path, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=120, env={**os.environ, **(environment or {})}
    )


def _program(*command: str | Path) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/train of 150 recordings, features and all, and data/lang."""
    archive = ROOT.parent / "shared" / "data" / "free-spoken-digit-dataset.tar.gz"
    if not archive.is_file():
        pytest.skip("no ../shared/data/free-spoken-digit-dataset.tar.gz beside this checkout")
    folder = tmp_path_factory.mktemp("fsdd")
    corpus = folder / "corpus"
    corpus.mkdir()
    wanted = {f"{d}_{s}_{i}.wav" for d in range(10) for s in _SPEAKERS for i in _INDICES}
    with tarfile.open(archive) as members:
        for member in members:
            name = member.name.rsplit("/", 1)[-1]
            if member.isreg() and name in wanted:
                stream = members.extractfile(member)
                assert stream is not None
                (corpus / name).write_bytes(stream.read())
    train = folder / "train"
    train.mkdir()
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    names = sorted((s, d, i) for s in _SPEAKERS for d in range(10) for i in _INDICES)
    (train / "wav.scp").write_text("".join(f"{s}-{d}-{i} {corpus}/{d}_{s}_{i}.wav\n" for s, d, i in names))
    (train / "text").write_text("".join(f"{s}-{d}-{i} {words[d]}\n" for s, d, i in names))
    (train / "utt2spk").write_text("".join(f"{s}-{d}-{i} {s}\n" for s, d, i in names))
    (train / "spk2utt").write_text(
        "".join(f"{s} {' '.join(f'{s}-{d}-{i}' for s2, d, i in names if s2 == s)}\n" for s in _SPEAKERS)
    )
    _program(
        "compute-mfcc-feats",
        f"--config={RECIPE}/conf/mfcc.conf",
        f"scp:{train}/wav.scp",
        f"ark,scp:{train}/feats.ark,{train}/feats.scp",
    )
    _program(
        "compute-cmvn-stats",
        f"--spk2utt=ark:{train}/spk2utt",
        f"scp:{train}/feats.scp",
        f"ark,scp:{train}/cmvn.ark,{train}/cmvn.scp",
    )
    done = _run(ROOT / "steps" / "prepare_lang.py", RECIPE / "conf" / "lexicon.txt", folder / "lang")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def aligned(data: Path) -> Path:
    done = _align(data, data / "ali")
    assert done.returncode == 0, done.stderr
    assert "Aligned 150 utterances, 0 were too short; 150 Gaussians for 62 pdfs" in done.stderr
    return data / "ali"


def _align(data: Path, target: Path) -> subprocess.CompletedProcess[str]:
    options = ("--totgauss=150", "--num-iters=15", "--max-iter-inc=10")
    return _run(ROOT / "steps" / "align_gmm.py", *options, data / "train", data / "lang", target)


def _transitions(ali: Path) -> dict[str, np.ndarray]:
    with gzip.open(ali / "ali.1.gz", "rt") as lines:
        return {key: np.array(ids, int) for key, *ids in (line.split() for line in lines)}


def _phones(ali: Path, language: Language) -> dict[str, list[str]]:
    model, names = read_transition_model(str(ali / "final.mdl")), language.phone_names()
    return {
        key: [names[phone] for phone in model.phone_of_transition[ids].tolist()]
        for key, ids in _transitions(ali).items()
    }


@needs_libraries
def test_every_path_is_the_digits_phones_in_order_with_silence_only_at_the_edges(data: Path, aligned: Path) -> None:
    language = read_language(str(data / "lang"))
    of_word = {entry.word: list(entry.phones) for entry in language.lexicon}
    texts = dict(line.split() for line in (data / "train" / "text").read_text().splitlines())
    silent_at_the_ends = 0
    for key, phones in _phones(aligned, language).items():
        order = [phone for phone, _ in itertools.groupby(phones)]
        spoken = order[order[0] == "SIL" : len(order) - (order[-1] == "SIL")]
        assert spoken == of_word[texts[key]], key
        silent_at_the_ends += order[0] == "SIL" or order[-1] == "SIL"
    assert 25 < silent_at_the_ends < 125  # lucas's 50 recordings have silence around them, george's next to none


@needs_libraries
def test_states_go_from_left_to_right_and_every_path_has_a_transition_for_each_frame(data: Path, aligned: Path) -> None:
    model: TransitionModel = read_transition_model(str(aligned / "final.mdl"))
    state_of = [-1] + [
        state for phone, state, _, _ in model.tuples.tolist() for _ in model.topology.states(phone)[state].transitions
    ]
    with SequentialReader(f"scp:{data}/train/feats.scp", MATRIX) as reader:
        lengths = {key: len(matrix) for key, matrix in reader}
    transitions = _transitions(aligned)
    assert {key: len(ids) for key, ids in transitions.items()} == lengths
    for ids in transitions.values():
        phones = model.phone_of_transition[ids]
        for phone, group in itertools.groupby(range(len(ids)), key=lambda frame: int(phones[frame])):
            states = [state_of[ids[frame]] for frame in group]
            if phone != 1:  # silence may go back to a middle state
                assert [state for state, _ in itertools.groupby(states)] == [0, 1, 2]
            assert states[0] == 0


@needs_libraries
def test_silence_is_far_quieter_than_vowels_and_what_is_loud_is_speech(data: Path, aligned: Path) -> None:
    language = read_language(str(data / "lang"))
    wavs = dict(line.split() for line in (data / "train" / "wav.scp").read_text().splitlines())
    levels: dict[bool, list[float]] = {True: [], False: []}
    loud_frames, loud_silence = 0, 0
    for key, phones in _phones(aligned, language).items():
        with wave.open(wavs[key]) as recording:
            samples = np.frombuffer(recording.readframes(recording.getnframes()), np.int16).astype(float)
        energy = np.array([10 * np.log10(1 + np.mean(samples[80 * t : 80 * t + 200] ** 2)) for t in range(len(phones))])
        for t, phone in enumerate(phones):
            if phone == "SIL" or phone in _VOWELS:
                levels[phone == "SIL"].append(energy[t] - energy.max())
        loud = np.flatnonzero(energy > energy.max() - 20)
        loud_frames += len(loud)
        loud_silence += sum(phones[t] == "SIL" for t in loud)
    assert np.median(levels[False]) - np.median(levels[True]) > 20  # decibels
    assert loud_silence < 0.02 * loud_frames  # frames at a boundary, the burst of a final t


@needs_libraries
def test_pdf_ids_are_those_of_the_transition_ids_through_the_model_file(aligned: Path) -> None:
    model = read_transition_model(str(aligned / "final.mdl"))
    transitions = _transitions(aligned)
    with SequentialReader(f"scp:{aligned}/pdf.scp", INT_VECTOR) as reader:
        for key, pdfs in reader:
            np.testing.assert_array_equal(pdfs, model.pdfs(transitions.pop(key)))
    assert not transitions
    assert int((aligned / "num_pdfs").read_text()) == model.num_pdfs == 5 + 3 * 19


@needs_libraries
def test_the_model_file_ends_with_mixtures_whose_constants_normalise_them(aligned: Path) -> None:
    content = (aligned / "final.mdl").read_bytes()
    assert content.count(b"<DiagGMM> ") == content.count(b"</DiagGMM> ") == 62
    # A mixture in Kaldi's form: constants, weights, means over variances, inverse variances; all as binary floats.
    body = content[content.index(b"<DiagGMM> ") + len(b"<DiagGMM> ") :]
    parts = []
    for name in (b"<GCONSTS> FV ", b"<WEIGHTS> FV ", b"<MEANS_INVVARS> FM ", b"<INV_VARS> FM "):
        assert body.startswith(name)
        body = body[len(name) :]
        sizes = 2 if b"FM" in name else 1
        shape = [int.from_bytes(body[5 * k + 1 : 5 * k + 5], "little") for k in range(sizes)]
        end = 5 * sizes + 4 * int(np.prod(shape))
        parts.append(np.frombuffer(body[5 * sizes : end], "<f4").reshape(shape).astype(float))
        body = body[end:]
    constants, weights, scaled_means, inverse = parts
    assert weights.sum() == pytest.approx(1.0, abs=1e-5)
    expected = np.log(weights) - 0.5 * (
        scaled_means.shape[1] * np.log(2 * np.pi)
        - np.log(inverse).sum(axis=1)
        + (scaled_means**2 / inverse).sum(axis=1)
    )
    np.testing.assert_allclose(constants, expected, rtol=1e-4)


@needs_libraries
def test_the_same_data_and_seed_give_the_same_bytes(data: Path, aligned: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    for name in ("ali.2.gz", "ali.scp", "online_cmvn"):  # what an earlier run may have left
        (tmp_path / "again" / name).write_text("of an earlier run")
    done = _align(data, tmp_path / "again")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "again").iterdir()} == {path.name for path in aligned.iterdir()}
    for name in ("final.mdl", "tree", "ali.1.gz", "pdf.ark", "num_pdfs", "phones.txt"):
        assert (tmp_path / "again" / name).read_bytes() == (aligned / name).read_bytes(), name


@needs_libraries
def test_an_utterance_too_short_for_its_word_is_left_out_with_a_warning(data: Path, tmp_path: Path) -> None:
    train = _changed_features(data, tmp_path, lambda matrix: matrix[:5])
    done = _run(ROOT / "steps" / "align_gmm.py", "--num-iters=2", train, data / "lang", tmp_path / "ali")
    assert done.returncode == 0, done.stderr
    assert "left out 1: too short for its transcript 1, 5 frames (george-0-0)." in done.stderr
    assert (tmp_path / "ali/info/left_out").read_text() == "george-0-0 too short for its transcript\n"
    assert "Aligned 149 utterances, 1 were too short" in done.stderr


@needs_libraries
def test_features_that_are_not_finite_are_refused_with_their_place(data: Path, tmp_path: Path) -> None:
    def spoiled(matrix: np.ndarray) -> np.ndarray:
        matrix[7, 2] = np.nan
        return matrix

    train = _changed_features(data, tmp_path, spoiled)
    _refused(train, data / "lang", tmp_path, "the features of george-0-0 are not finite at frame 7, dimension 2")


def _changed_features(data: Path, folder: Path, change: object) -> Path:
    """A copy of the training set in which the first utterance's features are changed."""
    train = folder / "train"
    shutil.copytree(data / "train", train)
    with (
        SequentialReader(f"scp:{data}/train/feats.scp", MATRIX) as reader,
        TableWriter(f"ark,scp:{train}/feats.ark,{train}/feats.scp", MATRIX) as writer,
    ):
        for key, matrix in reader:
            writer.write(key, change(matrix.copy()) if key == "george-0-0" else matrix)  # type: ignore[operator]
    return train


def _refused(train: Path, lang: Path, folder: Path, message: str) -> None:
    done = _run(ROOT / "steps" / "align_gmm.py", "--num-iters=1", train, lang, folder / "ali")
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR (align_gmm.py")]
    assert done.returncode == 1, done.stderr
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in done.stderr
    assert not (folder / "ali" / "final.mdl").exists()


@needs_libraries
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cmvn.scp", None, "train/cmvn.scp, which the normalisation '' (--cmvn-opts; means, by default) needs"),
        ("text", "george-0-0 oh\n", "Utterance george-0-0: the word 'oh' is not in"),
        ("text", "nobody zero\n", "There are no utterances to align"),
        ("text", "", "text is empty"),
    ],
)
def test_a_bad_data_directory_is_refused(
    data: Path, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    shutil.copytree(data / "train", tmp_path / "train")
    (tmp_path / "train" / name).unlink()
    if content is not None:
        (tmp_path / "train" / name).write_text(content)
    _refused(tmp_path / "train", data / "lang", tmp_path, message)


def test_without_the_library_the_error_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "kaldi_hmm_gmm.py").write_text("raise ImportError('not here')\n")
    code = "from nnet3py.alignment.recipe_library import import_recipe_library as i; i('kaldi_hmm_gmm')"
    done = _run("-c", code, environment={"PYTHONPATH": str(tmp_path)})
    assert (
        "UserError: The Python library kaldi-hmm-gmm cannot be imported (not here): pip install nnet3py[recipes]"
        in (done.stderr)
    )


@needs_libraries
def test_without_the_library_the_program_ends_with_one_error_line(data: Path, tmp_path: Path) -> None:
    (tmp_path / "kaldi_hmm_gmm.py").write_text("raise ImportError('not here')\n")
    done = _run(
        ROOT / "steps" / "align_gmm.py",
        data / "train",
        data / "lang",
        tmp_path / "ali",
        environment={"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 1
    assert "pip install nnet3py[recipes]" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@needs_libraries
def test_kaldi_hmm_gmm_is_never_imported_beside_kaldifst_where_it_would_hang() -> None:
    code = "from nnet3py.alignment.recipe_library import import_recipe_library as i; i('kaldifst'); i('kaldi_hmm_gmm')"
    done = _run("-c", code)
    assert "kaldi_hmm_gmm cannot be imported into a process that has kaldifst" in done.stderr
