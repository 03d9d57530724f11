"""steps/decode.py: jobs, several scales, what is left behind and what is said when something is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from leftovers import leave_unfinished, still_there

from nnet3py.decoding.graph import make_graph_dir
from nnet3py.directories.transcripts import read_transcripts
from nnet3py.driver.decoding_jobs import scales
from nnet3py.errors import UserError
from nnet3py.tables.holders import MATRIX
from nnet3py.tables.table import TableWriter

pytest.importorskip("kaldi_decoder")
ROOT = Path(__file__).resolve().parents[2]
KEYS = [f"s{speaker}-u{number}" for speaker in (1, 2) for number in range(3)]

CONFIG = """\
input-node name=input dim=4
component name=affine type=NaturalGradientAffineComponent input-dim=4 output-dim={pdfs} param-stddev=1
component-node name=affine component=affine input=input
component name=log_softmax type=LogSoftmaxComponent dim={pdfs}
component-node name=log_softmax component=log_softmax input=affine
output-node name=output input=log_softmax objective=linear
"""


def shell(command: str, cwd: Path) -> None:
    done = subprocess.run(["bash", "-c", command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def decode(work: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "steps" / "decode.py"), *options, "graph", "data", "nnet/decode"]
    return subprocess.run(command, cwd=work, capture_output=True, text=True)


@pytest.fixture
def work(language: Path, model_dir: Path, tmp_path: Path) -> Path:
    """A graph, a data directory with random features and an untrained model."""
    make_graph_dir(str(language), str(model_dir), str(tmp_path / "graph"))
    (tmp_path / "data").mkdir()
    (tmp_path / "nnet").mkdir()
    random = np.random.default_rng(1)
    with TableWriter(f"ark,scp:{tmp_path}/data/feats.ark,{tmp_path}/data/feats.scp", MATRIX) as writer:
        for key in KEYS:
            writer.write(key, random.normal(size=(random.integers(20, 40), 4)).astype(np.float32))
    (tmp_path / "data" / "utt2spk").write_text("".join(f"{key} {key[:2]}\n" for key in KEYS))
    (tmp_path / "data" / "spk2utt").write_text(
        "".join(f"{s} {' '.join(key for key in KEYS if key[:2] == s)}\n" for s in ("s1", "s2"))
    )
    pdfs = int((tmp_path / "graph" / "num_pdfs").read_text())
    (tmp_path / "nnet.config").write_text(CONFIG.format(pdfs=pdfs))
    shell(
        "compute-cmvn-stats --spk2utt=ark:data/spk2utt scp:data/feats.scp ark,scp:data/cmvn.ark,data/cmvn.scp && "
        "nnet-init nnet.config nnet/final.raw && nnet-am-init model/final.mdl nnet/final.raw nnet/final.mdl",
        tmp_path,
    )
    return tmp_path


def test_the_number_of_jobs_does_not_change_the_words(work: Path) -> None:
    found = []
    for options in (["--nj=1", "--acwt=0.5"], ["--nj=4", "--acwt=0.2,0.5"], ["--nj=50", "--acwt=0.5"]):
        done = decode(work, *options)
        assert done.returncode == 0, done.stderr
        found.append((work / "nnet" / "decode" / "hyp_0.5.txt").read_text())
        assert list(read_transcripts(work / "nnet" / "decode" / "hyp_0.5.txt")) == KEYS
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("scales", ["0.5", "0.2,0.5"])
def test_jobs_whose_utterances_cannot_be_decoded_are_dropped_data_and_no_failure(scales: str, work: Path) -> None:
    data = work / "data"
    random = np.random.default_rng(1)
    with TableWriter(f"ark,scp:{data}/feats.ark,{data}/feats.scp", MATRIX) as writer:
        for number, key in enumerate(KEYS):
            frames = 0 if number in (0, 1, 4) else 1 if number == 2 else 30
            writer.write(key, random.normal(size=(frames, 4)).astype(np.float32))
    done = decode(work, "--nj=6", f"--acwt={scales}", "--max-retries=1")
    assert done.returncode == 0, done.stderr
    assert "Starting it again" not in done.stderr
    assert list(read_transcripts(work / "nnet/decode/hyp_0.5.txt")) == [KEYS[2], KEYS[3], KEYS[5]]
    assert "WARNING" in done.stderr
    assert "left out 3: no frames 3 (s1-u0, s1-u1, s2-u1)." in (work / "nnet/decode/info/data_used").read_text()
    assert (work / "nnet/decode/info/left_out").read_text() == "s1-u0 no frames\ns1-u1 no frames\ns2-u1 no frames\n"


def test_data_of_which_nothing_can_be_decoded_are_one_error(work: Path) -> None:
    with TableWriter(f"ark,scp:{work}/data/feats.ark,{work}/data/feats.scp", MATRIX) as writer:
        for key in KEYS:
            writer.write(key, np.zeros((0, 4), np.float32))
    done = decode(work, "--nj=2", "--acwt=0.5")
    assert done.returncode == 1
    assert done.stderr.count("ERROR (") == 1
    assert "No utterance of data could be used. Used 0 of 6 utterances; left out 6: no frames 6" in done.stderr


def test_only_this_decodings_hypotheses_and_logs_are_left(work: Path) -> None:
    folder = work / "nnet" / "decode"
    assert decode(work, "--nj=2", "--acwt=0.1,0.2").returncode == 0
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "hyp_0.1.txt", "hyp_0.2.txt", "info", "log"]
    left = leave_unfinished(folder, "hyp_0.1.1", "log/decode_0.1.1.log")
    assert decode(work, "--nj=2", "--acwt=0.3").returncode == 0
    assert not still_there(left)
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "hyp_0.3.txt", "info", "log"]


def test_means_are_subtracted_as_the_training_did(work: Path) -> None:
    assert decode(work, "--acwt=0.5").returncode == 0
    plain = (work / "nnet" / "decode" / "log" / "decode_0.5.1.log").read_text()
    (work / "nnet" / "cmvn_opts").write_text("--norm-means=true --norm-vars=true\n")
    assert decode(work, "--acwt=0.5").returncode == 0
    normalised = (work / "nnet" / "decode" / "log" / "decode_0.5.1.log").read_text()
    assert "--norm-vars=true" in normalised
    assert "--norm-vars=true" not in plain


def test_online_normalisation_of_the_training_is_done_again_and_jobs_make_no_difference(work: Path) -> None:
    shell("matrix-sum --binary=false scp:data/cmvn.scp nnet/global_cmvn.stats && touch nnet/online_cmvn", work)
    (work / "nnet" / "cmvn_opts").write_text("--cmn-window=30 --norm-vars=true\n")
    found = []
    for jobs in (1, 2, 4):
        done = decode(work, f"--nj={jobs}", "--acwt=0.5")
        assert done.returncode == 0, done.stderr
        found.append((work / "nnet" / "decode" / "hyp_0.5.txt").read_text())
    assert found[0] == found[1] == found[2]
    assert not list((work / "nnet" / "decode").glob("spk2utt*"))
    log = (work / "nnet" / "decode" / "log" / "decode_0.5.1.log").read_text()
    assert "apply-cmvn-online --cmn-window=30 --norm-vars=true --spk2utt=ark:" in log
    assert "No features for" not in log
    (work / "data" / "utt2spk").write_text("".join(f"{key} {key[:2]}\n" for key in KEYS[1:]))
    assert f"no speaker for {KEYS[0]}" in decode(work).stderr


def test_ivectors_and_subsampling_reach_the_network_and_a_foreign_extractor_is_refused(work: Path) -> None:
    pdfs = (work / "graph" / "num_pdfs").read_text().strip()
    (work / "nnet.config").write_text(
        "input-node name=input dim=4\ninput-node name=ivector dim=3\n"
        + CONFIG.format(pdfs=pdfs)
        .replace("input-node name=input dim=4\n", "")
        .replace("input-dim=4", "input-dim=7")
        .replace("input=input", "input=Append(input, ReplaceIndex(ivector, t, 0))")
    )
    shell(
        "nnet-init nnet.config nnet/final.raw && nnet-am-init model/final.mdl nnet/final.raw nnet/final.mdl && "
        "mkdir ivectors && echo 10 > ivectors/ivector_period && echo one > ivectors/final.ie.id && "
        "echo one > nnet/final.ie.id && echo 2 > nnet/frame_subsampling_factor",
        work,
    )
    random = np.random.default_rng(2)
    with TableWriter(f"ark,scp:{work}/ivectors/i.ark,{work}/ivectors/ivector_online.scp", MATRIX) as writer:
        for key in KEYS:
            writer.write(key, random.normal(size=(4, 3)).astype(np.float32))
    options = ["--online-ivector-dir=ivectors", "--frames-per-chunk=20", "--acwt=0.5"]
    done = decode(work, *options)
    assert done.returncode == 0, done.stderr
    log = (work / "nnet" / "decode" / "log" / "decode_0.5.1.log").read_text()
    for word in ("--online-ivector-period=10", "--frame-subsampling-factor=2", "--frames-per-chunk=20"):
        assert word in log
    (work / "nnet" / "final.ie.id").write_text("two\n")
    refused = decode(work, *options)
    assert refused.returncode == 1
    assert "final.ie.id" in refused.stderr


def test_a_job_that_fails_is_reported_with_its_log(work: Path) -> None:
    (work / "data" / "feats.scp").write_text("".join(f"{key} nowhere.ark:5\n" for key in KEYS))
    done = decode(work, "--nj=2", "--max-retries=0")
    assert done.returncode == 1
    assert "decode_0.1.1.log" in done.stderr
    assert "nowhere.ark" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_job_that_is_killed_is_started_again(work: Path) -> None:
    assert decode(work, "--nj=2").returncode == 0
    undisturbed = (work / "nnet/decode/hyp_0.1.txt").read_text()
    shim = work / "shim" / "decode-faster-mapped"
    shim.parent.mkdir()
    shim.write_text(
        "#!/bin/bash\n[[ $* = *hyp_0.1.2 && ! -e killed ]] && touch killed && kill -9 $$\n"
        f'exec {ROOT}/bin/decode-faster-mapped "$@"\n'
    )
    shim.chmod(0o755)
    done = decode(work, "--nj=2", "--cmd", f"env PATH={shim.parent}:{os.environ['PATH']} run-local")
    assert done.returncode == 0, done.stderr
    assert "Starting it again" in done.stderr
    assert (work / "killed").exists()
    assert (work / "nnet/decode/hyp_0.1.txt").read_text() == undisturbed


def test_a_missing_model_is_named(work: Path) -> None:
    done = decode(work, "--iter=17")
    assert done.returncode == 1
    assert "17.mdl" in done.stderr


@pytest.mark.parametrize("text", ["", "0", "-1", "0.1,,0.2", "0.1,0.10", "nan", "inf", "0.1, 0.2"])
def test_scales_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--acwt"):
        scales(text)
