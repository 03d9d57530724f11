"""The calling convention of the engines: where the range of jobs stands, in all four alike."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from nnet3py.errors import UserError
from nnet3py.jobs import command_line

ENGINES = ("run-local", "run-ssh", "run-slurm", "run-sge")
TWICE = (
    "JOB=1:2 JOB=1:3 log/a.JOB.log echo",
    "JOB=1:2 --mem 2G JOB=1:3 log/a.JOB.log echo",
    "--mem 2G JOB=1:2 -V -tc 3 JOB=1:2 log/a.JOB.log echo",
    "JOB=3 --num-threads 2 JOB=1:3 log/a.JOB.log echo",
    "n=1:2 JOB=1:3 log/a.JOB.n.log echo",
)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("words", TWICE)
def test_a_range_of_jobs_that_is_given_twice_is_refused_and_nothing_is_run(
    engine: str, words: str, tmp_path: Path
) -> None:
    done = subprocess.run([engine, *words.split()], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("ERROR (")
    assert re.search(r"The range of jobs is given twice: \w+=\d:\d and JOB=1:[23];", done.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("log/a.JOB.log JOB=1:3 echo JOB", "before the log file log/a.JOB.log, found it after"),
        ("JOB=1:3 log/a.log echo JOB", "3 jobs cannot share the log log/a.log"),
        ("JOB=1: log/a.JOB.log echo", "found JOB=1:"),
        ("JOB=:4 log/a.JOB.log echo", "found JOB=:4"),
        ("JOB=1-4 log/a.JOB.log echo", "found JOB=1-4"),
        ("JOB=1:4:2 log/a.JOB.log echo", "found JOB=1:4:2"),
        ("JOB=-1:4 log/a.JOB.log echo", "found JOB=-1:4"),
        ("JOB=0:4 log/a.JOB.log echo", "found JOB=0:4"),
        ("JOB=4:1 log/a.JOB.log echo", "found JOB=4:1"),
        ("JOB= log/a.JOB.log echo", "found JOB="),
        ("1=1:3 log/a.JOB.log echo", "found 1=1:3"),
        ("--mem JOB=1:4 log/a.JOB.log echo", "Option --mem needs a value, found the range of jobs JOB=1:4"),
    ],
)
def test_a_range_of_jobs_that_means_nothing_is_refused(engine: str, words: str, complaint: str, tmp_path: Path) -> None:
    done = subprocess.run([engine, *words.split()], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert complaint in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "log", "numbers"),
    [
        ("lr=0.1/log/train.log echo", "lr=0.1/log/train.log", [None]),
        ("n=1:2 x=n:1/log echo", "x=n:1/log", [1, 2]),
        ("a=b.log echo", "a=b.log", [None]),
        ("-l gpu=1 JOB=7 log/a.JOB.log echo", "log/a.JOB.log", [7]),
        ("-l h_rt=1:30 JOB=1:1 log/a.log echo JOB=2:3", "log/a.log", [1]),
    ],
)
def test_a_log_whose_name_has_an_equals_sign_is_no_range(words: str, log: str, numbers: list[int | None]) -> None:
    found = command_line.parse(words.split())
    assert (found.log, found.numbers()) == (log, numbers)


def test_no_log_or_no_command_is_refused() -> None:
    for words in ([], ["log/a.log"], ["JOB=1:3", "log/a.JOB.log"], ["", "echo"]):
        with pytest.raises(UserError, match="Expected a log file and a command"):
            command_line.parse(words)
