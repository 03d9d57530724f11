"""Every component beside Kaldi's own programs, where these are on PATH: files, training, evaluation."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from component_examples import EXAMPLES
from tiny_minibatches import write_examples

from nnet3py.nnet.configuration import ConfigLine
from nnet3py.nnet.families import component_class
from nnet3py.nnet.model_file import read_network
from nnet3py.tables.holders import MATRIX
from nnet3py.tables.table import SequentialReader, TableWriter

PROGRAMS = ("train", "copy", "init", "average", "combine", "compute", "compute-prob", "info")
pytestmark = pytest.mark.skipif(
    not all(shutil.which(f"nnet3-{program}") for program in PROGRAMS),
    reason=f"not all of Kaldi's nnet3-{', nnet3-'.join(PROGRAMS)} are on PATH",
)

DRAWN = re.compile("Dropout|SpecAugment")
REPAIRED = re.compile("type=(RectifiedLinear|Sigmoid|Tanh|Softmax|LogSoftmax)Component")
CONFIGS = {
    name: config.replace("=-1,0,2", "=-1,0,1").replace("=0,3", "=0,1")  # as far as the examples reach
    for name, config in EXAMPLES.items()
    if name != "log"  # which Kaldi does not have
}


def run(folder: Path, command: str) -> str:
    """What a command writes to standard error; it must succeed."""
    done = subprocess.run(command.split(), cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def config_around(component: str) -> str:
    """The component between two affine layers, without self-repair, for which Kaldi draws the minibatches.

    These learn by plain SGD: the derivatives of three classes have two dimensions, and where an estimate of natural
    gradient has more, its further directions are decided by rounding.
    """
    line = ConfigLine(f"component name=test {component}")
    made = component_class(line.text_value("type")).from_config(line, np.random.default_rng(0))
    rates = "learning-rate=0.05 max-change=0.75"
    affine = f"type=AffineComponent {rates}"
    extra = f" {rates}" if made.parameters() else " self-repair-scale=0" if REPAIRED.search(component) else ""
    parts = {
        "first": f"{affine} input-dim=5 output-dim={made.input_dim}",
        "middle": f"{component}{extra}",
        "last": f"{affine} input-dim={made.output_dim} output-dim=3",
        "log": "type=LogSoftmaxComponent dim=3",
    }
    lines, below = ["input-node name=input dim=5"], "input"
    for name, settings in parts.items():
        lines += [f"component name={name} {settings}", f"component-node name={name} component={name} input={below}"]
        below = name
    return "\n".join([*lines, f"output-node name=output input={below}"]) + "\n"


@pytest.fixture(params=CONFIGS.values(), ids=CONFIGS.keys())
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model ``0.raw`` with the component, and ten minibatches."""
    (tmp_path / "config").write_text(config_around(request.param))
    run(tmp_path, "nnet-init --srand=3 config 0.raw")
    write_examples(tmp_path / "egs.ark", range(10))
    write_examples(tmp_path / "one.ark", range(1))
    return tmp_path


def change(folder: Path, model: str, component: str) -> np.ndarray:
    """What training has added to a component's parameters, in one vector."""
    old, new = (read_network(f"{folder}/{name}").components[component].parameters() for name in ("0.raw", model))
    return np.concatenate([(new[field] - old[field]).ravel() for field in old]).astype(np.float64)


def assert_alike(folder: Path, model: str, other: str, rtol: float, atol: float = 0.0) -> None:
    """All numbers of two models of the same components."""
    components, others = (read_network(f"{folder}/{name}").components for name in (model, other))
    for name, component in components.items():
        for field in type(component).fields:
            if field.attribute:
                found, expected = (getattr(each, field.attribute) for each in (component, others[name]))
                if isinstance(found, np.ndarray | float):
                    np.testing.assert_allclose(found, expected, rtol, atol, err_msg=f"{name} {field.token}")
                else:
                    assert found == expected, (name, field.token)


def test_a_model_is_written_by_kaldi_as_it_was(folder: Path) -> None:
    run(folder, "nnet3-copy 0.raw binary")
    assert (folder / "binary").read_bytes() == (folder / "0.raw").read_bytes()
    run(folder, "nnet3-copy --binary=false 0.raw text")
    run(folder, "nnet-copy --binary=false 0.raw ours")
    assert (folder / "ours").read_text().split() == (folder / "text").read_text().split()


