"""A few utterances, short ones, empty ones: what can be done is done, and what cannot is one error with a number."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tiny_corpus import FEAT_DIM, INIT_CONFIG, NUM_PDFS, final_config
from tiny_language import make_language, make_spoken_corpus, read_alignment
from tiny_training import STEPS, add_experiment, one_error, train

from nnet3py.driver.held_out import drawn
from nnet3py.tables.holders import INT_VECTOR, MATRIX
from nnet3py.tables.table import SequentialReader, TableWriter

pytestmark = pytest.mark.slow  # each starts drivers, which start jobs


def make(folder: Path, lengths: Sequence[int], labels: int | None = None) -> Path:
    """``data/`` and ``ali/`` of one speaker's utterances of these lengths, all of one class or of any."""
    random = np.random.default_rng(1)
    (folder / "data").mkdir()
    (folder / "ali").mkdir()
    features = TableWriter(f"ark,scp:{folder}/data/feats.ark,{folder}/data/feats.scp", MATRIX)
    classes = TableWriter(f"ark,scp:{folder}/ali/ali.1.ark,{folder}/ali/ali.scp", INT_VECTOR)
    with features, classes:
        for number, length in enumerate(lengths):
            features.write(f"s-u{number}", random.normal(size=(length, FEAT_DIM)).astype(np.float32))
            found = random.integers(0, NUM_PDFS, length) if labels is None else np.full(length, labels)
            classes.write(f"s-u{number}", found.astype(np.int32))
    (folder / "data/utt2spk").write_text("".join(f"s-u{number} s\n" for number in range(len(lengths))))
    (folder / "data/spk2utt").write_text(f"s {' '.join(f's-u{number}' for number in range(len(lengths)))}\n")
    (folder / "ali/num_pdfs").write_text(f"{NUM_PDFS}\n")
    return folder


def step(folder: Path, name: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(STEPS / name), *words], cwd=folder, capture_output=True, text=True)


def test_short_and_empty_utterances_are_left_out_however_many_jobs_there_are(tmp_path: Path) -> None:
    make(tmp_path, [60, 60, 7, 60, 1, 0, 60])
    done = step(tmp_path, "get_egs.py", "--nj=20", "--left-context=70", "--right-context=70", "data", "ali", "egs")
    assert done.returncode == 0, done.stderr
    assert "Used 4 of 7 utterances, 240 of 248 frames; left out 3: shorter than --frames-per-eg=8 2" in done.stderr
    assert (tmp_path / "egs/info/left_out").read_text() == (
        "s-u2 shorter than --frames-per-eg=8\ns-u4 shorter than --frames-per-eg=8\ns-u5 no frames\n"
    )
    examples = int((tmp_path / "egs/info/fewest_egs").read_text())
    read = subprocess.run(
        ["nnet-copy-egs", "ark:egs/egs.1.ark", "ark,t:-"], cwd=tmp_path, capture_output=True, text=True
    )
    assert len(re.findall("<Nnet3Eg>", read.stdout)) == examples == 24


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--frames-per-eg=100"], "The longest has 60 frames: give --frames-per-eg=60 at most."),
        (["--num-utts-subset=5"], "--num-utts-subset must be less than a quarter of them. Leave it out."),
        (["--samples-per-iter=1"], "--samples-per-iter=1 makes too many archives of these data. Give 10, say"),
    ],
)
def test_examples_that_cannot_be_made_are_one_error_with_a_number(
    options: list[str], says: str, tmp_path: Path
) -> None:
    make(tmp_path, [60, 60, 60])
    done = step(tmp_path, "get_egs.py", "--nj=1", *options, "data", "ali", "egs")
    assert done.returncode == 1
    assert done.stderr.count("ERROR (") == 1, done.stderr
    assert says in done.stderr
    assert not (tmp_path / "egs/.complete").exists()


def test_ivectors_of_another_length_are_left_out_before_anything_is_drawn(tmp_path: Path) -> None:
    make(tmp_path, [400, 400, 400])
    folder = tmp_path / "ivectors"
    folder.mkdir()
    (folder / "ivector_period").write_text("10\n")
    odd = drawn(["s-u0", "s-u1", "s-u2"], 1, seed=0)[0]  # would be held out
    with TableWriter(f"ark,scp:{folder}/1.ark,{folder}/ivector_online.scp", MATRIX) as writer:
        for number in range(3):
            writer.write(f"s-u{number}", np.zeros((20 if f"s-u{number}" == odd else 40, 2), np.float32))
    done = step(tmp_path, "get_egs.py", "--nj=2", "--online-ivector-dir=ivectors", "data", "ali", "egs")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "egs/info/left_out").read_text() == f"{odd} iVectors of another length\n"
    assert odd not in (tmp_path / "egs/valid_uttlist").read_text()


