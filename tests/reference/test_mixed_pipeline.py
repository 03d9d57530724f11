"""docs/mixing-with-kaldi.md, Kaldi's part played by files that it wrote: what one half leaves, the other takes up."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from nnet3py.nnet.model_file import read_network


def shell(command: str, folder: Path) -> str:
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def log_probability(messages: str) -> float:
    found = re.search(r"Overall log-likelihood for 'output' is (\S+) per frame", messages)
    assert found is not None, messages
    return float(found[1])


def test_their_examples_our_training_their_average(kaldi_reference: Path, tmp_path: Path) -> None:
    start = kaldi_reference / "train" / "pnorm.init.raw"
    shell(f"nnet-copy-egs ark:{kaldi_reference}/egs/egs_8frames.ark ark:egs.1.ark ark:egs.2.ark", tmp_path)
    for job in (1, 2):
        shell(
            f"nnet-train-shard 'nnet-copy --learning-rate=0.01 {start} - |' 'ark:nnet-shuffle-egs --srand=1 "
            f"ark:egs.{job}.ark ark:- | nnet-merge-egs --minibatch-size=1:16 ark:- ark:- |' 1.{job}.raw",
            tmp_path,
        )
        # What nnet3-average gets has the layout of what nnet3-train writes, byte for byte but for the numbers.
        ours, theirs = (
            (tmp_path / f"1.{job}.raw").read_bytes(),
            (kaldi_reference / "train/pnorm.final.raw").read_bytes(),
        )
        assert len(ours) == len(theirs)
        assert re.findall(rb"<[A-Za-z]\w+> ", ours) == re.findall(rb"<[A-Za-z]\w+> ", theirs)
    messages = shell(
        f"nnet-average 1.1.raw 1.2.raw {kaldi_reference}/train/pnorm.final.raw 1.raw && "
        f"nnet-compute-prob 1.raw 'ark:nnet-merge-egs --minibatch-size=1:128 ark:egs.1.ark ark:- |'",
        tmp_path,
    )
    untrained = shell(
        f"nnet-compute-prob {start} 'ark:nnet-merge-egs --minibatch-size=1:128 ark:egs.1.ark ark:- |'", tmp_path
    )
    assert log_probability(messages) > log_probability(untrained) + 0.3


def test_our_examples_their_training_our_average(kaldi_reference: Path, tmp_path: Path) -> None:
    # Kaldi's trained models are there already; what it trained them on was cut as these examples are.
    tables = kaldi_reference / "tables"
    shell(
        "nnet-get-egs --num-pdfs=30 --num-frames=8 --left-context=2 --right-context=2 "
        f"ark:{tables}/feats.ark ark:{tables}/post.ark ark:egs.ark",
        tmp_path,
    )
    models = " ".join(f"{kaldi_reference}/average/{number}.raw" for number in (3, 4, 5))
    shell(f"nnet-average {models} 1.raw", tmp_path)
    ours, theirs = read_network(str(tmp_path / "1.raw")), read_network(str(kaldi_reference / "average/average.raw"))
    for name, component in ours.updatable_components().items():
        for field, array in component.parameters().items():
            np.testing.assert_allclose(array, theirs.components[name].parameters()[field], rtol=1e-6, atol=1e-7)
    found = [
        log_probability(
            shell(
                f"nnet-compute-prob {model} 'ark:nnet-merge-egs --minibatch-size=1:128 ark:{examples} ark:- |'",
                tmp_path,
            )
        )
        for model, examples in (
            ("1.raw", "egs.ark"),
            (kaldi_reference / "average/average.raw", kaldi_reference / "egs/egs_8frames.ark"),
        )
    ]
    # Where an utterance's last chunks overlap is drawn at random by both, hence not the same frames.
    assert found[0] == pytest.approx(found[1], abs=0.05)
