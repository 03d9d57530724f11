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


def test_what_numpy_warns_of_has_kaldis_form(example_directory: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        f"nnet-copy --scale=1e30 1.raw {tmp_path}/big.raw && "
        f"nnet-compute {tmp_path}/big.raw scp:feats.scp ark:/dev/null",
        cwd=example_directory,
        shell=True,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Utterance u1: the output of the network is not a number" in done.stderr
    warnings = [line for line in done.stderr.splitlines() if "overflow" in line]
    assert warnings, done.stderr
    assert all(line.startswith("WARNING (nnet-compute[") for line in warnings)
    assert "RuntimeWarning:" not in done.stderr


IMPOSSIBLE = [
    ("nnet-get-egs", "--online-ivector-period=2147483648", "not an integer of 32 bits"),
    ("nnet-get-egs", "--online-ivector-period=-99999999999999999999999", "not an integer of 32 bits"),
    ("nnet-get-egs", "--srand=1.5", "not a valid integer"),
    ("nnet-get-egs", "--verbose=2147483648", "not an integer of 32 bits"),
    ("nnet-copy", "--scale=nan", "not a number of single precision"),
    ("nnet-copy", "--scale=1e39", "not a number of single precision"),
    ("apply-cmvn-online", "--cmn-window=99999999999999999999999", "not an integer of 32 bits"),
    ("compute-mfcc-feats", "--preemphasis-coefficient=2", "Expected --preemphasis-coefficient from 0 to 1, found 2"),
    ("compute-fbank-feats", "--num-mel-bins=2147483648", "not an integer of 32 bits"),
    ("compute-fbank-feats", "--dither=1e38", "None of the 3 recordings"),
    ("nnet-acc-lda-stats", "--rand-prune=inf", "--rand-prune=inf is not possible"),
    ("nnet-get-feature-transform", "--within-class-factor=inf", "--within-class-factor=inf is not possible"),
    ("nnet-mix-up", "--power=1e9", "--power=1e+09 is not possible"),
    ("nnet-get-egs", "--frame-subsampling-factor=2147483647", "Chunks of 2147483647 frames are too long"),
    ("nnet-train-shard", "--num-threads=2147483647", "give a number from 1 to 1024"),
]


@pytest.mark.parametrize(("program", "option", "message"), IMPOSSIBLE, ids=[" ".join(case[:2]) for case in IMPOSSIBLE])
def test_a_value_that_an_option_cannot_have_gives_one_error_line_and_no_file(
    program: str, option: str, message: str, example_directory: Path, tmp_path: Path
) -> None:
    example = help_of(program).split("\ne.g.: ", 1)[1].strip()
    folder = tmp_path / "work"
    shutil.copytree(example_directory, folder)
    before = sorted(folder.iterdir())
    command = example.replace(program, f"{program} {option}", 1)
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count(f"ERROR ({program}[") == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "RuntimeWarning" not in done.stderr
    assert sorted(folder.iterdir()) == before


def test_l_bfgs_may_remember_more_steps_than_it_takes(example_directory: Path, tmp_path: Path) -> None:
    example = help_of("nnet-combine-fast").split("\ne.g.: ", 1)[1].strip()
    folder = tmp_path / "work"
    shutil.copytree(example_directory, folder)
    command = example.replace("nnet-combine-fast", "nnet-combine-fast --max-lbfgs-dim=2147483647", 1)
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "option", ["--job-time-limit=nan", "--max-retries=99999999999", "--trainer.num-threads=5000000000"]
)
def test_the_steps_options_have_the_same_ranges(option: str, tmp_path: Path) -> None:
    done = subprocess.run([ROOT / "steps/train_dnn.py", option], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert f"Invalid value for '{option.split('=')[0]}'" in done.stderr
    assert done.stderr.count("ERROR (") == 1


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_missing_input_gives_one_error_line_and_status_1(program: str, tmp_path: Path) -> None:
    done = subprocess.run([program, "--no-such-option=1"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("ERROR (") == 1
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_package_installs_every_program_and_driver() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = sorted(os.path.basename(line) for line in config["options"]["scripts"].split())
    drivers = [path.name for path in (ROOT / "steps").glob("*.py")]
    assert listed == sorted([*PROGRAMS, *drivers])
