"""nnet-train-shard that shuffles and merges by itself, beside the pipe of programs that it stands for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from example_directory import make_example_directory


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model 1.raw and examples egs.ark."""
    path = tmp_path_factory.mktemp("stream")
    make_example_directory(path)
    return path


def _train(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["nnet-train-shard", *words], cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("buffer", [0, 10])
@pytest.mark.parametrize("size", ["8", "1:4", "3=2/200=4"])
def test_the_model_is_that_of_the_pipe_byte_for_byte(folder: Path, buffer: int, size: str) -> None:
    pipe = (
        f"ark:bash -o pipefail -c 'nnet-shuffle-egs --buffer-size={buffer} --srand=3 ark:egs.ark ark:- | "
        f"nnet-merge-egs --minibatch-size={size} ark:- ark:-' |"
    )
    piped = _train(folder, "1.raw", pipe, "piped.raw")
    assert piped.returncode == 0, piped.stderr
    words = [f"--shuffle-buffer-size={buffer}", "--shuffle-srand=3", f"--minibatch-size={size}"]
    direct = _train(folder, *words, "1.raw", "ark:egs.ark", "direct.raw")
    assert direct.returncode == 0, direct.stderr
    assert (folder / "direct.raw").read_bytes() == (folder / "piped.raw").read_bytes()
    assert [line for line in direct.stderr.splitlines() if "minibatches, discarding" in line]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--minibatch-size=none"], "--minibatch-size"),
        (["--minibatch-size=1000000"], "None of the 52 examples"),
        (["--shuffle-buffer-size=5", "--minibatch-size=4", "--momentum=2"], "--momentum"),
    ],
)
def test_what_cannot_be_done_is_one_error_and_nothing_is_written(folder: Path, words: list[str], says: str) -> None:
    done = _train(folder, *words, "1.raw", "ark:egs.ark", "none.raw")
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    assert len(errors) == 1
    assert says in errors[0]
    assert not (folder / "none.raw").exists()
