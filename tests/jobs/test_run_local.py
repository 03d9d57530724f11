"""run-local: quoting, numbering, logs, failures, slots and endings, on real processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnet3py.errors import UserError
from nnet3py.jobs import blas_threads, command_line, local, log_file
from nnet3py.jobs.interruption import DRIVER_PID


def run_local(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, **environment}
    return subprocess.run(["run-local", *words], cwd=cwd, capture_output=True, text=True, env=variables)


def output_of(log: Path) -> list[str]:
    """What the job printed: the log without the engine's own lines."""
    return [line for line in log.read_text().splitlines() if not line.startswith("#")]


def wait_until(condition, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_job_numbers_replace_the_name_in_the_log_and_the_command(tmp_path: Path) -> None:
    done = run_local("JOB=2:4", "log/x.JOB.log", "echo", "in.JOB.ark", "a JOB b", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name: output_of(path) for path in (tmp_path / "log").iterdir()} == {
        f"x.{n}.log": [f"in.{n}.ark a {n} b"] for n in (2, 3, 4)
    }


def test_any_name_serves_for_the_job_number(tmp_path: Path) -> None:
    assert run_local("n=1:2", "x.n.log", "expr", "10", "+", "n", cwd=tmp_path).returncode == 0
    assert output_of(tmp_path / "x.2.log") == ["12"]


def test_a_log_has_the_lines_that_kaldis_scripts_read(tmp_path: Path) -> None:
    run_local("x.log", "echo", "hello", cwd=tmp_path)
    lines = (tmp_path / "x.log").read_text().splitlines()
    assert lines[0] == "# echo hello"
    assert lines[1].startswith("# Started at ")
    assert lines[2:4] == ["#", "hello"]
    assert re.fullmatch(r"# Accounting: time=\d+ threads=1", lines[4])
    assert re.fullmatch(r"# Ended \(code 0\) at .+, elapsed time \d+ seconds", lines[5])
    assert len(lines) == 6


@pytest.mark.parametrize(
    ("argument", "seen"),
    [
        ("ark:copy-feats ark:x ark:- |", "ark:copy-feats ark:x ark:- |"),
        ('say "hi there" now', 'say "hi there" now'),
        ("it's here", "it's here"),
        ("""both "one" and 'two' x""", """both "one" and 'two' x"""),
        ("sum $((3 + 4))", "sum 7"),
        ("$((3+4))", "7"),
        ("", ""),
        ("a\tb", "a\tb"),
    ],
)
def test_an_argument_stays_one_argument(argument: str, seen: str, tmp_path: Path) -> None:
    script = tmp_path / "show.py"
    script.write_text("import sys\nprint(repr(sys.argv[1:]))\n")
    done = run_local("x.log", sys.executable, str(script), argument, "last", cwd=tmp_path)
    assert done.returncode == 0
    assert output_of(tmp_path / "x.log") == [repr([seen, "last"])]


def test_shell_syntax_as_an_argument_of_its_own_joins_programs(tmp_path: Path) -> None:
    run_local("x.log", "echo", "abc", "|", "tr", "a-z", "A-Z", "&&", "echo", "second", ">out", cwd=tmp_path)
    assert output_of(tmp_path / "x.log") == ["ABC"]
    assert (tmp_path / "out").read_text() == "second\n"


def test_options_of_other_engines_are_passed_over_with_their_values(tmp_path: Path) -> None:
    words = ["--mem", "4G", "-V", "-l", "arch=*64", "--gpu", "0", "-pe", "smp", "2", "JOB=1:2", "--num-threads=1"]
    done = run_local(*words, "x.JOB.log", "echo", "JOB", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert output_of(tmp_path / "x.2.log") == ["2"]


def test_a_very_long_command_line_runs(tmp_path: Path) -> None:
    names = [f"{tmp_path}/{n:06d}.raw" for n in range(4000)]  # more bytes than one argument of a process may have
    done = run_local("x.log", "echo", *names, "|", "wc", "-w", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert output_of(tmp_path / "x.log") == ["4000"]


def test_a_failed_job_is_reported_with_its_log_and_last_lines_and_others_run_on(tmp_path: Path) -> None:
    script = "echo before; if [ JOB = 2 ]; then echo 'no such key' >&2; exit 3; fi; echo fine"
    done = run_local("JOB=1:3", "log/x.JOB.log", "bash", "-c", script, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("ERROR (run-local") == 1
    assert "1 of 3 jobs failed (2)" in done.stderr
    assert "log/x.2.log says:" in done.stderr
    assert "no such key" in done.stderr
    assert log_file.status(str(tmp_path / "log/x.2.log")) == 3
    assert [log_file.status(str(tmp_path / f"log/x.{n}.log")) for n in (1, 3)] == [0, 0]


def test_a_job_killed_by_a_signal_fails(tmp_path: Path) -> None:
    assert run_local("x.log", "kill", "-9", "$$", cwd=tmp_path).returncode == 1
    assert "# Ended (code 0; signal 9)" in (tmp_path / "x.log").read_text()
    assert log_file.status(str(tmp_path / "x.log")) == 137


def test_several_jobs_in_one_log_are_refused(tmp_path: Path) -> None:
    done = run_local("JOB=1:3", "x.log", "touch", "ran", cwd=tmp_path)
    assert done.returncode == 1
    assert "JOB" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["JOB=0:3", "x.JOB.log", "true"], ["JOB=3:1", "x.JOB.log", "true"]])
def test_a_bad_range_of_jobs_is_refused(words: list[str], tmp_path: Path) -> None:
    done = run_local(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("ERROR (") == 1


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_a_bad_number_of_slots_is_refused(value: str) -> None:
    with pytest.raises(UserError, match="max-jobs-run"):
        command_line.parse(["--max-jobs-run", value, "x.log", "true"])


def test_no_more_jobs_run_at_once_than_asked(tmp_path: Path) -> None:
    script = "touch on.JOB; ls | grep -c ^on; sleep 0.2; rm on.JOB"
    done = run_local("--max-jobs-run", "2", "JOB=1:5", "x.JOB.log", "bash", "-c", script, cwd=tmp_path)
    assert done.returncode == 0
    at_once = [int(output_of(tmp_path / f"x.{n}.log")[0]) for n in range(1, 6)]
    assert max(at_once) == 2


def test_the_smallest_of_several_limits_counts() -> None:
    invocation = command_line.parse(["--max-jobs-run", "7", "-tc", "3", "JOB=1:9", "x.JOB.log", "true"])
    assert local.slot_count(invocation) == 3


def test_slots_follow_the_cores_and_the_threads_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "usable_cores", lambda: 8)

    def slots(*options: str, jobs: int) -> int:
        return local.slot_count(command_line.parse([*options, f"JOB=1:{jobs}", "x.JOB.log", "true"]))

    assert slots(jobs=40) == 8
    assert slots("--num-threads", "4", jobs=40) == 2
    assert slots("--num-threads", "16", jobs=40) == 1
    assert slots(jobs=10) == 10  # a few more than the cores: one round


def test_pick_runs_only_what_has_not_succeeded(tmp_path: Path) -> None:
    run_local("JOB=1:3", "x.JOB.log", "test", "JOB", "!=", "2", cwd=tmp_path)
    again = run_local("--pick", "failed", "JOB=1:3", "x.JOB.log", "touch", "ran.JOB", cwd=tmp_path)
    assert again.returncode == 0
    assert [path.name for path in tmp_path.glob("ran.*")] == ["ran.2"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_every_process_of_every_job(number: signal.Signals, tmp_path: Path) -> None:
    # The job's program is below run-local's bash; the second job ignores the polite signal.
    (tmp_path / "job.sh").write_text(
        "if [ $1 = 2 ]; then\n"
        "  trap '' TERM\n"
        "  python3 -c 'import os, time; print(os.getpid(), flush=True); time.sleep(60)' | cat > pid.2\n"
        "else\n"
        "  sleep 60 & echo $! > pid.$1; wait\n"
        "fi\n"
    )
    engine = subprocess.Popen(
        ["run-local", "--max-jobs-run", "2", "JOB=1:3", "x.JOB.log", "bash", "job.sh", "JOB"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    pid_files = [tmp_path / "pid.1", tmp_path / "pid.2"]
    wait_until(lambda: all(path.exists() and path.read_text().strip() for path in pid_files))
    pids = [int(path.read_text()) for path in pid_files]
    engine.send_signal(number)
    _, errors = engine.communicate(timeout=20)
    assert engine.returncode == 128 + number
    assert number.name in errors
    wait_until(lambda: not any(alive(pid) for pid in pids), 2)
    assert not (tmp_path / "pid.3").exists()
    assert log_file.status(str(tmp_path / "x.1.log")) == 128 + signal.SIGTERM


def test_jobs_end_when_the_driver_that_asked_for_them_is_killed(tmp_path: Path) -> None:
    driver = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, subprocess, time\n"
            f"os.environ['{DRIVER_PID}'] = str(os.getpid())\n"
            "subprocess.Popen(['run-local', 'x.log', 'bash', '-c', 'echo $$ > pid; sleep 60; true'])\n"
            "time.sleep(60)\n",
        ],
        cwd=tmp_path,
    )
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip() != "")
    driver.kill()
    driver.wait()
    wait_until(lambda: not alive(int((tmp_path / "pid").read_text())), 10)


def test_a_new_run_starts_a_new_log(tmp_path: Path) -> None:
    run_local("x.log", "echo", "first", cwd=tmp_path)
    with open(tmp_path / "x.log", "a") as left_behind:  # a job whose engine was killed still has the old log open
        run_local("x.log", "echo", "second", cwd=tmp_path)
        left_behind.write("late words\n")
    assert output_of(tmp_path / "x.log") == ["second"]


def test_a_log_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file where a directory is needed")
    done = run_local("log/x.log", "true", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("ERROR (") == 1
    assert "log/x.log" in done.stderr


def test_a_log_on_a_full_disk_is_an_error_and_ends_the_other_jobs(tmp_path: Path) -> None:
    (tmp_path / "x.2.log").symlink_to("/dev/full")
    started = time.monotonic()
    done = run_local("--max-jobs-run", "2", "JOB=1:2", "x.JOB.log", "sleep", "60", cwd=tmp_path)
    assert done.returncode == 1
    assert time.monotonic() - started < 30
    assert done.stderr.count("ERROR (") == 1
    assert "x.2.log: No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert log_file.status(str(tmp_path / "x.1.log")) != 0


def test_a_programs_last_moments_are_its_own_when_the_engine_is_ended(tmp_path: Path) -> None:
    """A program tidies up at SIGTERM although the bash above it is gone at once."""
    (tmp_path / "job.sh").write_text("trap 'sleep 0.5; touch tidied; exit' TERM\ntouch started\nsleep 60 & wait\n")
    engine = subprocess.Popen(
        ["run-local", "x.log", "bash", "job.sh", "&&", "true"], cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    wait_until((tmp_path / "started").exists)
    engine.terminate()
    engine.wait(10)
    assert (tmp_path / "tidied").exists()


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_job_that_runs_too_long_is_ended_and_has_failed(stubborn: bool, tmp_path: Path) -> None:
    trap = "trap '' TERM; " if stubborn else "trap 'exit 0' TERM; "
    script = trap + "echo $$ > pid.JOB; if [ JOB = 2 ]; then for i in {1..600}; do sleep 0.1; done; fi"
    start = time.monotonic()
    done = run_local("--time-limit", "0.5", "JOB=1:3", "x.JOB.log", "bash", "-c", script, cwd=tmp_path)
    assert time.monotonic() - start < 10
    assert done.returncode == 1
    assert "1 of 3 jobs failed (2)" in done.stderr
    assert "longer than --time-limit=0.5 seconds" in done.stderr
    assert log_file.status(str(tmp_path / "x.2.log")) not in (0, None)
    assert log_file.status(str(tmp_path / "x.3.log")) == 0
    assert not alive(int((tmp_path / "pid.2").read_text()))


@pytest.mark.parametrize("value", ["0", "-3", "soon", "nan", "inf"])
def test_a_bad_time_limit_is_refused(value: str) -> None:
    with pytest.raises(UserError, match="time-limit"):
        command_line.parse(["--time-limit", value, "x.log", "true"])


def test_a_jobs_blas_has_the_threads_that_the_engine_counts(tmp_path: Path) -> None:
    show = [f"${name}" for name in blas_threads.VARIABLES]
    environment = {name: value for name, value in os.environ.items() if name not in blas_threads.VARIABLES}

    def seen(*options: str, **more: str) -> list[str]:
        subprocess.run(["run-local", *options, "x.log", "echo", *show], cwd=tmp_path, env={**environment, **more})
        return output_of(tmp_path / "x.log")

    assert seen() == ["1 1 1"]
    assert seen("--num-threads", "3") == ["3 3 3"]
    assert seen("--num-threads", "3", OMP_NUM_THREADS="2") == ["3 2 3"]


def stand_in_nvidia_smi(folder: Path, gpus: int) -> str:
    """A PATH with an nvidia-smi that lists so many GPUs, one of them in parts."""
    (folder / "bin").mkdir()
    lines = [f"GPU {number}: NVIDIA H100 (UUID: GPU-{number})" for number in range(gpus)]
    lines.insert(1, "  MIG 1g.10gb Device 0: (UUID: MIG-0)")
    program = folder / "bin" / "nvidia-smi"
    program.write_text("#!/bin/sh\ncat <<END\n" + "\n".join(lines) + "\nEND\n")
    program.chmod(0o755)
    return f"{folder / 'bin'}:{os.environ['PATH']}"


def gpus_seen(folder: Path, jobs: int) -> list[str]:
    return [output_of(folder / f"x.{number}.log")[0] for number in range(1, jobs + 1)]


# Each job holds a folder named after its GPUs while it runs: making it fails where another job has it.
HOLD = "mkdir held.$CUDA_VISIBLE_DEVICES && echo $CUDA_VISIBLE_DEVICES && sleep 0.2 && rmdir held.$CUDA_VISIBLE_DEVICES"


def test_each_job_has_its_own_gpus_and_more_jobs_wait_their_turn(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    path = stand_in_nvidia_smi(tmp_path, 5)
    done = run_local("--gpu", "2", "JOB=1:5", "x.JOB.log", "bash", "-c", HOLD, cwd=tmp_path, PATH=path)
    assert done.returncode == 0, done.stderr
    seen = gpus_seen(tmp_path, 5)
    assert set(seen) == {"0,1", "2,3"}
    assert seen[:2] == ["0,1", "2,3"]


def test_gpus_that_the_user_has_chosen_are_shared_out(tmp_path: Path) -> None:
    words = ["--gpu", "1", "--max-jobs-run", "8", "JOB=1:4", "x.JOB.log", "bash", "-c", HOLD]
    done = run_local(*words, cwd=tmp_path, CUDA_VISIBLE_DEVICES="3, GPU-ab,-1,5", PATH=stand_in_nvidia_smi(tmp_path, 8))
    assert done.returncode == 0, done.stderr
    assert set(gpus_seen(tmp_path, 4)) == {"3", "GPU-ab"}


def test_fewer_gpus_than_one_job_needs_are_an_error(tmp_path: Path) -> None:
    done = run_local("--gpu", "2", "x.log", "true", cwd=tmp_path, CUDA_VISIBLE_DEVICES="3")
    assert done.returncode == 1
    assert done.stderr.count("ERROR (") == 1
    assert "needs 2 GPUs" in done.stderr
    assert not (tmp_path / "x.log").exists()


def test_without_nvidia_smi_gpu_jobs_run_one_at_a_time_with_a_warning(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    script = 'mkdir held && echo "${CUDA_VISIBLE_DEVICES-unset}" && rmdir held'
    done = run_local("--gpu", "1", "JOB=1:3", "x.JOB.log", "bash", "-c", script, cwd=tmp_path, PATH=path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("WARNING (") == 1
    assert gpus_seen(tmp_path, 3) == ["unset"] * 3


def test_help_answers_at_once(tmp_path: Path) -> None:
    done = run_local("--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "--time-limit" in done.stdout


def test_more_jobs_at_once_than_files_may_be_open_all_run(tmp_path: Path) -> None:
    words = "ulimit -n 48 && run-local --max-jobs-run 100 JOB=1:60 log/x.JOB.log sleep 0.1"
    done = subprocess.run(["bash", "-c", words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "log").iterdir())) == 60


@pytest.mark.slow
def test_thousands_of_jobs_run_in_one_call(tmp_path: Path) -> None:
    words = "ulimit -n 64 && run-local JOB=1:1500 log/x.JOB.log exit '$((JOB%1000==7))'"
    done = subprocess.run(["bash", "-c", words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "2 of 1500 jobs failed (7, 1007)" in done.stderr
    assert len(list((tmp_path / "log").iterdir())) == 1500
