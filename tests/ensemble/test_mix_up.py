"""Mixing up: how units are shared out, what splitting one does, and what cannot be mixed up."""

from __future__ import annotations

import math
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnet3py.egs.example import Example, NnetIo
from nnet3py.ensemble.mix_up import MixUpOptions, mix_up, split_targets
from nnet3py.errors import UserError
from nnet3py.nnet.component import Phase
from nnet3py.nnet.computation import Computation
from nnet3py.nnet.model_file import read_network, write_network
from nnet3py.nnet.network import Network
from nnet3py.nnet.request import Request
from nnet3py.tables.basic_types import write_header
from nnet3py.tables.matrix import write_vector
from nnet3py.tables.sparse_matrix import SparseMatrix
from nnet3py.tables.streams import open_output
from nnet3py.train.compute_prob import ComputeProb
from nnet3py.train.minibatch import Minibatch

CLASSES = 4
COUNTS = np.array([800.0, 90.0, 0.0, 3000.0])
CONFIG = """
input-node name=input dim=3
component name=affine1 type=AffineComponent input-dim=3 output-dim=5
component-node name=affine1 component=affine1 input=input
component name=tanh1 type=TanhComponent dim=5
component-node name=tanh1 component=tanh1 input=affine1
component name=output.affine type=NaturalGradientAffineComponent input-dim=5 output-dim=4 max-change=1.5
component-node name=output.affine component=output.affine input=tanh1
component name=output.log-softmax type=LogSoftmaxComponent dim=4
component-node name=output.log-softmax component=output.log-softmax input=output.affine
output-node name=output input=output.log-softmax objective=linear
"""
SCALED = CONFIG.replace("output.log-softmax input=output.affine", "output.log-softmax input=scale") + (
    "component name=scale type=FixedScaleComponent dim=4\n"
    "component-node name=scale component=scale input=output.affine\n"
)
SUMS = """
input-node name=input dim=2
component name=affine type=AffineComponent input-dim=2 output-dim=4
component-node name=affine component=affine input=input
component name=softmax type=SoftmaxComponent dim=4
component-node name=softmax component=softmax input=affine
component name=sums type=SumGroupComponent sizes=1,2,1
component-node name=sums component=sums input=softmax
component name=log type=LogComponent dim=3
component-node name=log component=log input=sums
output-node name=output input=log
"""


def outputs(network: Network) -> np.ndarray:
    x = 2 * np.random.default_rng(5).standard_normal((50, network.input_dim())).astype(np.float32)
    computation = Computation(network, Request({"input": [0]}, {"output": [0]}, num_sequences=50))
    return computation.forward({"input": x}, Phase.TEST, keep_trace=False)[0]["output"]


def component(network: Network, name: str) -> Any:
    return network.components[name]


# Printed by Kaldi's GetSplitTargets for these counts.
KALDI_COUNTS = [5000, 1200, 90, 13, 0, 7777, 450, 31, 3001, 2]
KALDI_TARGETS = {
    (25, 0.25, 10): [4, 3, 2, 1, 1, 5, 2, 2, 4, 1],
    (40, 0.5, 10): [9, 4, 2, 1, 1, 11, 3, 1, 7, 1],
    (60, 1.0, 100): [15, 4, 1, 1, 1, 24, 2, 1, 10, 1],
    (30, 0.0, 1000): [4, 1, 1, 1, 1, 7, 1, 1, 3, 1],
    (100, 0.3, 500): [9, 2, 1, 1, 1, 15, 1, 1, 6, 1],
}


@pytest.mark.parametrize(("settings", "targets"), KALDI_TARGETS.items())
def test_units_are_shared_out_as_in_kaldi(settings: tuple[int, float, float], targets: list[int]) -> None:
    assert split_targets(KALDI_COUNTS, *settings) == targets


def test_units_that_min_count_forbids_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert sum(split_targets(KALDI_COUNTS, 30, 0.0, 1000)) == 21
    assert "Could not split up to 30 units, only to 21, due to min-count = 1000" in capsys.readouterr().err


