#!/usr/bin/env python3
"""The comparisons of arXiv:1410.7455, run again; see --help."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import cost
from plan import SIZES, Plan, Size
from trial import Corpus, Rates, Trial, decode, programs, result, train

from nnet3py import log
from nnet3py.driver.experiment import Experiment, termination_interrupts
from nnet3py.errors import UserError
from nnet3py.program import option, program

HERE = Path(__file__).resolve().parent
RECIPE = HERE.parents[1]


@program(
    usage="run.py [options]",
    example="local/paper/run.py --size=quick --work=exp/paper_quick",
)
@option("--size", default="full", metavar="full|quick|fsdd", help="What is trained: full takes hours, quick minutes.")
@option("--work", default="exp/paper", metavar="DIR", help="Where the corpus, the trainings and the report go.")
@option("--slots", type=int, default=0, help="Trainings at once; 0: as many as there are cores.")
@option("--phases", default="", metavar="NAME,...", help="Only these phases of the plan; default: all of the size's.")
def main(size: str, work: str, slots: int, phases: str) -> None:
    """Train and decode all that the paper's comparisons need, and write the report: tables and figures.

    The corpus is that of ../../run.sh; with --size=fsdd, that of egs/fsdd. What is finished is not done again, so that
    a stopped run goes on with the same command. The report is written anew after each phase, into <work>/report.
    """
    if size not in SIZES:
        raise UserError(f"--size={size} is not one of {', '.join(SIZES)}.")
    chosen = phases.split(",") if phases else SIZES[size].phases
    unknown = [name for name in chosen if name not in SIZES["full"].phases]
    if unknown:
        raise UserError(f"--phases: {unknown[0]} is not one of {', '.join(SIZES['full'].phases)}.")
    _prepare_environment()
    with termination_interrupts():
        corpus = prepare(size, Path(work).absolute())
        if not os.path.exists(corpus.path("cost.tsv")):
            log.log("Measuring what a job costs, with nothing beside it")
            egs = corpus.egs(max(SIZES[size].frames.values()))
            cost.write(cost.measure(corpus, egs, "exp/configs/final.config"), corpus.path("cost.tsv"))
        plan = Plan(SIZES[size], lambda method, jobs: best_rates(corpus, SIZES[size], method, jobs))
        for name in chosen:
            run_phase(corpus, plan, name, slots or os.cpu_count() or 1)
            write_report(corpus, size)
    log.log(f"The report is in {corpus.path('report')}")


def _prepare_environment() -> None:
    """As path.sh does: this checkout's programs first; a job is one core, so one thread in its matrix products."""
    os.environ["PATH"] = f"{RECIPE.parents[2] / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.environ["LC_ALL"] = "C"
    os.environ.update(dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))


def prepare(size: str, work: Path) -> Corpus:
    """The corpus and the decorrelating transforms, made if missing."""
    corpus = Corpus(str(work), str(RECIPE / "local/make_configs.py"), has_dev=size != "fsdd")
    os.makedirs(work, exist_ok=True)
    made_with = {"--size": size, "hours": SIZES[size].hours, "epochs": SIZES[size].epochs}
    changed = Experiment(str(work)).record("made_with.json", made_with, force=False)
    if changed:
        said = ", ".join(f"{name} was {then}, is {now}" for name, (then, now) in changed.items())
        raise UserError(f"--work={work} was begun otherwise: {said}. Choose another --work, or remove it first.")
    if os.path.exists(corpus.path("feat_dim")):
        return corpus
    if size == "fsdd":
        log.log("Preparing the recordings of egs/fsdd")
        corpus.run([str(HERE / "prepare_fsdd.sh"), str(work), corpus.make_configs], "prepare")
    else:
        command = [f"--work={work}", f"--hours={SIZES[size].hours:g}", "--nj=2", "--stop-stage=3"]
        if subprocess.run([str(RECIPE / "run.sh"), *command], stdin=subprocess.DEVNULL).returncode != 0:
            raise UserError("Preparing the corpus failed.")
        os.makedirs(corpus.path("exp/lda60"), exist_ok=True)
        corpus.run(["nnet-get-feature-transform", "--dim=60", "exp/lda60/lda.mat", "exp/lda/stats"], "lda60")
    corpus.run(["feat-to-dim", "scp:data/train/feats.scp", "feat_dim"], "feat_dim")
    return corpus


def best_rates(corpus: Corpus, size: Size, method: str, jobs: int) -> Rates:
    """Of a grid, the rates whose final model has the best log-probability on the validation data."""
    grid = size.grid[method]
    if len(grid) == 1:
        return grid[0]
    looked_for = size.grid_jobs[jobs]
    reached = {}
    for rates in grid:
        found = result(corpus, Trial(method, looked_for, rates, size.frames[looked_for], size.epochs))
        if found is None:
            raise UserError(
                f"The learning rates of {method} at {looked_for} jobs are not all tried: give --phases=rates."
            )
        value = found.final.valid_logprob
        reached[rates] = value if math.isfinite(value) else -math.inf
    return max(reached, key=lambda rates: reached[rates])


def run_phase(corpus: Corpus, plan: Plan, name: str, slots: int) -> None:
    """Train and decode what is missing of a phase, several trials beside each other, and say what each reached.

    Raises:
        UserError: a trial failed; those beside it have come to their end.
    """
    trials = plan.phase(name)
    decodes = name != "rates"  # of the grid only the best are wanted, and they are in the next phase
    missing = [trial for trial in trials if not finished(corpus, trial, decodes)]
    log.log(f"{name}: {len(trials)} trainings, {len(trials) - len(missing)} of them finished")
    for frames in sorted({trial.frames for trial in missing}):
        corpus.egs(frames)
    started, stop = time.monotonic(), threading.Event()
    with ThreadPoolExecutor(slots) as pool:
        try:
            running = [pool.submit(complete, corpus, trial, decodes, stop) for trial in missing]
            for done, future in enumerate(as_completed(running), 1):
                trial = future.result()
                found = result(corpus, trial)
                if found is not None:
                    left = (time.monotonic() - started) / done * (len(missing) - done) / 60
                    wer = "" if math.isnan(found.wer) else f", WER {found.wer:.2f} %"
                    log.log(
                        f"{name} {done}/{len(missing)}: {trial.name}: "
                        f"log-probability {found.final.valid_logprob:.4f}{wer}; "
                        f"about {left:.0f} min left of this phase"
                    )
        except BaseException as problem:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            if not isinstance(problem, UserError):
                programs.end()
            raise


def finished(corpus: Corpus, trial: Trial, decodes: bool) -> bool:
    """Whether nothing is left to do."""
    found = result(corpus, trial)
    return found is not None and not (decodes and math.isnan(found.wer))


def complete(corpus: Corpus, trial: Trial, decodes: bool, stop: threading.Event) -> Trial:
    """Train and decode one trial, unless the run is being stopped."""
    if not stop.is_set():
        train(corpus, trial)
    if decodes and not stop.is_set():
        decode(corpus, trial)
    return trial


def write_report(corpus: Corpus, size: str) -> None:
    """Tables and figures of what is finished."""
    command = [sys.executable, str(HERE / "report.py"), "--print-args=false", f"--size={size}", corpus.folder]
    if subprocess.run(command, stdin=subprocess.DEVNULL).returncode != 0:
        raise UserError("Writing the report failed.")


if __name__ == "__main__":
    main()
