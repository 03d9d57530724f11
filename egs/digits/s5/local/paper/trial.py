"""One training of the paper's comparisons: its settings, where it lives, how it is run and what it reached.

A trial's directory is named after all that it differs in from the others, so that two tables that need the same
training share it, and a stopped run finds what it has.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from nnet3py.driver.experiment import Experiment
from nnet3py.driver.report import Progress, read_progress
from nnet3py.errors import UserError
from nnet3py.jobs.interruption import DRIVER_PID
from nnet3py.text.lines import read_lines, read_number, read_text, write_text

STEPS = Path(__file__).resolve().parents[5] / "steps"
ACOUSTIC_SCALES = "0.1,0.15,0.2,0.25,0.3"
FIXED_SCALE = "0.1"


class Programs:
    """The programs that run now, started by several threads; once they were asked to end, no other is started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # a program is started and known in one step, so that none is missed at the end
        self._running: set[subprocess.Popen[bytes]] = set()
        self._ended = False

    def run(self, command: list[str], folder: str, output: IO[str], environment: dict[str, str]) -> int:
        """Run a program to its end, and return its status.

        Raises:
            UserError: programs were asked to end.
        """
        with self._lock:
            if self._ended:
                raise UserError(f"{os.path.basename(command[0])} was not started: the run is being stopped.")
            process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
            )
            self._running.add(process)
        status = process.wait()
        with self._lock:
            self._running.discard(process)
        return status

    def end(self) -> None:
        """Ask all that run to end; steps end their jobs, and can be gone on with."""
        with self._lock:
            self._ended = True
            for process in self._running:
                process.terminate()


programs = Programs()
"""Those of all corpora."""


@dataclass(frozen=True)
class Rates:
    """Effective learning rates, per example, at the start of training and at its end."""

    initial: float
    final: float

    def __str__(self) -> str:
        return f"{self.initial:g} to {self.final:g}"


@dataclass(frozen=True)
class Trial:
    """Settings of one training.

    Attributes:
        method: nnet-train-shard's --update: sgd, simple-ng or online-ng.
        jobs: models trained at once in an iteration; ``jobs_initial`` of them at first, if that is another number.
        frames: about how many frames a job trains on in an iteration.
        configs: options of local/make_configs.py that are not its defaults.
        affine: settings added to every natural-gradient component of the configuration.
        options: more options of steps/train_dnn.py.
        note: what the last three are, in words for a table; needed where one of them is given.
    """

    method: str
    jobs: int
    rates: Rates
    frames: int
    epochs: float
    seed: int = 0
    jobs_initial: int = 0
    configs: tuple[str, ...] = ()
    affine: str = ""
    options: tuple[str, ...] = ()
    note: str = ""

    @property
    def name(self) -> str:
        """The directory's name."""
        jobs = f"{self.jobs_initial}to{self.jobs}" if self.jobs_initial else f"{self.jobs}"
        words = [self.method, f"{jobs}jobs", f"{self.rates.initial:g}_{self.rates.final:g}", f"{self.frames}frames"]
        words += [re.sub(r"[^\w.]+", "_", self.note)] if self.note else []
        words += [f"seed{self.seed}"] if self.seed else []
        return "-".join(words)


@dataclass(frozen=True)
class Result:
    """What a trial reached: log-probability per frame (natural logarithm) on validation and training data, WER in %."""

    trial: Trial
    rows: list[Progress] = field(repr=False)
    wer: float

    @property
    def final(self) -> Progress:
        """The final, combined model's row."""
        return self.rows[-1]

    @property
    def last(self) -> Progress:
        """The row of the last iteration's model."""
        return self.rows[-2]


@dataclass(frozen=True)
class Corpus:
    """A directory that a recipe has prepared: data/, exp/ali, exp/graph, exp/egs, and room for trials.

    ``make_configs`` is the recipe's program for configurations, ``context`` the frames the network sees on each side,
    ``minibatch`` the examples in a minibatch, ``frames_per_eg`` the frames in an example. ``has_dev``: there is a
    data/dev to choose the acoustic scale on.
    """

    folder: str
    make_configs: str
    context: int = 5
    minibatch: int = 32
    frames_per_eg: int = 8
    has_dev: bool = True

    def path(self, name: str) -> str:
        """A file of the corpus's directory."""
        return os.path.join(self.folder, name)

    def trial_path(self, trial: Trial, name: str = "") -> str:
        """A file of a trial's directory."""
        return self.path(os.path.join("trials", trial.name, name)) if name else self.path(f"trials/{trial.name}")

    def run(self, command: list[str], log_name: str) -> None:
        """Run a program in the corpus's directory; what it says goes into a log. Steps end when this process is gone.

        Raises:
            UserError: it failed, or the run is being stopped.
        """
        log_path = self.path(f"log/{log_name}.log")
        os.makedirs(os.path.dirname(log_path), exist_ok=True)
        environment = {**os.environ, DRIVER_PID: str(os.getpid())}
        with open(log_path, "w", encoding="utf-8") as log:
            status = programs.run(command, self.folder, log, environment)
        if status != 0:
            said = [line for line in read_lines(log_path) if line.startswith("ERROR")] or ["it gave no error message"]
            raise UserError(f"{os.path.basename(command[0])} failed: {said[-1]} (all that it said is in {log_path})")

    def egs(self, frames: int) -> str:
        """The examples with archives of about so many frames, relative to the corpus's directory; made if missing."""
        folder = f"egs/{frames}"
        if not os.path.exists(self.path(f"{folder}/.complete")):
            command = [
                f"{STEPS}/get_egs.py",
                "--reuse=true",
                "--nj=2",
                f"--left-context={self.context}",
                f"--right-context={self.context}",
                f"--samples-per-iter={math.ceil(frames / self.frames_per_eg)}",
                "--num-train-frames-combine=10000",
                "--num-frames-diagnostic=4000",
                "--cmvn-opts=--norm-means=true",
                "data/train",
                "exp/ali",
                folder,
            ]
            self.run(command, f"get_egs.{frames}")
        return folder


