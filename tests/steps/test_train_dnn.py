"""The driver on a tiny corpus with the real programs: results, resuming, refusing, failing."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_corpus import (
    FEAT_DIM,
    INIT_CONFIG,
    LAYER2_CONFIG,
    NUM_PDFS,
    SPLICED,
    add_transitions,
    final_config,
    make_corpus,
    scaled_config,
)
from tiny_training import add_experiment, command, one_error, train

from nnet3py.driver.report import read_progress
from nnet3py.driver.schedule import shard
from nnet3py.nnet.transition_model import read_transition_model
from nnet3py.tables.basic_types import read_header
from nnet3py.tables.holders import INT_VECTOR
from nnet3py.tables.matrix import read_vector
from nnet3py.tables.streams import open_input
from nnet3py.tables.table import SequentialReader

PRIOR_SCALE = "presoftmax_prior_scale.vec"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the corpus, and an experiment trained without interruption whose models are all kept."""
    folder = tmp_path_factory.mktemp("trained")
    make_corpus(folder)
    add_experiment(folder, "exp", config=final_config())
    done = train(folder, "--cleanup=false")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained experiment to spoil."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True, symlinks=True)
    for path in (tmp_path / "data/feats.scp", tmp_path / "ali/ali.scp"):
        path.write_text(path.read_text().replace(str(trained), str(tmp_path)))
    return tmp_path


def test_training_learns_and_reports_it(trained: Path) -> None:
    rows = read_progress(str(trained / "exp/progress.tsv"))
    assert [row.model for row in rows] == ["0", "1", "2", "final"]
    assert [row.jobs for row in rows[:2]] == [1, 2]
    assert rows[0].valid_logprob < -np.log(NUM_PDFS) + 0.1
    assert rows[-1].valid_logprob > rows[0].valid_logprob + 0.5
    assert rows[-1].valid_accuracy > 0.4
    report = (trained / "exp/accuracy.report").read_text()
    assert report.startswith("%Iter\tduration\ttrain_objective\tvalid_objective\tdifference\n0\t")
    assert "Total training time is 0:" in report


def test_priors_are_the_summed_posteriors_of_the_final_model(trained: Path) -> None:
    with open_input(str(trained / "exp/final.priors")) as source:
        priors = read_vector(source, read_header(source))
    frames = int((trained / "exp/egs/info/num_frames").read_text())
    assert priors.shape == (NUM_PDFS,)
    assert priors.min() > 0
    assert 0.2 * frames < priors.sum() < frames  # one of several archives


def test_examples_hold_out_the_validation_utterances(trained: Path) -> None:
    egs = trained / "exp/egs"
    valid = set((egs / "valid_uttlist").read_text().split())
    subset = set((egs / "train_subset_uttlist").read_text().split())
    assert len(valid) == len(subset) == 4
    assert not valid & subset

    def utterances(name: str) -> set[str]:
        listing = subprocess.run(
            ["nnet-copy-egs", f"ark:{egs / name}", "ark,t:-"], capture_output=True, text=True, check=True
        ).stdout
        # The key of an example is its utterance and its first frame.
        return {key.rsplit("-", 1)[0] for key in re.findall(r"(\S+) <Nnet3Eg>", listing)}

    archives = [utterances(f"egs.{n}.ark") for n in range(1, int((egs / "info/num_archives").read_text()) + 1)]
    assert all(archives)
    trained_on = set.union(*archives)
    assert len(trained_on) == 36
    assert not trained_on & valid
    assert utterances("valid_diagnostic.egs") == valid
    assert utterances("train_diagnostic.egs") == subset
    assert not (egs / "split").exists()
    assert not list(egs.glob("egs_orig*"))


def test_jobs_take_the_archives_in_turn_at_the_rate_of_their_number(trained: Path) -> None:
    seen = []
    for index, jobs in ((0, 1), (1, 2)):
        for job in range(1, jobs + 1):
            log = (trained / f"exp/log/train.{index}.{job}.log").read_text()
            seen += re.findall(r"^nnet-train-shard .*ark:\S*/egs\.(\d+)\.ark", log, re.MULTILINE)
            rate = float(log.split("--learning-rate=")[1].split()[0])
            assert rate == pytest.approx({0: 1 * 0.02, 1: 2 * 0.005}[index])
    assert seen == ["1", "2", "3"]


