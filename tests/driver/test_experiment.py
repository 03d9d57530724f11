"""What a training directory remembers, what logs say, what reports hold."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from nnet3py.driver.diagnostics import (
    ExamplesUsed,
    LimitedChanges,
    read_examples_used,
    read_limited_changes,
    read_probability,
    read_training_objective,
    select_models,
)
from nnet3py.driver.directory_lock import locked
from nnet3py.driver.experiment import Experiment
from nnet3py.driver.held_out import drawn
from nnet3py.driver.progress_line import ProgressLine, clock
from nnet3py.driver.report import Progress, accuracy_report, data_report, read_progress, write_progress
from nnet3py.driver.schedule import Schedule
from nnet3py.errors import UserError


def row(model: str, seconds: float = 2.0, **changes: float) -> Progress:
    values = {
        "epoch": 0.5,
        "archives": 3,
        "jobs": 2.0,
        "learning_rate": 0.01,
        "train_logprob": -1.25,
        "valid_logprob": -1.5,
        "train_accuracy": 0.75,
        "valid_accuracy": 0.5,
        "iteration_seconds": seconds,
        "seconds": 4.0,
        "max_change": 12.5,
        "max_change_components": {"affine1": 3.0, "output.affine": 0.5},
        "not_finite": 1.0,
        "examples": 500.0,
        "discarded": 3.0,
        "minibatches": 16.0,
        "frames": 4000.0,
    }
    return Progress(model=model, **{**values, **changes})  # type: ignore[arg-type]


def test_the_last_model_is_the_newest_of_the_iterations(tmp_path: Path) -> None:
    experiment = Experiment(str(tmp_path))
    assert experiment.last_model() is None
    for name in ("0.raw", "9.raw", "10.raw", "11.1.raw", "init.raw", ".12.raw.77.tmp", "final.raw"):
        (tmp_path / name).touch()
    assert experiment.models() == [0, 9, 10]
    assert experiment.last_model() == 10


def test_going_back_forgets_later_models_only(tmp_path: Path) -> None:
    for name in ("0.raw", "1.raw", "2.raw", "3.2.raw", "init.raw", "final.raw", "final.priors"):
        (tmp_path / name).touch()
    Experiment(str(tmp_path)).remove_models_after(1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.raw", "1.raw", "init.raw"]


def test_changed_options_are_named_and_noted_only_when_forced(tmp_path: Path) -> None:
    experiment = Experiment(str(tmp_path))
    assert experiment.record("options.json", {"--a": 1, "--b": ("x",)}, force=False) == {}
    assert experiment.record("options.json", {"--a": 1, "--b": ("x",)}, force=False) == {}
    assert experiment.record("options.json", {"--a": 2, "--b": ("x",)}, force=False) == {"--a": (1, 2)}
    assert experiment.record("options.json", {"--a": 2, "--b": ("x",)}, force=True) == {"--a": (1, 2)}
    assert experiment.record("options.json", {"--a": 2, "--b": ("x",)}, force=False) == {}


def test_an_option_that_is_newer_than_the_record_had_its_default(tmp_path: Path) -> None:
    experiment = Experiment(str(tmp_path))
    experiment.record("options.json", {"--a": 1}, force=False)
    defaults = {"--a": 0, "--new": 5}
    assert experiment.record("options.json", {"--a": 1, "--new": 5}, force=False, defaults=defaults) == {}
    changed = experiment.record("options.json", {"--a": 1, "--new": 6}, force=False, defaults=defaults)
    assert changed == {"--new": (5, 6)}


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_a_damaged_record_of_options_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "options.json").write_text(text)
    with pytest.raises(UserError, match=r"options\.json"):
        Experiment(str(tmp_path)).record("options.json", {"--a": 1}, force=False)


def test_two_drivers_cannot_share_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnet3py.driver.directory_lock._WAIT_SECONDS", 0.3)
    script = (
        "import sys, time\n"
        "from nnet3py.driver.directory_lock import locked\n"
        "with locked(sys.argv[1], 'first'):\n"
        "    print('locked', flush=True)\n"
        "    time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "locked\n"
    with (
        pytest.raises(UserError, match=rf"first of .* process {other.pid} on .*, since 20"),
        locked(str(tmp_path), "second"),
    ):
        pass
    other.kill()
    other.communicate()
    with locked(str(tmp_path), "second"):
        pass


PROBABILITY_LOG = """\
LOG (nnet3-compute-prob[5.5]:PrintTotalStats():nnet-diagnostics.cc:165) Overall log-likelihood for 'output' is -1.25 per frame, over 400 frames.
LOG (nnet3-compute-prob[5.5]:PrintTotalStats():nnet-diagnostics.cc:181) Overall accuracy for 'output' is 0.625 per frame, over 400 frames.
"""  # noqa: E501


def test_log_probability_and_accuracy_are_read_from_kaldis_lines(tmp_path: Path) -> None:
    (tmp_path / "x.log").write_text(PROBABILITY_LOG)
    found = read_probability(str(tmp_path / "x.log"))
    assert (found.log_probability, found.accuracy) == (-1.25, 0.625)


def test_a_regression_has_no_accuracy(tmp_path: Path) -> None:
    line = PROBABILITY_LOG.splitlines()[0].replace("log-likelihood", "objective")
    (tmp_path / "x.log").write_text(line)
    found = read_probability(str(tmp_path / "x.log"))
    assert found.log_probability == -1.25
    assert math.isnan(found.accuracy)


def test_a_log_without_a_result_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.log").write_text("LOG nothing\n")
    with pytest.raises(UserError, match=r"x\.log"):
        read_probability(str(tmp_path / "x.log"))


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("LOG (x) Overall average objective function for 'output' is -1.5 over 4000 frames.", -1.5),
        ("LOG (x) Overall average objective function for 'output' is -1.5 + -0.1 = -1.6 over 4000 frames.", -1.6),
        ("LOG (x) Overall average objective function for 'output' is -1.5e-05 over 1.2e+06 frames.", -1.5e-05),
    ],
)
def test_a_jobs_objective_is_read_from_kaldis_line(line: str, value: float, tmp_path: Path) -> None:
    (tmp_path / "x.log").write_text(f"{line}\n# Accounting: time=3 threads=1\n")
    assert read_training_objective(str(tmp_path / "x.log")) == value


def test_how_often_limits_were_reached_is_the_mean_over_the_jobs(tmp_path: Path) -> None:
    """The lines as Kaldi's nnet3-train prints them."""
    prefix = "LOG (nnet3-train[5.5]:PrintMaxChangeStats():nnet-training.cc:276)"
    (tmp_path / "1.log").write_text(
        f"{prefix} For affine1, per-component max-change was enforced 12.5 % of the time.\n"
        f"{prefix} For output.affine, per-component max-change was enforced 50 % of the time.\n"
        f"{prefix} The global max-change was enforced 1.5e-01 % of the time.\n"
        "WARNING (nnet3-train[5.5]:UpdateNnetWithMaxChange():nnet-utils.cc:2060) Infinite parameter change, will not "
        "apply.\n" * 3
    )
    (tmp_path / "2.log").write_text(
        f"{prefix} For output.affine, per-component max-change was enforced 10 % of the time.\n"
    )
    (tmp_path / "3.log").write_text("LOG nothing was limited\n")
    found = read_limited_changes([str(tmp_path / f"{job}.log") for job in (1, 2, 3)])
    assert found.whole == pytest.approx(0.05)
    assert found.components == {"affine1": pytest.approx(12.5 / 3), "output.affine": pytest.approx(20)}
    assert found.not_finite == 3


