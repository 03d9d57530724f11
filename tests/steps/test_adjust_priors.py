"""steps/adjust_priors.py: the mean posterior against a closed form, and what is missing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from leftovers import leave_unfinished, still_there
from tiny_corpus import add_transitions, make_corpus

from nnet3py.egs.example import EXAMPLE
from nnet3py.nnet.acoustic_model import read_acoustic_model
from nnet3py.tables.basic_types import read_header
from nnet3py.tables.general_matrix import to_array
from nnet3py.tables.matrix import read_vector
from nnet3py.tables.streams import open_input
from nnet3py.tables.table import SequentialReader

STEP = Path(__file__).resolve().parents[2] / "steps" / "adjust_priors.py"
CONFIG = """\
input-node name=input dim=5
component name=affine type=FixedAffineComponent matrix=weights.mat
component-node name=affine component=affine input=input
component name=log_softmax type=LogSoftmaxComponent dim=6
component-node name=log_softmax component=log_softmax input=affine
output-node name=output input=log_softmax objective=linear
"""


def run(folder: Path, *words: str, status: int = 0) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network of one known affine layer, its acoustic model, and two archives of examples."""
    folder = tmp_path_factory.mktemp("priors")
    make_corpus(folder, utterances=8, frames=30)
    add_transitions(folder)
    weights = np.random.default_rng(1).normal(size=(6, 6))
    rows = "\n".join(" ".join(f"{value:.6f}" for value in row) for row in weights)
    (folder / "weights.mat").write_text(f"[\n{rows} ]\n")
    (folder / "net.config").write_text(CONFIG)
    (folder / "exp").mkdir()
    (folder / "egs/info").mkdir(parents=True)
    (folder / "egs/info/num_archives").write_text("2\n")
    run(folder, "nnet-init", "net.config", "exp/5.raw")
    run(folder, "nnet-am-init", "am_ali/final.mdl", "exp/5.raw", "exp/5.mdl")
    labels = "ark:ali-to-post scp:ali/ali.scp ark:- |"
    cut = ["nnet-get-egs", "--num-pdfs=6", "--num-frames=4", "--compress=false"]
    run(folder, *cut, "scp:data/feats.scp", labels, "ark:all.egs")
    run(folder, "nnet-copy-egs", "ark:all.egs", "ark:egs/egs.1.ark", "ark:egs/egs.2.ark")
    return folder


def mean_posterior(folder: Path, *archives: str) -> np.ndarray:
    """The softmax of the affine layer by its definition, averaged over the frames of all examples."""
    text = (folder / "weights.mat").read_text().strip("[] \n")
    weights = np.array([[float(word) for word in line.split()] for line in text.splitlines()])
    frames = []
    for archive in archives:
        with SequentialReader(f"ark:{folder}/{archive}", EXAMPLE) as reader:
            for _, example in reader:
                part = example.io("input")
                assert part is not None
                frames.append(to_array(part.features))
    exponentials = np.exp(np.vstack(frames) @ weights[:, :5].T + weights[:, 5])
    posteriors = exponentials / exponentials.sum(axis=1, keepdims=True)
    return posteriors.mean(axis=0)


def adjust(folder: Path, *options: str, status: int = 0) -> str:
    return run(folder, str(STEP), "--iter=5", *options, "exp", "egs", status=status)


def test_priors_are_the_mean_of_the_softmax_over_all_examples(made: Path) -> None:
    left = leave_unfinished(made / "exp", "post.5.3.vec", "log/get_post.5.3.log")
    assert "Wrote exp/5_adj.mdl" in adjust(made)
    assert not still_there(left)
    model = read_acoustic_model(str(made / "exp/5_adj.mdl"))
    expected = mean_posterior(made, "egs/egs.1.ark", "egs/egs.2.ark")
    np.testing.assert_allclose(model.priors, expected, rtol=2e-5)
    assert not list((made / "exp").glob("post.5.*.vec"))


def test_fewer_jobs_read_fewer_archives(made: Path) -> None:
    adjust(made, "--num-jobs-compute-prior=1")
    model = read_acoustic_model(str(made / "exp/5_adj.mdl"))
    np.testing.assert_allclose(model.priors, mean_posterior(made, "egs/egs.1.ark"), rtol=2e-5)


def test_a_raw_network_leaves_the_sums(made: Path) -> None:
    assert "Wrote exp/post.5.vec" in adjust(made, "--use-raw-nnet=true")
    with open_input(str(made / "exp/post.5.vec")) as source:
        sums = read_vector(source, read_header(source))
    expected = mean_posterior(made, "egs/egs.1.ark", "egs/egs.2.ark")
    np.testing.assert_allclose(sums / sums.sum(), expected, rtol=2e-5)


@pytest.mark.parametrize(
    ("options", "arguments", "says"),
    [
        (["--iter=6"], ["exp", "egs"], "Cannot open exp/6.mdl to read"),
        ([], ["exp", "nowhere"], "nowhere is not a directory"),
        ([], ["exp", "data"], "Cannot read data/info/num_archives: No such file or directory. Is data complete?"),
        (["--num-jobs-compute-prior=0"], ["exp", "egs"], "num-jobs-compute-prior"),
        (["--iter=$(date)"], ["exp", "egs"], "--iter is '$(date)'"),
        ([], ["my exp", "egs"], "<exp-dir> is 'my exp'"),
        ([], ["exp", "egs/JOB"], "<egs-dir> is 'egs/JOB'"),
        (["--cmd=run-local JOB=1:2"], ["exp", "egs"], "has the range of jobs JOB=1:2"),
    ],
)
def test_what_is_missing_is_said_in_one_line(made: Path, options: list[str], arguments: list[str], says: str) -> None:
    log = run(made, str(STEP), "--iter=5", *options, *arguments, status=1)
    errors = [line for line in log.splitlines() if line.startswith("ERROR (adjust_priors.py")]
    assert len(errors) == 1
    assert says in errors[0]


def test_an_archive_that_is_missing_is_named_before_any_job_runs(made: Path) -> None:
    (made / "one/info").mkdir(parents=True)
    (made / "one/info/num_archives").write_text("2\n")
    (made / "one/egs.1.ark").write_bytes((made / "egs/egs.1.ark").read_bytes())
    (made / "new").mkdir()
    (made / "new/5.mdl").write_bytes((made / "exp/5.mdl").read_bytes())
    log = run(made, str(STEP), "--iter=5", "new", "one", status=1)
    assert "Cannot open one/egs.2.ark to read: No such file or directory." in log
    assert [path.name for path in (made / "new").iterdir()] == ["5.mdl"]
