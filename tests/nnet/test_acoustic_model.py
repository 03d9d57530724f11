"""Transition models and acoustic models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nnet3py.errors import UserError
from nnet3py.nnet.acoustic_model import (
    AcousticModel,
    adjust_priors,
    is_acoustic_model,
    read_acoustic_model,
    write_acoustic_model,
)
from nnet3py.nnet.model_file import read_network, write_network
from nnet3py.nnet.network import Network
from nnet3py.nnet.transition_model import read_transition_model

HMM = """\
<TransitionModel>
<Topology>
<TopologyEntry>
<ForPhones>
1 3
</ForPhones>
<State> 0 <PdfClass> 0 <Transition> 0 0.5 <Transition> 1 0.5 </State>
<State> 1 <PdfClass> 1 <Transition> 1 0.75 <Transition> 2 0.25 </State>
<State> 2 </State>
</TopologyEntry>
</Topology>
<Triples> 4
1 0 0
1 1 1
3 0 2
3 1 0
</Triples>
<LogProbs>
 [ 0 -0.7 -0.7 -0.3 -1.4 -0.7 -0.7 -0.3 -1.4 ]
</LogProbs>
</TransitionModel>
"""

CHAIN = """\
<TransitionModel> <Topology> <TopologyEntry> <ForPhones> 1 2 </ForPhones>
<State> 0 <ForwardPdfClass> 0 <SelfLoopPdfClass> 1 <Transition> 0 0.5 <Transition> 1 0.5 </State>
<State> 1 </State> </TopologyEntry> </Topology>
<Tuples> 2
1 0 0 1
2 0 2 1
</Tuples>
<LogProbs> [ 0 -0.7 -0.7 -0.7 -0.7 ]
</LogProbs> </TransitionModel>
"""

CONFIG = """\
input-node name=input dim=2
component name=a type=AffineComponent input-dim=4 output-dim=3
component-node name=a component=a input=Append(input, Offset(input, 1))
output-node name=output input=a
"""


@pytest.fixture
def hmm(tmp_path: Path) -> Path:
    path = tmp_path / "trans"
    path.write_text(HMM)
    return path


@pytest.fixture
def model(hmm: Path) -> AcousticModel:
    return AcousticModel.of(read_transition_model(str(hmm)), Network.from_config(CONFIG))


def test_transition_ids_count_through_the_transitions_of_each_tuple(hmm: Path) -> None:
    transitions = read_transition_model(str(hmm))
    assert transitions.num_transition_ids == 8
    assert transitions.num_pdfs == 3
    assert transitions.pdfs(np.arange(1, 9)).tolist() == [0, 0, 1, 1, 2, 2, 0, 0]
    assert transitions.phone_of_transition[1:].tolist() == [1, 1, 1, 1, 3, 3, 3, 3]


def test_a_chain_model_has_another_pdf_on_the_self_loop(tmp_path: Path) -> None:
    (tmp_path / "chain").write_text(CHAIN)
    transitions = read_transition_model(str(tmp_path / "chain"))
    assert transitions.pdfs(np.arange(1, 5)).tolist() == [1, 0, 1, 2]


@pytest.mark.parametrize("text", [HMM, CHAIN])
@pytest.mark.parametrize("binary", [True, False])
def test_what_is_written_is_read(text: str, binary: bool, tmp_path: Path) -> None:
    (tmp_path / "trans").write_text(text)
    model = AcousticModel.of(read_transition_model(str(tmp_path / "trans")), Network.from_config(CONFIG))
    model.priors = np.array([0.5, 0.25, 0.25], np.float32)
    path = str(tmp_path / "final.mdl")
    write_acoustic_model(path, model, binary)
    again = read_acoustic_model(path)
    assert again.transition_model.topology == model.transition_model.topology
    assert np.array_equal(again.transition_model.tuples, model.transition_model.tuples)
    assert np.array_equal(again.priors, model.priors)
    assert (again.left_context, again.right_context) == (0, 1)
    assert is_acoustic_model(path)
    assert read_network(path).config_lines() == model.network.config_lines()
    assert read_transition_model(path).num_pdfs == 3


def test_pairs_of_pdfs_may_end_with_the_token_of_single_ones(tmp_path: Path) -> None:
    (tmp_path / "chain").write_text(CHAIN.replace("</Tuples>", "</Triples>"))
    assert read_transition_model(str(tmp_path / "chain")).tuples.tolist() == [[1, 0, 0, 1], [2, 0, 2, 1]]


def test_a_topology_whose_probabilities_do_not_sum_to_one_is_warned_of(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trans").write_text(HMM.replace("<Transition> 2 0.25", "<Transition> 2 1.5"))
    assert read_transition_model(str(tmp_path / "trans")).num_pdfs == 3
    assert "state 1: the probabilities of its transitions sum to 2.25." in capfd.readouterr().err


def test_a_wrong_context_in_the_file_is_worked_out_again(model: AcousticModel, tmp_path: Path) -> None:
    model.left_context, model.right_context = 7, 7
    write_acoustic_model(str(tmp_path / "wrong.mdl"), model)
    again = read_acoustic_model(str(tmp_path / "wrong.mdl"))
    assert (again.left_context, again.right_context) == (0, 1)


def test_ids_that_the_model_lacks_are_refused(hmm: Path) -> None:
    transitions = read_transition_model(str(hmm))
    for bad in (0, 9, -1):
        with pytest.raises(UserError, match=f"transition id {bad} is not in the transition model, which has 1 to 8"):
            transitions.pdfs(np.array([1, bad]))


def test_the_rest_of_a_gmm_is_ignored_and_explained(hmm: Path) -> None:
    hmm.write_text(HMM + "<DIMENSION> 39 <NUMPDFS> 3 ")
    assert read_transition_model(str(hmm)).num_pdfs == 3
    with pytest.raises(UserError, match="this is a GMM model"):
        read_network(str(hmm))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("1 3\n", "1 1\n", "no other entry has, found 1"),
        ("1 3\n", "0 3\n", "expected a phone above zero"),
        ("1 3\n", "1 2\n", "no phone 3"),
        ("<State> 1", "<State> 2", "expected state 1, found state 2"),
        ("<Transition> 2 0.25", "<Transition> 5 0.25", "transitions to different states"),
        ("<Transition> 2 0.25", "<Transition> 2 -0.25", "expected probabilities above 0, found -0.25"),
        ("<State> 2 </State>", "<State> 2 <PdfClass> 2 </State>", "last state must have neither"),
        ("<Triples> 4", "<Triples> 5", "expected an integer"),
        ("<Triples> 4", "<Triples> -4", "number of tuples, found -4"),
        ("3 1 0", "3 2 0", "state 2 of phone 3, which has none"),
        ("3 1 0", "3 1 -2", "a pdf below zero"),
        ("3 1 0", "3 0 2", "not distinct and in order"),
        ("-1.4 ]", "]", "has 8 log-probabilities, expected 9"),
        ("-1.4 ]", "0.4 ]", "above zero or not finite"),
        ("-1.4 ]", "nan ]", "above zero or not finite"),
        ("</LogProbs>", "</Logs>", "</LogProbs>"),
        ("<Topology>", "<Topologie>", "expected the token <Topology>"),
    ],
)
def test_a_damaged_transition_model_is_refused(old: str, new: str, message: str, hmm: Path) -> None:
    assert old in HMM
    hmm.write_text(HMM.replace(old, new))
    with pytest.raises(UserError, match=message) as caught:
        read_transition_model(str(hmm))
    assert str(hmm) in str(caught.value)


def test_damage_anywhere_is_a_user_error_or_a_model(model: AcousticModel, tmp_path: Path) -> None:
    path = tmp_path / "damaged.mdl"
    write_acoustic_model(str(path), model)
    data = path.read_bytes()
    random = np.random.default_rng(5)
    refused = 0
    for _ in range(600):
        damaged = bytearray(data)
        for place in random.integers(0, len(data), 2):
            damaged[place] = random.integers(0, 256)
        path.write_bytes(bytes(damaged))
        try:
            read_acoustic_model(str(path))
        except UserError:
            refused += 1
    assert refused > 300
    for size in range(0, len(data), 5):
        path.write_bytes(data[:size])
        with pytest.raises(UserError, match=r"damaged\.mdl"):
            read_acoustic_model(str(path))


def test_a_network_with_too_few_outputs_is_refused(hmm: Path) -> None:
    network = Network.from_config(CONFIG.replace("output-dim=3", "output-dim=2"))
    with pytest.raises(UserError, match="has 3 pdfs, but the network's output has dimension 2"):
        AcousticModel.of(read_transition_model(str(hmm)), network)


def test_a_network_alone_is_not_an_acoustic_model(tmp_path: Path) -> None:
    path = str(tmp_path / "0.raw")
    write_network(path, Network.from_config(CONFIG))
    with pytest.raises(UserError, match="found a network: nnet-am-init makes an acoustic model of it"):
        read_acoustic_model(path)


def test_another_network_brings_its_context_and_drops_priors_of_another_dimension(
    model: AcousticModel, capfd: pytest.CaptureFixture[str]
) -> None:
    model.priors = np.full(3, 1 / 3, np.float32)
    model.set_network(
        Network.from_config(CONFIG.replace("Offset(input, 1)", "Offset(input, -4)").replace("dim=3", "dim=5"))
    )
    assert (model.left_context, model.right_context) == (4, 0)
    assert model.priors.size == 0
    assert "Removing priors since there is a dimension mismatch" in capfd.readouterr().err


def test_priors_are_the_sums_normalised_and_floored(model: AcousticModel) -> None:
    assert adjust_priors(model, np.array([3.0, 1.0, 0.0]), 1e-3) == ["Model did not previously have priors attached."]
    np.testing.assert_allclose(model.priors, [0.75, 0.25, 1e-3], rtol=1e-6)
    lines = adjust_priors(model, np.array([1.0, 2.0, 1.0]))
    assert "largest absolute difference was for pdf 0, 0.75 -> 0.25" in lines[0]
    expected = [0.75, 0.25, 1e-3] / np.sum([0.75, 0.25, 1e-3])
    divergence = np.sum(expected * np.log(expected / [0.25, 0.5, 0.25]))
    assert float(lines[1].split()[-1]) == pytest.approx(divergence, rel=1e-4)


@pytest.mark.parametrize("sums", [[1.0, 2.0], [0.0, 0.0, 0.0], [1.0, -1.0, 2.0], [1.0, np.nan, 2.0]])
def test_sums_that_are_no_posteriors_are_refused(sums: list[float], model: AcousticModel) -> None:
    with pytest.raises(UserError, match=r"sums\.vec: expected"):
        adjust_priors(model, np.array(sums), where="sums.vec")


def test_an_acoustic_model_is_not_written_as_hdf5(model: AcousticModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="written in Kaldi's form"):
        write_acoustic_model(str(tmp_path / "final.h5"), model)
    assert not list(tmp_path.glob("*.h5"))
