"""steps/compute_utterance_vectors.py, and the vectors on their way through training, realignment and evaluation."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from leftovers import leave_unfinished, still_there
from tiny_corpus import FEAT_DIM, SPLICED, final_config
from tiny_language import make_language, make_spoken_corpus

from nnet3py.egs.example import EXAMPLE
from nnet3py.tables.general_matrix import to_array
from nnet3py.tables.holders import MATRIX
from nnet3py.tables.table import SequentialReader

pytestmark = pytest.mark.slow  # a training comes first

STEPS = Path(__file__).resolve().parents[2] / "steps"
DIM = 2 * FEAT_DIM


def run(folder: Path, *words: str, status: int = 0) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def vectors(folder: Path, *words: str, status: int = 0) -> str:
    return run(folder, str(STEPS / "compute_utterance_vectors.py"), *words, status=status)


def read(folder: Path, name: str) -> dict[str, np.ndarray]:
    path = folder / name / "ivector_online.scp"
    script = path.read_text().replace(f" {name}/", f" {folder}/{name}/")
    absolute = folder / "absolute.scp"
    absolute.write_text(script)
    with SequentialReader(f"scp:{absolute}", MATRIX) as reader:
        return dict(reader)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, and a second data directory with the first ten utterances of it; vectors of both.

    ``own_vectors`` are the second's by its own statistics.
    """
    folder = tmp_path_factory.mktemp("vectors")
    make_language(folder)
    make_spoken_corpus(folder, utterances=24)
    (folder / "test").mkdir()
    for name in ("feats.scp", "utt2spk", "text"):
        lines = (folder / "data" / name).read_text().splitlines(keepends=True)
        (folder / "test" / name).write_text("".join(lines[:10]))
    vectors(folder, "--nj=3", "data", "train_vectors")
    vectors(folder, "--nj=2", "--like=train_vectors", "test", "test_vectors")
    vectors(folder, "test", "own_vectors")
    return folder


def test_the_directory_is_what_the_program_makes_of_all_data(made: Path) -> None:
    folder = made / "train_vectors"
    assert (folder / "ivector_period").read_text() == "10\n"
    assert not list(folder.glob("feats.*")) + list(folder.glob("ivector_online.*.scp"))
    run(made, "compute-cmvn-stats", "scp:data/feats.scp", "all.stats")
    words = ["compute-utterance-vectors", "--global-stats=all.stats", "--prior-count=50", "--ivector-period=10"]
    run(made, *words, "scp:data/feats.scp", "ark:expected")
    with SequentialReader(f"ark:{made}/expected", MATRIX) as reader:
        expected = dict(reader)
    found = read(made, "train_vectors")
    assert list(found) == list(expected)
    for key, matrix in expected.items():
        np.testing.assert_array_equal(found[key], matrix)


def test_vectors_like_others_are_relative_to_the_same_statistics(made: Path) -> None:
    train, test = read(made, "train_vectors"), read(made, "test_vectors")
    assert len(test) == 10
    for key, matrix in test.items():
        np.testing.assert_array_equal(matrix, train[key])
    identities = [(made / name / "final.ie.id").read_text() for name in ("train_vectors", "test_vectors")]
    assert identities[0] == identities[1]
    assert (made / "own_vectors/final.ie.id").read_text() != identities[0]
    vectors(made, "--per-speaker=true", "data", "speaker_vectors")
    assert (made / "speaker_vectors/final.ie.id").read_text() != identities[0]
    assert (made / "speaker_vectors/per_speaker").exists()


