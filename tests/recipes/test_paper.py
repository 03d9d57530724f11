"""The paper's comparisons: the plan of trainings, what is read of their results, the tables, a run of a tiny plan."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import pytest

from nnet3py.driver.report import Progress, write_progress
from nnet3py.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PAPER = ROOT / "egs" / "digits" / "s5" / "local" / "paper"
LIBRARIES = ("espeakng_loader", "kaldi_native_fbank", "kaldi_decoder", "kaldialign", "matplotlib")
ABSENT = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]


@pytest.fixture(scope="module")
def paper() -> dict[str, ModuleType]:
    """The modules of local/paper, by name."""
    sys.path.insert(0, str(PAPER))
    try:
        return {name: importlib.import_module(name) for name in ("plan", "trial", "cost", "run", "report")}
    finally:
        sys.path.remove(str(PAPER))


@pytest.fixture
def plan(paper: dict[str, ModuleType]) -> object:
    """The full plan, with rates as if they had been found."""
    return paper["plan"].Plan(paper["plan"].FULL, lambda method, jobs: paper["trial"].Rates(0.01, 0.001))


@pytest.fixture
def corpus(paper: dict[str, ModuleType], tmp_path: Path) -> object:
    return paper["trial"].Corpus(str(tmp_path), "make_configs.py")


def row(model: str, logprob: float, jobs: float = 4.0) -> Progress:
    return Progress(model, 1.0, 8, jobs, 0.1, logprob + 0.1, logprob, 0.5, 0.5, 1.0, 2.0)


def finish(corpus: object, trial: object, logprob: float, wer: float | None = None) -> None:
    """Leave what a finished training and decoding leave."""
    folder = Path(corpus.trial_path(trial))  # type: ignore[attr-defined]
    folder.mkdir(parents=True)
    (folder / "final.mdl").touch()
    rows = [row("0", -4.0), row("1", -2.0), row("2", logprob - 0.01, math.nan), row("final", logprob, math.nan)]
    write_progress(str(folder / "progress.tsv"), rows)
    if wer is not None:
        (folder / "decode_test").mkdir()
        (folder / "decode_test/best_acwt").write_text("0.2\n")
        (folder / "decode_test/wer_0.2").write_text(f"%WER {wer:.2f} [ 5 / 100, 1 ins, 2 del, 2 sub ]\n")
        (folder / "decode_test/wer_0.1").write_text("%WER 99.00 [ 99 / 100, 33 ins, 33 del, 33 sub ]\n")


@pytest.mark.parametrize("size", ["full", "quick", "fsdd"])
def test_trainings_that_differ_have_directories_that_differ(paper: dict[str, ModuleType], size: str) -> None:
    sizes = paper["plan"].SIZES[size]
    plan = paper["plan"].Plan(sizes, lambda method, jobs: paper["trial"].Rates(0.01, 0.001))
    trials = {trial for phase in sizes.phases for trial in plan.phase(phase)}
    assert len({trial.name for trial in trials}) == len(trials) >= 9
    for trial in trials:
        assert bool(trial.configs or trial.affine or trial.options) == bool(trial.note)


def test_the_full_plan_has_all_that_the_page_shows(paper: dict[str, ModuleType], plan: object) -> None:
    phase = plan.phase  # type: ignore[attr-defined]
    headline = {(trial.method, trial.jobs) for trial in phase("headline")}
    assert headline == {(method, jobs) for method in paper["plan"].METHODS for jobs in (1, 2, 4, 8, 16)}
    seeds = [trial for trial in phase("seeds") if not trial.options]
    assert {(trial.jobs, trial.seed) for trial in seeds} == {(jobs, seed) for jobs in (1, 4, 16) for seed in (1, 2)}
    assert len(phase("sensitivity")) == 1 + sum(map(len, paper["plan"].SENSITIVITY.values()))
    for name in ("beyond", "parts", "sensitivity"):  # the row that the others are compared with
        assert not phase(name)[0].note


def test_a_result_is_there_at_the_end_and_its_wer_when_it_was_decoded(
    paper: dict[str, ModuleType], plan: object, corpus: object
) -> None:
    trial, other = plan.phase("headline")[:2]  # type: ignore[attr-defined]
    result = paper["trial"].result
    assert result(corpus, trial) is None
    finish(corpus, trial, -1.5)
    assert (result(corpus, trial).final.valid_logprob, result(corpus, trial).last.valid_logprob) == (-1.5, -1.51)
    assert math.isnan(result(corpus, trial).wer)
    assert paper["run"].finished(corpus, trial, decodes=False)
    assert not paper["run"].finished(corpus, trial, decodes=True)
    finish(corpus, other, -1.4, wer=5.0)
    assert result(corpus, other).wer == 5.0
    assert paper["run"].finished(corpus, other, decodes=True)


def test_a_trial_or_a_corpus_with_other_settings_is_refused(
    paper: dict[str, ModuleType], plan: object, corpus: object, tmp_path: Path
) -> None:
    trial = plan.phase("headline")[0]  # type: ignore[attr-defined]
    finish(corpus, trial, -1.5)
    assert paper["trial"].result(corpus, trial) is not None
    with pytest.raises(UserError, match=r"made with other settings: epochs was .*, is 77"):
        paper["trial"].result(corpus, dataclasses.replace(trial, epochs=77))
    work = tmp_path / "work"
    work.mkdir()
    (work / "feat_dim").write_text("13\n")
    paper["run"].prepare("full", work)
    paper["run"].prepare("full", work)
    with pytest.raises(UserError, match="--size was full, is quick"):
        paper["run"].prepare("quick", work)


def test_the_best_rates_are_those_of_the_best_model_that_did_not_diverge(
    paper: dict[str, ModuleType], plan: object, corpus: object
) -> None:
    size = paper["plan"].FULL
    grid = size.grid["online-ng"]
    reached = dict(zip(grid, (-1.4, -1.3, math.nan, -1.35), strict=True))
    for rates in grid[:3]:
        finish(corpus, plan.trial("online-ng", 4, rates), reached[rates])  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="--phases=rates"):
        paper["run"].best_rates(corpus, size, "online-ng", 16)
    finish(corpus, plan.trial("online-ng", 4, grid[3]), reached[grid[3]])  # type: ignore[attr-defined]
    assert paper["run"].best_rates(corpus, size, "online-ng", 16) == grid[1]  # looked for at 4 jobs


def test_tables_show_the_mean_and_half_the_range_over_seeds_and_the_loss(
    paper: dict[str, ModuleType], plan: object, corpus: object
) -> None:
    for seed, logprob in enumerate((-1.2, -1.3, -1.25)):
        finish(corpus, plan.at_best("online-ng", 1, seed), logprob, wer=8.0 + seed)  # type: ignore[attr-defined]
    finish(corpus, plan.at_best("online-ng", 4), -1.5, wer=10.0)  # type: ignore[attr-defined]
    report = paper["report"].Report(corpus, plan)
    tables = report.tables()
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in tables["headline"].splitlines()]
    assert [line[0] for line in lines[2:]] == ["1", "2", "4", "8", "16"]
    assert lines[2][-3:] == ["-1.2500 ± 0.050", "+0.0 %", "9.00 ± 1.0"]
    assert lines[3][-3:] == ["-", "-", "-"]  # not trained
    assert lines[4][-3:] == ["-1.5000", "+20.0 %", "10.00"]
    assert "cost" not in tables
    quick = paper["report"].Report(corpus, paper["plan"].Plan(paper["plan"].QUICK, plan.best))  # type: ignore[attr-defined]
    assert set(quick.tables()) == {"headline", "beyond"}  # what it does not train is not shown as missing
    beyond = tables["beyond"].splitlines()
    assert "-1.2500 ± 0.050" in beyond[2]
    assert "+20.0 %" in beyond[4]


def test_what_a_job_costs_survives_its_file(paper: dict[str, ModuleType], tmp_path: Path) -> None:
    cost = paper["cost"]
    path = str(tmp_path / "cost.tsv")
    assert cost.read(path) is None
    seconds = cost.Cost(0.6, {"sgd": 0.005, "simple-ng": 0.0135, "online-ng": 0.0084}, 0.015)
    cost.write(seconds, path)
    assert cost.read(path) == seconds
    assert seconds.job("sgd", 100) == pytest.approx(1.1)


def test_tables_go_between_their_marks_and_the_rest_stays(paper: dict[str, ModuleType], tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table a -->\nold\n<!-- end -->\nbetween \\1\n<!-- table b -->\nkept\n<!-- end -->\n")
    paper["report"]._update(page, {"a": "| 1 \\2 |\n", "absent": "x\n"})
    assert page.read_text() == (
        "before\n<!-- table a -->\n\n| 1 \\2 |\n\n<!-- end -->\nbetween \\1\n<!-- table b -->\nkept\n<!-- end -->\n"
    )


def test_a_trial_that_fails_ends_the_phase_and_starts_no_other(
    paper: dict[str, ModuleType], plan: object, corpus: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def complete(corpus: object, trial: object, decodes: bool, stop: threading.Event) -> object:
        if stop.wait(0.3):
            return trial
        begun.append(trial)
        if len(begun) == 2:
            raise UserError("train_dnn.py failed")
        return trial

    monkeypatch.setattr(type(corpus), "egs", lambda self, frames: "egs")
    monkeypatch.setattr(paper["run"], "complete", complete)
    with pytest.raises(UserError, match=r"train_dnn.py failed"):
        paper["run"].run_phase(corpus, plan, "headline", 1)
    assert len(begun) <= 3


def test_what_is_not_a_size_or_a_phase_is_one_error() -> None:
    for option, says in (("--size=huge", "full, quick, fsdd"), ("--phases=headlines", "headline")):
        done = subprocess.run([sys.executable, PAPER / "run.py", option], capture_output=True, text=True)
        assert done.returncode == 1
        assert says in next(line for line in done.stderr.splitlines() if line.startswith("ERROR"))


STOPPED = """
import subprocess, sys, time
sys.path.insert(0, {paper!r})
import plan, run
from trial import Corpus, Rates
from nnet3py.driver.experiment import termination_interrupts
Corpus.egs = lambda self, frames: "egs"
def complete(corpus, trial, decodes, stop):
    corpus.run(["sleep", "60"], trial.name)
