"""Every program with damaged files: it ends with status 0 or 1, soon, without a traceback, and an error is one line.

Each run damages one of the files that the example in a program's help reads: cut off, bytes or numbers replaced, a part
left out or repeated. Damage need not be noticed (another number in a matrix is as good), but must not end a program
in any other way than bad input may.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from example_directory import make_example_directory

ROOT = Path(__file__).resolve().parent.parent
START_JOBS = {"run-local", "run-slurm", "run-sge", "run-ssh"}
PROGRAMS = sorted(path.name for path in (ROOT / "bin").iterdir() if path.name not in START_JOBS)
NUMBER = re.compile(rb"(?<![A-Za-z0-9.])-?[0-9]+(?![A-Za-z])")
NUMBERS = (b"99999999999999999999999", b"-1", b"nan", b"2147483648", b"0", b"1e999", b"", b"1_0", b"4000000000")
WORDS = (b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\0\0\0\0")  # among them NaN
SECONDS = 60


@pytest.fixture(scope="module")
def example_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_example_directory(tmp_path_factory.mktemp("examples"))


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The bytes of a file that is not empty, damaged in one of six ways."""
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.randrange(1, 200))
    numbers = [match.span() for match in NUMBER.finditer(data)]
    way = rng.choice(["cut", "flip", "word", "left out", "repeated", *(["number"] if numbers else [])])
    if way == "cut":
        return data[:start]
    if way == "number":
        first, last = rng.choice(numbers)
        return data[:first] + rng.choice(NUMBERS) + data[last:]
    if way == "left out":
        return data[:start] + data[end:]
    if way == "repeated":
        return data[:end] + data[start:]
    changed = bytearray(data)
    if way == "word":
        changed[start : start + 4] = rng.choice(WORDS)[: len(data) - start]
    else:
        for _ in range(rng.choice([1, 3, 20])):
            changed[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(changed)


def check(program: str, directory: Path, folder: Path, seeds: range) -> None:
    shown = subprocess.run([program, "--help"], capture_output=True, text=True).stdout
    example = shown.split("\ne.g.: ", 1)[1].strip()
    inputs = [
        path.name
        for path in sorted(directory.iterdir())
        if path.stat().st_size and re.search(rf"(?<![\w./-]){re.escape(path.name)}(?![\w.])", example)
    ]
    assert inputs, f"no file of the example directory is read by: {example}"
    for seed in seeds:
        rng = random.Random(f"{program} {seed}")
        name = rng.choice(inputs)
        shutil.copytree(directory, folder)
        (folder / name).write_bytes(damaged((directory / name).read_bytes(), rng))
        done = subprocess.run(
            ["bash", "-c", example], cwd=folder, capture_output=True, text=True, errors="replace", timeout=SECONDS
        )
        told = f"{folder / name} damaged with seed {seed}, then: {example}\nstatus {done.returncode}\n{done.stderr}"
        assert done.returncode in (0, 1), told
        assert "Traceback" not in done.stderr, told
        assert "Warning: " not in done.stderr, told
        errors = re.findall(r"^ERROR \(([^[]+)\[", done.stderr, re.MULTILINE)
        assert len(errors) == len(set(errors)), told  # one from each program of a pipe at most
        assert done.returncode == 0 or errors, told
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_damaged_file_ends_a_program_as_bad_input_may(program: str, example_directory: Path, tmp_path: Path) -> None:
    check(program, example_directory, tmp_path / "work", range(3))


@pytest.mark.long
@pytest.mark.parametrize("program", PROGRAMS)
def test_many_damaged_files_end_a_program_as_bad_input_may(
    program: str, example_directory: Path, tmp_path: Path
) -> None:
    check(program, example_directory, tmp_path / "work", range(3, 23))
