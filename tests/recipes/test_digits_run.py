"""The digits recipe from speech to table, on a few minutes of speech."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

LIBRARIES = ("espeakng_loader", "kaldi_native_fbank", "kaldi_decoder", "kaldialign", "matplotlib")
ABSENT = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {ABSENT}; pip install nnet3py[recipes]")
ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ["--hours=0.06", "--snr=20:25", "--epochs=1.5"]


def recipe(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["./run.sh", *OPTIONS, *options], cwd=folder, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the recipe, in a tree whose bin/ and steps/ are those of this checkout."""
    root = tmp_path_factory.mktemp("recipe")
    for name in ("bin", "steps"):
        (root / name).symlink_to(ROOT / name)
    source = ROOT / "egs" / "digits" / "s5"
    target = root / "egs" / "digits" / "s5"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("data", "exp", "__pycache__"))
    return target


@pytest.mark.slow
def test_the_recipe_ends_with_a_table_a_plot_and_words_recognised(folder: Path) -> None:
    done = recipe(folder)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    table = (folder / "exp" / "results.md").read_text()
    assert table in done.stdout
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert [row[0] for row in rows] == [
        "natural gradient, 1 job",
        "natural gradient, 4 jobs",
        "plain SGD, 1 job",
        "plain SGD, 4 jobs",
    ]
    assert float(rows[0][5]) < 60.0, "too many words are wrong for even a few minutes of training data"
    assert (folder / "exp" / "convergence.png").read_bytes().startswith(b"\x89PNG")
    assert not re.search("ERROR|Traceback", done.stdout + done.stderr)

    # What Kaldi's steps/nnet3/decode.sh looks for beside the model.
    beside = {path.name for path in (folder / "exp" / "ng_1job").iterdir()}
    assert {"final.mdl", "tree", "phones.txt", "num_jobs", "cmvn_opts"} <= beside

    # The same command again finds everything made: the models stay as they are.
    before = {path: path.stat().st_mtime_ns for path in folder.glob("exp/*_*job*/final.mdl")}
    assert len(before) == 4
    done = recipe(folder, "--stop-stage=4")
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in folder.glob("exp/*_*job*/final.mdl")} == before


def test_other_settings_do_not_mix_with_the_data_there(folder: Path) -> None:
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data" / "settings").write_text("hours=0.06 snr=20:25 seed=1\n")
    done = recipe(folder, "--seed=2", "--stop-stage=0")
    assert done.returncode == 1
    assert "remove data/ and exp/ first" in done.stderr


def test_an_unknown_option_is_refused_and_help_explains(folder: Path) -> None:
    assert recipe(folder, "--epoch=3").returncode == 1
    shown = subprocess.run(["./run.sh", "--help"], cwd=folder, capture_output=True, text=True)
    assert shown.returncode == 0
    assert "--hours" in shown.stdout