def test_a_finished_training_is_left_alone(copy: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in (copy / "exp").glob("*.raw")}
    done = train(copy, "--cleanup=false")
    assert done.returncode == 0, done.stderr
    assert "already finished" in done.stderr
    assert {path.name: path.stat().st_mtime_ns for path in (copy / "exp").glob("*.raw")} == before


def test_changed_options_are_refused_by_name_and_nothing_is_touched(copy: Path) -> None:
    (copy / "exp/final.priors").unlink()
    before = sorted(path.name for path in (copy / "exp").iterdir())
    text = one_error(train(copy, "--trainer.num-epochs=2"))
    assert "--trainer.num-epochs was 1.0, is 2.0" in text
    assert "--stage" in text
    assert sorted(path.name for path in (copy / "exp").iterdir()) == before


def test_a_changed_configuration_is_refused(copy: Path) -> None:
    (copy / "exp/final.priors").unlink()
    with open(copy / "exp/configs/final.config", "a") as config:
        config.write("# another\n")
    assert "configs/final.config" in one_error(train(copy))


def test_going_on_from_a_stage_gives_the_same_model_again(copy: Path, trained: Path) -> None:
    rows = (copy / "exp/progress.tsv").read_text().splitlines()
    done = train(copy, "--cleanup=false", "--stage=2")
    assert done.returncode == 0, done.stderr
    for name in ("final.raw", "final.priors"):
        assert (copy / "exp" / name).read_bytes() == (trained / "exp" / name).read_bytes()
    again = (copy / "exp/progress.tsv").read_text().splitlines()
    assert again[:3] == rows[:3]
    assert len(again) == len(rows)


@pytest.mark.parametrize("stage", ["7", "4"])
def test_a_stage_that_cannot_be_gone_on_from_is_refused(stage: str, copy: Path) -> None:
    before = sorted(path.name for path in (copy / "exp").glob("*.raw"))
    assert f"stage {stage}" in one_error(train(copy, f"--stage={stage}"))
    assert sorted(path.name for path in (copy / "exp").glob("*.raw")) == before


def test_cleaning_up_leaves_the_final_model_and_its_reports(copy: Path) -> None:
    done = train(copy)
    assert done.returncode == 0, done.stderr
    left = {path.name for path in (copy / "exp").iterdir()}
    assert {"final.raw", "final.priors", "progress.tsv", "accuracy.report", "0.raw", "2.raw", "log"} <= left
    assert not left & {"1.raw", "egs", "1.1.raw", "2.1.raw", "valid_diagnostic.minibatches"}


def test_a_failed_job_stops_training_with_its_log_and_earlier_models_stay(copy: Path) -> None:
    experiment = copy / "exp"
    for name in ("final.raw", "final.priors", "2.raw"):
        (experiment / name).unlink()
    rows = (experiment / "progress.tsv").read_text().splitlines()
    (experiment / "progress.tsv").write_text("\n".join(rows[:2]) + "\n")
    archive = experiment / "egs/egs.3.ark"
    whole = archive.read_bytes()
    model = (experiment / "1.raw").read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    done = train(copy, "--cleanup=false")
    text = one_error(done)
    assert "iteration 1: 1 of 2 failed" in text
    assert "exp/log/train.1.2.log" in text
    assert "egs.3.ark" in done.stderr.split("log says:")[1]
    assert (experiment / "1.raw").read_bytes() == model
    assert not (experiment / "2.raw").exists()


@pytest.mark.slow
def test_two_drivers_in_one_directory_are_refused(copy: Path) -> None:
    script = "import sys, time\nfrom nnet3py.driver.directory_lock import locked\n"
    script += "with locked(sys.argv[1], 'train_dnn.py'):\n    print('locked', flush=True)\n    time.sleep(60)\n"
    other = subprocess.Popen(["python3", "-c", script, str(copy / "exp")], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "locked\n"
    text = one_error(train(copy))
    other.kill()
    other.communicate()
    assert f"process {other.pid}" in text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--dir=missing", "missing"),
        ("--ali-dir=missing", "missing"),
        ("--egs.dir= --feat-dir=missing", "missing"),
        ("--egs.dir=missing", "missing"),
        ("--trainer.optimization.minibatch-size=many", "minibatch size"),
        ("--trainer.optimization.num-jobs-final=30", "30 jobs"),
        ("--trainer.optimization.num-jobs-initial=0", "num-jobs"),
        ("--cmd=no-such-engine", "no-such-engine"),
        ("--egs.dir= --egs.opts=--num-pdfs=many", "get_egs.py"),
    ],
)
def test_options_that_cannot_work_are_refused(options: str, says: str, copy: Path) -> None:
    add_experiment(copy, "new", config=final_config())
    done = train(copy, "--egs.dir=exp/egs", *options.split(), directory="new")
    one_error(done)
    assert says in done.stderr
    assert not (copy / "new/1.raw").exists()