def test_speakers_vectors_are_the_same_in_all_their_utterances_whatever_the_jobs(made: Path) -> None:
    vectors(made, "--per-speaker=true", "--nj=1", "data", "one")
    left = leave_unfinished(made / "four", "ivector_online.5.ark", "log/vectors.5.log")
    vectors(made, "--per-speaker=true", "--nj=4", "data", "four")
    assert not still_there(left)
    one, four = read(made, "one"), read(made, "four")
    assert set(one) == set(four)
    of_speaker: dict[str, np.ndarray] = {}
    for key, matrix in one.items():
        np.testing.assert_array_equal(matrix, four[key])
        first = of_speaker.setdefault(key.split("-")[0], matrix[0])
        np.testing.assert_array_equal(matrix, np.tile(first, (len(matrix), 1)))
    assert len(of_speaker) == 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--like=train_vectors", "--prior-count=3", "test", "new"], "--prior-count cannot be given with --like"),
        (["--like=train_vectors", "--online=true", "test", "new"], "--online cannot be given with --like"),
        (["--like=data", "test", "new"], "There is no data/global.stats"),
        (["--like=train_vectors", "test", "train_vectors"], "is the directory to write"),
        (["nowhere", "new"], "nowhere/feats.scp"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(made: Path, words: list[str], says: str) -> None:
    log = vectors(made, *words, status=1)
    assert [says in line for line in log.splitlines() if line.startswith("ERROR")] == [True]
    assert not (made / "new/ivector_online.scp").exists()


@pytest.fixture(scope="module")
def trained(made: Path) -> Path:
    """A training with the vectors as a second input, realigned in the middle."""
    configs = made / "exp/configs"
    configs.mkdir(parents=True)
    spliced = f"{SPLICED[:-1]}, ReplaceIndex(ivector, t, 0))"
    config = (
        final_config().replace(SPLICED, spliced).replace(f"input-dim={3 * FEAT_DIM}", f"input-dim={3 * FEAT_DIM + DIM}")
    )
    (configs / "final.config").write_text(f"input-node name=ivector dim={DIM}\n{config}")
    options = {
        "--feat-dir": "data",
        "--lang": "lang",
        "--ali-dir": "true_ali",
        "--dir": "exp",
        "--feat.online-ivector-dir": "train_vectors",
        "--egs.opts": "--nj=2 --compress=false",
        "--trainer.samples-per-iter": "70",
        "--trainer.num-epochs": "1",
        "--trainer.one-frame-per-eg": "false",
        "--trainer.optimization.num-jobs-initial": "1",
        "--trainer.optimization.num-jobs-final": "2",
        "--trainer.optimization.initial-effective-lrate": "0.02",
        "--trainer.optimization.final-effective-lrate": "0.005",
        "--trainer.optimization.minibatch-size": "1:32",
        "--trainer.realign-times": "0.3",
        "--realign.nj": "2",
        "--cleanup": "false",
    }
    run(made, str(STEPS / "train_dnn.py"), *(f"{name}={value}" for name, value in options.items()))
    return made


def test_examples_carry_the_vector_of_their_utterance(trained: Path) -> None:
    assert (trained / "exp/egs/info/ivector_dim").read_text() == f"{DIM}\n"
    of_utterance = read(trained, "train_vectors")
    with SequentialReader(f"ark:{trained}/exp/egs/egs.1.ark", EXAMPLE) as reader:
        for key, example in reader:
            part = example.io("ivector")
            assert part is not None
            np.testing.assert_array_equal(to_array(part.features)[0], of_utterance[key.rsplit("-", 1)[0]][0])


def test_the_network_was_aligned_with_and_evaluated_on_its_vectors(trained: Path) -> None:
    info = subprocess.run(["nnet-am-info", "exp/final.mdl"], cwd=trained, capture_output=True, text=True).stdout
    assert f"ivector-dim: {DIM}" in info
    assert (trained / "exp/final.ie.id").read_text() == (trained / "train_vectors/final.ie.id").read_text()
    (aligned,) = trained.glob("exp/ali.*")
    assert "--online-ivectors=scp:train_vectors/ivector_online.scp" in (aligned / "log/align.1.log").read_text()


def align(folder: Path, data: str, ivectors: str, status: int = 0) -> str:
    words = [f"--online-ivector-dir={ivectors}"] if ivectors else []
    return run(folder, str(STEPS / "align.py"), "--nj=2", *words, data, "lang", "exp", "ali", status=status)


def test_other_data_are_aligned_with_vectors_like_those_of_training_and_with_no_others(trained: Path) -> None:
    assert "Aligned 10 of 10 utterances" in align(trained, "test", "test_vectors")
    log = align(trained, "test", "own_vectors", status=1)
    assert "own_vectors are not of the extractor that exp was trained with (final.ie.id" in log
    shutil.rmtree(trained / "ali")
    log = align(trained, "test", "", status=1)
    assert "ivector" in log
