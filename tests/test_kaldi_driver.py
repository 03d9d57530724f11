"""Every kind of command line of Kaldi's driver for networks, its programs being links to ours under their own names."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_corpus import FEAT_DIM, INIT_CONFIG, NUM_PDFS, SPLICED, TOPOLOGY, add_transitions, make_corpus, scaled_config

from nnet3py.driver.pdf_counts import read_counts
from nnet3py.driver.prior_scale import prior_scales, vector_text
from nnet3py.nnet.acoustic_model import read_acoustic_model
from nnet3py.nnet.transition_model import read_transition_model

BIN = Path(__file__).resolve().parent.parent / "bin"
OTHER_NAMES = {"nnet3-train": "nnet-train-shard", "sum-lda-accs": "nnet-sum-lda-stats", "am-info": "hmm-info"}
SAME_NAMES = [
    "ali-to-pdf",
    "ali-to-post",
    "apply-cmvn",
    "apply-cmvn-online",
    "compute-cmvn-stats",
    "copy-int-vector",
    "feat-to-dim",
    "feat-to-len",
    "hmm-info",
    "matrix-sum",
    "matrix-sum-rows",
    "nnet-get-feature-transform",
    "post-to-tacc",
    "tree-info",
    "vector-sum",
]


class Recipe:
    """A folder with a corpus, in which only Kaldi's names of programs are found."""

    def __init__(self, folder: Path, links: Path) -> None:
        self.folder = folder
        python = links / "python3"  # not a link, by which an environment would not be found
        python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
        python.chmod(0o755)
        system = [part for part in os.defpath.split(os.pathsep) if part]
        self.environment = {**os.environ, "PATH": os.pathsep.join([str(links), *system])}

    def run(self, command: str) -> str:
        """Standard output; what goes to standard error is appended to ``log``."""
        with open(self.folder / "log", "a") as log:
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", command],
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        text = (self.folder / "log").read_text()
        assert done.returncode == 0, f"{command}\n{text[-3000:]}"
        return done.stdout

    def logged(self, name: str, command: str) -> str:
        """As run.pl does it: all output in a log, which is returned."""
        self.run(f"{{ {command} ; }} > {name} 2>&1")
        return (self.folder / name).read_text()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder, links = tmp_path_factory.mktemp("recipe"), tmp_path_factory.mktemp("links")
    names = {name: name for name in SAME_NAMES} | OTHER_NAMES
    names |= {f"nnet3-{path.name.removeprefix('nnet-')}": path.name for path in BIN.glob("nnet-*")}
    for name, program in names.items():
        (links / name).symlink_to(BIN / program)
    make_corpus(folder, utterances=24, frames=40)
    add_transitions(folder)
    (folder / "topo").write_text(TOPOLOGY)
    (folder / "init.config").write_text(INIT_CONFIG)
    lda = "component name=lda type=FixedAffineComponent matrix=lda.mat\ncomponent-node name=lda component=lda "
    lines = scaled_config("prior_scale.vec").replace(f"input={SPLICED}", "input=lda")
    (folder / "final.config").write_text(lines + f"{lda}input={SPLICED}\n")
    return Recipe(folder, links)


@pytest.fixture(scope="module")
def egs(recipe: Recipe) -> Recipe:
    """The recipe with examples, made as get_egs.sh makes them."""
    run = recipe.run
    run("compute-cmvn-stats scp:data/feats.scp ark,scp:data/cmvn.ark,data/cmvn.scp")
    run("matrix-sum --binary=false scp:data/cmvn.scp - > global_cmvn.stats 2> /dev/null")
    assert run("feat-to-dim --print-args=false scp:data/feats.scp -").strip() == str(FEAT_DIM)
    run("gunzip -c am_ali/ali.1.gz | copy-int-vector ark:- ark,scp:ali.ark,ali.scp")
    num_pdfs = run("tree-info --print-args=false am_ali/tree | grep num-pdfs | awk '{print $2}'").strip()
    assert num_pdfs == str(NUM_PDFS)
    run("awk '{print $1, $1}' data/utt2spk > data/spk2utt; mkdir egs")
    cut = f"nnet3-get-egs --num-pdfs={num_pdfs} --frame-subsampling-factor=1 --left-context=1 --right-context=1 "
    cut += "--compress=true --num-frames=4"
    online = "apply-cmvn-online --cmn-window=300 --spk2utt=ark:data/spk2utt  global_cmvn.stats scp:- ark:- |"
    labels = "ali-to-pdf am_ali/final.mdl scp:- ark:- | ali-to-post ark:- ark:- |"
    run(
        f"head -4 ali.scp | ali-to-pdf am_ali/final.mdl scp:- ark:- | ali-to-post ark:- ark:- | {cut} "
        f'"ark,s,cs:head -4 data/feats.scp | {online}" ark,s,cs:- "ark:egs/valid_all.egs"'
    )
    for count, name in (
        (0, "valid_combine"),
        (90, "valid_diagnostic"),
        (60, "train_diagnostic"),
        (200, "train_combine"),
    ):
        run(f"nnet3-subset-egs --n={count} ark:egs/valid_all.egs ark:egs/{name}.egs")
    run("cat egs/valid_combine.egs egs/train_combine.egs > egs/combine.egs")
    run(
        f'{cut} "ark,s,cs:tail -n +5 data/feats.scp | {online}" "ark,s,cs:tail -n +5 ali.scp | {labels}" ark:- | '
        "nnet3-copy-egs --random=true --srand=$[1+0] ark:- ark:egs/egs_orig.1.1.ark ark:egs/egs_orig.1.2.ark"
    )
    for number in (1, 2):
        parts = f"ark:cat  egs/egs_orig.1.{number}.ark|"
        run(f'nnet3-shuffle-egs --srand=$[{number}+0] "{parts}" ark:egs/egs.{number}.ark')
    return recipe


