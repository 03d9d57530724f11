"""The driver with natural gradient carried from iteration to iteration, and with threads."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tiny_corpus import LAYER2_CONFIG, final_config, make_corpus
from tiny_training import add_experiment, one_error, train

from nnet3py.driver.report import read_progress
from nnet3py.train.optimizer_state_file import read_optimizer_state

pytestmark = pytest.mark.slow  # the driver many times over

CARRY = "--trainer.carry-natural-gradient=true"
OPTIONS = [CARRY, "--egs.dir=exp/egs", "--trainer.num-epochs=1.5", "--cleanup=false"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus, examples, and an experiment of four iterations, of 1, 1, 2 and 2 jobs, whose files are all kept."""
    folder = tmp_path_factory.mktemp("trained")
    make_corpus(folder)
    for name in ("exp", "carried"):
        add_experiment(folder, name, config=final_config())
    done = train(folder, "--exit-stage=0")
    assert done.returncode == 0, done.stderr
    done = train(folder, *OPTIONS, directory="carried")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained experiment to spoil."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True, symlinks=True)
    return tmp_path


def states(experiment: Path) -> list[str]:
    return sorted(path.name.removesuffix(".state.h5") for path in experiment.glob("*.state.h5"))


def command_of(experiment: Path, iteration: int, job: int) -> str:
    """The command line of nnet-train-shard as it says it itself in the log of a job."""
    lines = (experiment / f"log/train.{iteration}.{job}.log").read_text().splitlines()
    return next(line for line in lines if line.startswith("nnet-train-shard "))


def test_each_job_goes_on_from_the_state_of_its_predecessor(trained: Path) -> None:
    experiment = trained / "carried"
    assert states(experiment) == ["1.1", "2.1", "3.1", "3.2", "4.1", "4.2"]
    assert "--optimizer-state-in" not in command_of(experiment, 0, 1)
    for iteration, job, predecessor in ((1, 1, 1), (2, 1, 1), (2, 2, 1), (3, 1, 1), (3, 2, 2)):
        words = command_of(experiment, iteration, job).split()
        assert f"--optimizer-state-in=carried/{iteration}.{predecessor}.state.h5" in words
        assert f"--optimizer-state-out=carried/{iteration + 1}.{job}.state.h5" in words
    seen = [read_optimizer_state(str(experiment / f"{name}.1.state.h5")).minibatches for name in (1, 2, 3, 4)]
    assert seen == sorted(set(seen))
    estimates = read_optimizer_state(str(experiment / "4.2.state.h5")).estimates
    assert set(estimates) == {"affine1", "final_affine"}
    assert {estimate.minibatch for found in estimates.values() for estimate in found.values()} == {
        read_optimizer_state(str(experiment / "4.2.state.h5")).minibatches
    }
    assert read_progress(str(experiment / "progress.tsv"))[-1].valid_accuracy > 0.4


def test_without_the_option_jobs_start_afresh_and_leave_nothing(copy: Path) -> None:
    add_experiment(copy, "afresh", config=final_config())
    done = train(copy, *OPTIONS, "--trainer.carry-natural-gradient=false", "--exit-stage=2", directory="afresh")
    assert done.returncode == 0, done.stderr
    assert not states(copy / "afresh")
    assert "optimizer-state" not in command_of(copy / "afresh", 1, 1)
    assert (copy / "afresh/1.raw").read_bytes() == (copy / "carried/1.raw").read_bytes()
    assert (copy / "afresh/2.raw").read_bytes() != (copy / "carried/2.raw").read_bytes()


def test_stopped_and_gone_on_with_it_ends_with_the_same_bytes_and_no_state(copy: Path, trained: Path) -> None:
    add_experiment(copy, "stopped", config=final_config())
    options = [*OPTIONS, "--cleanup=true", "--cleanup.preserve-model-interval=1"]
    for stop, left in ((1, ["1.1"]), (3, ["3.1", "3.2"])):
        done = train(copy, *options, f"--exit-stage={stop}", directory="stopped")
        assert done.returncode == 0, done.stderr
        assert states(copy / "stopped") == left
    (copy / "stopped/4.1.state.h5").write_bytes(b"of a job that was killed")
    done = train(copy, *options, directory="stopped")
    assert done.returncode == 0, done.stderr
    for name in ("1.raw", "3.raw", "4.raw", "final.raw"):
        assert (copy / "stopped" / name).read_bytes() == (trained / "carried" / name).read_bytes(), name
    assert not states(copy / "stopped")


@pytest.mark.slow
def test_going_back_to_a_stage_gives_the_same_model_again(copy: Path, trained: Path) -> None:
    done = train(copy, *OPTIONS, "--stage=2", directory="carried")
    assert done.returncode == 0, done.stderr
    assert (copy / "carried/final.raw").read_bytes() == (trained / "carried/final.raw").read_bytes()
    assert states(copy / "carried") == states(trained / "carried")


