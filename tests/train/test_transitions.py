"""Counting transitions and estimating their probabilities, and the programs that do it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from nnet3py.errors import UserError
from nnet3py.nnet.acoustic_model import read_acoustic_model
from nnet3py.nnet.transition_model import TransitionModel, read_transition_model
from nnet3py.tables.basic_types import read_header
from nnet3py.tables.matrix import read_vector
from nnet3py.tables.streams import open_input
from nnet3py.train.transitions import counts_of_pdfs, priors_of, update_transitions

# Three transition states: phone 1 has two, and one that is shared with phone 2 (pdf 1); ids 1-3, 4-5, 6-8, 9-10.
MODEL = """\
<TransitionModel> <Topology> <TopologyEntry> <ForPhones> 1 2 </ForPhones>
<State> 0 <PdfClass> 0 <Transition> 0 0.5 <Transition> 1 0.25 <Transition> 2 0.25 </State>
<State> 1 <PdfClass> 1 <Transition> 1 0.5 <Transition> 2 0.5 </State>
<State> 2 </State> </TopologyEntry> </Topology>
<Triples> 4
1 0 0
1 1 1
2 0 2
2 1 1
</Triples>
<LogProbs> [ 0 -0.6931472 -1.386294 -1.386294 -0.6931472 -0.6931472 \
-0.6931472 -1.386294 -1.386294 -0.6931472 -0.6931472 ]
</LogProbs> </TransitionModel>
"""
NETWORK = """\
input-node name=input dim=2
component name=a type=AffineComponent input-dim=2 output-dim={pdfs}
component-node name=a component=a input=input
output-node name=output input=a
"""


def run(folder: Path, *words: str, status: int = 0) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert done.stderr.count("ERROR (") == (status != 0), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "trans").write_text(MODEL)
    for pdfs in (3, 4):
        (tmp_path / "config").write_text(NETWORK.format(pdfs=pdfs))
        run(tmp_path, "nnet-init", "config", f"{pdfs}.raw")
    run(tmp_path, "nnet-am-init", "trans", "3.raw", "am.mdl")
    (tmp_path / "ali").write_text("u1 1 1 1 2 4 5\nu2 1 1 1 1 1 1 3 6 6 6 6 7 9 10 4 4 4 5\n")
    return tmp_path


@pytest.fixture
def model(folder: Path) -> TransitionModel:
    return read_transition_model(str(folder / "trans"))


def probabilities(model: TransitionModel) -> list[float]:
    return [round(float(value), 4) for value in np.exp(model.log_probs[1:])]


COUNTS = np.array([0, 90, 9, 1, 30, 10, 2, 1, 1, 50, 10], np.float64)


def test_probabilities_are_shares_of_the_frames_and_states_with_few_stay(model: TransitionModel) -> None:
    report = update_transitions(model, COUNTS, floor=0.0)
    assert probabilities(model) == [0.9, 0.09, 0.01, 0.75, 0.25, 0.5, 0.25, 0.25, 0.8333, 0.1667]
    assert (report.frames, report.floored, report.skipped) == (204, 0, 1)
    before = np.log([0.5, 0.25, 0.25, 0.5, 0.5, 0.5, 0.25, 0.25, 0.5, 0.5])
    assert report.improvement == pytest.approx(float(COUNTS[1:] @ (model.log_probs[1:] - before)), rel=1e-5)
    assert report.improvement > 0


def test_a_probability_below_the_floor_is_raised_and_the_others_give(model: TransitionModel) -> None:
    counts = COUNTS.copy()
    counts[2:4] = 10, 0
    report = update_transitions(model, counts, floor=0.05)
    found = np.exp(model.log_probs[1:4])
    assert found[2] == pytest.approx(0.05)
    np.testing.assert_allclose(found, [0.9 * 0.95, 0.1 * 0.95, 0.05], rtol=2e-3)
    assert report.floored == 1
    with pytest.raises(UserError, match="needs a floor above 0"):
        update_transitions(model, counts, floor=0.0)


def test_states_with_the_same_pdf_can_share(model: TransitionModel) -> None:
    report = update_transitions(model, COUNTS, share_for_pdfs=True, floor=0.0)
    shared = [round(80 / 100, 4), round(20 / 100, 4)]
    assert probabilities(model)[3:5] == probabilities(model)[8:10] == shared
    assert report.skipped == 1
    assert report.frames == 204


def test_states_that_cannot_share_are_named(folder: Path) -> None:
    (folder / "trans").write_text(MODEL.replace("2 0 2", "2 0 1"))
    with pytest.raises(UserError, match="states of pdf 1 have different numbers of transitions"):
        update_transitions(read_transition_model(str(folder / "trans")), COUNTS, share_for_pdfs=True)


def test_priors_are_shares_of_the_pdfs_with_a_floor(model: TransitionModel) -> None:
    pdf_counts = counts_of_pdfs(model, COUNTS)
    assert pdf_counts.tolist() == [100, 100, 4]
    np.testing.assert_allclose(priors_of(pdf_counts, 1e-6), np.array([100, 100, 4]) / 204, rtol=1e-6)
    floored = priors_of(np.array([1.0, 3.0, 0.0]), 0.01)
    np.testing.assert_allclose(floored, np.array([0.25, 0.75, 0.01]) / 1.01, rtol=1e-6)
    with pytest.raises(UserError, match="no frames"):
        priors_of(np.zeros(3), 0.01)


def test_the_program_trains_transitions_and_sets_priors(folder: Path) -> None:
    log = run(folder, "nnet-am-train-transitions", "--transition-min-count=6", "am.mdl", "ark,t:ali", "out.mdl")
    assert "Accumulated transition stats from 2 utterances" in log
    trained = read_acoustic_model(str(folder / "out.mdl"))
    expected = [9 / 11, 1 / 11, 1 / 11, 4 / 6, 2 / 6, 0.5, 0.25, 0.25, 0.5, 0.5]
    np.testing.assert_allclose(np.exp(trained.transition_model.log_probs[1:]), expected, rtol=1e-6)
    np.testing.assert_allclose(trained.priors, np.array([11, 8, 5]) / 24, rtol=1e-6)
    found = re.search(r"average (\S+) log-like improvement per frame over 24 frames", log)
    assert found is not None
    before = [0.5, 0.25, 0.25, 0.5, 0.5]
    gain = sum(n * np.log(p / q) for n, p, q in zip([9, 1, 1, 4, 2], expected[:5], before, strict=True))
    assert float(found[1]) == pytest.approx(gain / 24, rel=1e-5)
    run(folder, "nnet-am-train-transitions", "--set-priors=false", "am.mdl", "ark,t:ali", "no-priors.mdl")
    assert read_acoustic_model(str(folder / "no-priors.mdl")).priors.size == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["am.mdl", "ark,t:bad"], "utterance u2: transition id 11 is not in the transition model, which has 1 to 10"),
        (["am.mdl", "ark,t:zero"], "utterance u1: transition id 0"),
        (["am.mdl", "ark,t:empty"], "There are no alignments in ark,t:empty"),
        (["am.mdl", "ark,t:frameless"], "no frames"),
        (["3.raw", "ark,t:ali"], "found a network: nnet-am-init makes an acoustic model"),
        (["4.mdl", "ark,t:ali"], "has 3 pdfs, the network's output dimension 4"),
        (["--prior-floor=0", "am.mdl", "ark,t:ali"], "--prior-floor"),
        (["--transition-floor=1", "am.mdl", "ark,t:ali"], "--transition-floor"),
    ],
)
def test_what_cannot_be_trained_on_is_one_error_and_nothing_is_written(
    folder: Path, words: list[str], says: str
) -> None:
    (folder / "bad").write_text("u1 1 2\nu2 4 11\n")
    (folder / "zero").write_text("u1 0 2\n")
    (folder / "empty").write_text("")
    (folder / "frameless").write_text("u1\n")
    run(folder, "nnet-am-init", "trans", "4.raw", "4.mdl")
    assert says in run(folder, "nnet-am-train-transitions", *words, "out.mdl", status=1)
    assert not (folder / "out.mdl").exists()


def vector(path: Path) -> list[float]:
    with open_input(str(path)) as source:
        return read_vector(source, read_header(source)).tolist()


def test_posteriors_are_summed_by_transition_and_by_pdf(folder: Path) -> None:
    (folder / "post").write_text("u1 [ 1 0.5 10 0.5 ] [ 1 1 ]\nu2 [ 4 2 ] [ ] [ 6 0.25 ]\n")
    run(folder, "post-to-tacc", "trans", "ark,t:post", "counts")
    assert vector(folder / "counts") == [0, 1.5, 0, 0, 2, 0, 0.25, 0, 0, 0, 0.5]
    run(folder, "post-to-tacc", "--per-pdf=true", "--binary=false", "am.mdl", "ark,t:post", "counts")
    assert (folder / "counts").read_text() == " [ 1.5 2.5 0.25 ]\n"


def test_counts_of_another_models_posteriors_are_refused(folder: Path) -> None:
    (folder / "post").write_text("u1 [ 11 1 ]\n")
    assert "utterance u1: transition id 11" in run(folder, "post-to-tacc", "trans", "ark,t:post", "counts", status=1)
    (folder / "post").write_text("")
    assert "There are no posteriors" in run(folder, "post-to-tacc", "trans", "ark,t:post", "counts", status=1)
    assert not (folder / "counts").exists()
