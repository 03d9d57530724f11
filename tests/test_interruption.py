"""What a program leaves when a signal ends it: nothing unfinished, and what was there before."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

# The writer is open and waits for a pipe that says nothing after its first value.
WAITING = ["copy-feats", "{option}:echo 'u1 [ 1 2 ]'; exec sleep 60 |", "ark:target.ark"]


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _start(folder: Path, option: str = "ark,t", prefix: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    (folder / "target.ark").write_bytes(b"what was there before")
    command = [*prefix, *(word.format(option=option) for word in WAITING)]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, start_new_session=True)
    _wait_for(lambda: len(list(folder.iterdir())) == 2 or process.poll() is not None)
    assert process.poll() is None
    return process


@pytest.mark.parametrize("option", ["ark,t", "ark,t,bg"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_program_that_a_queue_ends_leaves_no_temporary_file(
    tmp_path: Path, option: str, number: signal.Signals, status: int
) -> None:
    process = _start(tmp_path, option)
    process.send_signal(number)  # to the program alone: the pipe goes on, and must not keep it
    assert process.wait(timeout=20) == status
    assert [path.name for path in tmp_path.iterdir()] == ["target.ark"]
    assert (tmp_path / "target.ark").read_bytes() == b"what was there before"
    _end_group(process)
    assert process.stderr is not None
    assert f"Ended by {number.name}.".encode() in process.stderr.read()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "tgkill"), reason="the C library cannot signal one thread")
def test_a_signal_that_interrupts_nothing_in_the_main_thread_is_seen(tmp_path: Path) -> None:
    process = _start(tmp_path, "ark,t,bg")
    tasks = Path(f"/proc/{process.pid}/task")
    _wait_for(lambda: len(list(tasks.iterdir())) > 1)
    reader = max(int(task.name) for task in tasks.iterdir())
    time.sleep(0.3)  # the main thread waits for the reader by then
    assert ctypes.CDLL(None).tgkill(process.pid, reader, signal.SIGTERM) == 0
    assert process.wait(timeout=20) == 143
    assert [path.name for path in tmp_path.iterdir()] == ["target.ark"]
    _end_group(process)


def test_ctrl_c_leaves_no_temporary_file(tmp_path: Path) -> None:
    process = _start(tmp_path)
    _signal_group(process, signal.SIGINT)  # as a terminal sends it
    assert process.wait(timeout=20) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["target.ark"]
    assert (tmp_path / "target.ark").read_bytes() == b"what was there before"


def test_nohup_still_protects_from_a_hangup(tmp_path: Path) -> None:
    process = _start(tmp_path, prefix=("nohup",))
    process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143
    _end_group(process)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    os.killpg(process.pid, number)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the ``sleep`` that the program has left."""
    with contextlib.suppress(ProcessLookupError):  # what was left in it may have ended by itself
        _signal_group(process, signal.SIGKILL)