def test_a_job_that_can_cut_nothing_leaves_an_archive_without_entries(tmp_path: Path) -> None:
    """The lengths that utt2num_frames states are wrong: only the program notices."""
    make(tmp_path, [60, 60, 60, 60])
    with SequentialReader(f"scp:{tmp_path}/data/feats.scp", MATRIX) as reader:
        matrices = dict(reader)
    (tmp_path / "data/utt2num_frames").write_text("".join(f"{key} 60\n" for key in matrices))
    (tmp_path / "valid").write_text("s-u3\n")
    words = ["--valid-uttlist=valid", "--nj=3", "--srand=1", "data", "ali", "egs"]
    assert step(tmp_path, "get_egs.py", *words).returncode == 0
    shown = (tmp_path / "egs/train_subset_uttlist").read_text().strip()
    spoiled = next(key for key in ("s-u0", "s-u1", "s-u2") if key != shown)
    with TableWriter(f"ark,scp:{tmp_path}/data/feats.ark,{tmp_path}/data/feats.scp", MATRIX) as writer:
        for key, matrix in matrices.items():
            writer.write(key, matrix[:20] if key == spoiled else matrix)
    done = step(tmp_path, "get_egs.py", *words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "egs/info/left_out").read_text() == f"{spoiled} an alignment of another length\n"
    assert "Starting it again" not in done.stderr


def test_three_utterances_train_and_what_is_discarded_is_told(tmp_path: Path) -> None:
    make(tmp_path, [60, 60, 60])
    add_experiment(tmp_path, "exp", config=final_config())
    jobs = "--trainer.optimization.num-jobs-final=1"
    done = train(tmp_path, jobs, "--trainer.num-epochs=2", "--trainer.optimization.minibatch-size=12")
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if "filled no minibatch" in line]
    assert len(warnings) == 1, done.stderr
    assert "Iteration 0 discarded 4 of 16 examples" in warnings[0]
    assert "--trainer.optimization.minibatch-size=12 allows: give 1:12" in warnings[0]
    report = (tmp_path / "exp/accuracy.report").read_text()
    assert "Used 3 of 3 utterances, 180 of 180 frames; left out none.\nTraining read 32 examples" in report
    assert "discarded 8 of them (25 %)" in report
    assert (tmp_path / "exp/info/left_out").read_text() == ""
    header, *rows = [line.split("\t") for line in (tmp_path / "exp/progress.tsv").read_text().splitlines()]
    counts = [(row[header.index("examples")], row[header.index("discarded")]) for row in rows]
    assert counts == [("16", "4"), ("16", "4"), ("nan", "nan"), ("nan", "nan")]


def test_the_share_of_single_frames_that_a_pipe_discards_is_told_too(tmp_path: Path) -> None:
    make(tmp_path, [20, 20, 20])
    add_experiment(tmp_path, "exp", config=final_config())
    options = ["--trainer.read-directly=false", "--trainer.one-frame-per-eg=true", "--egs.frames-per-eg=2"]
    options += ["--trainer.optimization.num-jobs-final=1", "--trainer.optimization.minibatch-size=15"]
    done = train(tmp_path, *options)
    assert done.returncode == 0, done.stderr
    report = (tmp_path / "exp/accuracy.report").read_text()
    found = re.search(r"Training read (\d+) examples and discarded (\d+) of them", report)
    assert found is not None
    assert found.groups() == ("40", "11")  # 20 of 7: two in minibatches of 7, then one of 15


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--trainer.optimization.minibatch-size=17"], "has no more than 16 examples, too few"),
        (["--trainer.optimization.num-jobs-final=3"], "Lower --trainer.optimization.num-jobs-final to 1, or"),
        (["--trainer.num-epochs=0.5"], "Raise --trainer.num-epochs to 1, or"),
    ],
)
def test_numbers_that_are_too_large_for_the_data_are_refused_with_numbers_that_are_not(
    options: list[str], says: str, tmp_path: Path
) -> None:
    make(tmp_path, [60, 60, 60])
    add_experiment(tmp_path, "exp", config=final_config())
    done = train(tmp_path, "--trainer.num-epochs=2", "--trainer.optimization.num-jobs-final=1", *options)
    assert says in one_error(done)
    assert not (tmp_path / "exp/log/train.0.1.log").exists()
    done = train(tmp_path, "--trainer.num-epochs=2", "--trainer.optimization.num-jobs-final=1")  # as it was told
    assert done.returncode == 0, done.stderr
    assert "Going on with changes: --trainer." in done.stderr


