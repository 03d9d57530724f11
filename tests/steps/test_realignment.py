"""Realignment in training: what it does to the labels, going on after an interruption, and what is refused."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_corpus import final_config
from tiny_language import make_language, make_spoken_corpus, read_alignment

from nnet3py.driver.options import TrainingOptions
from nnet3py.driver.realignment import labels_of, realigned_iterations
from nnet3py.driver.report import read_progress
from nnet3py.driver.schedule import Schedule
from nnet3py.egs.example import EXAMPLE, Example
from nnet3py.egs.relabel import split_key
from nnet3py.errors import UserError
from nnet3py.nnet.acoustic_model import read_acoustic_model
from nnet3py.tables.basic_types import read_header
from nnet3py.tables.matrix import read_vector
from nnet3py.tables.sparse_matrix import SparseMatrix
from nnet3py.tables.streams import open_input
from nnet3py.tables.table import SequentialReader

pytestmark = pytest.mark.slow  # the driver many times over

STEPS = Path(__file__).resolve().parents[2] / "steps"
OPTIONS = {
    "--feat-dir": "data",
    "--lang": "lang",
    "--ali-dir": "equal",
    "--egs.opts": "--nj=2",
    "--trainer.samples-per-iter": "90",
    "--trainer.num-epochs": "2",
    "--trainer.one-frame-per-eg": "false",
    "--trainer.num-jobs-compute-prior": "2",
    "--trainer.optimization.num-jobs-initial": "1",
    "--trainer.optimization.num-jobs-final": "2",
    "--trainer.optimization.initial-effective-lrate": "0.02",
    "--trainer.optimization.final-effective-lrate": "0.005",
    "--trainer.optimization.minibatch-size": "1:32",
    "--trainer.realign-times": "0.35 0.6",
    "--realign.nj": "2",
    "--realign.opts": "--scale-opts=--acoustic-scale=1.0",
}
FIRST, SECOND = 3, 4  # the iterations that these times are at, of 5


def command(*more: str, directory: str = "exp") -> list[str]:
    options = [f"{name}={value}" for name, value in {**OPTIONS, "--dir": directory}.items()]
    return [str(STEPS / "train_dnn.py"), *options, *more]


def train(folder: Path, *more: str, status: int = 0, directory: str = "exp") -> str:
    done = subprocess.run(command(*more, directory=directory), cwd=folder, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def add_experiment(folder: Path, name: str) -> None:
    (folder / name / "configs").mkdir(parents=True)
    (folder / name / "configs/final.config").write_text(final_config())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus aligned evenly, and a training that realigned it twice, all files kept."""
    folder = tmp_path_factory.mktemp("realigned")
    make_language(folder)
    np.savez(folder / "truth.npz", **make_spoken_corpus(folder))
    subprocess.run([str(STEPS / "align_equal.py"), "data", "lang", "equal"], cwd=folder, check=True)
    add_experiment(folder, "exp")
    (folder / "log").write_text(train(folder, "--cleanup=false"))
    return folder


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True, symlinks=True)
    path = tmp_path / "data/feats.scp"
    path.write_text(path.read_text().replace(str(trained), str(tmp_path)))
    return tmp_path


