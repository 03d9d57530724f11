"""A Grid Engine of one's own for a test: qmaster and one execution host on this machine, in a private directory.

Debian's packages are gridengine-master, gridengine-exec and gridengine-client (Son of Grid Engine 8.1.9).
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from child_process import end_with_parent

_PROGRAMS = {
    "sge_qmaster": "gridengine-master",
    "sge_execd": "gridengine-exec",
    "qsub": "gridengine-client",
}
_DEBIAN = Path("/usr/share/gridengine")
_START_SECONDS = 90.0  # on a busy machine; an idle one takes a few
_UNLIMITED = (
    "s_rt h_rt s_cpu h_cpu s_fsize h_fsize s_data h_data s_stack h_stack s_core h_core s_rss h_rss s_vmem h_vmem"
)
_QUEUE = """\
qname all.q
hostlist localhost
seq_no 0
load_thresholds NONE
suspend_thresholds NONE
nsuspend 1
suspend_interval 00:05:00
priority 0
min_cpu_interval 00:05:00
processors UNDEFINED
qtype BATCH INTERACTIVE
ckpt_list NONE
pe_list smp
rerun FALSE
slots 4
tmpdir /tmp
shell /bin/bash
prolog NONE
epilog NONE
shell_start_mode posix_compliant
starter_method NONE
suspend_method NONE
resume_method NONE
terminate_method NONE
notify 00:00:60
owner_list NONE
user_lists NONE
xuser_lists NONE
subordinate_list NONE
complex_values NONE
projects NONE
xprojects NONE
calendar NONE
initial_state default
""" + "".join(f"{name} INFINITY\n" for name in _UNLIMITED.split())
_PARALLEL = """\
pe_name smp
slots 999
user_lists NONE
xuser_lists NONE
start_proc_args NONE
stop_proc_args NONE
allocation_rule $pe_slots
control_slaves FALSE
job_is_first_task TRUE
urgency_slots min
accounting_summary FALSE
qsort_args NONE
"""
_HOST = """\
hostname localhost
load_scaling NONE
complex_values NONE
user_lists NONE
xuser_lists NONE
projects NONE
xprojects NONE
usage_scaling NONE
report_variables NONE
"""


class ClusterError(Exception):
    """The cluster did not start; the message has the last lines of what it said."""


def missing() -> str:
    """What keeps a cluster from being started here, or "" if nothing does."""
    absent = sorted({package for program, package in _PROGRAMS.items() if _find(program) is None})
    return f"Debian's packages {' and '.join(absent)} are not installed" if absent else ""


def _find(program: str) -> str | None:
    return shutil.which(program, path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))


class GridEngineCluster:
    """A running Grid Engine with four slots; its commands find it by environment variables.

    Attributes:
        folder: everything that the cluster writes; removed when it is stopped.
        environment: what the cluster's users need in their environment.
    """

    def __init__(self, folder: Path) -> None:
        qmaster, execd = _free_ports(2)
        self.folder = folder
        self.environment = {
            "SGE_ROOT": str(folder),
            "SGE_CELL": "default",
            "SGE_QMASTER_PORT": str(qmaster),
            "SGE_EXECD_PORT": str(execd),
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._configure()

    def start(self) -> None:
        """Start both parts and wait until a queue takes jobs.

        Raises:
            ClusterError: none does within a minute and a half.
        """
        self.start_qmaster()
        self.command("qconf", "-as", "localhost")
        for option, text in (("-Ae", _HOST), ("-Ap", _PARALLEL), ("-Aq", _QUEUE)):
            self._with_file(option, text)
        scheduling = self.command("qconf", "-ssconf")
        for name, value in (("schedule_interval", "0:0:1"), ("flush_submit_sec", "1"), ("flush_finish_sec", "1")):
            scheduling = re.sub(rf"^{name}\s.*$", f"{name} {value}", scheduling, flags=re.MULTILINE)
        self._with_file("-Msconf", scheduling)
        self._start_part("sge_execd")
        self._wait_for(lambda: "lx-" in self.command("qstat", "-f"), "sge_execd")

    def stop(self) -> None:
        """End both parts, jobs included, and remove the directory."""
        with contextlib.suppress(subprocess.SubprocessError):
            self.command("qdel", "-f", "-u", getpass.getuser(), timeout=10)
        deadline = time.monotonic() + 10
        with contextlib.suppress(subprocess.SubprocessError):
            while self.jobs() and time.monotonic() < deadline:
                time.sleep(0.2)
        for name in list(self._processes):
            self._end(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_qmaster(self) -> None:
        """Start the qmaster and wait until it answers."""
        self._start_part("sge_qmaster")
        self._wait_for(lambda: self._answers(), "sge_qmaster")

    def stop_qmaster(self) -> None:
        """End the qmaster alone; jobs go on, and qstat and qdel fail until it is started again."""
        self._end("sge_qmaster")

    def command(self, *words: str, timeout: float = 60.0) -> str:
        """What one of Grid Engine's commands prints.

        Raises:
            subprocess.CalledProcessError: it fails.
        """
        environment = {**os.environ, **self.environment}
        return subprocess.run(
            words, env=environment, capture_output=True, text=True, check=True, timeout=timeout
        ).stdout

    def jobs(self) -> list[str]:
        """The jobs that wait or run, as qstat lists them."""
        return self.command("qstat", "-u", "*").splitlines()[2:]

    def _answers(self) -> bool:
        try:
            self.command("qconf", "-sh", timeout=10)
        except subprocess.SubprocessError:
            return False
        return True

    def _with_file(self, option: str, text: str) -> None:
        path = self.folder / "for_qconf"
        path.write_text(text)
        self.command("qconf", option, str(path))

    def _configure(self) -> None:
        common = self.folder / "default" / "common"
        for folder in (common, self.folder / "spool" / "job_scripts", self.folder / "database", self.folder / "execd"):
            folder.mkdir(parents=True)
        for name in ("bin", "lib", "util", "utilbin"):
            (self.folder / name).symlink_to((Path("/var/lib/gridengine") / name).resolve())
        (common / "bootstrap").write_text(
            f"""\
