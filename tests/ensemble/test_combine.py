"""Combination and progress on networks whose best combination is known."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from nnet3py.egs.example import EXAMPLE, Example, NnetIo
from nnet3py.ensemble.combine import CombineOptions, combine
from nnet3py.ensemble.progress import objective_changes, parameter_differences, parameter_norms
from nnet3py.errors import UserError
from nnet3py.nnet.batch_norm import BatchNormComponent
from nnet3py.nnet.model_file import read_network, write_network
from nnet3py.nnet.network import Network
from nnet3py.tables.table import TableWriter
from nnet3py.train.minibatch import Minibatch

CONFIG = """
input-node name=input dim=2
component name=affine type=AffineComponent input-dim=2 output-dim=2
component-node name=affine component=affine input=input
output-node name=output input=affine objective=quadratic
"""
WITH_BATCHNORM = CONFIG.replace(
    "output-node name=output input=affine",
    """
component name=batchnorm type=BatchNormComponent dim=2
component-node name=batchnorm component=batchnorm input=affine
output-node name=output input=batchnorm""",
)


def _example(seed: int) -> Example:
    """The target is the input."""
    rows = np.random.default_rng(seed).standard_normal((30, 2)).astype(np.float32)
    indexes = np.array([(n, 0, 0) for n in range(30)], np.int32)
    return Example([NnetIo("input", indexes, rows), NnetIo("output", indexes, rows)])


@pytest.fixture
def examples(tmp_path: Path) -> str:
    with TableWriter(f"ark:{tmp_path / 'egs.ark'}", EXAMPLE) as writer:
        for seed in range(3):
            writer.write(f"eg-{seed}", _example(seed))
    return f"ark:{tmp_path / 'egs.ark'}"


def _model(path: Path, gain: float, config: str = CONFIG) -> str:
    """A model that multiplies by ``gain``; the best is 1."""
    network = Network.from_config(config)
    affine = network.components["affine"]
    affine.linear[...] = gain * np.eye(2)  # type: ignore[attr-defined]
    affine.bias[...] = 0.0  # type: ignore[attr-defined]
    write_network(str(path), network)
    return str(path)


def _gain(network: Network) -> float:
    return float(network.components["affine"].parameters()["linear"][0, 0])


def test_the_running_mean_with_the_best_objective_is_chosen(examples: str, tmp_path: Path) -> None:
    # Running means of the gains: 1.8, 1.3, 1.05, 1.2875
    models = [_model(tmp_path / f"{i}.raw", gain) for i, gain in enumerate((1.8, 0.8, 0.55, 2.0))]
    found = combine(models, examples, CombineOptions())
    assert found.num_models == 3
    assert _gain(found.network) == pytest.approx(1.05, rel=1e-5)
    assert found.objective == pytest.approx(found.initial_objective * (0.05 / 0.8) ** 2, rel=1e-3)


def test_the_newest_model_is_kept_if_no_mean_is_better(examples: str, tmp_path: Path) -> None:
    models = [_model(tmp_path / f"{i}.raw", gain) for i, gain in enumerate((1.0, 3.0, 4.0))]
    found = combine(models, examples, CombineOptions())
    assert (found.num_models, _gain(found.network)) == (1, 1.0)


def test_few_evaluations_skip_means_but_not_the_last(
    examples: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [_model(tmp_path / f"{i}.raw", gain) for i, gain in enumerate((2.0, 0.0, 1.0, 1.0, 1.0, 1.0))]
    combine(models, examples, CombineOptions(max_objective_evaluations=2))
    printed = capsys.readouterr().err
    assert [n for n in range(2, 7) if f"Combining last {n} models" in printed] == [4, 6]


def test_batch_norm_statistics_are_those_of_the_examples(examples: str, tmp_path: Path) -> None:
    models = [_model(tmp_path / f"{i}.raw", 1.0 + i, WITH_BATCHNORM) for i in range(3)]
    found = combine(models, examples, CombineOptions())
    batchnorm = found.network.components["batchnorm"]
    assert isinstance(batchnorm, BatchNormComponent)
    assert batchnorm.count == 90.0
    assert not batchnorm.test_mode


def test_nothing_to_judge_on_is_an_error(tmp_path: Path) -> None:
    with TableWriter(f"ark:{tmp_path / 'none.ark'}", EXAMPLE):
        pass
    with pytest.raises(UserError, match="empty"):
        combine([_model(tmp_path / "0.raw", 1.0)], f"ark:{tmp_path / 'none.ark'}", CombineOptions())


def test_differences_and_norms_are_euclidean(tmp_path: Path) -> None:
    old, new = read_network(_model(tmp_path / "0.raw", 1.0)), read_network(_model(tmp_path / "1.raw", 4.0))
    assert parameter_differences(old, new) == {"affine": pytest.approx(3.0 * np.sqrt(2.0))}
    assert parameter_norms(new) == {"affine": pytest.approx(4.0 * np.sqrt(2.0))}


@pytest.mark.parametrize("segments", [1, 4])
def test_objective_changes_add_up_to_the_change(tmp_path: Path, segments: int) -> None:
    old, new = read_network(_model(tmp_path / "0.raw", 1.8)), read_network(_model(tmp_path / "1.raw", 1.2))
    minibatch = Minibatch.from_example(_example(0), ["input"], ["output"])
    power = float((minibatch.inputs["input"].astype(float) ** 2).sum() / 30)
    changes = objective_changes(old, new, [minibatch], segments)
    assert changes == {"affine": pytest.approx(-0.5 * power * (0.2**2 - 0.8**2), rel=1e-5)}  # exact for a parabola


def test_the_programs_refuse_wrong_numbers_of_arguments(tmp_path: Path) -> None:
    model = _model(tmp_path / "0.raw", 1.0)
    for words in (["nnet-combine", model, "ark:x"], ["nnet-show-progress", model], ["nnet-average", model]):
        ended = subprocess.run(words, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 1
        assert ended.stderr.count("ERROR") == 1, ended.stderr
