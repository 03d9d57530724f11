"""run-sge on a real Grid Engine: arrays, failures, lost jobs, endings."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from grid_engine_cluster import GridEngineCluster

from nnet3py.jobs import log_file, queue_conf, sge

QUICK = ("--wait-for-files", "3", "--poll-interval", "0.5")


@pytest.fixture
def cluster(
    grid_engine: GridEngineCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[GridEngineCluster]:
    """The session's Grid Engine, found by what the test starts; each test leaves its queue empty."""
    for name, value in grid_engine.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    yield grid_engine
    wait_until(lambda: grid_engine.jobs() == [], 60)


def run_sge(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["run-sge", *QUICK, *words], capture_output=True, text=True)


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(["run-sge", *QUICK, *words], stderr=subprocess.PIPE, text=True)


def output_of(log: str) -> list[str]:
    """What the job printed: the log without the engine's own lines."""
    lines = Path(log).read_text(errors="surrogateescape").splitlines()
    return [line for line in lines if not line.startswith("#")]


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


@pytest.mark.slow
def test_an_array_leaves_kaldis_logs_and_nothing_else(cluster: GridEngineCluster) -> None:
    done = run_sge("JOB=2:4", "log/x.JOB.log", "echo", "in.JOB.ark", "a JOB b", "$((JOB+1))", "|", "tr", "a-z", "A-Z")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(os.listdir("log")) == [f"x.{n}.log" for n in (2, 3, 4)]
    assert [output_of(f"log/x.{n}.log") for n in (2, 4)] == [["IN.2.ARK A 2 B 3"], ["IN.4.ARK A 4 B 5"]]
    lines = Path("log/x.3.log").read_text().splitlines()
    assert re.fullmatch(r"# Running on \S+ as job \d+\.3 of run-sge", lines[1])
    assert re.fullmatch(r"# Ended \(code 0\) at .+, elapsed time \d+ seconds", lines[-1])


@pytest.mark.slow
def test_an_engine_within_a_job_gives_its_jobs_nothing_of_that_job(cluster: GridEngineCluster) -> None:
    Path("outer.sh").write_text(
        f"#!/bin/bash\nPATH={shlex.quote(os.environ['PATH'])}\nenv > outer\n"
        f"run-sge {' '.join(QUICK)} single.log env\n"
        "run-local _K_=1:3 x._K_.log bash -c 'mkdir held && env && sleep 0.1 && rmdir held'\n"
    )
    words = ["-V", "-cwd", "-S", "/bin/bash", "-j", "y", "-o", "said", "-t", "3-3"]
    cluster.command("qsub", *words, "-N", "outer", "outer.sh")
    wait_until(lambda: Path("x.3.log").exists() and log_file.status("x.3.log") is not None, 60)
    outer, single, within = (
        dict(line.partition("=")[::2] for line in lines)
        for lines in (Path("outer").read_text().splitlines(), output_of("single.log"), output_of("x.2.log"))
    )
    assert (outer["SGE_TASK_ID"], outer["NSLOTS"]) == ("3", "1")
    assert single["JOB_ID"] != outer["JOB_ID"]
    assert single["SGE_TASK_ID"] == "undefined"
    assert single["SGE_ROOT"] == outer["SGE_ROOT"]
    assert within["JOB_ID"] == outer["JOB_ID"]
    assert "SGE_TASK_ID" not in within
    assert [log_file.status(f"x.{number}.log") for number in (1, 2, 3)] == [0, 0, 0]  # one at a time


@pytest.mark.slow
def test_one_job_without_a_number_with_threads(cluster: GridEngineCluster) -> None:
    done = run_sge("--num-threads", "2", "--gpu", "0", "x.log", "echo", "cores", "$NSLOTS", "JOB", "$SGE_TASK_ID")
    assert done.returncode == 0, done.stderr
    assert output_of("x.log") == ["cores 2 JOB undefined"]


@pytest.mark.slow
def test_arguments_and_names_of_every_kind_reach_the_command_as_under_run_local(
    cluster: GridEngineCluster, tmp_path: Path
) -> None:
    folder = tmp_path / "a dir: ; `touch hacked` 'q'"
    folder.mkdir()
    os.chdir(folder)
    Path("show.py").write_text("import sys\nprint(repr(sys.argv[1:]))\n")
    arguments = ['say "hi there" now', "it's here", "two\nlines ; touch hacked", "back\\slash &", "", "ark:x.JOB -|"]
    words = ["JOB=1:2", "log `touch hacked`/JOB; x.log", sys.executable, "show.py", *arguments, "JOB"]
    done = run_sge(*words)
    assert done.returncode == 0, done.stderr
    shutil.move("log `touch hacked`", "sge")
    subprocess.run(["run-local", *words], check=True)
    for number in (1, 2):
        log = f"{number}; x.log"
        assert output_of(f"sge/{log}") == output_of(f"log `touch hacked`/{log}")
    assert not list(tmp_path.rglob("hacked"))