def train(corpus: Corpus, trial: Trial) -> None:
    """Train, from where an earlier run stopped; one job at a time, so that trials can run beside each other.

    Raises:
        UserError: a program failed.
    """
    if result(corpus, trial) is not None:
        return
    for data in ("dev", "test"):  # of an earlier model
        shutil.rmtree(corpus.trial_path(trial, f"decode_{data}"), ignore_errors=True)
    _write_configs(corpus, trial)
    options = {
        "--cmd": "run-local --max-jobs-run=1",
        "--feat-dir": "data/train",
        "--ali-dir": "exp/ali",
        "--egs.dir": corpus.egs(trial.frames),
        "--dir": f"trials/{trial.name}",
        "--feat.cmvn-opts": "--norm-means=true",
        "--trainer.one-frame-per-eg": "false",
        "--trainer.srand": trial.seed,
        "--trainer.update-method": trial.method,
        "--trainer.num-epochs": f"{trial.epochs:g}",
        "--trainer.num-jobs-compute-prior": 1,
        "--trainer.prior-subset-size": 2000,
        "--trainer.optimization.num-jobs-initial": trial.jobs_initial or trial.jobs,
        "--trainer.optimization.num-jobs-final": trial.jobs,
        "--trainer.optimization.initial-effective-lrate": f"{trial.rates.initial:g}",
        "--trainer.optimization.final-effective-lrate": f"{trial.rates.final:g}",
        "--trainer.optimization.minibatch-size": corpus.minibatch,
    }
    words = [f"{name}={value}" for name, value in options.items()]
    corpus.run([f"{STEPS}/train_dnn.py", *words, *trial.options], f"train.{trial.name}")


def _write_configs(corpus: Corpus, trial: Trial) -> None:
    """The trial's configs/; the same again where they are there already."""
    num_pdfs, feat_dim = (read_number(corpus.path(name)) for name in ("exp/ali/num_pdfs", "feat_dim"))
    folder = f"trials/{trial.name}/configs"
    command = [corpus.make_configs, f"--context={corpus.context}", "--lda=exp/lda/lda.mat", *trial.configs]
    corpus.run([*command, str(feat_dim), str(num_pdfs), folder], f"configs.{trial.name}")
    os.unlink(corpus.path(f"{folder}/splice.config"))
    if trial.affine:
        path = corpus.path(f"{folder}/final.config")
        write_text(path, re.sub(r"(type=NaturalGradientAffineComponent)", rf"\1 {trial.affine}", read_text(path)))


def decode(corpus: Corpus, trial: Trial) -> None:
    """Decode the development set, if there is one, to choose the acoustic scale; then the test set with it.

    Raises:
        UserError: a program failed.
    """
    scale = ACOUSTIC_SCALES if corpus.has_dev else FIXED_SCALE
    for data in ("dev", "test") if corpus.has_dev else ("test",):
        folder = f"trials/{trial.name}/decode_{data}"
        if not os.path.exists(corpus.path(f"{folder}/best_acwt")):
            shutil.rmtree(corpus.path(folder), ignore_errors=True)
            command = ["decode.py", "--cmd=run-local --max-jobs-run=1", "--nj=1", f"--acwt={scale}"]
            command += ["exp/graph", f"data/{data}", folder]
            corpus.run([f"{STEPS}/{command[0]}", *command[1:]], f"decode_{data}.{trial.name}")
            corpus.run([f"{STEPS}/score.py", f"data/{data}", folder], f"score_{data}.{trial.name}")
        (scale,) = read_lines(corpus.path(f"{folder}/best_acwt"))


def result(corpus: Corpus, trial: Trial) -> Result | None:
    """What a trial reached, None before its end. The WER is nan where it has not been decoded.

    Raises:
        UserError: its directory is that of a trial with other settings.
    """
    if os.path.isdir(corpus.trial_path(trial)):
        experiment = Experiment(corpus.trial_path(trial))
        changed = experiment.record("trial.json", asdict(trial), force=False)
        if changed:
            said = ", ".join(f"{name} was {then}, is {now}" for name, (then, now) in changed.items())
            raise UserError(f"{experiment.folder} was made with other settings: {said}. Remove it to train again.")
    if not os.path.exists(corpus.trial_path(trial, "final.mdl")):
        return None
    rows = read_progress(corpus.trial_path(trial, "progress.tsv"))
    wer = math.nan
    folder = corpus.trial_path(trial, "decode_test")
    if os.path.exists(f"{folder}/best_acwt"):
        (scale,) = read_lines(f"{folder}/best_acwt")
        found = re.search(r"%WER ([0-9.]+) \[", read_text(f"{folder}/wer_{scale}"))
        if found:
            wer = float(found[1])
    return Result(trial, rows, wer)
