"""The table and the plot of trainings side by side."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from nnet3py.driver.report import Progress, write_progress

ROOT = Path(__file__).resolve().parents[2]


def make_training(folder: Path, last: float) -> Path:
    (folder / "decode_test").mkdir(parents=True)
    (folder / "decode_test" / "wer_0.1").write_text("%WER 12.50 [ 1 / 8, 0 ins, 0 del, 1 sub ]\n%SER 50.00 [ 1 / 2 ]\n")
    (folder / "decode_test" / "wer_0.2").write_text("%WER 25.00 [ 2 / 8, 0 ins, 0 del, 2 sub ]\n%SER 50.00 [ 1 / 2 ]\n")
    nan = math.nan
    rows = [
        Progress("0", 0.0, 0, 1, 0.01, -4.2, -4.3, 0.1, 0.1, 5.0, 0.0, 8.0, {"a": 10.0, "b": 4.0}, 0),
        Progress("1", 0.5, 4, 3, 0.01, -2.2, -2.3, 0.3, 0.3, 6.0, 5.0, 4.0, {"b": 20.0}, 0),
        Progress("2", 1.0, 8, nan, nan, -2.0, -2.1, 0.4, 0.39, nan, 11.0),
        Progress("final", 1.0, 8, nan, nan, last + 0.1, last, 0.5, 0.475, nan, 11.0),
    ]
    write_progress(str(folder / "progress.tsv"), rows)
    return folder


def report(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "steps" / "report.py"), "--print-args=false", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_table_has_the_final_models_figures_and_the_best_wer(tmp_path: Path) -> None:
    first, second = make_training(tmp_path / "a", -1.5), make_training(tmp_path / "b", -1.75)
    done = report("--decode=decode_test", f"--table={tmp_path}/t.md", f"one={first}", f"two, slow={second}")
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()]
    assert rows[0][0] == "training"
    assert rows[2] == ["one", "1.0", "47.50", "-1.5000", "-1.4000", "12.50", "5.0 / 16.0", "11"]
    assert rows[3] == ["two, slow", "1.0", "47.50", "-1.7500", "-1.6500", "12.50", "5.0 / 16.0", "11"]
    assert (tmp_path / "t.md").read_text() == done.stdout


def test_a_training_that_did_not_record_limits_has_a_dash(tmp_path: Path) -> None:
    training = make_training(tmp_path / "a", -1.5)
    text = (training / "progress.tsv").read_text()
    (training / "progress.tsv").write_text(
        "".join("\t".join(line.split("\t")[:11]) + "\n" for line in text.splitlines())
    )
    cells = [cell.strip() for cell in report(f"one={training}").stdout.splitlines()[2].split("|")]
    assert cells[-3:-1] == ["-", "11"]


def test_the_plot_is_a_png_and_the_same_each_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    training = make_training(tmp_path / "a", -1.5)
    for name in ("1.png", "2.png"):
        done = report(f"--plot={tmp_path}/{name}", f"one={training}")
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "1.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()


def test_labels_may_hold_any_byte_and_dollars(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    training = make_training(tmp_path / "a", -1.5)
    words = [b"--plot=p.png", b"--table=t.md", b"--title=$\\frac{$ caf\xe9", b"caf\xe9 $\\frac{$\xe2\x80\xa8=a"]
    command = [sys.executable, str(ROOT / "steps" / "report.py"), "--print-args=false", *words]
    done = subprocess.run(command, cwd=training.parent, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"| caf\xe9 $\\frac{$\xe2\x80\xa8 |" in done.stdout
    assert (tmp_path / "t.md").read_bytes() == done.stdout
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_a_training_that_has_not_run_and_a_label_that_is_missing_are_named(tmp_path: Path) -> None:
    done = report(f"one={tmp_path}/nothing")
    assert done.returncode == 1
    assert "has the training run?" in done.stderr
    done = report(tmp_path)
    assert done.returncode == 1
    assert "<label>=<train-dir>" in done.stderr


def test_without_matplotlib_the_message_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "matplotlib.py").write_text("raise ImportError('not here')\n")
    training = make_training(tmp_path / "a", -1.5)
    command = [sys.executable, str(ROOT / "steps" / "report.py"), f"--plot={tmp_path}/p.png", f"one={training}"]
    done = subprocess.run(
        command, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path / "shadow"), "PATH": "/bin"}
    )
    assert done.returncode == 1
    assert "pip install nnet3py[recipes]" in done.stderr
    assert "Traceback" not in done.stderr