@pytest.mark.slow
def test_failed_jobs_are_reported_as_run_local_does_and_picked_again(cluster: GridEngineCluster) -> None:
    done = run_sge("JOB=1:3", "log/x.JOB.log", "echo", "no such key", ";", "[", "JOB", "=", "2", "]")
    assert done.returncode == 1
    assert done.stderr.count("ERROR (run-sge") == 1
    assert "2 of 3 jobs failed (1, 3); the logs are log/x.*.log" in done.stderr
    assert "    no such key" in done.stderr
    # Jobs 1 and 3 are no range that qsub takes.
    done = run_sge("--pick", "failed", "JOB=1:3", "log/x.JOB.log", "touch", "ran.JOB")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in Path().glob("ran.*")) == ["ran.1", "ran.3"]


@pytest.mark.slow
def test_no_more_jobs_run_at_once_than_asked(cluster: GridEngineCluster) -> None:
    script = "touch on.JOB; ls | grep -c ^on; sleep 0.5; rm on.JOB"
    assert run_sge("--max-jobs-run", "2", "JOB=1:4", "x.JOB.log", "bash", "-c", script).returncode == 0
    assert max(int(output_of(f"x.{n}.log")[0]) for n in range(1, 5)) == 2


@pytest.mark.slow
def test_a_job_that_is_deleted_is_a_failure_that_says_so(cluster: GridEngineCluster) -> None:
    engine = start("JOB=1:2", "x.JOB.log", "bash", "-c", "touch on.JOB; if [ JOB = 2 ]; then sleep 60; fi")
    wait_until(Path("on.2").exists)
    cluster.command("qdel", cluster.jobs()[0].split()[0], "-t", "2")
    _, errors = engine.communicate(timeout=30)
    assert engine.returncode == 1
    assert "1 of 2 jobs failed (2)" in errors
    assert re.search(
        r"    # run-sge: job \d+_2 was lost, its state is gone: .*(killed|exit_status=137|failed=100)", errors
    )


@pytest.mark.slow
def test_a_job_that_cannot_be_started_is_given_up(cluster: GridEngineCluster) -> None:
    done = run_sge("-wd", "/no/such/directory", "x.log", "true")
    assert done.returncode == 1
    assert "its state is Eqw: it could not be started" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_takes_the_jobs_out_of_the_queue(cluster: GridEngineCluster, number: signal.Signals) -> None:
    engine = start("-tc", "2", "JOB=1:4", "log/x.JOB.log", "bash", "-c", "echo $$ > pid.JOB; sleep 60; true")
    wait_until(lambda: all(os.path.exists(f"pid.{n}") and Path(f"pid.{n}").read_text() for n in (1, 2)))
    engine.send_signal(number)
    _, errors = engine.communicate(timeout=20)
    assert engine.returncode == 128 + number
    assert f"Ended by {number.name}; the jobs were deleted." in errors
    wait_until(lambda: cluster.jobs() == [], 10)
    assert sorted(os.listdir("log")) == ["x.1.log", "x.2.log"]


@pytest.mark.slow
def test_a_qmaster_that_is_away_for_a_while_is_survived(cluster: GridEngineCluster) -> None:
    engine = start("JOB=1:2", "x.JOB.log", "bash", "-c", "touch on.JOB; sleep 4; echo JOB")
    wait_until(lambda: os.path.exists("on.1") and os.path.exists("on.2"))
    cluster.stop_qmaster()
    time.sleep(3)
    cluster.start_qmaster()
    _, errors = engine.communicate(timeout=60)
    assert engine.returncode == 0, errors
    assert "Grid Engine does not answer; waiting for the jobs all the same" in errors
    assert output_of("x.2.log") == ["2"]


@pytest.mark.slow
def test_what_qsub_refuses_is_one_error_with_its_words(cluster: GridEngineCluster) -> None:
    done = run_sge("-l", "no_such_thing=1", "log/x.log", "true")
    assert done.returncode == 1
    assert done.stderr.count("ERROR (run-sge") == 1
    assert "qsub refused the jobs" in done.stderr
    assert "no_such_thing" in done.stderr
    assert not os.listdir("log")


@pytest.mark.slow
def test_kaldis_configuration_is_read_from_conf_and_sync_is_left_out(cluster: GridEngineCluster) -> None:
    Path("conf").mkdir()
    Path("conf/queue.conf").write_text(
        "command qsub -v PATH -cwd -S /bin/bash -j y -l arch=*64*\n"
        "option max_jobs_run=* -tc $0\ndefault gpu=0\noption gpu=0 -q all.q\noption mem=* -l mem_free=$0\n"
    )
    done = run_sge("-sync", "y", "--mem", "1M", "-tc", "1", "JOB=1:2", "x.JOB.log", "echo", "$QUEUE", "$SGE_TASK_LAST")
    assert done.returncode == 0, done.stderr
    assert output_of("x.2.log") == ["all.q 2"]


def test_task_numbers_as_qstat_prints_them() -> None:
    assert sge._tasks("1-5:2,9") == [1, 3, 5, 9]
    assert sge._tasks("4") == [4]
    assert sge._tasks("2-4:1") == [2, 3, 4]
    assert sge._tasks("") == [None]


def test_the_built_in_configuration_of_grid_engine() -> None:
    conf = queue_conf.parse(sge.GridEngine.default_conf, "built in")
    assert conf.words({"mem": "2G", "num_threads": "4", "max_jobs_run": "3", "gpu": "1"}) == [
        *("-l", "mem_free=2G,ram_free=2G"),
        *("-pe", "smp", "4"),
        *("-tc", "3"),
        *("-l", "gpu=1"),
    ]
