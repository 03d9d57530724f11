"""run-slurm on a real Slurm: arrays, failures, lost jobs, endings."""

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
from slurm_cluster import SlurmCluster, running_cluster
from tiny_corpus import final_config, make_corpus
from tiny_training import add_experiment, train

from nnet3py.jobs import log_file, slurm
from nnet3py.jobs.local import DRIVER_PID

# What each test needs of the engine: lost jobs are to be found in seconds.
QUICK = ("--wait-for-files", "2", "--poll-interval", "0.5")


@pytest.fixture
def cluster(slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlurmCluster]:
    """The session's Slurm, found by what the test starts; each test leaves its queue empty."""
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    yield slurm
    wait_until(lambda: slurm.jobs() == [])


def run_slurm(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["run-slurm", *QUICK, *words], capture_output=True, text=True)


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(["run-slurm", *QUICK, *words], stderr=subprocess.PIPE, text=True)


def output_of(log: str) -> list[str]:
    """What the job printed: the log without the engine's own lines."""
    lines = Path(log).read_text(errors="surrogateescape").splitlines()
    return [line for line in lines if not line.startswith("#")]


def wait_until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def job_of(cluster: SlurmCluster) -> str:
    """The number of the only job in the queue."""
    (number,) = {line.split("_")[0].split()[0] for line in cluster.jobs()}
    return number


def test_an_array_runs_on_the_nodes_and_leaves_kaldis_logs_and_nothing_else(cluster: SlurmCluster) -> None:
    done = run_slurm("JOB=2:5", "log/x.JOB.log", "echo", "in.JOB.ark", "a JOB b", "$((JOB+1))", "|", "tr", "a-z", "A-Z")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(os.listdir("log")) == [f"x.{n}.log" for n in (2, 3, 4, 5)]
    assert [output_of(f"log/x.{n}.log") for n in (2, 5)] == [["IN.2.ARK A 2 B 3"], ["IN.5.ARK A 5 B 6"]]
    lines = Path("log/x.3.log").read_text().splitlines()
    assert lines[0] == '# echo in.3.ark "a 3 b" $((3+1)) | tr a-z A-Z'
    assert re.fullmatch(r"# Running on n\d as job \d+_3 of run-slurm", lines[1])
    assert re.fullmatch(r"# Accounting: time=\d+ threads=1", lines[-2])
    assert re.fullmatch(r"# Ended \(code 0\) at .+, elapsed time \d+ seconds", lines[-1])


@pytest.mark.slow
def test_one_job_without_a_number(cluster: SlurmCluster) -> None:
    done = run_slurm("--num-threads", "2", "x.log", "echo", "cores", "$SLURM_CPUS_PER_TASK", "JOB")
    assert done.returncode == 0, done.stderr
    assert output_of("x.log") == ["cores 2 JOB"]
    assert "threads=2" in Path("x.log").read_text()


def test_arguments_and_names_of_every_kind_reach_the_command_as_under_run_local(
    cluster: SlurmCluster, tmp_path: Path
) -> None:
    folder = tmp_path / "a dir %j; $(touch hacked) 'q'"
    folder.mkdir()
    os.chdir(folder)
    Path("show.py").write_text("import sys\nprint(repr(sys.argv[1:]))\n")
    arguments = [
        'say "hi there" now',
        "it's here",
        """both "one" and 'two' x""",
        "two\nlines ; touch hacked",
        "back\\slash & and",
        "",
        "ark:copy-feats ark:x.JOB ark:- |",
        "%j %a & \\& ü \udcff",
    ]
    words = ["JOB=1:2", "log $(touch hacked)/JOB; x.log", sys.executable, "show.py", *arguments, "JOB"]
    done = run_slurm(*words)
    assert done.returncode == 0, done.stderr
    shutil.move("log $(touch hacked)", "slurm")
    subprocess.run(["run-local", *words], check=True)
    for number in (1, 2):
        log = f"{number}; x.log"
        assert output_of(f"slurm/{log}") == output_of(f"log $(touch hacked)/{log}")
        assert f"ark:x.{number} ark:- |" in output_of(f"slurm/{log}")[0]
    assert not list(tmp_path.rglob("hacked"))


