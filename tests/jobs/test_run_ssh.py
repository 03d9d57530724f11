"""run-ssh over real sshd processes: jobs, slots, hostile words, hosts that are lost, and endings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ssh_hosts import SshHosts, machines, ssh_hosts

from nnet3py.jobs import log_file
from nnet3py.jobs.interruption import DRIVER_PID

TWO = ("--hosts", "a:2 b:2")


@pytest.fixture
def hosts(ssh: SshHosts) -> SshHosts:
    return ssh


@pytest.fixture
def own_hosts() -> Iterator[SshHosts]:
    """Hosts that a test may break."""
    with ssh_hosts("ab") as running:
        yield running


def run_ssh(
    hosts: SshHosts, *words: str, cwd: Path, timeout: float = 60, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = ["run-ssh", *hosts.options, *words]
    variables = {**os.environ, **environment}
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, env=variables)


def start(hosts: SshHosts, *words: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(["run-ssh", *hosts.options, *words], cwd=cwd, stderr=subprocess.PIPE, text=True)


def output_of(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if not line.startswith("#")]


def host_of(log: Path) -> str:
    return next(line for line in log.read_text().splitlines() if line.startswith("# Running on ")).split()[-1]


def wait_until(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def pid_in(path: Path) -> int:
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
    return int(path.read_text())


def no_mark_is_left(folder: Path) -> bool:
    return not list(folder.glob(".run-ssh-*"))


def one_error(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR (run-ssh")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_jobs_run_on_both_hosts_in_the_same_directory_and_each_has_its_log(hosts: SshHosts, tmp_path: Path) -> None:
    script = "pwd; echo ${SSH_CONNECTION% *}; echo job JOB >&2; touch ran.JOB"
    done = run_ssh(hosts, *TWO, "JOB=1:4", "log/x.JOB.log", "bash", "-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    logs = [tmp_path / f"log/x.{number}.log" for number in range(1, 5)]
    assert [host_of(log) for log in logs] == ["a", "b", "a", "b"]
    for number, log in enumerate(logs, 1):
        lines = output_of(log)
        assert lines[0] == str(tmp_path)
        assert lines[1].endswith(hosts.addresses[host_of(log)])
        assert lines[2] == f"job {number}"
        assert log_file.status(str(log)) == 0
        assert log.read_text().startswith(f"# bash -c '{script}'".replace("JOB", str(number))[:10])
    assert len(list(tmp_path.glob("ran.*"))) == 4
    assert no_mark_is_left(tmp_path)


def test_a_failed_job_is_not_taken_for_a_lost_host(hosts: SshHosts, tmp_path: Path) -> None:
    """Even where its status is the one that ssh has when it cannot connect, or a signal ends its bash."""
    script = "echo ran >> count.JOB; case JOB in 1) exit 255;; 2) exit 3;; 3) kill -9 $$; sleep 9;; esac; echo fine"
    done = run_ssh(hosts, *TWO, "JOB=1:4", "x.JOB.log", "bash", "-c", script, cwd=tmp_path)
    error = one_error(done)
    assert "3 of 4 jobs failed (1, 2, 3)" in error
    assert "WARNING" not in done.stderr
    assert [log_file.status(str(tmp_path / f"x.{number}.log")) for number in (1, 2, 4)] == [255, 3, 0]
    assert log_file.status(str(tmp_path / "x.3.log")) not in (0, None)
    assert all((tmp_path / f"count.{number}").read_text() == "ran\n" for number in range(1, 5))


def test_a_log_on_a_full_disk_is_an_error_and_ends_the_other_jobs(hosts: SshHosts, tmp_path: Path) -> None:
    (tmp_path / "x.2.log").symlink_to("/dev/full")
    started = time.monotonic()
    done = run_ssh(hosts, "--hosts", "a b", "JOB=1:2", "x.JOB.log", "sleep", "60", cwd=tmp_path)
    assert done.returncode == 1
    assert time.monotonic() - started < 40
    assert done.stderr.count("ERROR (") == 1
    assert "x.2.log: No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_hostile_words_and_names_reach_the_job_as_they_are(hosts: SshHosts, tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s a $(touch pwned) ; "dir"\nnew line'
    folder.mkdir()
    (folder / "show.py").write_text("import sys\nprint(ascii(sys.argv[1:]))\n")
    words = [
        "a'b \"c\" d", "x;touch pwned; y", "back`touch pwned`tick and 'quotes' \"two\"", "new\nline",
        "it's; touch pwned", "", "caf\u00e9 \udcff byte", "ends with \\ backslash", "# no comment", "tab\there",
    ]  # fmt: skip
    script = [sys.executable, "show.py", *words]
    local = subprocess.run(["run-local", "local.log", *script], cwd=folder, capture_output=True, text=True)
    done = run_ssh(hosts, "--hosts", "a", "ssh.log", *script, cwd=folder)
    assert (local.returncode, done.returncode) == (0, 0), done.stderr
    seen = [(folder / log).read_bytes().splitlines()[-3].decode() for log in ("ssh.log", "local.log")]
    assert seen == [ascii(words)] * 2
    assert not list(tmp_path.rglob("pwned"))
    assert no_mark_is_left(folder)


@pytest.mark.slow
def test_path_threads_and_chosen_variables_reach_the_job(hosts: SshHosts, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "my-program").write_text(
        '#!/bin/sh\necho "$OPENBLAS_NUM_THREADS $OMP_NUM_THREADS $MKL_NUM_THREADS|$MINE|$OTHER|$LC_ALL"\n'
    )
    (tmp_path / "bin" / "my-program").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "OPENBLAS_NUM_THREADS": "7", "LC_ALL": "C",
        "MINE": "with 'quotes' $(and) more", "OTHER": "stays here",
    }  # fmt: skip
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.pop(name, None)
    words = ["--hosts", "a:2", "--num-threads", "2", "--env", "MINE", "x.log", "my-program"]
    done = run_ssh(hosts, *words, cwd=tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert output_of(tmp_path / "x.log") == ["7 2 2|with 'quotes' $(and) more||C"]


# Jobs wait until so many are there together; then the others follow, and each counts before it goes.
HOLD = """\
host=$(set -- $SSH_CONNECTION; echo $3)
mkdir "on.$host.$1"
until [ -e full ]; do [ $(ls -d on.* | wc -l) -ge $2 ] && touch full; sleep 0.1; done
ls -d "on.$host".* | wc -l
ls -d on.* | wc -l
sleep 0.3
rmdir "on.$host.$1"
"""


@pytest.mark.slow
def test_each_hosts_slots_and_the_overall_limit_are_kept(hosts: SshHosts, tmp_path: Path) -> None:
    (tmp_path / "job.sh").write_text(HOLD)

    def at_once(together: int, *words: str) -> tuple[int, int]:
        """The most jobs that ran together on one host, and over all; so many must come together."""
        (tmp_path / "full").unlink(missing_ok=True)
        job = ["JOB=1:5", "x.JOB.log", "bash", "job.sh", "JOB", str(together)]
        done = run_ssh(hosts, "--time-limit", "30", *words, *job, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        counts = [output_of(tmp_path / f"x.{number}.log") for number in range(1, 6)]
        return max(int(on_host) for on_host, _ in counts), max(int(overall) for _, overall in counts)

    assert at_once(3, "--hosts", "a:2 b:1") in ((2, 3), (2, 2))
    # Five slots hold two jobs of two threads; b has too few for one, and has it to itself.
    on_host, overall = at_once(2, "--hosts", "a:5 b:1", "--num-threads", "2", "--max-jobs-run", "2")
    assert on_host <= 2
    assert overall <= 2


@pytest.mark.slow
def test_a_very_long_command_line_runs(hosts: SshHosts, tmp_path: Path) -> None:
    names = [f"{tmp_path}/{n:06d}.raw" for n in range(3000)]  # more bytes than one argument, or a pipe, holds
    done = run_ssh(hosts, "--hosts", "a", "x.log", "echo", *names, "|", "wc", "-w", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert output_of(tmp_path / "x.log") == ["3000"]


@pytest.mark.slow
def test_a_job_that_leaves_something_running_does_not_hold_the_engine(hosts: SshHosts, tmp_path: Path) -> None:
    begin = time.monotonic()
    (tmp_path / "job.sh").write_text("sleep 60 & echo $! > pid\n")
    done = run_ssh(hosts, "--hosts", "a", "x.log", "bash", "job.sh", cwd=tmp_path)
    try:
        assert done.returncode == 0, done.stderr
        assert time.monotonic() - begin < 20
    finally:
        os.kill(pid_in(tmp_path / "pid"), signal.SIGKILL)


def test_an_unknown_host_key_is_refused_and_not_worked_around(own_hosts: SshHosts, tmp_path: Path) -> None:
    known = own_hosts.known_hosts.read_text().splitlines(keepends=True)
    own_hosts.known_hosts.write_text(known[0])  # a is known, b is not
    done = run_ssh(own_hosts, "--hosts", "b:2", "x.log", "touch", "ran", cwd=tmp_path)
    error = one_error(done)
    assert "No host is left" in error
    assert "Host key verification failed" in error
    assert not (tmp_path / "ran").exists()
    assert own_hosts.known_hosts.read_text() == known[0]
    # A host whose key is another one than it was: the same. Its jobs go where the key is right.
    own_hosts.known_hosts.write_text(known[0] + known[1].split()[0] + " " + " ".join(known[0].split()[1:]) + "\n")
    done = run_ssh(own_hosts, *TWO, "JOB=1:2", "y.JOB.log", "true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Host b" in done.stderr
    assert "WARNING (run-ssh" in done.stderr
    assert [host_of(tmp_path / f"y.{number}.log") for number in (1, 2)] == ["a", "a"]


@pytest.mark.slow
def test_a_host_that_is_down_from_the_start_is_left_out(own_hosts: SshHosts, tmp_path: Path) -> None:
    own_hosts.stop("a")
    done = run_ssh(own_hosts, *TWO, "JOB=1:4", "x.JOB.log", "echo", "JOB", ">>count.JOB", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Host a is lost") == 1
    assert {host_of(tmp_path / f"x.{number}.log") for number in range(1, 5)} == {"b"}
    assert [(tmp_path / f"count.{number}").read_text() for number in range(1, 5)] == [f"{n}\n" for n in range(1, 5)]
    own_hosts.stop("b")
    done = run_ssh(own_hosts, *TWO, "JOB=1:4", "x.JOB.log", "true", cwd=tmp_path)
    error = one_error(done)
    assert "No host is left for 4 jobs" in error
    assert "Connection refused" in error
    assert no_mark_is_left(tmp_path)


@pytest.mark.slow
def test_a_host_that_dies_in_the_middle_of_a_job_loses_it_to_another(own_hosts: SshHosts, tmp_path: Path) -> None:
    script = "echo try; echo $$ > pid.JOB.$$; [ -e go ] || sleep 60"
    words = ["--hosts", "a b", "JOB=1:2", "x.JOB.log", "bash", "-c", script]
    engine = start(own_hosts, *words, cwd=tmp_path)
    wait_until(lambda: len(list(tmp_path.glob("pid.*"))) == 2)
    (lost,) = tmp_path.glob("pid.1.*")
    wait_until(lambda: output_of(tmp_path / "x.1.log") == ["try"])  # it has come over the connection
    (tmp_path / "go").touch()
    own_hosts.stop("a")
    lost_pid = pid_in(lost)
    wait_until(lambda: not alive(lost_pid), 10)
    (second,) = tmp_path.glob("pid.2.*")
    os.kill(pid_in(second), signal.SIGTERM)  # job 2 fails by itself, and is not run again
    _, errors = engine.communicate(timeout=60)
    assert engine.returncode == 1
    assert errors.count("WARNING (run-ssh") == 1
    assert "Host a is lost" in errors
    assert "1 of 2 jobs failed (2)" in errors
    log = (tmp_path / "x.1.log").read_text()
    assert host_of(tmp_path / "x.1.log") == "b"
    assert "# Lost before on a: " in log
    assert output_of(tmp_path / "x.1.log") == ["try"]
    assert log_file.status(str(tmp_path / "x.1.log")) == 0
    assert output_of(tmp_path / "x.1.log.lost") == ["try"]
    assert len(list(tmp_path.glob("pid.1.*"))) == 2
    assert len(list(tmp_path.glob("pid.2.*"))) == 1


def stubborn_job(folder: Path) -> None:
    """A job below bash: a program that ignores the polite signal in a pipe, and one that does not."""
    (folder / "job.sh").write_text(
        "trap '' TERM\n"
        "python3 -c 'import os, time; print(os.getpid(), flush=True); time.sleep(60)' | cat > pid.stubborn &\n"
        "trap - TERM\n"
        "sleep 60 & echo $! > pid.polite; wait\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_remote_processes(hosts: SshHosts, number: signal.Signals, tmp_path: Path) -> None:
    stubborn_job(tmp_path)
    engine = start(hosts, "--hosts", "a", "JOB=1:2", "x.JOB.log", "bash", "job.sh", "JOB", cwd=tmp_path)
    pids = [pid_in(tmp_path / "pid.stubborn"), pid_in(tmp_path / "pid.polite")]
    engine.send_signal(number)
    _, errors = engine.communicate(timeout=20)
    assert engine.returncode == 128 + number
    assert number.name in errors
    assert not any(alive(pid) for pid in pids)  # the engine has waited for it
    assert log_file.status(str(tmp_path / "x.1.log")) == 128 + signal.SIGTERM
    assert not (tmp_path / "x.2.log").exists()
    assert no_mark_is_left(tmp_path)


@pytest.mark.slow
def test_no_remote_job_outlives_a_killed_engine(hosts: SshHosts, tmp_path: Path) -> None:
    stubborn_job(tmp_path)
    engine = start(hosts, "--hosts", "a", "x.log", "bash", "job.sh", cwd=tmp_path)
    pids = [pid_in(tmp_path / "pid.stubborn"), pid_in(tmp_path / "pid.polite")]
    engine.kill()
    engine.wait()
    wait_until(lambda: not any(alive(pid) for pid in pids), 15)


@pytest.mark.slow
def test_jobs_end_when_the_driver_that_asked_for_them_is_killed(hosts: SshHosts, tmp_path: Path) -> None:
    command = ["run-ssh", *hosts.options, "--hosts", "a", "x.log", "bash", "-c", "echo $$ > pid; sleep 60; true"]
    driver = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, subprocess, sys, time\n"
            f"os.environ['{DRIVER_PID}'] = str(os.getpid())\n"
            "subprocess.Popen(sys.argv[1:])\n"
            "time.sleep(60)\n",
            *command,
        ],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )
    pid = pid_in(tmp_path / "pid")
    driver.kill()
    driver.wait()
    wait_until(lambda: not alive(pid), 15)
    wait_until(lambda: no_mark_is_left(tmp_path))


@pytest.mark.slow
def test_a_host_that_hears_nothing_any_more_ends_its_job(hosts: SshHosts, tmp_path: Path) -> None:
    """A stopped engine is like a cut network: no connection is closed. The job is run again when it goes on."""
    words = ["--silence-limit", "2", "--hosts", "a", "x.log", "bash", "-c", "echo $$ >> pids; [ -e go ] || sleep 60"]
    engine = start(hosts, *words, cwd=tmp_path)
    pid = pid_in(tmp_path / "pids")
    engine.send_signal(signal.SIGSTOP)
    wait_until(lambda: not alive(pid), 15)
    (tmp_path / "go").touch()
    engine.send_signal(signal.SIGCONT)
    _, errors = engine.communicate(timeout=30)
    assert engine.returncode == 0, errors
    assert len((tmp_path / "pids").read_text().split()) == 2
    assert "# Lost before on a: it heard nothing from here for 2 seconds." in (tmp_path / "x.log").read_text()


@pytest.mark.slow
def test_a_cable_that_is_pulled_ends_the_job_there_before_another_machine_has_it(tmp_path: Path) -> None:
    (tmp_path / "job.sh").write_text("echo $$ >> pids; [ -e go ] || sleep 90\n")
    words = ["--silence-limit", "8", "--hosts", "a b", "x.log", "bash", "job.sh"]
    with machines("ab") as two, ssh_hosts("ab", machines=two) as hosts:
        command = ["ip", "netns", "exec", two["a"].here, "run-ssh", *hosts.options, *words]
        engine = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        pid = pid_in(tmp_path / "pids")
        two["a"].pull_the_cable()
        wait_until(lambda: not alive(pid), 40)
        assert len((tmp_path / "pids").read_text().split()) == 1  # nobody else has started it yet
        (tmp_path / "go").touch()
        _, errors = engine.communicate(timeout=60)
    assert engine.returncode == 0, errors
    assert "Host a is lost" in errors or "Host a could not be reached" in errors  # before b had begun, or after
    assert host_of(tmp_path / "x.log") == "b"
    assert len((tmp_path / "pids").read_text().split()) == 2


@pytest.mark.slow
def test_a_job_that_runs_too_long_is_ended_and_has_failed(hosts: SshHosts, tmp_path: Path) -> None:
    script = "echo $$ > pid.JOB; if [ JOB = 2 ]; then sleep 60; fi"
    done = run_ssh(hosts, *TWO, "--time-limit", "4", "JOB=1:2", "x.JOB.log", "bash", "-c", script, cwd=tmp_path)
    error = one_error(done)
    assert "1 of 2 jobs failed (2)" in error
    assert "longer than --time-limit=4 seconds" in done.stderr
    assert log_file.status(str(tmp_path / "x.2.log")) not in (0, None)
    assert not alive(pid_in(tmp_path / "pid.2"))


@pytest.mark.slow
def test_a_directory_that_is_not_shared_is_refused(tmp_path: Path) -> None:
    if os.getuid() != 0 or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0:
        pytest.skip("a host with folders of its own needs root and unshare --mount (Debian's util-linux)")
    here, parent = tmp_path / "here", tmp_path / "parent"
    here.mkdir()
    (parent / "work").mkdir(parents=True)
    with ssh_hosts("abc", unshared={"b": here, "c": parent}) as hosts:
        done = run_ssh(hosts, "--hosts", "c", "x.log", "touch", "ran", cwd=parent / "work")
        assert "it has no such directory" in one_error(done)
        done = run_ssh(hosts, "--hosts", "b:2 a:1", "JOB=1:2", "x.JOB.log", "touch", "ran.JOB", cwd=here)
        assert done.returncode == 0, done.stderr
        assert f"Host b is lost, its jobs go to other hosts: {here} must be on a disk that all" in done.stderr
        assert "a file that was written here is not there" in done.stderr
        assert sorted(path.name for path in here.glob("ran*")) == ["ran.1", "ran.2"]


@pytest.mark.slow
def test_a_job_whose_hosts_die_of_it_is_given_up(own_hosts: SshHosts, tmp_path: Path) -> None:
    """Here the job kills the remote bash that watches it, which is ended with what it has started."""
    (tmp_path / "job.sh").write_text("echo $$ >> pids; kill -9 $1; sleep 60\n")
    words = ["--hosts", "a b", "x.log", "bash", "job.sh", "$PPID"]
    error = one_error(run_ssh(own_hosts, *words, cwd=tmp_path, timeout=40))
    assert "No host is left for 1 jobs" in error
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    assert not any(alive(pid) for pid in pids)


@pytest.mark.slow
def test_pick_runs_only_what_has_not_succeeded(hosts: SshHosts, tmp_path: Path) -> None:
    run_ssh(hosts, *TWO, "JOB=1:2", "x.JOB.log", "test", "JOB", "!=", "2", cwd=tmp_path)
    again = run_ssh(hosts, "--pick", "failed", *TWO, "JOB=1:2", "x.JOB.log", "touch", "ran.JOB", cwd=tmp_path)
    assert again.returncode == 0
    assert [path.name for path in tmp_path.glob("ran.*")] == ["ran.2"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["x.log", "true"], "conf/hosts"),
        (["--hosts", "a", "--ssh", "", "x.log", "true"], "--ssh"),
        (["--hosts", "a", "--ssh", "'", "x.log", "true"], "--ssh"),
        (["--hosts", "a", "--ssh", "no-such-program", "x.log", "true"], "no-such-program"),
        (["--hosts", "a", "--silence-limit", "0", "x.log", "true"], "--silence-limit"),
        (["--hosts", "a", "--env", "A=B", "x.log", "true"], "--env"),
        (["--hosts", "a", "x.log/y.log", "true"], "x.log/y.log"),
    ],
)
def test_bad_input_is_one_error(words: list[str], complaint: str, tmp_path: Path) -> None:
    (tmp_path / "x.log").write_text("")
    done = subprocess.run(["run-ssh", *words], cwd=tmp_path, capture_output=True, text=True, timeout=20)
    assert complaint in one_error(done)
    assert no_mark_is_left(tmp_path)


def test_help_answers(tmp_path: Path) -> None:
    done = subprocess.run(["run-ssh", "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0
    assert "--hosts-file" in done.stdout


@pytest.mark.slow
def test_more_slots_than_files_may_be_open_run_all_jobs(tmp_path: Path) -> None:
    (tmp_path / "ssh").write_text('#!/bin/bash\nexec bash -c "${@: -1}"\n')  # every host is this machine
    (tmp_path / "ssh").chmod(0o755)
    hosts = " ".join(f"{name}:4" for name in "abcdefghij")
    words = ["run-ssh", "--ssh", f"{tmp_path}/ssh", "--hosts", hosts, "JOB=1:40", "log/x.JOB.log", "sleep", "2"]
    limited = ["bash", "-c", 'ulimit -n 62 && exec "$@"', "bash", *words]
    done = subprocess.run(limited, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert all(log_file.status(str(tmp_path / f"log/x.{job}.log")) == 0 for job in range(1, 41))