def test_what_became_of_examples_is_added_up_over_jobs_and_shapes(tmp_path: Path) -> None:
    """The lines as Kaldi's nnet3-merge-egs and nnet3-train print them."""
    prefix = "LOG (nnet3-merge-egs[5.5]:PrintSpecificStats():nnet-example-utils.cc:1164)"
    header = "Merged specific eg types as follows [format: <eg-size1>={<mb-size1>-><num-minibatches1>,.../d=<num>}"
    (tmp_path / "1.log").write_text(
        f"{prefix} {header}\n{prefix} 12={{32->3,4->1,d=2}},18={{32->1,d=7}}\n{prefix} Processed 141 egs of avg. size "
        "13.66 into 5 minibatches, discarding 6.383% of egs.  Avg minibatch size was 26.4, #distinct types of "
        "egs/minibatches was 2/3\nLOG (x) Overall average objective function for 'output' is -1.5 over 1056 frames.\n"
    )
    (tmp_path / "2.log").write_text(
        f"{prefix} {header}\n{prefix} 12={{64->1,d=0}}\n{prefix} Processed 64 egs of avg. size 12 into 1 minibatches, "
        "discarding 0% of egs.\nLOG (x) Overall average objective function for 'output' is -1.5 over 512 frames.\n"
    )
    found = read_examples_used([str(tmp_path / "1.log"), str(tmp_path / "2.log")])
    assert found == ExamplesUsed(examples=205, discarded=9, minibatches=6, frames=1568.0)
    (tmp_path / "3.log").write_text("LOG another trainer\n")
    assert math.isnan(read_examples_used([str(tmp_path / "1.log"), str(tmp_path / "3.log")]).examples)
    assert math.isnan(read_examples_used([]).discarded)


def test_the_report_says_what_training_did_with_its_examples() -> None:
    counts = {"examples": 100.0, "discarded": 10.0, "minibatches": 4.0, "frames": 720.0}
    rows = [row("0", **counts), row("1", **counts), row("2", examples=math.nan)]
    lines = data_report("Used 3 of 3 utterances; left out none.", rows).splitlines()
    assert lines[:2] == ["# data", "Used 3 of 3 utterances; left out none."]
    assert lines[2].startswith("Training read 200 examples and discarded 20 of them (10 %)")
    assert lines[2].endswith("it saw 1440 frames.")
    assert lines[3] == "2 of 8 minibatches (25 %) gave a change that was not finite."
    assert data_report("", [row("0", examples=math.nan)]) == ""


