"""Every program's help: Kaldi's shape, and an example line that works as it stands."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from example_directory import make_example_directory

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = sorted(path.name for path in (ROOT / "bin").iterdir())
SCHEDULERS = {
    "run-slurm": "slurm",
    "run-sge": "grid_engine",
    "run-ssh": "ssh",
}  # the fixtures that start what a program needs


@pytest.fixture(scope="module")
def example_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_example_directory(tmp_path_factory.mktemp("examples"))


def help_of(program: str) -> str:
    done = subprocess.run([program, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_names_usage_purpose_and_example(program: str) -> None:
    text = help_of(program)
    assert text.startswith(f"Usage: {program}")
    assert f"\ne.g.: {program}" in text or f"| {program}" in text
    assert len(text.split("Options:")[0].split("\n\n")) >= 2, "no sentence says what the program does"


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_example_in_the_help_works(
    program: str, example_directory: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    environment = dict(os.environ)
    if program in SCHEDULERS:
        environment |= request.getfixturevalue(SCHEDULERS[program]).environment
    example = help_of(program).split("\ne.g.: ", 1)[1].strip()
    folder = tmp_path / "work"
    shutil.copytree(example_directory, folder)
    done = subprocess.run(["bash", "-c", example], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{example}\n{done.stderr}"
    assert "ERROR" not in done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_missing_input_gives_one_error_line_and_status_1(program: str, tmp_path: Path) -> None:
    done = subprocess.run([program, "--no-such-option=1"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("ERROR (") == 1
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_package_installs_every_program() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = sorted(os.path.basename(line) for line in config["options"]["scripts"].split())
    assert listed == PROGRAMS