def test_a_trained_model_is_read_by_both(folder: Path) -> None:
    """Kaldi divides statistics by their counts in single precision: in its own copies, last digits are others."""
    run(folder, "nnet-train-shard --srand=1 0.raw ark:egs.ark 1.raw")
    run(folder, "nnet3-copy 1.raw copy")
    assert_alike(folder, "copy", "1.raw", rtol=1.0e-6)
    run(folder, "nnet3-train --use-gpu=no --srand=1 0.raw ark:egs.ark 2.raw")
    run(folder, "nnet-copy 2.raw copy")
    assert (folder / "copy").read_bytes() == (folder / "2.raw").read_bytes()


def test_training_changes_it_as_kaldi_does(folder: Path) -> None:
    if DRAWN.search((folder / "config").read_text()):
        pytest.skip("what it puts out is drawn at random")
    run(folder, "nnet-train-shard --srand=1 0.raw ark:egs.ark ours.raw")
    run(folder, "nnet3-train --use-gpu=no --srand=1 0.raw ark:egs.ark kaldis.raw")
    for component in read_network(f"{folder}/0.raw").updatable_components():
        ours, theirs = (change(folder, f"{who}.raw", component) for who in ("ours", "kaldis"))
        assert np.linalg.norm(theirs) > 0.0
        assert np.linalg.norm(ours - theirs) < 1.0e-3 * np.linalg.norm(theirs), component


def test_statistics_and_objective_are_kaldis(folder: Path) -> None:
    """After one minibatch: of later ones, Kaldi draws which to observe."""
    if DRAWN.search((folder / "config").read_text()):
        pytest.skip("what it puts out is drawn at random")
    run(folder, "nnet-train-shard 0.raw ark:one.ark ours.raw")
    run(folder, "nnet3-train --use-gpu=no 0.raw ark:one.ark kaldis.raw")
    assert_alike(folder, "ours.raw", "kaldis.raw", rtol=1.0e-3, atol=1.0e-5)
    found = [
        re.search(r"for 'output' is (-\d+\.\d+)", run(folder, f"{program} kaldis.raw ark:egs.ark"))
        for program in ("nnet-compute-prob", "nnet3-compute-prob")
    ]
    ours_prob, kaldis_prob = (float(match[1]) for match in found if match)
    assert ours_prob == pytest.approx(kaldis_prob, abs=2.0e-5)


def test_a_configuration_makes_what_kaldi_makes_of_it_but_for_random_numbers(folder: Path) -> None:
    run(folder, "nnet3-init config kaldis.raw")
    components, others = (read_network(f"{folder}/{name}.raw").components for name in ("0", "kaldis"))
    assert list(components) == list(others)
    for name, component in components.items():
        for field in type(component).fields:
            if field.attribute:
                found, expected = (getattr(each, field.attribute) for each in (component, others[name]))
                if isinstance(found, np.ndarray):
                    assert found.shape == expected.shape, (name, field.token)
                else:
                    assert found == pytest.approx(expected), (name, field.token)


def test_averages_and_outputs_are_kaldis(folder: Path) -> None:
    run(folder, "nnet-train-shard 0.raw ark:egs.ark 1.raw")
    run(folder, "nnet-average 0.raw 1.raw ours.raw")
    run(folder, "nnet3-average 0.raw 1.raw kaldis.raw")
    assert_alike(folder, "ours.raw", "kaldis.raw", rtol=1.0e-6, atol=1.0e-7)
    rows = np.random.default_rng(2).standard_normal((30, 5)).astype(np.float32)
    with TableWriter(f"ark:{folder}/feats.ark", MATRIX) as writer:
        writer.write("a", rows)
    for flag in ("--frames-per-chunk=50", "--frames-per-chunk=8 --apply-exp=true"):
        run(folder, f"nnet-compute {flag} kaldis.raw ark:feats.ark ark:ours.ark")
        run(folder, f"nnet3-compute {flag} kaldis.raw ark:feats.ark ark:kaldis.ark")
        with SequentialReader(f"ark:{folder}/ours.ark", MATRIX) as ours:
            (_, found), *_ = ours
        with SequentialReader(f"ark:{folder}/kaldis.ark", MATRIX) as kaldis:
            (_, expected), *_ = kaldis
        np.testing.assert_allclose(found, expected, rtol=1.0e-4, atol=1.0e-5)


