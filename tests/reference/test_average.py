"""nnet-average, nnet-combine and nnet-show-progress against their Kaldi counterparts."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from nnet3py.nnet.component import Role
from nnet3py.nnet.model_file import read_network


def _run(*words: object) -> str:
    ended = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


def _assert_same_numbers(found: Path, expected: Path) -> None:
    """Parameters and statistics agree to 1e-6."""
    one, other = read_network(str(found)), read_network(str(expected))
    assert not one.difference(other)
    for name, component in other.components.items():
        for field in [*component.fields_with_role(Role.PARAMETER), *component.fields_with_role(Role.STATISTIC)]:
            wanted = np.asarray(getattr(component, field.attribute), np.float64)
            value = np.asarray(getattr(one.components[name], field.attribute), np.float64)
            assert np.linalg.norm(value - wanted) <= 1e-6 * np.linalg.norm(wanted), f"{name} {field.token}"


def test_average_agrees_with_kaldi(kaldi_reference: Path, tmp_path: Path) -> None:
    folder = kaldi_reference / "average"
    models = [folder / f"{number}.raw" for number in (3, 4, 5)]
    printed = _run("nnet-average", *models, tmp_path / "average.raw")
    assert f"Averaged parameters of 3 neural nets, and wrote to {tmp_path / 'average.raw'}" in printed
    _assert_same_numbers(tmp_path / "average.raw", folder / "average.raw")
    _run("nnet-average", "--weights=0.5:0.3:0.2", *models, tmp_path / "weighted.raw")
    _assert_same_numbers(tmp_path / "weighted.raw", folder / "average_weighted.raw")


def _combine_lines(text: str) -> list[tuple[str, list[float]]]:
    """The lines about combining: their words, and their numbers."""
    lines = re.findall(r"\) (objective function using .*|Combining .*)", text)
    return [
        (re.sub(r"-?\d+(\.\d+)?", "#", line), [float(n) for n in re.findall(r"-?\d+\.?\d*", line)]) for line in lines
    ]


def test_combination_chooses_the_same_models(kaldi_reference: Path, tmp_path: Path) -> None:
    folder = kaldi_reference / "average"
    models = [folder / f"{number}.raw" for number in (5, 4, 3, 2, 1)]
    examples = f"ark:{kaldi_reference / 'egs/egs_8frames_merged32.ark'}"
    printed = _combine_lines(_run("nnet-combine", *models, examples, tmp_path / "combined.raw"))
    expected = _combine_lines((folder / "combine.log").read_text())
    assert len(expected) == 6
    assert [words for words, _ in printed] == [words for words, _ in expected]
    for (_, found), (_, wanted) in zip(printed, expected, strict=True):
        assert found == pytest.approx(wanted, rel=1e-4)
    _assert_same_numbers(tmp_path / "combined.raw", folder / "combined.raw")


def _by_component(text: str) -> dict[str, dict[str, float]]:
    return {
        what: {name: float(value) for name, value in re.findall(r"(\S+):(\S+)", values)}
        for what, values in re.findall(r"\) (\S.*) (?:is|are) \[ (.*) \]", text)
    }


def test_progress_agrees_with_kaldi(kaldi_reference: Path) -> None:
    folder = kaldi_reference / "average"
    examples = f"ark:{kaldi_reference / 'egs/egs_8frames_merged32.ark'}"
    printed = _run("nnet-show-progress", folder / "4.raw", folder / "5.raw", examples)
    wanted_text = (folder / "show_progress.log").read_text()
    found, wanted = _by_component(printed), _by_component(wanted_text)
    assert len(wanted) == 4
    assert found.keys() == wanted.keys()
    for what, values in wanted.items():
        assert found[what] == pytest.approx(values, rel=1e-4), what
    position = re.compile(r"At position 0.5, objf per frame is (\S+)")
    assert float(position.findall(printed)[0]) == pytest.approx(float(position.findall(wanted_text)[0]), rel=1e-4)