@pytest.fixture(scope="module")
def prepared(egs: Recipe) -> Recipe:
    """The recipe with the initial model, made as train_dnn.py makes it."""
    run = egs.run
    run("nnet3-init --srand=-2 init.config init.raw")
    for job in (1, 2):
        run(
            f'nnet3-acc-lda-stats --rand-prune=4.0 init.raw "ark:nnet3-copy-egs  ark:egs/egs.{job}.ark ark:- |" '
            f"{job}.lda_stats"
        )
    run("sum-lda-accs lda_stats 1.lda_stats 2.lda_stats && nnet-get-feature-transform  lda.mat lda_stats")
    run(
        'ali-to-post "ark:gunzip -c am_ali/ali.1.gz|" ark:- | post-to-tacc --per-pdf=true  am_ali/final.mdl ark:- '
        "pdf_counts.1 && vector-sum --binary=false pdf_counts.* pdf_counts"
    )
    scales = prior_scales(read_counts(str(egs.folder / "pdf_counts")), -0.25)
    (egs.folder / "prior_scale.vec").write_text(vector_text(scales))
    run("nnet3-init --srand=-3 init.raw final.config 0.raw")
    run('nnet3-am-init am_ali/final.mdl 0.raw - | nnet3-am-train-transitions - "ark:gunzip -c am_ali/ali.*.gz|" 0.mdl')
    return egs


def test_an_empty_choice_of_examples_is_an_empty_archive(egs: Recipe) -> None:
    assert (egs.folder / "egs/valid_combine.egs").read_bytes() == b""
    assert (egs.folder / "egs/combine.egs").stat().st_size > 1000


def test_the_initial_model_has_trained_transitions_and_priors(prepared: Recipe) -> None:
    model = read_acoustic_model(str(prepared.folder / "0.mdl"))
    assert model.priors.size == NUM_PDFS
    before = read_transition_model(str(prepared.folder / "am_ali/final.mdl")).log_probs
    assert not np.allclose(model.transition_model.log_probs, before)
    assert "number of pdfs 6" in prepared.run("am-info 0.mdl 2>/dev/null | grep -w pdfs")
    assert "left-context: 1" in prepared.run("nnet3-info 0.mdl | head -4")
    prepared.run("nnet3-am-init am_ali/tree topo 0.raw from-tree.mdl")
    made = read_transition_model(str(prepared.folder / "from-tree.mdl"))
    np.testing.assert_allclose(made.log_probs, before, rtol=1e-6)


# The expressions by which Kaldi's steps/libs read logs.
_OBJECTIVE = re.compile(
    r"LOG .* Overall average objective function for 'output' is ([0-9e.\-+= ]+) over ([0-9e.\-+]+) frames"
)
_PROBABILITY = re.compile(
    r"LOG .nnet3.*compute-prob.*:PrintTotalStats..:nnet.*diagnostics.cc:[0-9]+. Overall ([a-zA-Z\-]+) for 'output'.*is "
    r"([0-9.\-e]+) .*per frame"
)
_DIFFERENCE = re.compile(r"LOG.*Relative parameter differences.*\[(.*)\]")


