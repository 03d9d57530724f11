"""nnet-compute-prob against nnet3-compute-prob's lines."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest


def _values(text: str) -> list[tuple[str, float, float]]:
    """What is printed, its value and the number of frames."""
    lines = re.findall(r"Overall (.*) for 'output' is (\S+) per frame, over (\S+) frames\.", text)
    return [(what, float(value), float(frames)) for what, value, frames in lines]


@pytest.mark.parametrize(
    ("name", "examples"),
    [
        ("pnorm", "egs/egs_8frames_merged32.ark"),
        ("sgd", "egs/egs_8frames_merged32.ark"),
        ("sigmoid_mixtures", "egs/egs_8frames_merged32.ark"),
        ("tdnn_relu", "egs/egs_ivector_merged.ark"),
        ("tdnnf", "train/egs_context4_mb16_x5.ark"),
    ],
)
def test_objective_and_accuracy_agree_to_five_digits(kaldi_reference: Path, name: str, examples: str) -> None:
    words = ["nnet-compute-prob", str(kaldi_reference / f"train/{name}.final.raw"), f"ark:{kaldi_reference / examples}"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    expected = _values((kaldi_reference / f"compute/{name}.compute_prob.log").read_text())
    assert [what for what, _, _ in expected] == ["log-likelihood", "accuracy"]
    for found, wanted in zip(_values(ended.stderr), expected, strict=True):
        assert found[0] == wanted[0]
        assert found[1:] == pytest.approx(wanted[1:], rel=1e-5)
