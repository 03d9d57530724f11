"""Logs of Kaldi's own engines, read as ours are."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnet3py.jobs import log_file


@pytest.mark.parametrize(("status", "ending"), [(0, "0"), (1, "1"), (137, "137")])
def test_the_end_of_a_log_of_queue_pl_and_slurm_pl_is_understood(tmp_path: Path, status: int, ending: str) -> None:
    log = tmp_path / "x.log"
    log.write_text(
        "# Running on b12\n# Started at Tue Nov 24 10:00:00 UTC 2026\n# echo hello\nhello\n"
        f"# Accounting: time=7 threads=1\n# Finished at Tue Nov 24 10:00:07 UTC 2026 with status {ending}\n"
    )
    assert log_file.status(str(log)) == status
    assert log_file.elapsed(str(log)) == 7
    assert log_file.last_lines(str(log), 1) == ["hello"]


def test_a_log_without_an_end_has_no_status(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("# Running on b12\nprinted: # Finished at noon with status 0\n")
    assert log_file.status(str(log)) is None


HEADER = "# a long command\n# Running on b12\n# Started at Tue Nov 24 10:00:00 UTC 2026\n#\n"
FOOTER = "# Accounting: time=7 threads=1\n# Ended (code 1) at Tue Nov 24 10:00:07 UTC 2026, elapsed time 7 seconds\n"
FIRST = "ERROR (ali-to-post[0.1.0]:open_input():streams.py:1) Cannot open ali.scp to read: No such file or directory."
LATER = "ERROR (nnet-get-egs[0.1.0]:close():streams.py:2) The command 'ali-to-post ...' exited with status 1."


def explained(tmp_path: Path, *lines: str) -> list[str]:
    log = tmp_path / "x.log"
    log.write_bytes((HEADER + "".join(f"{line}\n" for line in lines) + FOOTER).encode())
    return log_file.explanation(str(log))


def test_of_a_pipe_the_first_error_is_shown_first(tmp_path: Path) -> None:
    noise = [f"LOG (nnet-get-egs[0.1.0]:main():nnet-get-egs:9) Did {number}." for number in range(20)]
    assert explained(tmp_path, *noise, FIRST, LATER) == [FIRST, LATER]
    shown = explained(tmp_path, "ali-to-post scp:ali.scp ark:-", FIRST, *noise, LATER)
    assert shown == [FIRST, *noise[:6], "[...]", *noise[-2:], LATER]
    assert log_file.cause(str(tmp_path / "x.log")) == FIRST


@pytest.mark.parametrize(
    "complaint", ["gzip: ali.1.gz: unexpected end of file", "cat: missing: No such file or directory"]
)
def test_what_another_program_says_right_before_an_error_is_shown_with_it(complaint: str, tmp_path: Path) -> None:
    assert explained(tmp_path, "LOG (a) b", complaint, LATER) == [complaint, LATER]


def test_what_the_shell_says_is_an_error_and_its_warnings_are_none(tmp_path: Path) -> None:
    missing = "bash: line 1: ali-to-pst: command not found"
    locale = "bash: warning: setlocale: LC_ALL: cannot change locale (C.utf8)"
    assert explained(tmp_path, locale, missing, "LOG (a) b", LATER) == [missing, "LOG (a) b", LATER]


def test_the_end_of_a_traceback_is_shown(tmp_path: Path) -> None:
    trace = ["Traceback (most recent call last):", *(f'  File "{n}.py", line {n}' for n in range(30)), "KeyError: 'a'"]
    shown = explained(tmp_path, "LOG (a) b", *trace, LATER, *["LOG (a) c"] * 9)
    assert shown[0] == trace[0]
    assert trace[-1] in shown
    assert len(shown) < 15
    assert log_file.cause(str(tmp_path / "x.log")) == "KeyError: 'a'"


def test_a_log_without_an_error_has_its_last_lines_to_tell(tmp_path: Path) -> None:
    assert explained(tmp_path, *(f"line {n}" for n in range(30))) == [f"line {n}" for n in range(20, 30)]
    assert log_file.cause(str(tmp_path / "x.log")) == "line 29"


def test_where_a_job_printed_nothing_its_command_is_shown(tmp_path: Path) -> None:
    assert explained(tmp_path)[0] == "# a long command"
    assert log_file.explanation(str(tmp_path / "missing.log")) == []


def test_what_an_engine_adds_about_a_lost_job_is_shown(tmp_path: Path) -> None:
    note = "# run-slurm: job 812_3 was lost, its state is TIMEOUT: it ran longer than its time limit."
    assert explained(tmp_path, *(f"line {n}" for n in range(30)), note)[-1] == note