@pytest.mark.slow
def test_iterations_combination_and_priors(prepared: Recipe) -> None:
    logged = prepared.logged
    for iteration in (0, 1):
        cache = f"--read-cache=cache.{iteration}" if iteration else ""
        jobs = iteration + 1
        for job in range(1, jobs + 1):
            log = logged(
                f"train.{iteration}.{job}.log",
                f"nnet3-train --use-gpu=no {cache} --write-cache=cache.{iteration + 1}  --print-interval=10 "
                "--momentum=0.0 --max-param-change=2.0 --backstitch-training-scale=0.0 "
                f"--l2-regularize-factor={1.0 / jobs} --backstitch-training-interval=1 --srand={iteration} "
                f'"nnet3-copy --learning-rate=0.02 --scale=1.0 {iteration}.mdl - |" '
                f'"ark,bg:nnet3-copy-egs --frame=1   ark:egs/egs.{job}.ark ark:- | nnet3-shuffle-egs '
                f"--buffer-size=5000 --srand={iteration} ark:- ark:- |  nnet3-merge-egs --minibatch-size=32 ark:- "
                f'ark:- |" {iteration + 1}.{job}.raw',
            )
            assert _OBJECTIVE.search(log)
        models = " ".join(f"{iteration + 1}.{job}.raw" for job in range(1, jobs + 1))
        join = f"nnet3-average {models}" if iteration else f"nnet3-copy {models}"
        back = f"nnet3-am-copy --set-raw-nnet=-  {iteration}.mdl {iteration + 1}.mdl"
        logged(f"average.{iteration}.log", f"{join} - | {back}")
        for kind in ("valid", "train"):
            log = logged(
                f"compute_prob_{kind}.{iteration}.log",
                f'nnet3-compute-prob "{iteration}.mdl" "ark,bg:nnet3-copy-egs  ark:egs/{kind}_diagnostic.egs ark:- | '
                'nnet3-merge-egs --minibatch-size=1:64 ark:- ark:- |"',
            )
            assert [match[1] for match in _PROBABILITY.finditer(log)] == ["log-likelihood", "accuracy"]
    log = logged("progress.1.log", "nnet3-info 1.mdl && nnet3-show-progress --use-gpu=no 0.mdl 1.mdl")
    differences = _DIFFERENCE.search(log)
    assert differences is not None
    assert {part.split(":")[0] for part in differences[1].split()} == {"affine1", "final_affine"}
    logged("full_progress.1.log", "nnet3-show-progress --use-gpu=no --verbose=2 0.mdl 1.mdl")
    logged("full_info.1.log", "nnet3-info --verbose=2 1.mdl")
    logged(
        "combine.log",
        "nnet3-combine --use-gpu=no --max-objective-evaluations=30 --verbose=3 2.mdl 1.mdl "
        '"ark,bg:nnet3-copy-egs  ark:egs/combine.egs ark:- | nnet3-merge-egs --minibatch-size=1:32 ark:- ark:- |" '
        '"| nnet3-am-copy --set-raw-nnet=- 2.mdl combined.mdl"',
    )
    for job in (1, 2):
        logged(
            f"get_post.{job}.log",
            f"nnet3-copy-egs ark:egs/egs.1.ark ark:- | nnet3-subset-egs --srand={job} --n=20000 ark:- ark:- | "
            "nnet3-merge-egs --minibatch-size=128 ark:- ark:- | nnet3-compute-from-egs --use-gpu=no --apply-exp=true "
            f'"combined.mdl" ark:- ark:- | matrix-sum-rows ark:- ark:- | vector-sum ark:- post.combined.{job}.vec',
        )
    logged("vector_sum.log", "vector-sum post.combined.*.vec post.combined.vec")
    logged("adjust_priors.log", 'nnet3-am-adjust-priors "combined.mdl" post.combined.vec "final.mdl"')
    first, last = (read_acoustic_model(str(prepared.folder / f"{name}.mdl")) for name in ("0", "final"))
    assert np.array_equal(first.transition_model.log_probs, last.transition_model.log_probs)
    assert last.priors.sum() == pytest.approx(1, rel=1e-5)
    assert not np.array_equal(first.priors, last.priors)


def test_messages_carry_the_name_that_a_program_is_called_by(egs: Recipe) -> None:
    done = subprocess.run(
        ["nnet3-copy", "--no-such-option", "a", "b"], env=egs.environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("ERROR (nnet3-copy[")
    done = subprocess.run(["nnet-copy", "none", "-"], capture_output=True, text=True)
    assert done.stderr.startswith("nnet-copy none -\nERROR (nnet-copy[")
