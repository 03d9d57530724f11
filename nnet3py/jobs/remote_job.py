"""The text that a bash on another host reads from its standard input to run one job, and what it answers.

The remote command line is always the same, :data:`REMOTE_COMMAND`; directory, environment and command are assignments
of quoted text in what that bash reads, so that neither a command line's length nor a login shell's rules matter.

The remote bash starts the job's bash in a process group of its own and a listener beside it. The engine sends an empty
line every few seconds. At the end of the input (the engine is gone, or asks for the end), or when nothing has come for
``silence`` seconds (the network is cut), or when the remote bash itself has been killed, every process of the job gets
SIGTERM, and what is left a few seconds later SIGKILL.

The job's output is the remote standard output. On standard error the remote bash answers in lines that begin with a
secret, which the job does not know:

- ``refused directory`` or ``refused shared``: nothing was started, because the working directory is not there, or not
  on the same disk: the token file that the engine has put there is missing;
- ``began``: the job's bash has been started;
- ``silent``: the job is being ended, because nothing came;
- ``ended <status>``: as bash counts, above 128 for a signal.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from nnet3py.text.lines import encode

REMOTE_COMMAND = "exec bash --norc -s"
GRACE_SECONDS = 3

_SCRIPT = r"""
_say() { printf '%s %s\n' "$_secret" "$*" >&2; }

_is_shared() {
  local pause found
  for pause in 0 1 2; do  # a network disk may show a new file late
    sleep "$pause"
    found=
    { read -r found < "$_token"; } 2>/dev/null
    [ "$found" = "$_proof" ] && return 0
  done
  return 1
}

_listen() {
  local status
  while true; do
    read -r -t "$_silence"
    status=$?
    [ "$status" -eq 0 ] && kill -0 "$$" 2>/dev/null || break
  done
  trap '' TERM
  [ "$status" -gt 128 ] && _say silent
  kill -TERM -- "-$_job" 2>/dev/null
  for ((status = 0; status < 10 * _grace; status++)); do
    kill -0 -- "-$_job" 2>/dev/null || break
    sleep 0.1
  done
  kill -KILL -- "-$_job" 2>/dev/null
}

_run() {
  local status listener
  cd -- "$_directory" 2>/dev/null || { _say refused directory; return; }
  _is_shared || { _say refused shared; return; }
  set -m  # process groups
  exec 3>&1
  coproc _bash { exec bash >&3 2>&1 3>&-; }
  _job=$_bash_PID
  exec 3>&-
  trap '' PIPE
  _listen >/dev/null &
  listener=$!
  _say began
  # Only now, when somebody listens, does the job get to know what to do.
  printf '( %s ) </dev/null\nexit\n' "$_command" >&"${_bash[1]}"
  wait "$_job"
  status=$?
  while kill -0 "$_job" 2>/dev/null; do  # it is only stopped (`wait -f` of bash 5.2 may never return)
    sleep 1
    wait "$_job"
    status=$?
  done
  kill -TERM -- "-$listener" 2>/dev/null  # unless it is at work
  wait "$listener" 2>/dev/null
  _say ended "$status"
}
"""


@dataclass(frozen=True)
class SharedDirectory:
    """A working directory and the file in it that shows a host that it has the same one.

    Attributes:
        path: the directory's absolute path.
        token: the file's name in it.
        proof: the file's one line.
    """

    path: str
    token: str
    proof: str


def script(
    command: str, shared: SharedDirectory, environment: Mapping[str, str], *, secret: str, silence: float
) -> bytes:
    """What the remote bash is to read; empty lines must follow it, at least one every ``silence`` seconds."""
    values = {
        "_secret": secret,
        "_directory": shared.path,
        "_token": shared.token,
        "_proof": shared.proof,
        "_silence": f"{silence:g}",
        "_grace": str(GRACE_SECONDS),
        "_command": command,
    }
    lines = [f"{name}={shlex.quote(value)}" for name, value in values.items()]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    return encode("\n".join(lines) + _SCRIPT + "_run; exit 0\n")
