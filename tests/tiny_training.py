"""steps/train_dnn.py on the corpus of tiny_corpus.py, as the tests of the driver call it."""

from __future__ import annotations

import subprocess
from pathlib import Path

STEPS = Path(__file__).resolve().parents[1] / "steps"
OPTIONS = {
    "--feat-dir": "data",
    "--ali-dir": "ali",
    "--egs.opts": "--nj=2",
    "--trainer.samples-per-iter": "90",
    "--trainer.num-epochs": "1",
    "--trainer.one-frame-per-eg": "false",
    "--trainer.num-jobs-compute-prior": "1",
    "--trainer.optimization.num-jobs-initial": "1",
    "--trainer.optimization.num-jobs-final": "2",
    "--trainer.optimization.initial-effective-lrate": "0.02",
    "--trainer.optimization.final-effective-lrate": "0.005",
    "--trainer.optimization.minibatch-size": "1:32",
}


def command(*more: str, directory: str = "exp") -> list[str]:
    """The driver's command line; of an option that is there twice the later one counts."""
    options = [f"{name}={value}" for name, value in {**OPTIONS, "--dir": directory}.items()]
    return [str(STEPS / "train_dnn.py"), *options, *more]


def train(folder: Path, *more: str, directory: str = "exp") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*more, directory=directory), cwd=folder, capture_output=True, text=True)


def add_experiment(folder: Path, name: str, *, config: str, init: str = "") -> Path:
    configs = folder / name / "configs"
    configs.mkdir(parents=True)
    (configs / "final.config").write_text(config)
    if init:
        (configs / "init.config").write_text(init)
    return folder / name


def one_error(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR (train_dnn.py")]
    assert len(lines) == 1, done.stderr
    return lines[0]