def test_a_network_that_does_not_fit_the_features_is_an_error(copy: Path) -> None:
    config = final_config().replace("dim=5\n", "dim=7\n").replace("input-dim=15", "input-dim=21")
    add_experiment(copy, "new", config=config)
    done = train(copy, "--egs.dir=exp/egs", directory="new")
    one_error(done)
    assert "7" in done.stderr
    assert not (copy / "new/1.raw").exists()


def test_interrupting_ends_the_jobs_and_says_how_to_go_on(copy: Path) -> None:
    experiment = copy / "exp"
    for name in ("1.raw", "2.raw", "final.raw", "final.priors", "progress.tsv"):
        (experiment / name).unlink()
    for log in (experiment / "log").glob("train.0.*"):
        log.unlink()
    driver = subprocess.Popen(command("--cleanup=false"), cwd=copy, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (experiment / "log/train.0.1.log").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    driver.send_signal(signal.SIGTERM)
    _, errors = driver.communicate(timeout=30)
    assert driver.returncode == 130
    assert "goes on from iteration 0" in errors
    assert "Traceback" not in errors
    working = subprocess.run(["pgrep", "-f", f"nnet-train-shard.*{copy.name}"], capture_output=True, text=True).stdout
    assert not working.split()
    assert not (experiment / "1.raw").exists()


@pytest.mark.slow
def test_killed_at_any_moment_the_same_command_ends_with_the_same_bytes(trained: Path, copy: Path) -> None:
    add_experiment(copy, "killed", config=final_config())
    chance = random.Random(5)
    words = command("--cleanup=false", directory="killed")
    kills = 0
    for attempt in range(12):
        with open(copy / "killed.err", "w") as errors:
            driver = subprocess.Popen(words, cwd=copy, stderr=errors)
            try:
                driver.wait(chance.uniform(0.5, 3.0 + attempt))
                break
            except subprocess.TimeoutExpired:
                driver.kill()
                driver.wait()
                kills += 1
    else:
        assert subprocess.run(words, cwd=copy, stderr=subprocess.DEVNULL).returncode == 0
    assert kills >= 2
    for name in ("0.raw", "1.raw", "2.raw", "final.raw", "final.priors"):
        assert (copy / "killed" / name).read_bytes() == (trained / "exp" / name).read_bytes(), name
    assert [row.model for row in read_progress(str(copy / "killed/progress.tsv"))] == ["0", "1", "2", "final"]


@pytest.mark.slow
def test_slots_and_engines_do_not_change_the_model(trained: Path, copy: Path) -> None:
    add_experiment(copy, "slots", config=final_config())
    done = train(copy, "--cleanup=false", "--cmd=run-local --max-jobs-run 1", directory="slots")
    assert done.returncode == 0, done.stderr
    assert (copy / "slots/final.raw").read_bytes() == (trained / "exp/final.raw").read_bytes()


@pytest.mark.slow
def test_one_frame_of_each_example_at_a_time(copy: Path) -> None:
    add_experiment(copy, "frames", config=final_config())
    options = ["--trainer.one-frame-per-eg=true", "--trainer.num-epochs=0.25", "--egs.dir=exp/egs", "--cleanup=false"]
    done = train(copy, *options, directory="frames")
    assert done.returncode == 0, done.stderr
    archives = int((copy / "exp/egs/info/num_archives").read_text())
    for position, path in enumerate(["train.0.1", "train.1.1", "train.2.1", "train.3.1", "train.3.2"]):
        expected = shard(position, archives, 8)
        log = (copy / f"frames/log/{path}.log").read_text()
        assert f"nnet-copy-egs --frame={expected.frame} ark:exp/egs/egs.{expected.archive}.ark" in log
    rows = read_progress(str(copy / "frames/progress.tsv"))
    assert rows[-1].epoch == 7 / (4 * 8)  # 1 + 1 + 1 + 2 + 2 archives, the number of iterations being rounded down
    assert rows[-1].valid_logprob > rows[0].valid_logprob


@pytest.mark.slow
def test_a_transform_that_decorrelates_the_input_becomes_the_first_layer(copy: Path) -> None:
    experiment = add_experiment(copy, "lda", config=final_config(Path("lda/configs/lda.mat")), init=INIT_CONFIG)
    done = train(copy, "--egs.dir=exp/egs", directory="lda")
    assert done.returncode == 0, done.stderr
    assert (experiment / "lda.mat").is_file()
    assert os.readlink(experiment / "configs/lda.mat") == "../lda.mat"
    assert read_progress(str(experiment / "progress.tsv"))[-1].valid_accuracy > 0.4
    assert (copy / "exp/egs").is_dir(), "examples of --egs.dir are not this experiment's to remove"


@pytest.mark.slow
def test_layers_can_be_added_one_by_one(copy: Path) -> None:
    experiment = add_experiment(copy, "growing", config=final_config())
    (experiment / "configs/layer2.config").write_text(LAYER2_CONFIG)
    done = train(copy, "--trainer.add-layers-period=1", "--egs.dir=exp/egs", "--cleanup=false", directory="growing")
    assert done.returncode == 0, done.stderr
    for model, grown in ((1, False), (2, True)):
        info = subprocess.run(["nnet-info", str(experiment / f"{model}.raw")], capture_output=True, text=True).stdout
        assert ("affine2" in info) == grown
    assert not (experiment / "log/average.1.log").exists(), "after a change of shape the best model is taken"
    assert not (experiment / "log/progress.2.log").exists(), "models of different shapes cannot be compared"


def test_a_recipe_that_wants_mail_is_told_that_none_is_sent(copy: Path) -> None:
    done = train(copy, "--reporting.email=someone@example.org", "--reporting.interval=0.5", "--cleanup=false")
    assert done.returncode == 0, done.stderr
    assert "No mail goes to someone@example.org" in done.stderr


@pytest.mark.slow
def test_dropout_follows_its_schedule_also_where_a_layer_is_added(copy: Path) -> None:
    dropout = (
        f"component name=dropout type=DropoutComponent dim={3 * FEAT_DIM} dropout-proportion=0\n"
        f"component-node name=dropout component=dropout input={SPLICED}\n"
    )
    lines = final_config().replace(f"component=affine1 input={SPLICED}", "component=affine1 input=dropout")
    experiment = add_experiment(copy, "dropping", config=lines.replace("\n", "\n" + dropout, 1))
    (experiment / "configs/layer2.config").write_text(LAYER2_CONFIG)
    done = train(
        copy,
        "--trainer.add-layers-period=1",
        "--trainer.dropout-schedule=*=0.1,0.1 dropout=0.2,0.5",
        "--trainer.optimization.backstitch-training-scale=0.3",
        "--trainer.optimization.backstitch-training-interval=2",
        "--trainer.compute-per-dim-accuracy=true",
        "--egs.dir=exp/egs",
        "--cleanup=false",
        directory="dropping",
    )
    assert done.returncode == 0, done.stderr
    rows = read_progress(str(experiment / "progress.tsv"))
    seen = rows[1].epoch  # of one
    for model, proportion in ((1, 0.2), (2, 0.2 + 0.3 * seen)):
        info = subprocess.run(["nnet-info", str(experiment / f"{model}.raw")], capture_output=True, text=True).stdout
        found = re.search(r"dropout-proportion=([0-9.]+)", info)
        assert found is not None
        assert float(found[1]) == pytest.approx(proportion, abs=1e-4)
    assert "output_backstitch" in (experiment / "log/train.1.1.log").read_text()
    assert "per-dim" in (experiment / "log/compute_prob_valid.1.log").read_text()


@pytest.mark.parametrize(
    "option", ["--trainer.dropout-schedule=0.5", "--trainer.optimization.backstitch-training-scale=0.3"]
)
def test_options_that_make_no_sense_are_refused_before_anything_runs(copy: Path, option: str) -> None:
    add_experiment(copy, "new", config=final_config())
    one_error(train(copy, option, "--trainer.optimization.momentum=0.9", directory="new"))
    assert not (copy / "new/egs").exists()


@pytest.mark.slow
def test_an_alignment_with_a_transition_model_gives_an_acoustic_model(copy: Path) -> None:
    ali = add_transitions(copy)
    add_experiment(copy, "am", config=final_config())
    done = train(copy, "--cleanup=false", "--ali-dir=am_ali", directory="am")
    assert done.returncode == 0, done.stderr
    info = subprocess.run(["nnet-am-info", str(copy / "am/final.mdl")], capture_output=True, text=True)
    assert info.returncode == 0, info.stderr
    assert f"prior-dimension: {NUM_PDFS}" in info.stdout
    assert "already finished" in train(copy, "--cleanup=false", "--ali-dir=am_ali", directory="am").stderr
    # The labels are the same as those of the pdf alignment, and so is the network.
    assert (copy / "am/final.raw").read_bytes() == (copy / "exp/final.raw").read_bytes()
    counts = np.zeros(2 * NUM_PDFS + 1)
    with SequentialReader(f"ark:gunzip -c {ali}/ali.1.gz |", INT_VECTOR) as reader:
        for _, transitions in reader:
            counts += np.bincount(transitions, minlength=len(counts))
    states = counts[1:].reshape(NUM_PDFS, 2)
    trained = read_transition_model(str(copy / "am/final.mdl")).log_probs[1:].reshape(NUM_PDFS, 2)
    np.testing.assert_allclose(np.exp(trained), states / states.sum(axis=1, keepdims=True), rtol=1e-5)
    (ali / "ali.1.gz").unlink()
    (copy / "am/final.mdl").unlink()
    done = train(copy, "--cleanup=false", "--ali-dir=am_ali", directory="am")
    assert done.returncode == 0, done.stderr
    assert "am_ali has no alignments: transition probabilities stay those of its final.mdl" in done.stderr


def read_scales(path: Path) -> list[float]:
    return [float(word) for word in path.read_text().split()[1:-1]]


@pytest.mark.slow
def test_scales_before_the_softmax_are_computed_where_a_configuration_names_them(copy: Path) -> None:
    options = ["--egs.dir=exp/egs", "--exit-stage=0", "--cleanup=false"]
    add_transitions(copy)
    found = {}
    for name, ali in (("pdfs", "ali"), ("transitions", "am_ali")):
        experiment = add_experiment(copy, name, config=scaled_config(f"{name}/configs/{PRIOR_SCALE}"))
        done = train(copy, *options, f"--ali-dir={ali}", directory=name)
        assert done.returncode == 0, done.stderr
        assert os.readlink(experiment / f"configs/{PRIOR_SCALE}") == f"../{PRIOR_SCALE}"
        found[name] = read_scales(experiment / PRIOR_SCALE)
    with SequentialReader(f"scp:{copy}/ali/ali.scp", INT_VECTOR) as reader:
        counts = sum(np.bincount(pdfs, minlength=NUM_PDFS) for _, pdfs in reader)
    expected = (counts + 0.01 * counts.mean()) ** -0.25
    np.testing.assert_allclose(found["pdfs"], expected / expected.mean(), rtol=1e-12)
    assert found["transitions"] == found["pdfs"]
    assert not (copy / f"exp/{PRIOR_SCALE}").exists()
    done = train(copy, *options, "--stage=-2", "--trainer.presoftmax-prior-scale-power=-0.5", directory="pdfs")
    assert done.returncode == 0, done.stderr
    squared = read_scales(copy / f"pdfs/{PRIOR_SCALE}")
    np.testing.assert_allclose(np.array(squared) / squared[0], (expected / expected[0]) ** 2, rtol=1e-9)


def test_scales_of_ones_own_are_left_alone(copy: Path) -> None:
    experiment = add_experiment(copy, "own", config=scaled_config(f"own/configs/{PRIOR_SCALE}"))
    own = "[ " + "1 " * NUM_PDFS + "]"
    (experiment / f"configs/{PRIOR_SCALE}").write_text(own)
    done = train(copy, "--egs.dir=exp/egs", "--exit-stage=0", directory="own")
    assert done.returncode == 0, done.stderr
    assert (experiment / f"configs/{PRIOR_SCALE}").read_text() == own
    assert not (experiment / PRIOR_SCALE).exists()


def test_the_record_of_options_has_their_names(trained: Path) -> None:
    record = json.loads((trained / "exp/train_options.json").read_text())
    assert record["--trainer.num-epochs"] == 1.0
    assert "--cmd" not in record
