"""steps/align.py and steps/align_equal.py: what they leave, against the labels that are known, and what is refused."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from leftovers import leave_unfinished, still_there
from tiny_corpus import FEAT_DIM, NUM_PDFS
from tiny_language import make_language, make_spoken_corpus, means, read_alignment

STEPS = Path(__file__).resolve().parents[2] / "steps"
CONFIG = f"""\
input-node name=input dim={FEAT_DIM}
component name=affine type=FixedAffineComponent matrix=weights.mat
component-node name=affine component=affine input=input
component name=log_softmax type=LogSoftmaxComponent dim={NUM_PDFS}
component-node name=log_softmax component=log_softmax input=affine
output-node name=output input=log_softmax objective=linear
"""


def run(folder: Path, *words: str, status: int = 0) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def align(folder: Path, *options: str, data: str = "data", status: int = 0) -> str:
    words = ["--print-args=false", "--nj=3", "--scale-opts=--acoustic-scale=1.0", *options]
    return run(folder, str(STEPS / "align.py"), *words, data, "lang", "exp", "ali", status=status)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the corpus and, in exp/, a network that is the posterior of the Gaussians the features are of."""
    folder = tmp_path_factory.mktemp("align")
    make_language(folder)
    truth = make_spoken_corpus(folder, utterances=10)
    np.savez(folder / "truth.npz", **truth)
    centres = means()
    # log N(x; m, 1) is m x - m^2 / 2 and what all classes have in common; all have the same prior here.
    weights = np.hstack([centres, -0.5 * np.sum(centres**2, axis=1, keepdims=True)])
    rows = "\n".join(" ".join(f"{value:.6f}" for value in row) for row in weights)
    (folder / "weights.mat").write_text(f"[\n{rows} ]\n")
    (folder / "net.config").write_text(CONFIG)
    exp = folder / "exp"
    exp.mkdir()
    for name in ("tree", "phones.txt"):
        shutil.copy(folder / "true_ali" / name, exp / name)
    run(folder, "nnet-init", "net.config", "exp/0.raw")
    priors = " ".join(["0.1666667"] * NUM_PDFS)
    (folder / "priors").write_text(f" [ {priors} ]\n")
    run(folder, "nnet-am-init", "true_ali/final.mdl", "exp/0.raw", "exp/plain.mdl")
    run(folder, "nnet-am-adjust-priors", "exp/plain.mdl", "priors", "exp/final.mdl")
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "data/feats.scp"
    path.write_text(path.read_text().replace(str(made), str(tmp_path)))
    return tmp_path