admin_user none
default_domain none
ignore_fqdn false
spooling_method berkeleydb
spooling_lib libspoolb
spooling_params {self.folder}/database
binary_path {Path(_find("sge_qmaster") or "").parent}
qmaster_spool_dir {self.folder}/spool
security_mode none
listener_threads 2
worker_threads 2
scheduler_threads 1
"""
        )
        # The qmaster does not start on a host whose name is a loopback address's, unless that is called localhost.
        (common / "host_aliases").write_text(f"localhost {socket.gethostname()}\n")
        (common / "act_qmaster").write_text("localhost\n")
        configuration = (_DEBIAN / "default-configuration").read_text()
        changes = {
            "execd_spool_dir": f"{self.folder}/execd",
            "min_uid": "0",
            "min_gid": "0",
            "load_report_time": "0:0:5",
        }
        for name, value in changes.items():
            configuration = re.sub(rf"^{name}\s.*$", f"{name} {value}", configuration, flags=re.MULTILINE)
        configuration = configuration.replace("flush_time=00:00:15", "flush_time=00:00:01")
        (self.folder / "configuration").write_text(configuration)
        tools = "/usr/lib/gridengine"
        self.command(f"{tools}/spoolinit", "berkeleydb", "libspoolb", f"{self.folder}/database", "init")
        for what, path in (
            ("configuration", f"{self.folder}/configuration"),
            ("complexes", f"{_DEBIAN}/util/resources/centry"),
            ("usersets", f"{_DEBIAN}/util/resources/usersets"),
            ("managers", getpass.getuser()),
        ):
            self.command(f"{tools}/spooldefaults", what, path)

    def _start_part(self, program: str) -> None:
        path = _find(program)
        assert path is not None, missing()
        with open(self.folder / f"{program}.output", "ab") as output:
            self._processes[program] = subprocess.Popen(
                [path],
                env={**os.environ, **self.environment, "SGE_ND": "1"},  # stay in the foreground
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

    def _wait_for(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                said = "\n".join(path.read_text(errors="replace")[-2000:] for path in self.folder.glob("*.output"))
                raise ClusterError(f"{what} did not start within {_START_SECONDS:.0f} s.\n{said}")
            time.sleep(0.1)


@contextlib.contextmanager
def running_cluster() -> Iterator[GridEngineCluster]:
    """A cluster from its start to its end.

    Raises:
        ClusterError: it does not start.
    """
    folder = Path(tempfile.mkdtemp(prefix="sge-", dir="/tmp"))
    folder.chmod(0o755)
    cluster = GridEngineCluster(folder)
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