def test_without_logs_nothing_is_known_of_the_limits_and_a_missing_one_is_named(tmp_path: Path) -> None:
    assert math.isnan(read_limited_changes([]).whole)
    assert LimitedChanges().components == {}
    with pytest.raises(UserError, match=r"train\.0\.1\.log"):
        read_limited_changes([str(tmp_path / "train.0.1.log")])


def test_a_job_that_fell_far_behind_or_diverged_is_left_out() -> None:
    assert select_models([-1.0, -1.9, -2.1, math.nan]).accepted == [1, 2]
    assert select_models([-3.0, -2.5, -2.5]).best == 2
    with pytest.raises(UserError, match="diverged"):
        select_models([math.nan, -math.inf])


def test_progress_comes_back_as_written(tmp_path: Path) -> None:
    rows = [row("0"), row("1", learning_rate=0.0125), row("final", jobs=math.nan)]
    write_progress(str(tmp_path / "progress.tsv"), rows)
    found = read_progress(str(tmp_path / "progress.tsv"))
    assert found[:2] == rows[:2]
    assert math.isnan(found[2].jobs)
    assert read_progress(str(tmp_path / "none.tsv")) == []


def test_progress_of_a_version_that_did_not_record_the_limits_is_read(tmp_path: Path) -> None:
    path = tmp_path / "progress.tsv"
    write_progress(str(path), [row("0")])
    path.write_text("".join("\t".join(line.split("\t")[:11]) + "\n" for line in path.read_text().splitlines()))
    (found,) = read_progress(str(path))
    assert (found.model, found.valid_logprob, found.seconds) == ("0", -1.5, 4.0)
    assert math.isnan(found.max_change)
    write_progress(str(path), [found, row("1")])
    assert [math.isnan(again.max_change) for again in read_progress(str(path))] == [True, False]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-9],
        lambda text: text.replace("0.5", "half"),
        lambda _: "x\n",
        lambda text: text.replace("affine1:3", "affine1"),
        lambda text: text.replace("12.5\taffine1", "12.5\t1\taffine1"),
    ],
)
def test_damaged_progress_is_an_error(damage, tmp_path: Path) -> None:
    path = tmp_path / "progress.tsv"
    write_progress(str(path), [row("0")])
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match=r"progress\.tsv"):
        read_progress(str(path))


def test_the_report_has_kaldis_columns_and_total() -> None:
    report = accuracy_report([row("0", 1.5), row("1", 62.0), row("2", math.nan), row("final", math.nan)])
    lines = report.splitlines()
    assert lines[0] == "%Iter\tduration\ttrain_objective\tvalid_objective\tdifference"
    assert lines[1:3] == ["0\t1.5\t0.75\t0.5\t-0.25", "1\t62.0\t0.75\t0.5\t-0.25"]
    assert lines[3] == "Total training time is 0:01:04"
    assert "1\t62.0\t-1.25\t-1.5\t-0.25" in lines


def test_the_report_says_how_often_the_limits_on_the_change_were_reached() -> None:
    lines = accuracy_report([row("0"), row("1", not_finite=0.0), row("2", math.nan, max_change=math.nan)]).splitlines()
    assert lines[-3:] == [
        "%Iter\tglobal\tcomponents\tnot_finite",
        "0\t12.5\taffine1:3,output.affine:0.5\t1",
        "1\t12.5\taffine1:3,output.affine:0.5\t0",
    ]
    assert "max-change" not in accuracy_report([row("0", max_change=math.nan)])


def small_schedule() -> Schedule:
    return Schedule(2, 4, 1, 1, 3, 0.1, 0.01)


def test_a_terminal_has_one_line_and_a_log_a_line_an_iteration(capsys: pytest.CaptureFixture[str]) -> None:
    schedule = small_schedule()
    for terminal in (True, False):
        line = ProgressLine(schedule, terminal=terminal)
        for iteration in schedule.iterations:
            line.iteration_done(iteration, 2.0, row(str(iteration.index)))
        line.end()
        text = capsys.readouterr().err
        assert text.count("\n") == (1 if terminal else len(schedule.iterations))
        assert text.count("\r") == (len(schedule.iterations) if terminal else 0)
        assert "-1.5" in text
        assert "0:00 left" in text
    assert f"Iter: 1/{schedule.num_iterations - 1}   Jobs: " in text


def test_time_left_follows_the_archives_to_come(capsys: pytest.CaptureFixture[str]) -> None:
    schedule = small_schedule()
    first = schedule.iterations[0]
    ProgressLine(schedule, terminal=False).iteration_done(first, 10.0, None)
    left = (schedule.archives_processed - first.jobs) * 10.0 / first.jobs
    assert f"{clock(left)} left" in capsys.readouterr().err


def test_times_are_shown_as_clocks() -> None:
    assert [clock(seconds) for seconds in (0, 59.6, 61, 3723)] == ["0:00", "1:00", "1:01", "1:02:03"]


def test_a_draw_depends_on_the_seed_and_not_on_the_order() -> None:
    utterances = [f"u{number}" for number in range(100)]
    assert drawn(utterances, 10, 1) == drawn(reversed(utterances), 10, 1)
    assert drawn(utterances, 10, 1) != drawn(utterances, 10, 2)
