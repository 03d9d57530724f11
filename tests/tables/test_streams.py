"""Extended file names, and streams that end too early, fail or are given up."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from nnet3py.errors import UserError
from nnet3py.tables.streams import Sink, open_input, open_output


def written(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def test_a_file_is_read_in_order_and_counts_its_bytes(tmp_path: Path) -> None:
    with open_input(written(tmp_path / "f", b"abc  word\nline two\nrest")) as source:
        assert source.peek(2) == b"ab"
        assert source.read(3) == b"abc"
        assert source.tell() == 3
        assert source.read_word() == b"word"
        assert source.peek(1) == b"\n"
        assert source.read(1) == b"\n"
        assert source.readline() == b"line two\n"
        assert source.readline(stop=b"s") == b"res"
        assert source.read_some(10) == b"t"
        assert source.at_end()
        assert source.read_word() == b""
        assert source.read_some(10) == b""


def test_an_offset_starts_within_the_file(tmp_path: Path) -> None:
    name = written(tmp_path / "f", b"0123456789")
    with open_input(f"{name}:4") as source:
        assert source.tell() == 4
        assert source.read(6) == b"456789"
        source.seek(1)
        assert source.read(1) == b"1"


def test_an_offset_beyond_the_file_is_an_error(tmp_path: Path) -> None:
    name = written(tmp_path / "f", b"0123")
    with pytest.raises(UserError, match="has 4 bytes, expected data at its byte 99"):
        open_input(f"{name}:99")


def test_reads_longer_than_any_buffer_are_whole(tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(3_000_001)
    name = written(tmp_path / "f", data)
    for rxfilename in (name, f"cat '{name}' |"):
        with open_input(rxfilename) as source:
            assert source.read(5) + source.read(2_999_990) + source.read(6) == data
            assert source.at_end()
        with open_input(rxfilename) as source:
            source.read(1)
            assert source.read_array("<i4", 750_000).tobytes() == data[1:]


def test_a_word_across_the_buffers_end_is_whole(tmp_path: Path) -> None:
    words = [b"w%d" % i for i in range(20_000)]
    with open_input(written(tmp_path / "f", b" ".join(words) + b" ")) as source:
        assert [source.read_word() for _ in words] == words


def test_data_that_end_too_early_say_where(tmp_path: Path) -> None:
    name = written(tmp_path / "short", b"12345678")
    with open_input(name) as source:
        source.read(6)
        with pytest.raises(UserError, match=r"short, byte 6: .*expected 4 more bytes, found 2"):
            source.read(4)


def test_a_hostile_length_takes_no_memory(tmp_path: Path) -> None:
    name = written(tmp_path / "small", b"x" * 100)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for rxfilename in (name, f"cat '{name}' |"):
        with pytest.raises(UserError, match="found 100"), open_input(rxfilename) as source:
            source.read_array("<f8", 2**40)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_pipe_is_read_and_written(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with open_output(f"| tr a-z A-Z > '{target}'") as sink:
        sink.write(b"some text")
    assert target.read_bytes() == b"SOME TEXT"
    with open_input(f"tr A-Z a-z < '{target}' |") as source:
        assert source.read_some(100) == b"some text"


def test_a_failed_input_command_is_an_error_even_if_it_printed_something() -> None:
    source = open_input("echo text; exit 3 |")
    assert source.read_some(100) == b"text\n"
    assert source.at_end()
    with pytest.raises(UserError, match="exited with status 3"):
        source.close()


def test_a_failed_command_explains_missing_data() -> None:
    with pytest.raises(UserError, match="exited with status 7"), open_input("exit 7 |") as source:
        source.read(4)


def test_a_failed_command_explains_what_it_printed_that_makes_no_sense() -> None:
    def read(command: str) -> None:
        with open_input(command) as source:
            word = source.read_word()
            raise source.error(f"expected a number, found {word!r}.")

    with pytest.raises(UserError, match=r"'echo garbage; exit 5 \|' exited with status 5"):
        read("echo garbage; exit 5 |")
    with pytest.raises(UserError, match="expected a number, found b'garbage'"):
        read("echo garbage |")
    with pytest.raises(UserError, match="expected a number, found b'y'"):  # it was not heard out: no fault of its own
        read("yes 2> /dev/null |")


def test_a_command_that_is_not_heard_out_is_no_error() -> None:
    with open_input("yes |") as source:
        assert source.read(4) == b"y\ny\n"


def test_a_failed_output_command_is_an_error() -> None:
    sink = open_output("| exit 4")
    with pytest.raises(UserError, match="exited with status 4"):
        sink.close()


def test_an_output_command_that_stops_reading_is_an_error_and_not_a_silent_death(tmp_path: Path) -> None:
    code = (
        "from nnet3py.program import program\n"
        "@program(usage='p', example='p')\n"
        "def main():\n"
        "    '''Write to a command that ends at once.'''\n"
        "    from nnet3py.tables.streams import open_output\n"
        "    with open_output('| exit 5') as sink:\n"
        "        for _ in range(1000): sink.write(b'x' * 10000)\n"
        "main(args=[])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "exited with status 5" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "target"
    with open_output(str(target)) as sink:
        sink.write(b"new")
        sink.flush()
        assert not target.exists()
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["target"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")
    with contextlib.suppress(ZeroDivisionError), open_output(str(target)) as sink:
        sink.write(b"half")
        raise ZeroDivisionError
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["target"]


def test_an_abandoned_sink_leaves_nothing(tmp_path: Path) -> None:
    sink: Sink | None = open_output(str(tmp_path / "target"))
    assert sink is not None
    del sink
    assert os.listdir(tmp_path) == []


def test_a_link_stays_a_link_and_keeps_its_files_mode(tmp_path: Path) -> None:
    (tmp_path / "disk2").mkdir()
    real = tmp_path / "disk2" / "egs.ark"
    real.write_bytes(b"old")
    real.chmod(0o640)
    link = tmp_path / "egs.ark"
    link.symlink_to("disk2/egs.ark")
    with open_output(str(link)) as sink:
        sink.write(b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert real.stat().st_mode & 0o777 == 0o640


def test_a_link_to_a_file_that_is_not_there_yet_makes_that_file(tmp_path: Path) -> None:
    (tmp_path / "disk2").mkdir()
    (tmp_path / "egs.ark").symlink_to("disk2/egs.ark")
    with open_output(str(tmp_path / "egs.ark")) as sink:
        sink.write(b"new")
    assert (tmp_path / "disk2" / "egs.ark").read_bytes() == b"new"


def test_a_new_file_has_the_mode_that_the_umask_gives(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with open_output(str(tmp_path / "f")) as sink:
            sink.write(b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o640


def test_a_named_pipe_is_written_directly(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    received = []
    reader = threading.Thread(target=lambda: received.append(fifo.read_bytes()))
    reader.start()
    with open_output(str(fifo)) as sink:
        sink.write(b"through")
    reader.join()
    assert received == [b"through"]
    assert fifo.is_fifo()


def test_dev_null_stays_a_device() -> None:
    with open_output("/dev/null") as sink:
        sink.write(b"gone")
        assert not sink.is_file
    assert not os.path.isfile("/dev/null")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_an_error() -> None:
    with pytest.raises(UserError, match="/dev/full: No space left on device"), open_output("/dev/full") as sink:
        sink.write(b"x" * 1_000_000)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "standard"),
        ("| cat", "ends with '|'"),
        ("cat x | grep y", "has its '|' at the end"),
        (" name", "no blank at its start"),
        ("ark:foo.ark", "found the table"),
        ("scp,p:foo.scp", "found the table"),
        ("|", "ends with"),
        ("no/such/file", "No such file or directory"),
        (".", "Is a directory"),
    ],
)
def test_what_cannot_be_read_says_why(name: str, message: str) -> None:
    if not name:
        with open_input(name) as source:
            assert message in source.name
        return
    with pytest.raises(UserError, match=message.replace("|", r"\|")):
        open_input(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cat |", "starts with '|'"),
        ("cat | grep y", "at the start"),
        ("name ", "no blank"),
        ("ark:foo.ark", "found the table"),
        ("foo.ark:12", "ends like an offset"),
        ("no/such/folder/file", "No such file or directory"),
        (".", "Is a directory"),
    ],
)
def test_what_cannot_be_written_says_why(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message.replace("|", r"\|")):
        open_output(name)
    assert os.listdir(tmp_path) == []
