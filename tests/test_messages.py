"""Messages on standard error: one line, what they quote as lines below it, and a place in this project's code."""

from __future__ import annotations

import json
import re
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest

from nnet3py import log

BIN = Path(__file__).parents[1] / "bin"
STEPS = Path(__file__).parents[1] / "steps"


def test_what_an_error_quotes_follows_as_indented_lines(capfd: pytest.CaptureFixture[str]) -> None:
    log.error("The job failed; its log says:\nERROR (a) no\n\n  more\x1b[2J\r\n" + "x" * 5000)
    first, *quoted = capfd.readouterr().err.splitlines()
    assert re.fullmatch(r"ERROR \(\S+\[\S+\]:test_\w+\(\):test_messages\.py:\d+\) The job failed; its log says:", first)
    assert quoted[:3] == ["    ERROR (a) no", "    ", "      more\\x1b[2J\\r"]
    assert len(quoted) == 4
    assert len(quoted[3]) < 700
    assert " [...] " in quoted[3]


def test_a_result_is_not_shortened_and_an_error_is(capfd: pytest.CaptureFixture[str]) -> None:
    log.log("1 " * 10000)
    log.error("1 " * 10000)
    result, error = capfd.readouterr().err.splitlines()
    assert len(result) > 20000
    assert len(error) < 4200


def test_the_place_of_an_error_is_the_innermost_of_our_own_code(capfd: pytest.CaptureFixture[str]) -> None:
    try:
        json.loads("{")
    except ValueError as problem:
        log.error("It is no JSON.", problem)
    assert "]:test_the_place_of_an_error_is_the_innermost_of_our_own_code():test_messages.py:" in capfd.readouterr().err


def test_the_place_of_a_librarys_warning_is_our_own_code(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(warnings, "showwarning", log.python_warning)
        np.nanmean(np.array([np.nan]))
    (line,) = capfd.readouterr().err.splitlines()
    assert re.match(r"WARNING \(.*:(test_the_place\w+\(\):)?test_messages\.py:\d+\) Mean of empty slice", line), line


@pytest.mark.parametrize(
    ("program", "words", "says"),
    [
        (BIN / "nnet-copy", ["--no-such-option=1", "a", "b"], "--no-such-option"),
        (BIN / "nnet-copy", ["--learning-rate=fast", "a", "b"], "--learning-rate"),
        (BIN / "nnet-copy", ["--binary=perhaps", "a", "b"], "--binary"),
        (BIN / "nnet-copy", ["a"], "<model-out>"),
        (BIN / "nnet-average", [], "Missing argument"),
        (STEPS / "get_egs.py", ["--nj=0", "a", "b", "c"], "--nj"),
        (STEPS / "train_dnn.py", ["--use-gpu=perhaps"], "--use-gpu"),
    ],
)
def test_an_error_of_the_command_line_has_the_program_as_its_place(program: Path, words: list[str], says: str) -> None:
    done = subprocess.run([program, *words], capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert re.match(rf"ERROR \({re.escape(program.name)}\[\S+\]:main\(\):{re.escape(program.name)}:\d+\) ", line), line
    assert says in line


def test_no_error_of_a_program_has_a_place_in_a_library(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    (tmp_path / "options").write_text("--scale=x\n")
    for words in (
        ["nnet-copy", "a.h5", "b.raw"],
        ["copy-feats", "hdf5:a.h5", "ark:b.ark"],
        ["nnet-copy", "--config=options", "a", "b"],
        ["nnet-copy", "--config=nowhere", "a", "b"],
    ):
        done = subprocess.run([BIN / words[0], *words[1:]], cwd=tmp_path, capture_output=True, text=True)
        (place,) = re.findall(r"^ERROR \(\S+\[\S+\]:(?:\w+\(\):)?(\S+):\d+\) ", done.stderr, re.MULTILINE)
        ours = {path.name for path in [*BIN.iterdir(), *BIN.parent.glob("nnet3py/**/*.py")]}
        assert place in ours


def test_a_failed_job_is_shown_by_a_driver_as_the_lines_of_its_log(tmp_path: Path) -> None:
    (tmp_path / "exp").mkdir()
    (tmp_path / "egs" / "info").mkdir(parents=True)
    for name, number in (("num_archives", 1), ("feat_dim", 3), ("left_context", 0), ("right_context", 0)):
        (tmp_path / f"egs/info/{name}").write_text(f"{number}\n")
    (tmp_path / "egs/egs.1.ark").write_bytes(b"")
    (tmp_path / "config").write_text("input-node name=input dim=3\noutput-node name=output input=input\n")
    subprocess.run(["nnet-init", "config", "exp/final.raw"], cwd=tmp_path, check=True, capture_output=True)
    done = subprocess.run(
        [STEPS / "adjust_priors.py", "--print-args=false", "--use-raw-nnet=true", "--max-retries=0", "exp", "egs"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    lines = done.stderr.splitlines()
    assert lines[0].startswith("ERROR (adjust_priors.py[")
    assert lines[0].endswith("Averaging posteriors: failed; the log exp/log/get_post.final.1.log says:")
    assert lines[1].startswith("    ERROR (nnet-")
    assert all(line.startswith("    ") and len(line) < 700 for line in lines[1:])
    assert len(lines) <= 12
