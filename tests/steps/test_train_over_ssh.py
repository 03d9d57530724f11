"""The driver with its jobs on several hosts: the same model as on one, byte for byte."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest
from ssh_hosts import SshHosts, ssh_hosts
from tiny_corpus import final_config, make_corpus
from tiny_training import add_experiment, command, train

CMD = "--cmd=run-ssh --hosts 'a:2 b:2'"
FILES = ("0.raw", "1.raw", "2.raw", "final.raw", "final.priors")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    make_corpus(folder)
    add_experiment(folder, "exp", config=final_config())
    done = train(folder, "--cleanup=false", "--cmd=run-local --max-jobs-run 1")
    assert done.returncode == 0, done.stderr
    return folder


def hosts_in(folder: Path) -> set[str]:
    """Where the jobs of an experiment have run, by their logs."""
    lines = (line for log in (folder / "log").glob("*.log") for line in log.read_text().splitlines())
    return {line.split()[-1] for line in lines if line.startswith("# Running on ")}


@pytest.mark.slow
def test_a_model_trained_on_two_hosts_is_that_of_one_machine(
    trained: Path, ssh: SshHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", ssh.environment["PATH"])
    add_experiment(trained, "ssh", config=final_config())
    done = train(trained, "--cleanup=false", CMD, directory="ssh")
    assert done.returncode == 0, done.stderr
    assert hosts_in(trained / "ssh") == {"a", "b"}
    for name in FILES:
        assert (trained / "ssh" / name).read_bytes() == (trained / "exp" / name).read_bytes(), name


@pytest.mark.long
def test_a_host_that_dies_during_the_training_changes_nothing(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ssh_hosts("ab") as hosts:
        monkeypatch.setenv("PATH", hosts.environment["PATH"])
        folder = add_experiment(trained, "dying", config=final_config())
        driver = subprocess.Popen(
            command("--cleanup=false", CMD, directory="dying"), cwd=trained, stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + 300
        while not (folder / "1.raw").exists():  # the next iteration has two jobs
            assert driver.poll() is None, driver.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        hosts.stop("a")
        _, errors = driver.communicate(timeout=300)
        assert driver.returncode == 0, errors
    for name in FILES:
        assert (folder / name).read_bytes() == (trained / "exp" / name).read_bytes(), name