@pytest.mark.slow
def test_the_environment_is_the_callers(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("name", "a b'; $x")
    monkeypatch.setenv(DRIVER_PID, str(os.getpid()))
    done = run_slurm("JOB=1:1", "x.log", "env")
    assert done.returncode == 0, done.stderr
    lines = output_of("x.log")
    assert "name=a b'; $x" in lines
    assert not [line for line in lines if line.startswith((DRIVER_PID, "nnet3py_"))]


@pytest.mark.slow
def test_an_engine_within_a_job_gives_its_jobs_nothing_of_that_job(cluster: SlurmCluster) -> None:
    Path("outer.sh").write_text(
        "#!/bin/bash\nexport SBATCH_PARTITION=all SBATCH_ARRAY_INX=5-6 SQUEUE_STATES=COMPLETED\nenv > outer\n"
        f"run-slurm {' '.join(QUICK)} --mem 3M JOB=1:2 log/x.JOB.log env || exit\n"
        f"run-slurm {' '.join(QUICK)} single.log env\n"
    )
    words = ["--ntasks=2", "--mem=20M", "--array=7", "--cpus-per-task=1", "--hint=nomultithread", "--output=said"]
    cluster.command("sbatch", "--wait", *words, "outer.sh")
    outer = dict(line.partition("=")[::2] for line in Path("outer").read_text().splitlines())
    assert (outer["SLURM_ARRAY_TASK_ID"], outer["SLURM_MEM_PER_NODE"], outer["SLURM_NTASKS"]) == ("7", "20", "2")
    jobs = [dict(line.partition("=")[::2] for line in output_of(f"log/x.{n}.log")) for n in (1, 2)]
    single = dict(line.partition("=")[::2] for line in output_of("single.log"))
    for number, job in enumerate(jobs, 1):
        assert job["SLURM_ARRAY_TASK_ID"] == str(number)
        assert job["SLURM_MEM_PER_CPU"] == "3"
    for job in (*jobs, single):
        assert job["SLURM_JOB_ID"] != outer["SLURM_JOB_ID"]
        assert job["SBATCH_PARTITION"] == "all"
        assert job["SLURM_CONF"] == cluster.environment["SLURM_CONF"]
        assert not {"SLURM_MEM_PER_NODE", "SLURM_HINT", "SBATCH_ARRAY_INX"} & set(job)
    assert not [name for name in single if name.startswith("SLURM_ARRAY_")]
    assert f"as job {single['SLURM_JOB_ID']} of run-slurm" in Path("single.log").read_text()


@pytest.mark.slow
def test_run_local_within_a_job_has_the_cores_of_the_job(cluster: SlurmCluster) -> None:
    script = "mkdir held && echo ${SLURM_ARRAY_TASK_ID-none} $SLURM_JOB_ID && sleep 0.1 && rmdir held"
    Path("outer.sh").write_text(f"#!/bin/bash\nrun-local _K_=1:3 x._K_.log bash -c {shlex.quote(script)}\n")
    cluster.command("sbatch", "--wait", "--array=4", "--ntasks=1", "--output=said", "outer.sh")
    (seen,) = {tuple(output_of(f"x.{number}.log")) for number in (1, 2, 3)}  # one after the other, or mkdir had failed
    assert re.fullmatch(r"none \d+", seen[0])


@pytest.mark.slow
def test_path_sh_is_read_in_the_job(cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEFT_BEHIND", "no")
    Path("path.sh").write_text("set -eu\nexport FROM_PATH_SH=yes\n")
    Path("conf").mkdir()
    Path("conf/slurm.conf").write_text("command sbatch --export=PATH\n")
    assert run_slurm("x.log", "echo", "$FROM_PATH_SH", "$LEFT_BEHIND").returncode == 0
    assert output_of("x.log") == ["yes"]


def test_failed_jobs_are_reported_as_run_local_does_and_others_run_on(cluster: SlurmCluster) -> None:
    script = "echo before; if [ JOB = 2 ]; then echo 'no such key' >&2; exit 3; fi; echo fine"
    done = run_slurm("JOB=1:3", "log/x.JOB.log", "bash", "-c", script)
    assert done.returncode == 1
    assert done.stderr.count("ERROR (run-slurm") == 1
    assert "1 of 3 jobs failed (2); the logs are log/x.*.log" in done.stderr
    assert "log/x.2.log says:" in done.stderr
    assert "    no such key" in done.stderr
    assert [log_file.status(f"log/x.{n}.log") for n in (1, 2, 3)] == [0, 3, 0]
    (kept,) = Path("log/q").iterdir()
    assert kept.stat().st_mode & 0o777 == 0o700
    assert (kept / "job.1.sh").is_file()


@pytest.mark.slow
def test_a_program_killed_by_a_signal_is_a_failed_job(cluster: SlurmCluster) -> None:
    assert run_slurm("x.log", "kill", "-9", "$$").returncode == 1
    assert log_file.status("x.log") == 137


@pytest.mark.slow
def test_no_more_jobs_run_at_once_than_asked(cluster: SlurmCluster) -> None:
    script = "touch on.JOB; ls | grep -c ^on; sleep 0.5; rm on.JOB"
    assert run_slurm("--max-jobs-run", "2", "JOB=1:6", "x.JOB.log", "bash", "-c", script).returncode == 0
    assert max(int(output_of(f"x.{n}.log")[0]) for n in range(1, 7)) == 2


@pytest.mark.slow
def test_pick_submits_only_what_has_not_succeeded(cluster: SlurmCluster) -> None:
    assert run_slurm("JOB=1:4", "x.JOB.log", "[", "$((JOB%2))", "=", "0", "]").returncode == 1
    done = run_slurm("--pick", "failed", "JOB=1:4", "x.JOB.log", "touch", "ran.JOB")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in Path().glob("ran.*")) == ["ran.1", "ran.3"]
    again = run_slurm("--pick", "failed", "JOB=1:4", "x.JOB.log", "touch", "again.JOB")
    assert again.returncode == 0
    assert not list(Path().glob("again.*"))


@pytest.mark.slow
def test_a_job_that_is_cancelled_in_the_queue_is_a_failure_that_says_so(cluster: SlurmCluster) -> None:
    engine = start("JOB=1:3", "log/x.JOB.log", "bash", "-c", "touch on.JOB; if [ JOB = 2 ]; then sleep 60; fi")
    wait_until(Path("on.2").exists)
    cluster.command("scancel", f"{job_of(cluster)}_2")
    _, errors = engine.communicate(timeout=30)
    assert engine.returncode == 1
    assert "1 of 3 jobs failed (2)" in errors
    assert re.search(
        r"    # run-slurm: job \d+_2 was lost, its state is CANCELLED: it was cancelled, by scancel", errors
    )
    assert re.search(r"Slurm said about the jobs \(log/q/.*scheduler.out\): .*CANCELLED", errors)
    assert log_file.status("log/x.2.log") is None, "it has not ended by itself: --pick incomplete runs it again"


@pytest.mark.slow
def test_a_job_whose_node_is_lost_is_a_failure_that_says_so(cluster: SlurmCluster) -> None:
    engine = start("JOB=1:5", "x.JOB.log", "bash", "-c", "touch on.JOB; if [ JOB = 5 ]; then sleep 60; fi")
    wait_until(Path("on.5").exists)
    (line,) = [line for line in cluster.jobs() if "_5 " in line]
    node = line.split()[2]
    cluster.take_down(node)
    try:
        _, errors = engine.communicate(timeout=30)
    finally:
        cluster.bring_back(node)
    assert engine.returncode == 1
    assert "1 of 5 jobs failed (5)" in errors
    assert "its state is NODE_FAIL: its node was lost" in errors


def answer_nothing(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program in place of one of Slurm's that succeeds and prints nothing."""
    os.mkdir("instead")
    Path("instead", program).write_text("#!/bin/sh\n")
    Path("instead", program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{os.getcwd()}/instead:{os.environ['PATH']}")


@pytest.mark.slow
def test_the_end_of_a_job_that_has_left_the_queue_may_be_seen_late(
    cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_nothing("squeue", monkeypatch)  # to the engine the jobs are gone from the beginning
    done = run_slurm("--wait-for-files", "15", "JOB=1:2", "x.JOB.log", "sleep", "2")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_job_of_which_nothing_is_known_any_more_is_a_failure_and_is_cancelled(
    cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        answer_nothing("squeue", patch)
        done = run_slurm("x.log", "sleep", "60")
    assert done.returncode == 1
    assert "its state is gone: it is no longer in the queue, and there is no account of how it ended" in done.stderr
    wait_until(lambda: cluster.jobs() == [])


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_a_signal_takes_the_jobs_out_of_the_queue(cluster: SlurmCluster, number: signal.Signals) -> None:
    # Two jobs run, one of which ignores the polite signal; the others wait.
    script = "trap '' TERM; echo $$ > pid.JOB; sleep 60"
    engine = start("--max-jobs-run", "2", "JOB=1:4", "log/x.JOB.log", "bash", "-c", script)
    wait_until(lambda: all(os.path.exists(f"pid.{n}") and Path(f"pid.{n}").read_text() for n in (1, 2)))
    pids = [int(Path(f"pid.{n}").read_text()) for n in (1, 2)]
    engine.send_signal(number)
    _, errors = engine.communicate(timeout=20)
    assert engine.returncode == 128 + number
    assert f"Ended by {number.name}; the jobs were cancelled." in errors
    assert cluster.jobs() == []
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]
    assert sorted(os.listdir("log")) == ["x.1.log", "x.2.log"]


@pytest.mark.slow
def test_a_signal_while_sbatch_runs_leaves_no_job_behind(cluster: SlurmCluster, tmp_path: Path) -> None:
    sbatch = shutil.which("sbatch")
    Path("slow-sbatch").write_text(f'#!/bin/bash\n{sbatch} "$@"\ntouch submitted\nsleep 20\n')
    Path("slow-sbatch").chmod(0o755)
    Path("my.conf").write_text(f"command '{tmp_path}/slow-sbatch'\n")
    engine = start("--config", "my.conf", "JOB=1:2", "x.JOB.log", "sleep", "60")
    wait_until(Path("submitted").exists)
    assert len(cluster.jobs()) == 2
    engine.terminate()
    assert engine.wait(timeout=15) == 128 + signal.SIGTERM
    wait_until(lambda: cluster.jobs() == [])


@pytest.mark.slow
def test_jobs_are_cancelled_when_the_driver_is_killed(cluster: SlurmCluster) -> None:
    driver = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, subprocess, time\n"
            f"os.environ['{DRIVER_PID}'] = str(os.getpid())\n"
            "subprocess.Popen(['run-slurm', 'x.log', 'bash', '-c', 'touch on; sleep 60; true'])\n"
            "time.sleep(60)\n",
        ],
        stderr=subprocess.DEVNULL,
    )
    wait_until(Path("on").exists)
    driver.kill()
    driver.wait()
    wait_until(lambda: cluster.jobs() == [])


@pytest.mark.slow
def test_a_controller_that_is_away_for_a_while_is_survived(cluster: SlurmCluster) -> None:
    engine = start("JOB=1:2", "x.JOB.log", "bash", "-c", "touch on.JOB; sleep 2; echo JOB")
    wait_until(lambda: os.path.exists("on.1") and os.path.exists("on.2"))
    cluster.stop_controller()
    time.sleep(1.5)
    cluster.start_controller()
    _, errors = engine.communicate(timeout=60)
    assert engine.returncode == 0, errors
    assert output_of("x.2.log") == ["2"]
    cluster.wait_until_idle()


@pytest.mark.slow
def test_what_sbatch_refuses_is_one_error_with_its_words(cluster: SlurmCluster) -> None:
    done = run_slurm("-p", "nowhere", "log/x.log", "true")
    assert done.returncode == 1
    assert done.stderr.count("ERROR (run-slurm") == 1
    assert "sbatch refused the jobs" in done.stderr
    assert "invalid partition specified: nowhere" in done.stderr
    assert not os.listdir("log")


@pytest.mark.slow
def test_more_jobs_than_an_array_may_have_become_several_arrays(slurm: SlurmCluster, tmp_path: Path) -> None:
    with running_cluster("MaxArraySize=4") as small:  # tasks 0 to 3
        environment = {**os.environ, **small.environment}
        script = "touch on.JOB; ls | grep -c ^on; sleep 0.3; rm on.JOB; test JOB != 15"
        done = subprocess.run(
            ["run-slurm", *QUICK, "--max-jobs-run", "2", "JOB=11:17", "x.JOB.log", "bash", "-c", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 1
    assert "1 of 7 jobs failed (15)" in done.stderr
    logs = [tmp_path / f"x.{n}.log" for n in range(11, 18)]
    assert [log_file.status(str(log)) for log in logs] == [0, 0, 0, 0, 1, 0, 0]
    assert max(int(output_of(str(log))[0]) for log in logs) == 2
    arrays = {re.search(r"as job (\d+)_", log.read_text())[1] for log in logs}
    assert len(arrays) == 3


@pytest.mark.slow
def test_a_configuration_file_is_read_and_its_options_reach_sbatch(cluster: SlurmCluster) -> None:
    Path("my.conf").write_text("command sbatch --export=ALL\noption label=* --comment='for $0'\n")
    words = ["x.log", "squeue", "--noheader", "--job=$SLURM_JOB_ID", "--format=%k"]
    done = run_slurm("--config", "my.conf", "--label", "a b; c", *words)
    assert done.returncode == 0, done.stderr
    assert output_of("x.log") == ["for a b; c"]
    done = run_slurm("--config=my.conf", "--colour", "red", *words)
    assert done.returncode == 1
    assert "--colour means nothing to my.conf" in done.stderr


def test_ranges_of_tasks() -> None:
    assert slurm.ranges([1, 2, 3, 5, 7, 8]) == "1-3,5,7-8"
    assert slurm.ranges([4]) == "4"


@pytest.mark.long
def test_a_job_that_runs_too_long_is_a_failure_that_says_so(cluster: SlurmCluster) -> None:
    done = run_slurm("--time", "0:01", "x.log", "sleep", "300")  # Slurm looks every half minute, and adds some grace
    assert done.returncode == 1
    assert "its state is TIMEOUT: it ran longer than its time limit" in done.stderr


@pytest.mark.slow
def test_training_through_slurm_gives_the_model_of_run_local_byte_for_byte(cluster: SlurmCluster) -> None:
    make_corpus(Path())
    for name, engine in (("local", "run-local"), ("slurm", "run-slurm --mem 100M")):
        add_experiment(Path(), name, config=final_config())
        done = train(Path(), "--cleanup=false", f"--cmd={engine}", directory=name)
        assert done.returncode == 0, done.stderr
    assert "of run-slurm" in Path("slurm/log/train.1.2.log").read_text()
    for model in ("0.raw", "1.raw", "2.raw", "final.raw", "final.priors"):
        assert Path("slurm", model).read_bytes() == Path("local", model).read_bytes(), model
