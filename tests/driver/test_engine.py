"""Jobs through --cmd: our engine, and others with run.pl's convention."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from nnet3py.driver.engine import Engine, pipe, pipeline, require_plain_path
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
    assert text.startswith("Training: 1 of 3 failed; the log log/x.2.log ends:")
    assert "test 2 != 2" in text


def test_another_engine_serves_and_its_failures_are_told(folder: Path) -> None:
    path = folder / "other.sh"
    path.write_text(OTHER_ENGINE)
    path.chmod(0o755)
    with Engine("./other.sh --gpu 1") as engine:
        engine.run("log/x.JOB.log", ["echo", "a  JOB", ">", "out.JOB"], what="Testing", jobs=2)
        assert (folder / "out.2").read_text() == "a  2\n"
        with pytest.raises(UserError, match=r"log/y\.1\.log ends"):
            engine.run("log/y.JOB.log", ["ls", "missing"], what="Testing", jobs=2)


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


@pytest.mark.parametrize("path", ["my data", "a;b", "x$y", "JOBS", "a'b", "a|b", ""])
def test_paths_that_a_pipeline_would_break_are_refused(path: str) -> None:
    with pytest.raises(UserError):
        require_plain_path("--dir", path)


def test_usual_paths_are_accepted() -> None:
    assert require_plain_path("--dir", "../exp/dnn-1_a.b+c/egs,2@x") == "../exp/dnn-1_a.b+c/egs,2@x"
    assert os.sep in require_plain_path("--dir", str(Path("/tmp") / "x"))
