"""Alignments from known times, the model and tree beside them against kaldi-hmm-gmm."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nnet3py.alignment.timed_phones import align_timed_phones, monophone_transition_model, monophone_tree_text
from nnet3py.alignment.topology import topology_text
from nnet3py.errors import UserError
from nnet3py.nnet.transition_model import Topology, read_topology

NUMBERS = {"SIL": 1, "A": 2, "B": 3}


@pytest.fixture
def topology(tmp_path: Path) -> Topology:
    (tmp_path / "topo").write_text(topology_text([2, 3], [1], 3, 5))
    return read_topology(str(tmp_path / "topo"))


def phones_and_lengths(model, alignment: np.ndarray) -> list[tuple[int, int]]:
    found: list[list[int]] = []
    for phone in model.phone_of_transition[alignment]:
        if found and found[-1][0] == phone:
            found[-1][1] += 1
        else:
            found.append([int(phone), 1])
    return [(phone, length) for phone, length in found]


def test_a_frame_belongs_to_the_phone_at_the_middle_of_its_window(topology: Topology) -> None:
    model = monophone_transition_model(topology)
    # Middles of windows: 0.0125, 0.0225, ...; those before 0.1 s are 0 to 8, those before 0.2 s 9 to 18.
    alignment = align_timed_phones([("SIL", 0.0, 0.1), ("A", 0.1, 0.1), ("B", 0.2, 0.2)], 30, NUMBERS, model)
    assert phones_and_lengths(model, alignment) == [(1, 9), (2, 10), (3, 11)]


def test_states_share_a_phones_frames_evenly_and_in_order(topology: Topology) -> None:
    model = monophone_transition_model(topology)
    alignment = align_timed_phones([("A", 0.0, 0.1)], 10, NUMBERS, model, frame_length=0.0)
    first = model.pdfs(alignment)[0]
    assert (model.pdfs(alignment) - first).tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2]


def test_a_state_is_left_by_the_transition_of_its_last_frame(topology: Topology) -> None:
    model = monophone_transition_model(topology)
    alignment = align_timed_phones([("A", 0.0, 0.06)], 6, NUMBERS, model, frame_length=0.0)
    stay, leave = alignment[0], alignment[1]
    probabilities = np.exp(model.log_probs)
    assert probabilities[stay] == pytest.approx(0.75)
    assert probabilities[leave] == pytest.approx(0.25)
    assert leave == stay + 1


def test_a_short_phone_takes_frames_of_its_neighbours(topology: Topology) -> None:
    model = monophone_transition_model(topology)
    phones = [("A", 0.0, 0.1), ("B", 0.1, 0.005), ("A", 0.105, 0.095)]
    alignment = align_timed_phones(phones, 20, NUMBERS, model, frame_length=0.0)
    assert phones_and_lengths(model, alignment) == [(2, 10), (3, 3), (2, 7)]
    at_the_end = align_timed_phones([("A", 0.0, 0.19), ("B", 0.19, 0.01)], 20, NUMBERS, model, frame_length=0.0)
    assert phones_and_lengths(model, at_the_end) == [(2, 17), (3, 3)]


def test_too_few_frames_unknown_phones_and_gaps_are_refused(topology: Topology) -> None:
    model = monophone_transition_model(topology)
    with pytest.raises(UserError, match="6 states, more than the 5 frames"):
        align_timed_phones([("A", 0.0, 0.02), ("B", 0.02, 0.03)], 5, NUMBERS, model)
    with pytest.raises(UserError, match=r"'C' is not in phones\.txt"):
        align_timed_phones([("C", 0.0, 1.0)], 100, NUMBERS, model)
    with pytest.raises(UserError, match=r"A ends at 0\.100 s, but B begins at 0\.200 s"):
        align_timed_phones([("A", 0.0, 0.1), ("B", 0.2, 0.1)], 30, NUMBERS, model)


# kaldi-hmm-gmm and kaldifst bring a copy of OpenFst each and cannot share a process: this one runs in its own.
REFERENCE = """
import json, sys
import kaldi_hmm_gmm as library
topology = library.HmmTopology()
topology.read(open(sys.argv[1]).read())
tree = library.monophone_context_dependency(topology.phones, topology.get_phone_to_num_pdf_classes())
tree.write(False, sys.argv[2])
model = library.TransitionModel(tree, topology)
pdfs = [model.transition_id_to_pdf(t) for t in range(1, model.num_transition_ids + 1)]
print(json.dumps({"pdfs": pdfs, "num_pdfs": model.num_pdfs, "log_probs": [float(p) for p in model.log_probs]}))
"""


def test_the_model_and_the_tree_are_those_of_kaldi_hmm_gmm(topology: Topology, tmp_path: Path) -> None:
    if importlib.util.find_spec("kaldi_hmm_gmm") is None:
        pytest.skip("kaldi-hmm-gmm is not installed")
    done = subprocess.run(
        [sys.executable, "-c", REFERENCE, str(tmp_path / "topo"), str(tmp_path / "tree")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    reference = json.loads(done.stdout)
    model = monophone_transition_model(topology)
    assert monophone_tree_text(topology).split() == (tmp_path / "tree").read_text().split()
    assert model.num_pdfs == reference["num_pdfs"]
    assert model.pdf_of_transition[1:].tolist() == reference["pdfs"]
    assert np.allclose(model.log_probs[1:], reference["log_probs"][1:], atol=1e-6)