def test_a_state_that_is_not_there_is_named_and_nothing_is_removed(copy: Path) -> None:
    experiment = copy / "carried"
    (experiment / "3.1.state.h5").unlink()
    before = sorted(path.name for path in experiment.iterdir())
    text = one_error(train(copy, *OPTIONS, "--stage=3", directory="carried"))
    assert "carried/3.1.state.h5" in text
    assert "--cleanup=false" in text
    assert sorted(path.name for path in experiment.iterdir()) == before
    for name in ("4.raw", "final.raw", "final.priors"):
        (experiment / name).unlink()
    assert "carried/3.1.state.h5" in one_error(train(copy, *OPTIONS, directory="carried"))


def test_a_layer_that_is_added_starts_afresh_beside_those_that_go_on(copy: Path) -> None:
    experiment = add_experiment(copy, "growing", config=final_config())
    (experiment / "configs/layer2.config").write_text(LAYER2_CONFIG)
    options = [*OPTIONS, "--trainer.add-layers-period=1", "--exit-stage=2"]
    done = train(copy, *options, directory="growing")
    assert done.returncode == 0, done.stderr
    assert "--optimizer-state-must-fit=false" in command_of(experiment, 1, 1)
    first, second = (read_optimizer_state(str(experiment / f"{model}.1.state.h5")) for model in (1, 2))
    assert set(first.estimates) == {"affine1", "final_affine"}
    assert set(second.estimates) == {"affine1", "affine2", "final_affine"}
    counts = {name: {estimate.minibatch for estimate in found.values()} for name, found in second.estimates.items()}
    assert counts["affine1"] == {second.minibatches}
    assert counts["affine2"] == {second.minibatches - first.minibatches}


@pytest.mark.slow
def test_softmax_units_that_are_added_start_afresh(copy: Path) -> None:
    experiment = add_experiment(copy, "mixed", config=final_config())
    options = [*OPTIONS, "--trainer.mix-up=10", "--trainer.mix-up-iter=2", "--trainer.mix-up-min-count=1"]
    done = train(copy, *options, "--exit-stage=3", directory="mixed")
    assert done.returncode == 0, done.stderr
    state, before = (read_optimizer_state(str(experiment / f"{model}.1.state.h5")) for model in (3, 2))
    counts = {key: estimate.minibatch for key, estimate in state.estimates["final_affine"].items()}
    assert counts["in", "linear"] == state.minibatches
    assert counts["out", "linear"] == state.minibatches - before.minibatches


def test_an_engine_is_told_how_many_threads_a_training_job_has(copy: Path) -> None:
    experiment = add_experiment(copy, "threads", config=final_config())
    engine = copy / "engine"
    engine.write_text('#!/bin/sh\necho "$@" >> "$(dirname "$0")/calls"\nexec run-local "$@"\n')
    engine.chmod(0o755)
    done = train(
        copy, f"--cmd={engine} -V", "--egs.dir=exp/egs", "--trainer.num-threads=2", CARRY, "--cleanup=false",
        directory="threads",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    calls = (copy / "calls").read_text().splitlines()
    told = [bool(re.match(r"-V --num-threads 2 JOB=", call)) for call in calls]
    assert told == [" nnet-train-shard " in call for call in calls]
    assert sum(told) == 2
    assert "--num-threads=2" in command_of(experiment, 1, 2)
    assert read_progress(str(experiment / "progress.tsv"))[-1].valid_accuracy > 0.4
    log = (experiment / "log/train.0.1.log").read_text()
    assert "Accounting: time=" in log
    assert "threads=2" in log


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([CARRY, "--trainer.update-method=sgd"], "--trainer.update-method=sgd"),
        ([CARRY, "--trainer.num-threads=2", "--trainer.optimization.momentum=0.5"], "momentum"),
        (["--trainer.num-threads=2", "--trainer.optimization.backstitch-training-scale=0.3"], "Backstitch"),
        (["--trainer.num-threads=0"], "num-threads"),
    ],
)
def test_options_that_contradict_each_other_are_refused(words: list[str], says: str, copy: Path) -> None:
    add_experiment(copy, "new", config=final_config())
    assert says in one_error(train(copy, "--egs.dir=exp/egs", *words, directory="new"))
    assert not (copy / "new/0.raw").exists()


def test_the_drivers_record_has_what_the_model_depends_on(trained: Path) -> None:
    record = (trained / "carried/train_options.json").read_text()
    assert '"--trainer.carry-natural-gradient": true' in record
    assert '"--trainer.num-threads": 1' in record
    shown = subprocess.run(["nnet-info", str(trained / "carried/final.raw")], capture_output=True, text=True)
    assert "final_affine" in shown.stdout
