"""The lock on a directory: real processes that hold it, are killed with it, or have left it on another machine."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from nnet3py.driver import directory_lock
from nnet3py.driver.directory_lock import locked
from nnet3py.errors import UserError

HOLDER = """\
import sys, time
from nnet3py.driver.directory_lock import locked
with locked(sys.argv[1], "train_dnn.py"):
    print("locked", flush=True)
    time.sleep(600)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the lock."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def left_by(folder: Path, **changes: object) -> None:
    """A lock's text as a driver leaves it that is killed."""
    process = holder(folder)
    process.kill()
    process.communicate()
    owner = json.loads((folder / ".lock").read_text())
    (folder / ".lock").write_text(json.dumps({**owner, **changes}))


def test_a_lock_says_who_holds_it_and_is_empty_afterwards(tmp_path: Path) -> None:
    with locked(str(tmp_path), "get_egs.py"):
        owner = json.loads((tmp_path / ".lock").read_text())
    assert owner["program"] == "get_egs.py"
    assert owner["process"] == os.getpid()
    assert owner["host"] == socket.gethostname()
    assert owner["since"].startswith("20")
    assert (tmp_path / ".lock").read_text() == ""


def test_what_goes_wrong_inside_leaves_no_owner(tmp_path: Path) -> None:
    for problem in (UserError("x"), KeyboardInterrupt()):
        with pytest.raises(type(problem)), locked(str(tmp_path), "get_egs.py"):
            raise problem
        assert (tmp_path / ".lock").read_text() == ""


def test_who_is_at_work_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_lock, "_WAIT_SECONDS", 0.2)
    process = holder(tmp_path)
    with pytest.raises(UserError) as refusal, locked(str(tmp_path), "train_dnn.py"):
        pass
    process.kill()
    process.communicate()
    text = str(refusal.value)
    assert text.startswith("train_dnn.py of ")
    assert f"process {process.pid} on {socket.gethostname()}, since 20" in text
    assert "wait for it or end it" in text


def test_a_lock_of_a_killed_process_is_taken_over_with_a_message(tmp_path: Path, capfd: Any) -> None:
    left_by(tmp_path)
    with locked(str(tmp_path), "train_dnn.py"):
        assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()
    said = capfd.readouterr().err
    assert said.startswith("WARNING")
    assert "was killed at work" in said


def test_a_lock_left_on_another_machine_is_refused_until_it_is_removed(tmp_path: Path) -> None:
    left_by(tmp_path, host="far-away", boot="x", process=4711)
    left = (tmp_path / ".lock").read_text()
    with pytest.raises(UserError) as refusal, locked(str(tmp_path), "train_dnn.py"):
        pass
    text = str(refusal.value)
    assert "process 4711 on far-away, since 20" in text
    assert f"remove {tmp_path}/.lock" in text
    assert (tmp_path / ".lock").read_text() == left
    (tmp_path / ".lock").unlink()
    with locked(str(tmp_path), "train_dnn.py"):
        pass


def test_a_container_of_this_machine_is_no_other_machine(tmp_path: Path) -> None:
    left_by(tmp_path, host="another-name")
    if not json.loads((tmp_path / ".lock").read_text())["boot"]:
        pytest.skip("this system does not tell one start from another")
    with locked(str(tmp_path), "train_dnn.py"):
        pass


@pytest.mark.parametrize("text", ["train_dnn.py (process 5)\n", "{", "[]", '{"host": 1}', "\0\0"])
def test_a_text_that_is_not_understood_does_not_matter(text: str, tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(text)
    with locked(str(tmp_path), "train_dnn.py"):
        pass


def test_without_locks_of_the_file_system_the_text_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(directory_lock, "_WAIT_SECONDS", 0.2)
    process = holder(tmp_path)
    with pytest.raises(UserError, match=f"process {process.pid} "), locked(str(tmp_path), "train_dnn.py"):
        pass
    process.kill()
    process.communicate()
    with locked(str(tmp_path), "train_dnn.py"):
        pass
    assert "has no locks (No locks available)" in capfd.readouterr().err


@pytest.mark.slow
def test_of_many_that_start_at_once_one_goes_on(tmp_path: Path) -> None:
    words = [sys.executable, "-c", HOLDER, str(tmp_path)]
    started = [subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    deadline = time.monotonic() + 60
    while len(at_work := [process for process in started if process.poll() is None]) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (winner,) = at_work
    winner.kill()
    said = {process: process.communicate()[0] for process in started}
    assert [process for process, out in said.items() if out] == [winner]
    assert all(process.returncode == 1 for process in started if process is not winner)


def test_a_full_disk_is_an_error_of_the_users(tmp_path: Path) -> None:
    problem = OSError(errno.ENOSPC, "No space left on device", "exp/x")
    with pytest.raises(UserError, match=r"exp/x: No space left on device\."), locked(str(tmp_path), "train_dnn.py"):
        raise problem
    with pytest.raises(FileNotFoundError), locked(str(tmp_path), "train_dnn.py"):
        raise FileNotFoundError(errno.ENOENT, "a bug, whose traceback is wanted")
