"""Hosts to reach by ssh: real sshd processes on loopback addresses, with keys and lists of their own.

``a``, ``b``, ``c`` are 127.0.0.2, 127.0.0.3, 127.0.0.4 on one port. Each is a host of its own in that it has its own
sshd, which can be stopped, and whose sessions can be killed; what they run they run on this machine. A host may also
have a folder of its own where this machine has another one (``unshared``).
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "openssh-server"


def sshd() -> str:
    """The path of sshd (it has to be called by it); the test is skipped where it is not installed."""
    path = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    for program in (path, shutil.which("ssh"), shutil.which("ssh-keygen")):
        if program is None:
            pytest.skip(f"no sshd, ssh or ssh-keygen: install Debian's {PACKAGE} and openssh-client")
    assert path is not None
    return path


class SshHosts:
    """Running hosts: run-ssh finds them with ``options`` in front of its others, or in ``environment``."""

    def __init__(
        self,
        folder: Path,
        names: str = "ab",
        *,
        unshared: dict[str, Path] | None = None,
        machines: dict[str, Machine] | None = None,
    ) -> None:
        """``names`` are single letters from a on.

        The host ``name`` has an empty folder at ``unshared[name]``, and the network of ``machines[name]``.
        """
        self.folder = folder
        self._machines = machines or {}
        loopback = {name: f"127.0.0.{ord(name) - ord('a') + 2}" for name in names if name not in self._machines}
        self.addresses = loopback | {name: machine.address for name, machine in self._machines.items()}
        self.port = _free_port(list(loopback.values()) or ["127.0.0.2"])
        self.known_hosts = folder / "known_hosts"
        self._unshared = unshared or {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        _make_key(folder / "user_key")
        shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
        entries = []
        for name, address in self.addresses.items():
            key = _make_key(folder / f"host_key_{name}")
            entries.append(f"[{address}]:{self.port} {key}\n")
        self.known_hosts.write_text("".join(entries))
        (folder / "ssh_config").write_text(
            "".join(f"Host {name}\n  HostName {address}\n" for name, address in self.addresses.items())
            + f"Host *\n  Port {self.port}\n  IdentityFile {folder}/user_key\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.known_hosts}\n  GlobalKnownHostsFile none\n"
        )
        self.options = ["--ssh", f"ssh -F {shlex.quote(str(folder / 'ssh_config'))}"]
        wrapper = folder / "bin" / "ssh"
        wrapper.parent.mkdir()
        wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {shlex.quote(str(folder / "ssh_config"))} "$@"\n')
        wrapper.chmod(0o755)
        self.environment = {"PATH": f"{wrapper.parent}:{os.environ['PATH']}"}

    def start(self, name: str) -> None:
        """Start a host's sshd and wait until it listens."""
        address = self.addresses[name]
        config = self.folder / f"sshd_config_{name}"
        config.write_text(
            f"ListenAddress {address}:{self.port}\nHostKey {self.folder}/host_key_{name}\nPidFile none\n"
            f"AuthorizedKeysFile {self.folder}/authorized_keys\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n"
        )
        log = self.folder / f"sshd_{name}.log"
        log.write_text("")
        words = [sshd(), "-D", "-f", str(config), "-E", str(log)]
        if name in self._unshared:
            place = shlex.quote(str(self._unshared[name]))
            text = f"mount -t tmpfs none {place} && exec {shlex.join(words)}"
            words = ["unshare", "--mount", "bash", "-c", text]
        if name in self._machines:
            words = ["ip", "netns", "exec", self._machines[name].namespace, *words]
        if os.getuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)  # sshd started by root wants this very folder
        self._processes[name] = subprocess.Popen(words, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while "Server listening on" not in log.read_text():
            assert self._processes[name].poll() is None, log.read_text()
            assert time.monotonic() < deadline, "sshd does not listen"
            time.sleep(0.02)

    def kill_sessions(self, name: str) -> None:
        """SIGKILL for the sshd processes of a host's connections, not for what they run."""
        parents = _parents()
        found = {self._processes[name].pid}
        while (
            more := {pid for pid, (parent, program) in parents.items() if parent in found and program == "sshd"} - found
        ):
            found |= more
        for pid in found - {self._processes[name].pid}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop(self, name: str) -> None:
        """No new connections to a host, and an end with SIGKILL of those that there are."""
        process = self._processes[name]
        process.send_signal(signal.SIGSTOP)  # it starts no session between the two
        self.kill_sessions(name)
        process.kill()
        process.wait()
        del self._processes[name]

    def stop_all(self) -> None:
        for name in list(self._processes):
            self.stop(name)


def _make_key(path: Path) -> str:
    """Make a key without a passphrase; its public half as a line."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)], check=True)
    return path.with_suffix(".pub").read_text().strip()


def _free_port(addresses: list[str]) -> int:
    """A port that is free on every address now."""
    for _ in range(20):
        with contextlib.ExitStack() as stack:
            port = 0
            with contextlib.suppress(OSError):
                for address in addresses:
                    listener = stack.enter_context(socket.socket())
                    listener.bind((address, port))
                    port = listener.getsockname()[1]
                return port
    pytest.skip(f"no port is free on the loopback addresses {', '.join(addresses)}")


def _parents() -> dict[int, tuple[int, str]]:
    """Every process's parent and program."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                program, rest = entry.joinpath("stat").read_text().split("(", 1)[1].rsplit(")", 1)
                found[int(entry.name)] = (int(rest.split()[1]), program)
    return found


@dataclass(frozen=True)
class Machine:
    """A network namespace that a cable joins to ``here``, another one; the cable can be pulled."""

    namespace: str
    address: str
    here: str
    cable: str

    def pull_the_cable(self) -> None:
        """From now on nothing arrives on either side, and neither is told."""
        subprocess.run(["ip", "-n", self.here, "link", "set", self.cable, "down"], check=True)


@contextlib.contextmanager
def machines(names: str) -> Iterator[dict[str, Machine]]:
    """Machines of these names and a namespace ``here`` from which they are reached.

    This machine's own network is not touched. Skipped where namespaces cannot be made.
    """
    if shutil.which("ip") is None:
        pytest.skip("no ip: install Debian's iproute2")
    here = f"nnet3py-{os.getpid()}"
    made = {
        name: Machine(f"{here}-{name}", f"10.0.{number}.2", here, f"cable-{name}") for number, name in enumerate(names)
    }
    steps = [["ip", "netns", "add", here]]
    for machine in made.values():
        inside = ["ip", "-n", machine.namespace]
        steps += [
            ["ip", "netns", "add", machine.namespace],
            ["ip", "-n", here, "link", "add", machine.cable, "type", "veth", "peer", "far", "netns", machine.namespace],
            ["ip", "-n", here, "address", "add", f"{machine.address[:-1]}1/24", "dev", machine.cable],
            ["ip", "-n", here, "link", "set", machine.cable, "up"],
            [*inside, "address", "add", f"{machine.address}/24", "dev", "far"],
            [*inside, "link", "set", "far", "up"],
            [*inside, "link", "set", "lo", "up"],
        ]
    try:
        for words in steps:
            done = subprocess.run(words, capture_output=True, text=True)
            if done.returncode != 0:
                pytest.skip(f"no network namespaces here: {shlex.join(words)}: {done.stderr.strip()}")
        yield made
    finally:  # the cables go with them
        for namespace in [here, *(machine.namespace for machine in made.values())]:
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True)


@contextlib.contextmanager
def ssh_hosts(
    names: str = "ab", *, unshared: dict[str, Path] | None = None, machines: dict[str, Machine] | None = None
) -> Iterator[SshHosts]:
    """Hosts that run until the end of the block; checks that a login works, but for machines, which are far away."""
    sshd()
    with tempfile.TemporaryDirectory(prefix="ssh-hosts-") as folder:
        hosts = SshHosts(Path(folder), names, unshared=unshared, machines=machines)
        try:
            for name in names:
                hosts.start(name)
            if names[0] not in (machines or {}):
                _check_login(hosts, names[0])
            yield hosts
        finally:
            hosts.stop_all()


def _check_login(hosts: SshHosts, name: str) -> None:
    words = [*shlex.split(hosts.options[1]), "-o", "BatchMode=yes", name, "true"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
    if done.returncode != 0:
        explanation = (hosts.folder / f"sshd_{name}.log").read_text()
        if "account is locked" in explanation:
            pytest.skip(f"sshd lets nobody in as {getpass.getuser()}, whose account is locked")
        pytest.fail(f"cannot log in: {done.stderr}{explanation}")