def test_parameters_after_mixing_up_again_are_kaldis() -> None:
    """Kaldi's MixupNnet (nnet2) of the same layer, power 0.5, min-count 20, to 11 units, without perturbation."""
    network = Network.from_config(SUMS)
    affine, softmax = component(network, "affine"), component(network, "softmax")
    affine.linear[...] = [[0.5, -1], [2, 0.25], [-0.75, 1.5], [0, 1]]
    affine.bias[...] = [0.1, -0.2, 0.3, 0]
    softmax.value_sum, softmax.count = np.array([700.0, 90, 10, 200]), 1000.0
    assert mix_up(network, MixUpOptions(11, power=0.5, min_count=20, perturb_stddev=0)) == (4, 11)
    affine, softmax = component(network, "affine"), component(network, "softmax")
    kaldi_bias = [
        -1.97944, -1.97944, -1.28629, -1.28629, -1.97944, -1.97944, -0.2, 0.3, -1.38629, -0.693147, -1.38629
    ]  # fmt: skip
    np.testing.assert_allclose(affine.bias, kaldi_bias, rtol=1e-5)
    np.testing.assert_array_equal(affine.linear, [[0.5, -1]] * 6 + [[2, 0.25], [-0.75, 1.5]] + [[0, 1]] * 3)
    np.testing.assert_allclose(softmax.value_sum, [87.5, 87.5, 175, 175, 87.5, 87.5, 90, 10, 50, 100, 50])
    assert component(network, "sums").sizes == [6, 2, 3]
    assert softmax.count == 1000.0


@pytest.mark.parametrize("config", [CONFIG, SCALED], ids=["affine", "affine and scale"])
def test_without_perturbation_the_outputs_stay_what_they_were(config: str) -> None:
    network = Network.from_config(config, seed=1)
    before = outputs(network)
    mix_up(network, MixUpOptions(10, min_count=1, perturb_stddev=0), COUNTS)
    assert component(network, "output.affine").output_dim == 10
    np.testing.assert_allclose(outputs(network), before, atol=1e-6)
    mix_up(network, MixUpOptions(17, min_count=1, perturb_stddev=0), COUNTS)
    assert component(network, "output.affine").output_dim == 17
    np.testing.assert_allclose(outputs(network), before, atol=1e-6)


def test_the_derivatives_of_a_split_unit_add_up_to_that_of_the_unit() -> None:
    """The class's probability depends on its units' parameters through their sum, as it did on the one's."""
    random = np.random.default_rng(3)
    features = random.standard_normal((20, 3)).astype(np.float32)
    indexes = np.array([(n, 0, 0) for n in range(20)], np.int32)
    labels = SparseMatrix.from_rows([[(int(label), 1.0)] for label in random.integers(0, CLASSES, 20)], CLASSES)
    example = Example([NnetIo("input", indexes, features), NnetIo("output", indexes, labels)])
    minibatch = Minibatch.from_example(example, ["input"], ["output"])
    network = Network.from_config(CONFIG, seed=1)
    gradients, objectives = [], []
    for mixed in (False, True):
        if mixed:
            mix_up(network, MixUpOptions(9, min_count=1, perturb_stddev=0), COUNTS)
        prob = ComputeProb(network, compute_derivative=True)
        prob.compute(minibatch)
        assert prob.gradient is not None
        gradients.append({name: update.delta for name, update in prob.gradient.updates.items()})
        objectives.append(prob.average_objective())
    starts = np.cumsum([0, *component(network, "output.sum-group").sizes[:-1]])
    assert objectives[1] == pytest.approx(objectives[0], rel=1e-6)
    for field, whole in gradients[0]["output.affine"].items():
        parts = np.add.reduceat(gradients[1]["output.affine"][field], starts, axis=0)
        np.testing.assert_allclose(parts, whole, atol=1e-5)
    np.testing.assert_allclose(gradients[1]["affine1"]["linear"], gradients[0]["affine1"]["linear"], atol=1e-5)


def test_the_rows_of_a_split_unit_lie_on_both_sides_of_what_it_was() -> None:
    config = CONFIG.replace("dim=5", "dim=500")  # a deviation can be told of that many numbers
    network = Network.from_config(config, seed=1)
    linear = component(network, "output.affine").linear.copy()
    mix_up(network, MixUpOptions(5, min_count=1, perturb_stddev=0.02), COUNTS)
    assert component(network, "output.sum-group").sizes == [1, 1, 1, 2]
    first, second = component(network, "output.affine").linear[3:].astype(np.float64)
    np.testing.assert_allclose((first + second) / 2, linear[3], atol=1e-7)
    assert np.std((first - second) / 2) == pytest.approx(0.02, rel=0.1)
    np.testing.assert_array_equal(component(network, "output.affine").linear[:3], linear[:3])


