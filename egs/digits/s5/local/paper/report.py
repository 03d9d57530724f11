#!/usr/bin/env python3
"""Tables and figures of the paper's comparisons; see --help."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import replace
from pathlib import Path

import cost
from plan import EVERYTHING, METHODS, SIZES, Plan
from run import RECIPE, best_rates
from trial import Corpus, Result, Trial, result

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.program import argument, option, program
from nnet3py.temporary_files import replacing
from nnet3py.text.lines import read_text, write_text

MISSING = "-"


@program(
    usage="report.py [options] <work>",
    example="local/paper/report.py --size=quick exp/paper_quick",
)
@option("--size", default="full", metavar="full|quick|fsdd", help="The size that <work> was made with.")
@option("--update", default="", metavar="FILE", help="Also put the tables in FILE, between its table markers.")
@option("--figures", default="", metavar="DIR", help="Put the figures there; default: <work>/report.")
@argument("work", metavar="<work>")
def main(work: str, size: str, update: str, figures: str) -> None:
    """Write the tables and figures of what is finished in <work>, a directory that run.py works in.

    The tables go into <work>/report/tables.md. With --update each also replaces what stands between the lines
    <!-- table NAME --> and <!-- end --> of a file (fsdd-NAME, quick-NAME with those sizes). What is not finished shows
    as a dash.
    """
    if size not in SIZES:
        raise UserError(f"--size={size} is not one of {', '.join(SIZES)}.")
    corpus = Corpus(str(Path(work).absolute()), str(RECIPE / "local/make_configs.py"))
    report = Report(corpus, Plan(SIZES[size], lambda method, jobs: best_rates(corpus, SIZES[size], method, jobs)))
    tables = report.tables()
    folder = Path(corpus.path("report"))
    folder.mkdir(exist_ok=True)
    text = "\n".join(f"## {name}\n\n{table}" for name, table in tables.items())
    write_text(folder / "tables.md", text)
    if update:
        _update(Path(update), {name if size == "full" else f"{size}-{name}": table for name, table in tables.items()})
    report.figures(Path(figures) if figures else folder)
    log.log(f"Wrote {len(tables)} tables into {folder / 'tables.md'}")


def _update(path: Path, tables: dict[str, str]) -> None:
    text = read_text(path)
    for name, table in tables.items():
        marked = re.compile(rf"(<!-- table {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = marked.sub(lambda match, table=table: f"{match[1]}\n{table}\n{match[2]}", text)
    write_text(path, text)


class Report:
    """What the finished trials of a plan show."""

    def __init__(self, corpus: Corpus, plan: Plan) -> None:
        self.corpus = corpus
        self.plan = plan
        self.size = plan.size
        self.cost = cost.read(corpus.path("cost.tsv"))

    def tables(self) -> dict[str, str]:
        """By name, every table that there are results for."""
        makers = {
            "rates": self._rates,
            "headline": self._headline,
            "cost": self._cost,
            "time": self._time,
        }
        lists = [name for name in ("beyond", "parts", "sensitivity", "threads") if name in self.size.phases]
        makers |= {name: functools.partial(self._list, name) for name in lists}
        found = {}
        for name, make in makers.items():
            try:
                table = make()
            except UserError as problem:  # the rates that it needs are not known yet
                table = f"Not measured yet: {problem}\n"
            if table:
                found[name] = table
        return found

    def _result(self, trial: Trial) -> Result | None:
        return result(self.corpus, trial)

    def _rates(self) -> str:
        """Final log-probability on validation data by rates, for the numbers of jobs that they were tried at."""
        if max(len(rates) for rates in self.size.grid.values()) == 1:
            return ""
        tried = sorted(set(self.size.grid_jobs.values()))
        lines = [["method", "rates", *(_jobs(jobs) for jobs in tried)]]
        for method in METHODS:
            values = {
                (rates, jobs): _logprob(self._result(self.plan.trial(method, jobs, rates)))
                for rates in self.size.grid[method]
                for jobs in tried
            }
            best = {jobs: _best(values[rates, jobs] for rates in self.size.grid[method]) for jobs in tried}
            for rates in self.size.grid[method]:
                cells = [_number(values[rates, jobs], values[rates, jobs] == best[jobs]) for jobs in tried]
                lines.append([METHODS[method], str(rates), *cells])
        return _table(lines)

    def _headline(self) -> str:
        """Each method at each number of jobs: log-probability, what it lost beside one job, WER."""
        lines = [["jobs", "iterations", *(f"{METHODS[method]}: {what}" for method in METHODS for what in _HEADLINE)]]
        ones: dict[str, float] = {}
        for jobs in self.size.jobs:
            cells, iterations = [], MISSING
            for method in METHODS:
                found = [self._result(self.plan.at_best(method, jobs, seed)) for seed in self.size.seeds]
                done = [one for one in found if one is not None]
                values = [_logprob(one) for one in done]
                if done:
                    iterations = done[0].last.model
                mean = _mean(values)
                ones.setdefault(method, mean)
                cells += [_spread(values), _loss(mean, ones[method]), _spread([one.wer for one in done], 2)]
            lines.append([str(jobs), iterations, *cells])
        return _table(lines)

    def _cost(self) -> str:
        if self.cost is None:
            return ""
        plain = self.cost.minibatch["sgd"]
        lines = [["method", "ms a minibatch", "over plain SGD"]]
        lines += [
            [METHODS[m], f"{1000 * s:.1f}", f"{100 * (s / plain - 1):+.0f} %"] for m, s in self.cost.minibatch.items()
        ]
        lines += [["a job's start (programs, model)", f"{1000 * self.cost.start:.0f}", ""]]
        lines += [["averaging, for each model", f"{1000 * self.cost.average:.0f}", ""]]
        return _table(lines)

    def _time(self) -> str:
        """Simulated seconds until training ends, on a machine with as many slots as jobs."""
        if self.cost is None:
            return ""
        lines = [["jobs", *METHODS.values(), "speed-up (online)"]]
        first = math.nan
        for jobs in self.size.jobs:
            found = {method: self._result(self.plan.at_best(method, jobs)) for method in METHODS}
            seconds = {method: self._clock(one)[-1] if one else math.nan for method, one in found.items()}
            if jobs == self.size.jobs[0]:
                first = seconds["online-ng"]
            cells = [_number(seconds[method], digits=0) for method in METHODS]
            lines.append([str(jobs), *cells, _number(first / seconds["online-ng"], digits=1)])
        return _table(lines)

    def _clock(self, one: Result) -> list[float]:
        """By model, the simulated seconds of training before it."""
        assert self.cost is not None
        minibatches = one.trial.frames / self.corpus.frames_per_eg / self.corpus.minibatch
        clock = [0.0]
        for row in one.rows[:-2]:
            job = self.cost.job(one.trial.method, minibatches)
            clock.append(clock[-1] + job + row.jobs * self.cost.average)
        return clock

    def _list(self, phase: str) -> str:
        """A phase's trials, one a row, beside the first of them."""
        lines = [["training", "jobs", "frames a job", "rates", "iterations", *_COLUMNS]]
        one = math.nan
        for trial in self.plan.phase(phase):
            found = self._seeds(phase, trial)
            values = [_logprob(each) for each in found]
            if len(lines) == 1:
                one = _mean(values)
            jobs = f"{trial.jobs_initial} to {trial.jobs}" if trial.jobs_initial else f"{trial.jobs}"
            last = _mean([each.last.valid_logprob for each in found])
            cells = [
                _spread(values),
                _number(last),
                _loss(_mean(values), one),
                _spread([each.wer for each in found], 2),
            ]
            iterations = found[0].last.model if found else MISSING
            lines.append([trial.note or "as the paper", jobs, str(trial.frames), str(trial.rates), iterations, *cells])
        return _table(lines)

    def _seeds(self, phase: str, trial: Trial) -> list[Result]:
        """What a trial reached, and the same trial with the other seeds where the table is one of headline figures."""
        seeds = self.size.seeds if phase == "beyond" else (0,)
        found = [self._result(replace(trial, seed=seed)) for seed in seeds]
        return [one for one in found if one is not None]

    # The figures.

    def figures(self, folder: Path) -> None:
        """Write every figure that there are results for."""
        try:
            import matplotlib

            matplotlib.use("Agg")
            from matplotlib import pyplot
        except ImportError as problem:
            raise UserError(f"The figures need matplotlib ({problem}): pip install nnet3py[recipes]") from problem
        folder.mkdir(parents=True, exist_ok=True)
        try:
            found = {
                (method, jobs): self._result(self.plan.at_best(method, jobs))
                for method in METHODS
                for jobs in self.size.jobs
            }
        except UserError:
            return
        self._curves(pyplot, found, folder / "logprob-by-epoch.png", by_time=False)
        if self.cost is not None:
            self._curves(pyplot, found, folder / "logprob-by-time.png", by_time=True)
        self._by_jobs(pyplot, found, folder / "logprob-by-jobs.png")

    def _curves(self, pyplot: object, found: dict, path: Path, *, by_time: bool) -> None:
        figure, panels = pyplot.subplots(1, len(METHODS), figsize=(13, 4.2), sharey=True)  # type: ignore[attr-defined]
        colours = pyplot.get_cmap("viridis")  # type: ignore[attr-defined]
        for axes, method in zip(panels, METHODS, strict=True):
            below: list[str] = []
            for place, jobs in enumerate(self.size.jobs):
                one = found[method, jobs]
                if one is None:
                    continue
                rows = [row for row in one.rows[:-1] if not math.isnan(row.valid_logprob)]
                clock = self._clock(one) if by_time else [row.epoch for row in rows]
                colour = colours(0.9 * place / max(1, len(self.size.jobs) - 1))
                axes.plot(clock[1:], [row.valid_logprob for row in rows][1:], color=colour, label=_jobs(jobs))
                final = one.final.valid_logprob
                if final < _LOWEST:
                    below.append(f"{_jobs(jobs)}: {final:.2f}")
                else:
                    axes.plot(clock[-1:], [final], "*", color=colour, markersize=10)
            if below:
                axes.text(0.03, 0.97, "\n".join(["below:", *below]), transform=axes.transAxes, va="top")
            axes.set_title(METHODS[method])
            axes.set_xlabel("seconds of training, simulated" if by_time else "epochs")
            axes.grid(alpha=0.3)
            if by_time:
                axes.set_xscale("log")
            axes.set_ylim(_LOWEST, -1.1)
        panels[0].set_ylabel("log-probability per frame, validation data")
        panels[-1].legend(title="star: final model", fontsize="small")
        _save(figure, path)

    def _by_jobs(self, pyplot: object, found: dict, path: Path) -> None:
        figure, axes = pyplot.subplots(figsize=(6.5, 4.5))  # type: ignore[attr-defined]
        for method in METHODS:
            points = [(jobs, _logprob(found[method, jobs])) for jobs in self.size.jobs]
            axes.plot(*zip(*points, strict=True), marker="o", label=METHODS[method])
        most = [
            (jobs, _logprob(self._result(self.plan.everything(jobs)))) for jobs in EVERYTHING if jobs in self.size.jobs
        ]
        points = [point for point in most if not math.isnan(point[1])]
        if points:
            label = "online, with momentum, carried estimates,\ngrowing jobs, short iterations"
            axes.plot(*zip(*points, strict=True), marker="s", linestyle="--", label=label)
        axes.set_xscale("log", base=2)
        axes.set_xticks(self.size.jobs, [str(jobs) for jobs in self.size.jobs])
        axes.set_xlabel("jobs")
        axes.set_ylabel("log-probability per frame of the final model")
        axes.grid(alpha=0.3)
        axes.legend()
        _save(figure, path)


