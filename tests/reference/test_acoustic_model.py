"""Acoustic models written by Kaldi, and the programs that make and change them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from nnet3py.nnet.acoustic_model import read_acoustic_model, write_acoustic_model


def run(*command: str | Path) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("name", "other", "binary"),
    [("final.mdl", "final.mdl.txt", True), ("final.mdl.txt", "", False), ("am_no_priors.mdl", "", True)],
)
def test_models_are_written_as_kaldi_wrote_them(
    name: str, other: str, binary: bool, kaldi_reference: Path, tmp_path: Path
) -> None:
    model = read_acoustic_model(str(kaldi_reference / "am" / name))
    write_acoustic_model(str(tmp_path / "copy"), model, binary)
    assert (tmp_path / "copy").read_bytes() == (kaldi_reference / "am" / name).read_bytes()
    if other:
        write_acoustic_model(str(tmp_path / "other"), model, not binary)
        assert (tmp_path / "other").read_bytes() == (kaldi_reference / "am" / other).read_bytes()


def test_transition_model_and_network_are_joined_as_by_kaldi(kaldi_reference: Path, tmp_path: Path) -> None:
    folder = kaldi_reference / "am"
    run("nnet-am-init", folder / "0.trans_mdl", folder / "final.raw", tmp_path / "joined.mdl")
    assert (tmp_path / "joined.mdl").read_bytes() == (folder / "am_no_priors.mdl").read_bytes()
    run("nnet-am-init", folder / "final.mdl", folder / "final.raw", tmp_path / "again.mdl")
    assert (tmp_path / "again.mdl").read_bytes() == (folder / "am_no_priors.mdl").read_bytes()


def test_tree_and_topology_make_the_states_that_kaldi_made(kaldi_reference: Path, tmp_path: Path) -> None:
    folder = kaldi_reference / "am"
    text = (folder / "0.trans_mdl").read_text()
    (tmp_path / "topo").write_text(text[text.index("<Topology>") : text.index("</Topology>")] + "</Topology>\n")
    run("nnet-am-init", "--binary=false", folder / "tree", tmp_path / "topo", folder / "final.raw", tmp_path / "am.mdl")
    made = (tmp_path / "am.mdl").read_text()
    first, last = "<Topology>", "<LogProbs>"  # the probabilities of the reference have been trained
    assert made[made.index(first) : made.index(last)] == text[text.index(first) : text.index(last)]
    assert run("tree-info", folder / "tree") == "num-pdfs 62\ncontext-width 1\ncentral-position 0\n"


def test_priors_are_set_as_by_kaldi(kaldi_reference: Path, tmp_path: Path) -> None:
    folder = kaldi_reference / "am"
    run("nnet-am-adjust-priors", folder / "am_no_priors.mdl", folder / "posterior_sum.vec", tmp_path / "final.mdl")
    assert (tmp_path / "final.mdl").read_bytes() == (folder / "final.mdl").read_bytes()


def test_nnet_am_info_prints_what_kaldi_prints(kaldi_reference: Path) -> None:
    folder = kaldi_reference / "am"
    assert run("nnet-am-info", folder / "final.mdl") == (folder / "final.info").read_text()


def test_the_network_is_taken_out_and_put_back(kaldi_reference: Path, tmp_path: Path) -> None:
    folder = kaldi_reference / "am"
    run("nnet-am-copy", "--raw=true", folder / "final.mdl", tmp_path / "final.raw")
    assert (tmp_path / "final.raw").read_bytes() == (folder / "final.raw").read_bytes()
    run("nnet-copy", folder / "final.mdl", tmp_path / "same.raw")
    assert (tmp_path / "same.raw").read_bytes() == (folder / "final.raw").read_bytes()
    run("nnet-am-copy", f"--set-raw-nnet={folder / 'final.raw'}", folder / "final.mdl", tmp_path / "final.mdl")
    assert (tmp_path / "final.mdl").read_bytes() == (folder / "final.mdl").read_bytes()


def test_alignments_become_the_pdf_ids_that_kaldi_found(kaldi_reference: Path) -> None:
    folder = kaldi_reference / "am"
    for model in ("0.trans_mdl", "final.mdl"):
        found = run("ali-to-pdf", folder / model, f"ark,t:{folder / 'ali_transition_ids.txt'}", "ark,t:-")
        assert found == (folder / "ali_pdf_ids.txt").read_text()


def test_an_alignment_of_another_model_names_the_utterance(kaldi_reference: Path, tmp_path: Path) -> None:
    (tmp_path / "ali.txt").write_text("u1 1 2\nu2 99999\n")
    model = kaldi_reference / "am" / "final.mdl"
    done = subprocess.run(
        ["ali-to-pdf", str(model), f"ark,t:{tmp_path / 'ali.txt'}", f"ark:{tmp_path / 'pdf.ark'}"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "utterance u2: transition id 99999 is not in the transition model" in done.stderr
    assert not (tmp_path / "pdf.ark").exists()


def test_a_posterior_sum_of_another_length_is_refused(kaldi_reference: Path, tmp_path: Path) -> None:
    (tmp_path / "sums.vec").write_text(" [ 1 2 3 ]\n")
    done = subprocess.run(
        [
            "nnet-am-adjust-priors",
            str(kaldi_reference / "am" / "final.mdl"),
            str(tmp_path / "sums.vec"),
            str(tmp_path / "x"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "sums.vec: expected a sum for each of 62 pdfs, found 3 numbers" in done.stderr
    assert not (tmp_path / "x").exists()