def errors(folder: Path, ali: str = "ali") -> float:
    """The share of frames whose pdf is not the true one."""
    found = read_alignment(folder / ali)
    with np.load(folder / "truth.npz") as truth:
        assert set(found) == set(truth)
        return float(np.mean(np.concatenate([(found[key] - 1) // 2 != truth[key] for key in found])))


def test_a_network_that_knows_the_sounds_finds_where_they_are(copy: Path) -> None:
    log = align(copy)
    assert "Aligned 10 of 10 utterances, log-likelihood" in log
    assert errors(copy) < 0.02
    ali = copy / "ali"
    assert sorted(path.name for path in ali.glob("ali.*")) == ["ali.1.gz", "ali.2.gz", "ali.3.gz"]
    texts = {name: (ali / name).read_text() for name in ("num_jobs", "num_pdfs")}
    assert texts == {"num_jobs": "3\n", "num_pdfs": f"{NUM_PDFS}\n"}
    assert (ali / "final.mdl").read_bytes() == (copy / "exp/final.mdl").read_bytes()
    assert (ali / "tree").read_text() == (copy / "exp/tree").read_text()
    assert {path.name for path in ali.iterdir()} >= {".complete", "phones.txt"}
    assert not list(ali.glob("tra.*"))


def test_the_number_of_jobs_makes_no_difference_and_leaves_nothing_of_another(copy: Path) -> None:
    align(copy)
    first = read_alignment(copy / "ali")
    left = leave_unfinished(copy / "ali", "ali.2.gz", "log/align.2.log")
    align(copy, "--nj=1")
    assert [path.name for path in (copy / "ali").glob("ali.*")] == ["ali.1.gz"]
    assert not still_there(left)
    again = read_alignment(copy / "ali")
    assert {key: path.tolist() for key, path in again.items()} == {key: path.tolist() for key, path in first.items()}


def test_graphs_that_were_compiled_elsewhere_are_used(copy: Path) -> None:
    align(copy)
    first = read_alignment(copy / "ali")
    texts = [line.split() for line in (copy / "data/text").read_text().splitlines()]
    numbers = {"a": "1", "b": "2"}
    lines = [f"{key} {' '.join(numbers[word] for word in words)}\n" for key, *words in texts]
    (copy / "text.int").write_text("".join(lines))
    compiling = ["compile-train-graphs", "exp/tree", "exp/final.mdl", "lang/L.fst", "ark,t:text.int", "ark:graphs"]
    run(copy, *compiling)
    (copy / "data/text").unlink()
    align(copy, "--graphs=ark:graphs")
    again = read_alignment(copy / "ali")
    assert {key: path.tolist() for key, path in again.items()} == {key: path.tolist() for key, path in first.items()}


def test_words_that_are_not_known_are_said_or_replaced(copy: Path) -> None:
    text = copy / "data/text"
    lines = text.read_text().splitlines()
    text.write_text("\n".join([lines[0] + " c", *lines[1:]]) + "\n")
    log = align(copy, status=1)
    assert f"Utterance {lines[0].split()[0]}: the word 'c' is not in lang/words.txt" in log
    (copy / "lang/oov.txt").write_text("a\n")
    assert "Aligned 10 of 10 utterances" in align(copy)


def test_utterances_that_cannot_be_aligned_are_left_out(copy: Path) -> None:
    lines = (copy / "data/text").read_text().splitlines()
    long = f"{lines[0]} {'a ' * 200}"  # more states than frames
    (copy / "data/text").write_text("\n".join([long, *lines[1:9]]) + "\n")
    log = align(copy, "--nj=1")
    assert "left out 2: no path through the graph 1 (s0-u000); no transcript 1 (s3-u009)." in log
    assert "Aligned 8 of 10 utterances" in log


@pytest.mark.parametrize(
    ("gone", "says"),
    [
        ("exp/final.mdl", "There is no exp/final.mdl"),
        ("exp/tree", "There is no exp/tree"),
        ("lang/L.fst", "There is no lang/L.fst"),
        ("data/text", "There is no data/text"),
    ],
)
def test_what_is_missing_is_said_in_one_line(copy: Path, gone: str, says: str) -> None:
    (copy / gone).unlink()
    log = align(copy, status=1)
    assert [says in line for line in log.splitlines() if line.startswith("ERROR")] == [True]


def test_a_language_with_other_phones_is_refused(copy: Path) -> None:
    (copy / "lang/phones.txt").write_text("<eps> 0\nB 1\nA 2\n#0 3\n")
    assert "The phones of lang/phones.txt and exp/phones.txt differ" in align(copy, status=1)


def test_an_even_alignment_needs_no_model(copy: Path) -> None:
    log = run(copy, str(STEPS / "align_equal.py"), "--nj=2", "data", "lang", "equal")
    assert "Aligned 10 of 10 utterances. Wrote equal" in log
    assert 0.2 < errors(copy, "equal") < 0.6  # four words: some frames are right by chance
    assert (copy / "equal/num_pdfs").read_text() == f"{NUM_PDFS}\n"
    info = subprocess.run(["hmm-info", "equal/final.mdl"], cwd=copy, capture_output=True, text=True).stdout
    assert f"number of pdfs {NUM_PDFS}" in info
    assert f"num-pdfs {NUM_PDFS}" in subprocess.run(
        ["tree-info", "equal/tree"], cwd=copy, capture_output=True, text=True
    ).stdout  # fmt: skip
    first = read_alignment(copy / "equal")
    run(copy, str(STEPS / "align_equal.py"), "--nj=5", "data", "lang", "equal")
    again = read_alignment(copy / "equal")
    assert {key: path.tolist() for key, path in again.items()} == {key: path.tolist() for key, path in first.items()}
