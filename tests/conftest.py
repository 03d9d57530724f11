"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grid_engine_cluster
import pytest
import slurm_cluster
import ssh_hosts

ROOT = Path(__file__).resolve().parent.parent
# The programs of this checkout come first, then the Python that runs the tests.
os.environ["PATH"] = os.pathsep.join([str(ROOT / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])


# Programs compute on the CPU here, also on a machine with a GPU; tests/gpu/conftest.py undoes it where it needs to.
os.environ["CUDA_VISIBLE_DEVICES"] = ""

# What a test starts must be endable as from a terminal, also where the tests themselves run under nohup or in the
# background of a script, whose processes ignore these signals.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number is signal.SIGINT else signal.SIG_DFL)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """No slow test is begun after the time (in seconds since 1970) that a run with a limit gives; see .ci/run."""
    until = float(os.environ.get("NNET3PY_SLOW_TESTS_UNTIL", "inf"))
    if item.get_closest_marker("slow") is not None and time.time() > until:
        pytest.skip("no time was left for this slow test: NNET3PY_SLOW_TESTS_UNTIL has passed")


@pytest.fixture(scope="session")
def kaldi_reference() -> Path:
    """The folder of files written by Kaldi itself; a user's checkout does not have it."""
    folder = ROOT.parent / "shared" / "kaldi-reference"
    if not folder.is_dir():
        pytest.skip("no ../shared/kaldi-reference beside this checkout: files written by Kaldi are not distributed")
    return folder


@pytest.fixture(scope="session")
def slurm() -> Iterator[slurm_cluster.SlurmCluster]:
    """A real Slurm with four nodes, for as long as the tests run; its environment is to be passed to what uses it."""
    if missing := slurm_cluster.missing():
        pytest.skip(f"no Slurm to start: {missing}")
    with slurm_cluster.running_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def grid_engine() -> Iterator[grid_engine_cluster.GridEngineCluster]:
    """A real Grid Engine, for as long as the tests run; its environment is to be passed to what uses it."""
    if missing := grid_engine_cluster.missing():
        pytest.skip(f"no Grid Engine to start: {missing}")
    with grid_engine_cluster.running_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def ssh() -> Iterator[ssh_hosts.SshHosts]:
    """Two real sshd, the hosts a and b, for as long as the tests run; nothing may break them."""
    with ssh_hosts.ssh_hosts("ab") as hosts:
        yield hosts