OPTIONS = {
    "momentum": "--momentum=0.8",
    "limits": "--max-param-change=0.2",
    "l2": "--l2-regularize-factor=0.5",
    "backstitch": "--backstitch-training-scale=0.4 --backstitch-training-interval=1",
    "statistics of batch norm": "--batchnorm-stats-scale=0.5",
}
NETWORK = """\
input-node name=input dim=5
component name=first type=TdnnComponent input-dim=5 output-dim=12 time-offsets=-1,0,1 {settings}
component-node name=first component=first input=input
component name=norm type=BatchNormComponent dim=12
component-node name=norm component=norm input=first
component name=drop type=DropoutComponent dim=12 dropout-proportion=0
component-node name=drop component=drop input=norm
component name=pnorm type=PnormComponent input-dim=12 output-dim=6
component-node name=pnorm component=pnorm input=drop
component name=last type=NaturalGradientAffineComponent input-dim=6 output-dim=3 rank-out=1 {settings}
component-node name=last component=last input=pnorm
component name=log type=LogSoftmaxComponent dim=3
component-node name=log component=log input=last
output-node name=output input=log
"""


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_options_of_training_do_what_they_do_in_kaldi(options: str, tmp_path: Path) -> None:
    settings = "learning-rate=0.02 max-change=0.75 l2-regularize=0.01"
    (tmp_path / "config").write_text(NETWORK.format(settings=settings))
    run(tmp_path, "nnet-init --srand=3 config 0.raw")
    write_examples(tmp_path / "egs.ark", range(10))
    run(tmp_path, f"nnet-train-shard {options} 0.raw ark:egs.ark ours.raw")
    run(tmp_path, f"nnet3-train --use-gpu=no {options} 0.raw ark:egs.ark kaldis.raw")
    for component in ("first", "last"):
        ours, theirs = (change(tmp_path, f"{who}.raw", component) for who in ("ours", "kaldis"))
        assert np.linalg.norm(ours - theirs) < 1.0e-3 * np.linalg.norm(theirs), component
    ours_norm, kaldis_norm = (read_network(f"{tmp_path}/{who}.raw").components["norm"] for who in ("ours", "kaldis"))
    for attribute in ("count", "stats_sum", "stats_sumsq"):
        np.testing.assert_allclose(
            getattr(ours_norm, attribute), getattr(kaldis_norm, attribute), rtol=2.0e-3, atol=2.0e-3
        )


EDITS = [
    "--learning-rate=0.5",
    "--scale=0.3",
    "--edits=set-learning-rate name=f* learning-rate=0.7;set-learning-rate-factor learning-rate-factor=0.5",
    "--edits=rename-node old-name=norm new-name=other;remove-orphans",
    "--edits=set-dropout-proportion proportion=0.2",
    "--prepare-for-test=true",
]


@pytest.mark.parametrize("edit", EDITS)
def test_edits_are_kaldis(edit: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(NETWORK.format(settings=""))
    run(tmp_path, "nnet-init --srand=3 config new.raw")
    write_examples(tmp_path / "egs.ark", range(3))
    run(tmp_path, "nnet-train-shard new.raw ark:egs.ark 0.raw")
    for program, target in (("nnet-copy", "ours"), ("nnet3-copy", "kaldis")):
        done = subprocess.run([program, edit, "0.raw", target], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert_alike(tmp_path, "ours", "kaldis", rtol=1.0e-5, atol=1.0e-6)
    networks = [read_network(f"{tmp_path}/{name}") for name in ("ours", "kaldis")]
    assert [str(node) for node in networks[0].nodes] == [str(node) for node in networks[1].nodes]


def test_models_are_combined_and_described_as_by_kaldi(tmp_path: Path) -> None:
    (tmp_path / "config").write_text(NETWORK.format(settings="learning-rate=0.05 max-change=0.75"))
    run(tmp_path, "nnet-init --srand=3 config 0.raw")
    for number in range(3):
        write_examples(tmp_path / "egs.ark", range(10 * number, 10 * number + 10))
        run(tmp_path, f"nnet-train-shard {number}.raw ark:egs.ark {number + 1}.raw")
    write_examples(tmp_path / "valid.ark", range(100, 120))
    said = [run(tmp_path, f"{prefix}-combine 3.raw 2.raw 1.raw ark:valid.ark {prefix}") for prefix in ("nnet", "nnet3")]
    told = [re.findall(r"Combining .*", text) for text in said]
    assert told[0] == told[1]
    assert len(told[0]) == 3
    assert_alike(tmp_path, "nnet", "nnet3", rtol=1.0e-4, atol=1.0e-5)
    described = [subprocess.check_output([f"{prefix}-info", "3.raw"], cwd=tmp_path) for prefix in ("nnet", "nnet3")]
    assert described[0] == described[1]