@pytest.mark.parametrize(
    ("log_softmax", "names"),
    [
        ("output.log-softmax", ["output.softmax", "output.sum-group", "output.log"]),
        ("final_log_softmax", ["final_softmax", "final_sum_group", "final_log"]),
        ("log_softmax", ["softmax", "sum_group", "log"]),
        ("last", ["last.softmax", "last.sum-group", "last.log"]),
    ],
)
def test_softmax_sums_and_logarithm_stand_where_the_log_softmax_was(log_softmax: str, names: list[str]) -> None:
    network = Network.from_config(CONFIG.replace("output.log-softmax", log_softmax))
    mix_up(network, MixUpOptions(6, min_count=1), COUNTS)
    lines = network.config_lines()
    assert lines[-4:] == [
        f"component-node name={names[0]} component={names[0]} input=output.affine",
        f"component-node name={names[1]} component={names[1]} input={names[0]}",
        f"component-node name={names[2]} component={names[2]} input={names[1]}",
        f"output-node name=output input={names[2]} objective=linear",
    ]
    assert list(network.components) == ["affine1", "tanh1", "output.affine", *names]
    mix_up(network, MixUpOptions(9, min_count=1), COUNTS)
    assert network.config_lines() == lines


def test_a_second_output_and_a_delay_go_on_reading_the_log_probabilities() -> None:
    more = (
        "output-node name=later input=Offset(output.log-softmax, 1)\n"
        "dim-range-node name=part input-node=output.log-softmax dim-offset=1 dim=2\n"
        "output-node name=part_output input=part"
    )
    network = Network.from_config(CONFIG + more)
    mix_up(network, MixUpOptions(6, min_count=1, output="later"), COUNTS)
    assert "output-node name=later input=Offset(output.log, 1) objective=linear" in network.config_lines()
    assert "dim-range-node name=part input-node=output.log dim-offset=1 dim=2" in network.config_lines()


def test_counts_divide_a_classs_units_as_the_softmax_has_seen_them() -> None:
    network = Network.from_config(SUMS)
    softmax = component(network, "softmax")
    softmax.value_sum, softmax.count = np.array([10.0, 30.0, 10.0, 10.0]), 60.0
    mix_up(network, MixUpOptions(5, min_count=1, perturb_stddev=0), np.array([1.0, 400.0, 1.0]))
    np.testing.assert_allclose(component(network, "softmax").value_sum, [1, 150, 100, 150, 1])