def test_a_transform_of_too_few_frames_says_which_option_uses_all_of_them(tmp_path: Path) -> None:
    make(tmp_path, [9, 9])
    add_experiment(tmp_path, "exp", config=final_config(Path("exp/configs/lda.mat")), init=INIT_CONFIG)
    options = ["--trainer.optimization.num-jobs-final=1", "--trainer.optimization.minibatch-size=1"]
    done = train(tmp_path, "--max-retries=0", *options)
    assert "Estimating the transform: failed" in one_error(done)
    assert "15 dimensions of 8 frames, is not positive definite" in done.stderr
    assert "(train_dnn.py: --trainer.lda.rand-prune=0)" in done.stderr
    again = train(tmp_path, "--stage=-5", "--trainer.lda.rand-prune=0", *options)
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("BatchNormComponent", ["--trainer.optimization.backstitch-training-scale=0.3"]),
        ("NormalizeComponent", ["--trainer.update-method=simple-ng", "--trainer.one-frame-per-eg=true"]),
    ],
)
def test_two_utterances_of_nine_frames_and_one_class_train_in_minibatches_of_one(
    kind: str, options: list[str], tmp_path: Path
) -> None:
    make(tmp_path, [9, 9], labels=2)
    add_experiment(tmp_path, "exp", config=final_config().replace("NormalizeComponent", kind))
    options += ["--trainer.optimization.num-jobs-final=1", "--trainer.optimization.minibatch-size=1"]
    done = train(tmp_path, *options, "--trainer.prior-subset-size=1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "exp/final.priors").exists()


# With transcripts.


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    """A corpus of six utterances, the first three of one frame, and a network that has learned nothing."""
    make_spoken_corpus(tmp_path, utterances=6)
    make_language(tmp_path)
    with SequentialReader(f"scp:{tmp_path}/data/feats.scp", MATRIX) as reader:
        matrices = list(reader)
    with TableWriter(f"ark,scp:{tmp_path}/data/feats.ark,{tmp_path}/data/feats.scp", MATRIX) as writer:
        for number, (key, matrix) in enumerate(matrices):
            writer.write(key, matrix[:1] if number < 3 else matrix)
    add_experiment(tmp_path, "exp", config=final_config())
    shutil.copy(tmp_path / "true_ali/tree", tmp_path / "exp/tree")
    shell = "nnet-init exp/configs/final.config - | nnet-am-init true_ali/final.mdl - exp/final.mdl"
    subprocess.run(["bash", "-c", shell], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path


@pytest.mark.parametrize(
    ("program", "models", "reason"),
    [
        ("align.py", ["exp"], "no path through the graph"),
        ("align_equal.py", [], "too short for its transcript"),
    ],
)
def test_jobs_that_can_align_nothing_are_dropped_data_and_no_failure(
    program: str, models: list[str], reason: str, spoken: Path
) -> None:
    keys = [line.split()[0] for line in (spoken / "data/feats.scp").read_text().splitlines()]
    done = step(spoken, program, "--nj=6", "data", "lang", *models, "ali_new")
    assert done.returncode == 0, done.stderr
    assert "Starting it again" not in done.stderr
    assert (spoken / "ali_new/num_jobs").read_text() == "6\n"
    assert gzip.decompress((spoken / "ali_new/ali.1.gz").read_bytes()) == b""
    assert sorted(read_alignment(spoken / "ali_new")) == keys[3:]
    left_out = (spoken / "ali_new/info/left_out").read_text()
    assert left_out == "".join(f"{key} {reason}\n" for key in keys[:3])
    for name in ("data/feats.scp", "data/text"):
        lines = (spoken / name).read_text().splitlines(keepends=True)
        (spoken / name).write_text("".join(lines[:3]))
    done = step(spoken, program, "--nj=2", "data", "lang", *models, "ali_none")
    assert done.returncode == 1
    assert done.stderr.count("ERROR (") == 1
    assert f"No utterance of data could be used. Used 0 of 3 utterances; left out 3: {reason} 3" in done.stderr
    assert not (spoken / "ali_none/.complete").exists()


@pytest.mark.parametrize("options", [[], ["--per-speaker=true"]])
def test_a_job_without_frames_makes_no_vectors_and_does_not_fail(options: list[str], tmp_path: Path) -> None:
    make(tmp_path, [0, 30, 0, 30])
    done = step(tmp_path, "compute_utterance_vectors.py", "--nj=4", *options, "data", "vectors")
    assert done.returncode == 0, done.stderr
    assert "left out 2: no frames 2 (s-u0, s-u2)." in done.stderr
    lines = (tmp_path / "vectors/ivector_online.scp").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["s-u1", "s-u3"]
