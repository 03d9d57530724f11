"""A Slurm of one's own for a test: a controller and four nodes on this machine, in a private directory.

The nodes are slurmd processes on ports of their own. There is no accounting, as on many small clusters; Munge, by which
Slurm's parts know each other, runs with its own key and socket. Debian's packages are slurm-wlm and munge.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from child_process import end_with_parent

NODES = ("n1", "n2", "n3", "n4")
_PROGRAMS = {"munged": "munge", "slurmctld": "slurm-wlm", "slurmd": "slurm-wlm", "sbatch": "slurm-wlm"}
_START_SECONDS = 90.0  # on a busy machine; an idle one takes a few


class ClusterError(Exception):
    """The cluster did not start; the message has the last lines of its logs."""


def missing() -> str:
    """What keeps a cluster from being started here, or "" if nothing does."""
    absent = sorted({package for program, package in _PROGRAMS.items() if _find(program) is None})
    return f"Debian's packages {' and '.join(absent)} are not installed" if absent else ""


def _find(program: str) -> str | None:
    return shutil.which(program, path=os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"]))


class SlurmCluster:
    """A running Slurm; its commands find it by the environment variable ``SLURM_CONF``.

    Attributes:
        folder: everything that the cluster writes; removed when it is stopped.
        environment: what the cluster's users need in their environment.
    """

    def __init__(self, folder: Path, more_configuration: str = "") -> None:
        """``more_configuration`` is added to slurm.conf: lines such as ``MaxArraySize=11``."""
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._configure(more_configuration)

    def start(self) -> None:
        """Start every part and wait until the nodes are idle.

        Raises:
            ClusterError: they are not within a minute and a half.
        """
        munge = self.folder / "munge"
        self._start_part(
            "munged",
            *("--foreground", "--force", "--num-threads=1", f"--key-file={munge}/key", f"--socket={munge}/socket"),
            *(f"--pid-file={munge}/pid", f"--log-file={munge}/log", f"--seed-file={munge}/seed"),
        )
        self._wait_for((munge / "socket").exists, "munged")
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self.wait_until_idle()

    def wait_until_idle(self) -> None:
        """Wait until every node can take a job.

        Raises:
            ClusterError: they cannot within a minute and a half.
        """
        self._wait_for(lambda: self._idle() == len(NODES), "the nodes")

    def stop(self) -> None:
        """End every part, jobs included, and remove the directory."""
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            self.command("scancel", f"--user={getpass.getuser()}", timeout=10)
            self._until(lambda: not self.command("squeue", "--noheader", timeout=10).strip(), 10)
        for name in [*(name for name in self._processes if name != "munged"), "munged"]:
            self._end(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_controller(self) -> None:
        self._start_part("slurmctld", "-D", "-i")

    def stop_controller(self) -> None:
        """End slurmctld alone; jobs go on, and squeue and scancel fail until it is started again."""
        self._end("slurmctld")

    def start_node(self, node: str) -> None:
        self._start_part("slurmd", "-D", "-N", node, name=node)

    def kill_node(self, node: str) -> None:
        """End a node's slurmd and everything that runs there, at once, as a power cut does."""
        for pid in _descendants(self._processes[node].pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._end(node)

    def take_down(self, node: str) -> None:
        """Tell the controller that a node is lost: its jobs are ended as those of a lost node are."""
        self.command("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    def bring_back(self, node: str) -> None:
        """Let a node that was taken down or killed take jobs again.

        Raises:
            ClusterError: it does not within a minute and a half.
        """
        if node not in self._processes:
            self.start_node(node)
        with contextlib.suppress(subprocess.CalledProcessError):  # the controller may not have missed it
            self.command("scontrol", "update", f"nodename={node}", "state=resume")
        self.wait_until_idle()

    def command(self, *words: str, timeout: float = 60.0) -> str:
        """What one of Slurm's commands prints.

        Raises:
            subprocess.CalledProcessError: it fails.
        """
        environment = {**os.environ, **self.environment}
        return subprocess.run(
            words, env=environment, capture_output=True, text=True, check=True, timeout=timeout
        ).stdout

    def jobs(self) -> list[str]:
        """The jobs that wait or run, one an array task, as ``12_3 RUNNING n1``."""
        return self.command("squeue", "--noheader", "--array", "--format=%i %T %N").splitlines()

    def _configure(self, more: str) -> None:
        host, user = socket.gethostname().split(".")[0], getpass.getuser()
        ports = _free_ports(1 + len(NODES))
        for part in ("munge", "controller", *NODES):
            (self.folder / part).mkdir()
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        (self.folder / "munge").chmod(0o755)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory={memory // 2}"
            for node, port in zip(NODES, ports[1:], strict=True)
        )
        (self.folder / "slurm.conf").write_text(
            f"""\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={self.folder}/munge/socket
CredType=cred/munge
StateSaveLocation={self.folder}/controller
SlurmdSpoolDir={self.folder}/%n
SlurmctldPidFile={self.folder}/controller/pid
SlurmdPidFile={self.folder}/%n/pid
SlurmctldLogFile={self.folder}/controller/log
SlurmdLogFile={self.folder}/%n/log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,sched_min_interval=1,batch_sched_delay=0,bf_interval=1
SlurmdParameters=config_overrides
ReturnToService=0
KillWait=2
MessageTimeout=10
SlurmdTimeout=300
{nodes}
PartitionName=all Nodes={",".join(NODES)} Default=YES MaxTime=INFINITE State=UP
{more}
"""
        )

    def _start_part(self, program: str, *options: str, name: str | None = None) -> None:
        path = _find(program)
        assert path is not None, missing()
        with open(self.folder / f"{name or program}.output", "ab") as output:
            self._processes[name or program] = subprocess.Popen(
                [path, *options],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )

    def _end(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _idle(self) -> int:
        try:
            states = self.command("sinfo", "--noheader", "--Node", "--format=%T", timeout=15).split()
        except subprocess.SubprocessError:
            return 0
        return states.count("idle")

    def _wait_for(self, condition, what: str) -> None:
        if not self._until(condition, _START_SECONDS):
            logs = [*self.folder.glob("*.output"), *self.folder.glob("*/log")]
            ends = [f"{log.relative_to(self.folder)}:\n{_end_of(log)}" for log in logs]
            raise ClusterError(f"{what} did not start within {_START_SECONDS:.0f} s.\n" + "\n".join(ends))

    @staticmethod
    def _until(condition, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True


@contextlib.contextmanager
def running_cluster(more_configuration: str = "") -> Iterator[SlurmCluster]:
    """A cluster from its start to its end.

    Raises:
        ClusterError: it does not start.
    """
    # A short path that other users may pass through: sockets' names are short, and Munge looks at the folders above.
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    folder.chmod(0o755)
    cluster = SlurmCluster(folder, more_configuration)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as sockets:
        listening = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for one in listening:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in listening]


def _descendants(pid: int) -> list[int]:
    """A process and all that came from it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(below for child in children for below in _descendants(int(child)))]


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-8:])
