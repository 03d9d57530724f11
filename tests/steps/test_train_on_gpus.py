"""steps/train_dnn.py --use-gpu: what engines and jobs are told. What stands in for an engine sends jobs to the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_corpus import final_config, make_corpus
from tiny_training import add_experiment, one_error, train

pytestmark = pytest.mark.slow  # the driver several times over

ENGINE = """#!/bin/bash
echo "$@" >> "$(dirname "$0")/calls"
words=()
for word in "$@"; do [ "$word" = "--use-gpu=$AS" ] && word=--use-gpu=no; words+=("$word"); done
exec run-local "${words[@]}"
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features and alignments to train on."""
    folder: Path = tmp_path_factory.mktemp("gpus")
    make_corpus(folder)
    return folder


@pytest.mark.parametrize(("choice", "of_jobs"), [("yes", "yes"), ("true", "yes"), ("wait", "wait")])
def test_each_training_job_asks_its_engine_for_a_gpu(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, choice: str, of_jobs: str
) -> None:
    name = f"gpu_{choice}"
    experiment = add_experiment(corpus, name, config=final_config())
    engine = corpus / f"{name}.sh"
    engine.write_text(ENGINE.replace("calls", f"{name}.calls"))
    engine.chmod(0o755)
    monkeypatch.setenv("AS", of_jobs)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    done = train(corpus, f"--cmd={engine}", f"--use-gpu={choice}", "--exit-stage=2", directory=name)
    assert done.returncode == 0, done.stderr
    calls = (corpus / f"{name}.calls").read_text().splitlines()
    training = [call for call in calls if " nnet-train-shard " in call]
    assert training
    assert all(call.startswith("--gpu 1 JOB=") and f"--use-gpu={of_jobs}" in call for call in training)
    assert not any("--gpu" in call for call in calls if call not in training and "nnet-compute" not in call)
    assert (experiment / "2.raw").exists()


def test_jobs_that_find_no_gpu_are_an_error_that_says_so(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = add_experiment(corpus, "no_gpu", config=final_config())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("LD_LIBRARY_PATH", "")
    done = train(corpus, "--use-gpu=yes", "--exit-stage=1", directory="no_gpu")
    if done.returncode == 0:
        pytest.skip("this machine has a GPU, and CuPy")
    assert "train.0.1.log" in one_error(done)
    assert "--use-gpu=yes" in (experiment / "log/train.0.1.log").read_text()


def test_on_the_cpu_jobs_are_told_so_wherever_they_run(corpus: Path) -> None:
    experiment = add_experiment(corpus, "cpu", config=final_config())
    done = train(corpus, "--exit-stage=1", directory="cpu")
    assert done.returncode == 0, done.stderr
    assert "--use-gpu=no" in (experiment / "log/train.0.1.log").read_text()