_LOWEST = -2.6  # where the figures of log-probabilities begin
_HEADLINE = ("log-prob", "loss", "WER, %")
_COLUMNS = ("log-prob, final", "log-prob, last model", "loss", "WER, %")


def _save(figure: object, path: Path) -> None:
    figure.tight_layout()  # type: ignore[attr-defined]
    with replacing(str(path)) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})  # type: ignore[attr-defined]


def _jobs(jobs: int) -> str:
    return "1 job" if jobs == 1 else f"{jobs} jobs"


def _logprob(found: Result | None) -> float:
    return found.final.valid_logprob if found else math.nan


def _best(values: object) -> float:
    return max((value for value in values if not math.isnan(value)), default=math.nan)  # type: ignore[attr-defined]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _number(value: float, strong: bool = False, digits: int = 4) -> str:
    if math.isnan(value):
        return MISSING
    text = f"{value:.{digits}f}"
    return f"**{text}**" if strong else text


def _spread(values: list[float], digits: int = 4) -> str:
    """Their mean, and half the range from the smallest to the largest where there are several."""
    if len(values) < 2:
        return _number(_mean(values), digits=digits)
    return f"{_number(_mean(values), digits=digits)} ± {(max(values) - min(values)) / 2:.{digits - 1}f}"


def _loss(value: float, one: float) -> str:
    """By how many percent a log-probability lies below another."""
    loss = 100 * (value / one - 1)
    return MISSING if math.isnan(loss) else f"{loss:+.1f} %"


def _table(lines: list[list[str]]) -> str:
    """Markdown with aligned columns."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    lines = [lines[0], ["-" * width for width in widths], *lines[1:]]
    return "".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |\n"
        for line in lines
    )


if __name__ == "__main__":
    main()