run.complete = complete
class Popen(subprocess.Popen):  # a child is there for a while before who started it goes on, as on a busy machine
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        time.sleep({pause})
subprocess.Popen = Popen
trials = plan.Plan(plan.FULL, lambda method, jobs: Rates(0.01, 0.001))
with termination_interrupts():
    run.run_phase(Corpus({work!r}, "make_configs.py"), trials, "headline", 2)
"""


@pytest.mark.parametrize("pause", [0.0, 0.5])
def test_a_run_that_is_stopped_takes_its_trainings_with_it(pause: float, tmp_path: Path) -> None:
    script = STOPPED.format(paper=str(PAPER), work=str(tmp_path), pause=pause)
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30.0
    while len(children := _children(process.pid)) < (1 if pause else 2):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()  # it alone: a terminal's Ctrl-C would reach all
    assert process.wait(timeout=20) != 0
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
    assert len(list(tmp_path.glob("log/*.log"))) <= 2  # no other was begun


def _children(pid: int) -> list[str]:
    found = [Path(f"/proc/{pid}/task/{task}/children") for task in os.listdir(f"/proc/{pid}/task")]
    return [child for path in found for child in path.read_text().split()]


TINY = """
import sys
sys.path.insert(0, {paper!r})
import cost, plan, run
cost.REPEATS, cost.MANY = 1, 40
plan.SIZES["tiny"] = plan.Size(hours=0.06, epochs=0.7, jobs=(1, 4), frames={{1: 4000, 4: 2000}}, grid=plan.GOOD_ENOUGH,
                               grid_jobs={{1: 1, 4: 4}}, everything_jobs=(4,), phases=("beyond",))
plan.EVERYTHING[4] = (0.6, 1500)
run.write_report = lambda corpus, size: None
run.main(args=["--size=tiny", "--work={work}"])
"""


@pytest.mark.long
@pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {ABSENT}; pip install nnet3py[recipes]")
def test_a_tiny_plan_is_trained_and_decoded_and_not_done_again(paper: dict[str, ModuleType], tmp_path: Path) -> None:
    for name in ("bin", "steps", "nnet3py"):
        (tmp_path / name).symlink_to(ROOT / name)
    recipe = tmp_path / "egs" / "digits" / "s5"
    shutil.copytree(ROOT / "egs/digits/s5", recipe, ignore=shutil.ignore_patterns("data", "exp", "__pycache__"))
    work = tmp_path / "work"
    script = TINY.format(paper=str(recipe / "local" / "paper"), work=work)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    times = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        found = sorted(work.glob("trials/*/final.mdl")) + sorted(work.glob("trials/*/decode_test/wer_*"))
        times.append({path: path.stat().st_mtime_ns for path in found})
    assert len(times[0]) == 6  # 1 job, 4 jobs, 4 jobs with everything, each with its error rate
    assert times[0] == times[1]
    assert paper["cost"].read(str(work / "cost.tsv")) is not None