ERRORS = {
    "too few units": (CONFIG, MixUpOptions(4), COUNTS, "--num-mixtures=4 must be above .* 4 for 4 classes"),
    "no counts": (CONFIG, MixUpOptions(9), None, "--counts"),
    "other classes": (CONFIG, MixUpOptions(9), COUNTS[:3], "of 3 classes, but the network has 4"),
    "counts below zero": (CONFIG, MixUpOptions(9), -COUNTS, "none below zero"),
    "counts that are no numbers": (CONFIG, MixUpOptions(9), COUNTS * math.nan, "finite"),
    "counts of nothing": (CONFIG, MixUpOptions(9), 0 * COUNTS, "not all of them zero"),
    "a power below zero": (CONFIG, MixUpOptions(9, power=-1), COUNTS, "--power=-1 is not possible"),
    "a deviation that is no number": (CONFIG, MixUpOptions(9, perturb_stddev=math.nan), COUNTS, "--perturb-stddev=nan"),
    "no such output": (CONFIG, MixUpOptions(9, output="outptu"), COUNTS, "no node named outptu"),
    "an output of another kind": (
        CONFIG.replace("input=output.log-softmax ", "input=tanh1 "),
        MixUpOptions(9),
        COUNTS,
        r"LogSoftmaxComponent.*reads tanh1 \(TanhComponent\) <- affine1 \(AffineComponent\)",
    ),
    "an affine layer that something else reads": (
        CONFIG + "output-node name=other input=output.affine",
        MixUpOptions(9),
        COUNTS,
        "output.affine cannot be mixed up: output.log-softmax|output.softmax, other read it",
    ),
    "an affine layer in two places": (
        CONFIG + "component-node name=twin component=output.affine input=tanh1\noutput-node name=other input=twin",
        MixUpOptions(9),
        COUNTS,
        "component output.affine cannot be mixed up: it serves output.affine, twin",
    ),
    "a name that is taken": (
        CONFIG.replace("tanh1", "output.softmax"), MixUpOptions(9), COUNTS, "called output.softmax already"
    ),
    "a scale of zero": (
        SCALED.replace("FixedScaleComponent dim=4", "FixedScaleComponent dim=4 scale=0"),
        MixUpOptions(9, min_count=1),
        COUNTS,
        "scale zero",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("config", "options", "counts", "complaint"), ERRORS.values(), ids=ERRORS.keys())
def test_what_cannot_be_mixed_up_is_said_and_left_as_it_was(
    config: str, options: MixUpOptions, counts: np.ndarray | None, complaint: str
) -> None:
    network = Network.from_config(config)
    before, parameters = network.config_lines(), component(network, "output.affine").linear.copy()
    with pytest.raises(UserError, match=complaint):
        mix_up(network, options, counts)
    assert network.config_lines() == before
    np.testing.assert_array_equal(component(network, "output.affine").linear, parameters)


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=folder, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a model, counts in binary form, and the same as analyze-counts writes them."""
    write_network(str(tmp_path / "0.raw"), Network.from_config(CONFIG))
    with open_output(str(tmp_path / "counts")) as sink:
        write_header(sink, True)
        write_vector(sink, COUNTS.astype(np.float32), True)
    labels = np.repeat(np.arange(CLASSES), COUNTS.astype(int))
    (tmp_path / "ali.txt").write_text(f"utt {' '.join(map(str, labels))}\n")
    done = run(tmp_path, "analyze-counts", "--counts-dim=4", "ark,t:ali.txt", "counts.txt")
    assert done.returncode == 0, done.stderr
    return tmp_path


def test_the_program_gives_the_same_bytes_for_the_same_seed(folder: Path) -> None:
    models = {}
    for name, seed, counts in (("a", 1, "counts"), ("b", 1, "counts.txt"), ("c", 2, "counts")):
        done = run(
            folder, "nnet-mix-up", "--num-mixtures=9", "--min-count=1", f"--srand={seed}", f"--counts={counts}",
            "0.raw", name,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "Mixed up from dimension of 4 to 9 in the softmax layer." in done.stderr
        models[name] = read_network(str(folder / name))
    linear = {name: component(network, "output.affine").linear for name, network in models.items()}
    np.testing.assert_array_equal(linear["a"], linear["b"])
    assert not np.array_equal(linear["a"], linear["c"])
    command = "nnet-mix-up --num-mixtures=9 --min-count=1 --srand=1 --counts=counts 0.raw again"
    assert run(folder, "bash", "-c", command).returncode == 0
    assert (folder / "again").read_bytes() == (folder / "a").read_bytes()


def test_every_form_of_model_file_holds_a_mixed_up_network(folder: Path) -> None:
    command = "nnet-mix-up --num-mixtures=9 --min-count=1 --counts=counts"
    done = run(
        folder,
        "bash",
        "-c",
        f"""{command} 0.raw a.raw && {command} --binary=false 0.raw a.txt &&
        {command} 0.raw a.h5 && nnet-copy a.txt txt.raw && nnet-copy a.h5 h5.raw && nnet-copy a.raw copy.raw""",
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "copy.raw").read_bytes() == (folder / "a.raw").read_bytes() == (folder / "h5.raw").read_bytes()
    expected = outputs(read_network(str(folder / "a.raw")))
    np.testing.assert_allclose(outputs(read_network(str(folder / "txt.raw"))), expected, atol=1e-5)
    assert "component name=output.log type=LogComponent, dim=4" in run(folder, "nnet-info", "a.raw").stdout


@pytest.mark.parametrize(
    ("options", "counts", "complaint"),
    [
        (["--num-mixtures=9"], "[ 1 2 3", "counts.bad"),
        (["--num-mixtures=9"], "[ 1 2 nan 4 ]", "finite"),
        (["--num-mixtures=9"], "[ 1 2 3 ]", "3 classes"),
        (["--num-mixtures=3"], "[ 1 2 3 4 ]", "--num-mixtures=3"),
        ([], "[ 1 2 3 4 ]", "--num-mixtures"),
    ],
)
def test_bad_counts_and_options_give_one_error_line(
    folder: Path, options: list[str], counts: str, complaint: str
) -> None:
    (folder / "counts.bad").write_text(counts + "\n")
    done = run(folder, "nnet-mix-up", *options, "--counts=counts.bad", "0.raw", "out.raw")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("ERROR (")]
    assert re.search(complaint, line)
    assert not (folder / "out.raw").exists()