def errors(folder: Path, ali: str) -> float:
    """The share of frames whose label is not the true one."""
    found = read_alignment(folder / ali)
    with np.load(folder / "truth.npz") as truth:
        return float(np.mean(np.concatenate([(found[key] - 1) // 2 != truth[key] for key in found])))


def test_labels_come_nearer_to_the_truth_with_each_realignment(trained: Path) -> None:
    shares = [errors(trained, ali) for ali in ("equal", f"exp/ali.{FIRST}", f"exp/ali.{SECOND}")]
    assert shares[0] > 0.3
    assert shares[1] < shares[0] - 0.05
    assert shares[2] < shares[1] + 0.01


def test_every_example_has_the_labels_of_the_new_alignment_and_the_old_features(trained: Path) -> None:
    ali = read_alignment(trained / f"exp/ali.{SECOND}")
    folders = [trained / "exp/egs", trained / f"exp/egs.realigned.{SECOND}"]
    names = sorted(path.name for path in folders[0].glob("egs.*.ark"))
    names += ["combine.egs", "valid_diagnostic.egs", "train_diagnostic.egs"]
    assert len(names) > 4
    for name in names:
        with (
            SequentialReader(f"ark:{folders[0]}/{name}", EXAMPLE) as before,
            SequentialReader(f"ark:{folders[1]}/{name}", EXAMPLE) as after,
        ):
            for (key, old), (same_key, new) in zip(before, after, strict=True):
                assert key == same_key
                (old_input, old_output), (new_input, new_output) = old.encoded_ios(), new.encoded_ios()
                assert (
                    Example.from_encoded_ios([old_input]).encoded() == Example.from_encoded_ios([new_input]).encoded()
                )
                assert old_output.indexes.tolist() == new_output.indexes.tolist()
                utterance, first = split_key(key)
                labels = new.ios[1].features
                assert isinstance(labels, SparseMatrix)
                expected = (ali[utterance][first : first + labels.num_rows] - 1) // 2
                assert labels.indices.tolist() == expected.tolist()


def test_jobs_and_diagnostics_after_a_realignment_use_its_labels(trained: Path) -> None:
    for index in range(5):
        labels = SECOND if index >= SECOND else FIRST if index >= FIRST else 0
        where = f"exp/egs.realigned.{labels}/egs." if labels else "exp/egs/egs."
        assert where in (trained / f"exp/log/train.{index}.1.log").read_text()
        probability = (trained / f"exp/log/compute_prob_valid.{index}.log").read_text()
        name = f"valid_diagnostic.{labels}.minibatches" if labels else "valid_diagnostic.minibatches"
        assert f"exp/{name}" in probability
    assert f"exp/egs.realigned.{SECOND}/combine.egs" in (trained / "exp/log/combine.log").read_text()
    log = (trained / "log").read_text()
    assert f"of the new labels from model {FIRST} on, not to be compared with those before" in log
    rows = read_progress(str(trained / "exp/progress.tsv"))
    assert [row.model for row in rows] == ["0", "1", "2", "3", "4", "5", "final"]


def test_the_model_that_aligns_has_the_mean_posterior_as_priors_and_the_labels_transitions(trained: Path) -> None:
    model = read_acoustic_model(str(trained / f"exp/{FIRST}.mdl"))
    with open_input(str(trained / f"exp/post.{FIRST}.vec")) as source:
        sums = read_vector(source, read_header(source))
    np.testing.assert_allclose(model.priors, sums / sums.sum(), rtol=1e-5)
    for model_file, ali in ((f"{FIRST}.mdl", "equal"), (f"{SECOND}.mdl", f"exp/ali.{FIRST}"),
                            ("final.mdl", f"exp/ali.{SECOND}")):  # fmt: skip
        counts = np.zeros(13)
        for path in read_alignment(trained / ali).values():
            counts += np.bincount(path, minlength=13)
        by_state = counts[1:].reshape(6, 2)
        expected = by_state / by_state.sum(axis=1, keepdims=True)
        found = read_acoustic_model(str(trained / "exp" / model_file)).transition_model.log_probs[1:].reshape(6, 2)
        np.testing.assert_allclose(np.exp(found), expected, rtol=1e-4)


def unfinish(experiment: Path, *, after: int) -> None:
    """Take away what a training makes after a model, as if it had been killed then."""
    for name in ("final.raw", "final.mdl", "post.final.vec", "accuracy.report"):
        (experiment / name).unlink()
    for index in range(after + 1, 6):
        (experiment / f"{index}.raw").unlink()
    rows = (experiment / "progress.tsv").read_text().splitlines()
    (experiment / "progress.tsv").write_text("\n".join(rows[: after + 1]) + "\n")


@pytest.mark.parametrize("killed", ["before aligning", "while aligning", "while relabelling", "after relabelling"])
def test_a_training_that_was_stopped_at_a_realignment_ends_with_the_same_bytes(
    copy: Path, trained: Path, killed: str
) -> None:
    experiment = copy / "exp"
    unfinish(experiment, after=SECOND)
    if killed != "after relabelling":
        (experiment / f"egs.realigned.{SECOND}/.complete").unlink()
        (experiment / f"egs.realigned.{SECOND}/egs.1.ark").write_bytes(b"cut off")
        for kind in ("valid", "train"):
            (experiment / f"{kind}_diagnostic.{SECOND}.minibatches").unlink()
    if killed in ("before aligning", "while aligning"):
        (experiment / f"ali.{SECOND}/.complete").unlink()
        (experiment / f"ali.{SECOND}/ali.1.gz").write_bytes(b"cut off")
    if killed == "before aligning":
        for name in (f"{SECOND}.mdl", f"post.{SECOND}.vec"):
            (experiment / name).unlink()
    log = train(copy, "--cleanup=false")
    assert ("Aligning the training data with model" in log) == killed.endswith("aligning")
    for name in ("5.raw", "final.raw", "final.mdl", f"ali.{SECOND}/ali.1.gz", f"egs.realigned.{SECOND}/egs.1.ark"):
        assert (experiment / name).read_bytes() == (trained / "exp" / name).read_bytes()


def test_going_back_to_a_stage_before_a_realignment_makes_it_again(copy: Path, trained: Path) -> None:
    log = train(copy, "--cleanup=false", f"--stage={SECOND}", "--trainer.realign-times=0.35", "--exit-stage=5")
    assert "Going on with changes" in log
    assert "Aligning" not in log
    assert not (copy / f"exp/ali.{SECOND}").exists()
    assert f"egs.realigned.{FIRST}/egs." in (copy / f"exp/log/train.{SECOND}.1.log").read_text()
    assert (copy / "exp/5.raw").read_bytes() != (trained / "exp/5.raw").read_bytes()
    train(copy, "--cleanup=false", f"--stage={SECOND}")
    for name in ("final.raw", "final.mdl"):
        assert (copy / "exp" / name).read_bytes() == (trained / "exp" / name).read_bytes()


def test_cleaning_up_leaves_the_alignments_and_no_examples(copy: Path) -> None:
    unfinish(copy / "exp", after=SECOND)
    (copy / f"exp/egs.realigned.{SECOND}/.complete").unlink()
    train(copy)
    left = {path.name for path in (copy / "exp").iterdir()}
    assert {f"ali.{FIRST}", f"ali.{SECOND}", "final.mdl"} <= left
    gone = {f"egs.realigned.{FIRST}", f"egs.realigned.{SECOND}", f"{FIRST}.mdl", f"{SECOND}.mdl", "egs"}
    assert not left & gone
    assert not [name for name in left if name.endswith(".minibatches")]


def test_examples_of_an_earlier_realignment_are_made_again_of_its_alignment(copy: Path, trained: Path) -> None:
    shutil.rmtree(copy / f"exp/egs.realigned.{FIRST}")
    (copy / f"exp/{FIRST}.mdl").unlink()
    unfinish(copy / "exp", after=FIRST)
    log = train(copy, "--cleanup=false", f"--exit-stage={SECOND}")
    assert "Aligning" not in log
    name = f"exp/egs.realigned.{FIRST}/egs.2.ark"
    assert (copy / name).read_bytes() == (trained / name).read_bytes()


@pytest.mark.slow
def test_ending_the_driver_ends_the_alignment_and_the_next_run_goes_on(copy: Path, trained: Path) -> None:
    experiment = copy / "exp"
    unfinish(experiment, after=SECOND)
    shutil.rmtree(experiment / f"egs.realigned.{SECOND}")
    shutil.rmtree(experiment / f"ali.{SECOND}")
    driver = subprocess.Popen(command("--cleanup=false"), cwd=copy, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(experiment.glob(f"ali.{SECOND}/log/align.*.log")):
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    driver.send_signal(signal.SIGTERM)
    _, messages = driver.communicate(timeout=120)
    assert driver.returncode != 0
    assert f"goes on from iteration {SECOND}" in messages
    assert not (experiment / f"ali.{SECOND}/.complete").exists()
    train(copy, "--cleanup=false")
    assert (experiment / "final.mdl").read_bytes() == (trained / "exp/final.mdl").read_bytes()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--trainer.realign-times=0.5 1"], "different numbers above 0 and below 1"),
        (["--trainer.realign-times=0.5,half"], "different numbers above 0 and below 1"),
        (["--trainer.realign-times=0.4 0.4"], "different numbers above 0 and below 1"),
        (["--trainer.realign-times=0.4 0.41"], "iteration 4 has another already"),
        (["--trainer.realign-times=0.99"], "no iteration begins after it"),
        (["--lang="], "needs --lang"),
        (["--lang=data"], "needs data/L.fst"),
        (["--ali-dir=pdf_ali"], "a transition model"),
    ],
)
def test_options_that_cannot_work_are_refused_before_training(copy: Path, options: list[str], says: str) -> None:
    add_experiment(copy, "new")
    (copy / "pdf_ali").mkdir()
    log = train(copy, "--egs.dir=exp/egs", *options, directory="new", status=1)
    assert [says in line for line in log.splitlines() if line.startswith("ERROR")] == [True]
    assert not (copy / "new/1.raw").exists()


def test_another_transcript_is_noticed(copy: Path) -> None:
    (copy / "exp/final.mdl").unlink()
    with open(copy / "data/text", "a") as text:
        text.write("another a\n")
    assert "--feat-dir text was file" in train(copy, status=1)


def schedule(iterations: int) -> Schedule:
    return Schedule(
        num_epochs=1, num_archives=iterations, passes_per_epoch=1, jobs_initial=1, jobs_final=1,
        initial_effective_lrate=0.1, final_effective_lrate=0.01,
    )  # fmt: skip


def test_realignment_comes_before_the_first_iteration_past_the_share() -> None:
    options = TrainingOptions(realign_times="0.5 0.21")
    assert realigned_iterations(options, schedule(10)) == [3, 5]
    assert [labels_of(options, schedule(10), model) for model in (0, 2, 3, 4, 5, 10)] == [0, 0, 3, 3, 5, 5]
    assert labels_of(options, schedule(10), "final") == 5
    assert labels_of(TrainingOptions(), schedule(10), "final") == 0
    with pytest.raises(UserError, match="iteration 1 has another already"):
        realigned_iterations(options, schedule(2))
