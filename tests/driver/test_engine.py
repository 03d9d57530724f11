"""Jobs through --cmd: our engine, and others with run.pl's convention."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from nnet3py.driver import options
from nnet3py.driver.engine import Engine, Fault, check_paths, consecutive, pipe, pipeline, require_plain_path
from nnet3py.errors import UserError
from nnet3py.jobs import log_file

OTHER_ENGINE = """\
#!/usr/bin/env bash
# The least that run.pl's convention asks for: one job after the other, words joined by blanks.
[ "$1" = --gpu ] && shift 2
case $1 in JOB=*) last=${1#JOB=1:}; shift;; *) last=1;; esac
log=$1; shift
for job in $(seq $last); do
  command=
  for word in "$@"; do case $word in *" "*) word="\\"$word\\"";; esac; command="$command $word"; done
  bash -c "${command//JOB/$job}" > ${log//JOB/$job} 2>&1 || { echo "other: job $job failed" >&2; exit 1; }
done
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log").mkdir()
    return tmp_path


def test_jobs_run_and_finish(folder: Path) -> None:
    with Engine("run-local --max-jobs-run 1") as engine:
        engine.run("log/x.JOB.log", ["touch", "out.JOB"], what="Testing", jobs=3)
    assert sorted(path.name for path in folder.glob("out.*")) == ["out.1", "out.2", "out.3"]


def test_a_failed_job_is_told_with_its_log_and_last_lines(folder: Path) -> None:
    with Engine("run-local") as engine, pytest.raises(UserError) as failure:
        engine.run("log/x.JOB.log", ["test", "JOB", "!=", "2"], what="Training", jobs=3)
    text = str(failure.value)
    assert text.startswith("Training: 1 of 3 failed; the log log/x.2.log says:")
    assert "test 2 != 2" in text


def test_another_engine_serves_and_its_failures_are_told(folder: Path) -> None:
    path = folder / "other.sh"
    path.write_text(OTHER_ENGINE)
    path.chmod(0o755)
    with Engine("./other.sh --gpu 1") as engine:
        engine.run("log/x.JOB.log", ["echo", "a  JOB", ">", "out.JOB"], what="Testing", jobs=2)
        assert (folder / "out.2").read_text() == "a  2\n"
        with pytest.raises(UserError, match=r"log/y\.1\.log says"):
            engine.run("log/y.JOB.log", ["ls", "missing"], what="Testing", jobs=2)


def test_a_job_that_had_nothing_to_do_is_not_started_again_and_not_lost(folder: Path) -> None:
    with Engine("run-local", max_retries=2) as engine:
        words = ["echo", "x", ">>", "tries.JOB", ";", "test", "JOB", "=", "3"]
        idle = engine.run("log/x.JOB.log", words, what="Testing", jobs=3, excused=lambda job: job < 3)
        assert idle == {1, 2}
        assert (folder / "tries.1").read_text() == "x\n"
        with pytest.raises(UserError, match="1 of 3 failed 3 times"):
            engine.run("log/y.JOB.log", words, what="Testing", jobs=3, excused=lambda job: job == 1)
        killed = ["kill", "-9", "$$"]
        with pytest.raises(UserError, match="ended by SIGKILL"):
            engine.run("log/z.JOB.log", killed, what="Testing", jobs=1, excused=lambda job: True)


@pytest.mark.parametrize("command", ["", "no-such-engine", "'open quote"])
def test_an_engine_that_is_not_there_is_an_error(command: str, folder: Path) -> None:
    with pytest.raises(UserError), Engine(command) as engine:
        engine.run("log/x.log", ["true"], what="Testing")


def test_what_an_engine_says_is_shown_when_no_job_ran(folder: Path) -> None:
    with Engine("run-local --max-jobs-run none") as engine, pytest.raises(UserError, match="max-jobs-run"):
        engine.run("log/x.log", ["true"], what="Testing")


def test_leaving_ends_what_still_runs(folder: Path) -> None:
    with Engine("run-local") as engine:
        engine.start("log/x.log", ["echo", "$$", ">", "pid", ";", "sleep", "60"], what="Testing")
        deadline = time.monotonic() + 10
        while not (folder / "pid").exists() or not (folder / "pid").read_text().strip():
            assert time.monotonic() < deadline
            time.sleep(0.02)
    group = int((folder / "pid").read_text())
    left = subprocess.run(["ps", "-o", "pid=", "-g", str(group)], capture_output=True, text=True).stdout.split()
    assert str(group) not in left
    assert log_file.status("log/x.log") != 0


@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_pipe_fails_if_any_of_its_commands_fails(broken: int, folder: Path) -> None:
    commands = ["echo x", "cat", "cat"]
    commands[broken] = f"bash -c '{'cat; ' if broken else ''}exit 3'".replace("'", '"')
    assert subprocess.run(pipe(*commands).removesuffix(" |"), shell=True, stdin=subprocess.DEVNULL).returncode != 0


def test_a_pipeline_of_jobs_fails_if_an_early_command_fails(folder: Path) -> None:
    with Engine("run-local") as engine:
        engine.run("log/x.log", pipeline(["echo", "a b"], ["cat"]), what="Testing")
        with pytest.raises(UserError):
            engine.run("log/x.log", pipeline(["false"], ["cat"]), what="Testing")


@pytest.mark.parametrize("path", ["my data", "a;b", "x$y", "JOBS", "a'b", "a|b", "a(b)", 'a"b', "a*", "-a", "a\n", ""])
def test_paths_that_a_pipeline_would_break_are_refused(path: str) -> None:
    with pytest.raises(UserError):
        require_plain_path("--dir", path)


def test_usual_paths_are_accepted() -> None:
    assert require_plain_path("--dir", "../exp/dnn-1_a.b+c/egs,2@x") == "../exp/dnn-1_a.b+c/egs,2@x"
    assert os.sep in require_plain_path("--dir", str(Path("/tmp") / "x"))


@dataclass(frozen=True)
class _Options:
    folder: str = options._option("--folder", "", "A directory.", kind="path")
    words: str = options._option("--words", "", "Options.", kind="words")
    more: tuple[str, ...] = options._option("--more", (), "An option, repeated.", kind="words", multiple=True)
    table: str = options._option("--table", "", "A table.", kind="table")
    arguments: str = options._option("--arguments", "", "Arguments of a driver.", kind="arguments")
    unlooked: str = options._option("--unlooked", "", "Not for a job.")


@pytest.mark.parametrize(
    "given",
    [
        {"folder": "my data"},
        {"folder": "exp/JOB"},
        {"words": "--a=1 --b=$(date)"},
        {"words": "--a=1; touch x"},
        {"words": "--name=JOBS"},
        {"more": ("--a=1", "--b='x'")},
        {"table": "ark:my graphs"},
        {"table": "ark:graphs.JOB.ark"},
        {"table": "ark:cat<x|"},
        {"table": 'ark:cat "x" |'},
        {"arguments": "--cmd 'run-local"},
    ],
)
def test_each_option_is_refused_by_its_name_if_a_command_line_would_change_it(given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"--{next(iter(given))}"):
        check_paths(_Options(**given))


def test_options_and_paths_that_come_through_are_accepted() -> None:
    given = _Options(
        folder="exp/dnn-1",
        words="--norm-vars=true  --skip-dims=13:14:15",
        more=("--momentum=0.5", "--freeze=a,b"),
        table="ark:gunzip -c exp/fsts.*.gz |",
        arguments="--cmd 'run-local --max-jobs-run 2'",
        unlooked="$x y",
    )
    check_paths(given, {"<data-dir>": "data/train"})
    check_paths(_Options())
    with pytest.raises(UserError, match=r"<data-dir> is 'my data': .* symbolic link"):
        check_paths(given, {"<data-dir>": "my data"})


def test_every_text_among_the_drivers_options_says_how_command_lines_have_it() -> None:
    checked_otherwise = {
        "--cmd", "--egs.cmd", "--realign.cmd", "--use-gpu", "--trainer.update-method", "--frames-per-eg", "--acwt",
        "--trainer.learning-rate-factors", "--trainer.dropout-schedule", "--trainer.realign-times",
        "--trainer.optimization.minibatch-size", "--trainer.optimization.combine-method", "--reporting.email",
    }  # fmt: skip
    without = {
        declared.metadata["option"]
        for each in vars(options).values()
        if isinstance(each, type) and is_dataclass(each)
        for declared in fields(each)
        if isinstance(declared.default, str) and not declared.metadata["kind"]
    }
    assert without <= checked_otherwise


@pytest.mark.parametrize(
    "command",
    [
        "run-local JOB=1:4",
        "run-local --max-jobs-run 2 JOB=1",
        "run-slurm -p cpu n=1:3 --mem 2G",
        "retry.pl queue.pl JOB=1:2",
    ],
)
def test_an_engine_with_a_range_of_jobs_is_refused(command: str) -> None:
    with pytest.raises(UserError, match=r"has the range of jobs \w+=1.*: leave it out"):
        Engine(command)


def test_an_engine_with_a_word_that_would_become_the_logs_name_is_refused() -> None:
    with pytest.raises(UserError, match=r"expected options alone after its name, found 'log/x\.log'"):
        Engine("run-local --max-jobs-run 2 log/x.log")


@pytest.mark.parametrize("command", ["run-sge -l gpu=1 -V", "retry.pl queue.pl --mem 2G", "run-ssh --hosts 'a b'"])
def test_an_engine_with_options_of_every_form_is_accepted(command: str) -> None:
    Engine(command)


def test_only_lost_jobs_run_again_and_their_first_logs_stay(folder: Path) -> None:
    faults: list[Fault] = []
    with Engine("run-local --max-jobs-run 2", max_retries=2) as engine:
        engine.on_fault = faults.append
        script = "echo x >> runs.$1; test $1 -ne 3 || test $(wc -l < runs.3) -gt 1 || kill -9 $$"
        (folder / "job.sh").write_text(script)
        engine.run("log/x.JOB.log", ["bash", "job.sh", "JOB"], what="Training", jobs=4)
    assert {path.name: path.read_text().count("x") for path in folder.glob("runs.*")} == {
        **{f"runs.{job}": 1 for job in (1, 2, 4)},
        "runs.3": 2,
    }
    assert [(fault.log, fault.attempt, fault.reason, fault.again) for fault in faults] == [
        ("log/x.3.log", 1, "ended by SIGKILL", True)
    ]
    assert log_file.status("log/x.3.log.failed1") == 137
    assert log_file.status("log/x.3.log") == 0


def test_a_job_that_stays_lost_is_told_with_how_often_it_was_tried(folder: Path, capfd: Any) -> None:
    with Engine("run-local", max_retries=2) as engine, pytest.raises(UserError) as failure:
        engine.run("log/x.JOB.log", ["test", "JOB", "!=", "2"], what="Training", jobs=3)
    assert str(failure.value).startswith("Training: 1 of 3 failed 3 times; the log log/x.2.log says:")
    warnings = [line for line in capfd.readouterr().err.splitlines() if line.startswith("WARNING")]
    assert len(warnings) == 2
    assert "log/x.2.log failed: exit status 1" in warnings[0]
    assert "attempt 2 of 3" in warnings[0]


def test_jobs_whose_results_are_bad_run_again(folder: Path) -> None:
    with Engine("run-local", max_retries=1) as engine:
        running = engine.start(
            "log/x.JOB.log",
            ["echo", ">>", "runs.JOB"],
            what="Training",
            jobs=[2, 5],
            check=lambda job: "no good" if job == 5 and (folder / "runs.5").read_text() == "\n" else "",
        )
        running.wait()
        assert running.attempts == {2: 0, 5: 1}
        lost = engine.start("log/x.JOB.log", ["true"], what="Training", jobs=2, check=lambda job: "bad").lost()
    assert lost == {1: "bad", 2: "bad"}


KALDI_LIKE = """\
#!/usr/bin/env bash
# As Kaldi's queue.pl: jobs side by side, other words in the logs; notes how it was called.
echo "$@" >> calls
case $1 in JOB=*) range=${1#JOB=}; shift;; *) range=1:1;; esac
log=$1; shift
for job in $(seq ${range%:*} ${range#*:}); do
  { bash -c "${*//JOB/$job}"; status=$?; echo "# Finished at $(date) with status $status"
    exit $status; } > ${log//JOB/$job} 2>&1 &
  ids="$ids $!"
done
for id in $ids; do wait $id || failed=1; done
exit ${failed:-0}
"""


def test_with_a_queue_lost_jobs_run_again_in_calls_side_by_side(folder: Path) -> None:
    path = folder / "my-queue.pl"
    path.write_text(KALDI_LIKE)
    path.chmod(0o755)
    with Engine("./my-queue.pl", max_retries=1) as engine:
        command = [
            "test",
            "JOB",
            "=",
            "2",
            "||",
            "test",
            "-e",
            "again.JOB",
            "||",
            "{",
            "touch",
            "again.JOB;",
            "false;",
            "}",
        ]
        engine.run("log/x.JOB.log", command, what="Training", jobs=4)
    calls = [line.split()[0] for line in (folder / "calls").read_text().splitlines()]
    assert calls[0] == "JOB=1:4"
    assert sorted(calls[1:]) == ["JOB=1:1", "JOB=3:4"]
    assert log_file.status("log/x.1.log.failed1") == 1
    assert log_file.status("log/x.1.log") == 0


@pytest.mark.parametrize("slots", [1, 3])
def test_a_hanging_job_is_ended_and_run_again_without_those_that_have_finished(slots: int, folder: Path) -> None:
    faults: list[Fault] = []
    with Engine(f"run-local --max-jobs-run {slots}", max_retries=1, job_time_limit=2) as engine:
        engine.on_fault = faults.append
        script = "echo x >> runs.$1; test $1 -ne 2 || test $(wc -l < runs.2) -gt 1 || exec -a sleeper-of-$PWD sleep 600"
        (folder / "job.sh").write_text(script)
        began = time.monotonic()
        engine.run("log/x.JOB.log", ["bash", "job.sh", "JOB"], what="Training", jobs=3)
    assert time.monotonic() - began < 60
    assert {path.name: path.read_text().count("x") for path in folder.glob("runs.*")} == {
        "runs.1": 1,
        "runs.2": 2,
        "runs.3": 1,
    }
    assert [(fault.log, fault.reason) for fault in faults] == [("log/x.2.log", "it ran for more than 2 s")]
    assert not subprocess.run(["pgrep", "-f", f"sleeper-of-{folder}"], capture_output=True, text=True).stdout


@pytest.mark.slow
def test_jobs_that_always_hang_come_to_an_end(folder: Path) -> None:
    with Engine("run-local --max-jobs-run 1", max_retries=1, job_time_limit=0.5) as engine:
        lost = engine.start("log/x.JOB.log", ["sleep", "600"], what="Training", jobs=2).lost()
    assert lost == dict.fromkeys((1, 2), "it ran for more than 0.5 s")


def test_numbers_fall_into_runs() -> None:
    assert consecutive([1, 2, 4, 6, 7, 8]) == [[1, 2], [4], [6, 7, 8]]
    assert consecutive([None]) == [[None]]


COUNTS_CALLS = """\
#!/usr/bin/env bash
echo +1 >> calls
job=${1#*:}; log=${2//JOB/$job}; shift 2
{ "$@"; echo "# Ended (code $?) at $(date), elapsed time 0 seconds"; } > $log 2>&1
echo -1 >> calls
"""


def test_however_many_stretches_of_jobs_are_left_few_calls_run_side_by_side(folder: Path) -> None:
    path = folder / "my-queue.pl"
    path.write_text(COUNTS_CALLS)
    path.chmod(0o755)
    odd = list(range(1, 160, 2))
    with Engine("./my-queue.pl") as engine:
        engine.run("log/x.JOB.log", ["sleep", "0.2"], what="Training", jobs=odd)
    assert [job for job in range(1, 161) if log_file.status(f"log/x.{job}.log") == 0] == odd
    running = list(itertools.accumulate(map(int, (folder / "calls").read_text().split())))
    assert len(running) == 2 * len(odd)
    assert 2 < max(running) <= 32
