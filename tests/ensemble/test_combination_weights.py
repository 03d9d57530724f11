"""Weights of models by L-BFGS: gradients, least-squares problems whose best weights are known, and what goes wrong."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from nnet3py.egs.example import EXAMPLE, Example, NnetIo
from nnet3py.ensemble.combination_weights import (
    Models,
    WeightedObjective,
    WeightOptions,
    find_weights,
    maximise,
)
from nnet3py.errors import UserError
from nnet3py.nnet.batch_norm import BatchNormComponent
from nnet3py.nnet.model_file import read_network, write_network
from nnet3py.nnet.network import Network
from nnet3py.tables.table import TableWriter
from nnet3py.train.minibatch_stream import minibatches

FRAMES = 200
INPUTS, TARGETS = 6, 3

LINEAR = f"""
input-node name=input dim={INPUTS}
component name=one type=AffineComponent input-dim={INPUTS} output-dim={TARGETS}
component-node name=one component=one input=input
component name=two type=AffineComponent input-dim={INPUTS} output-dim={TARGETS}
component-node name=two component=two input=input
output-node name=output input=one objective=quadratic
output-node name=output-2 input=two objective=quadratic
"""
"""Two regressions, each with an output of its own: the best weights of each solve a least-squares problem."""

DEEP = f"""
input-node name=input dim={INPUTS}
component name=affine1 type=NaturalGradientAffineComponent input-dim={INPUTS} output-dim=8
component-node name=affine1 component=affine1 input=input
component name=sigmoid type=SigmoidComponent dim=8 self-repair-scale=0.09
component-node name=sigmoid component=sigmoid input=affine1
component name=batchnorm type=BatchNormComponent dim=8
component-node name=batchnorm component=batchnorm input=sigmoid
component name=affine2 type=NaturalGradientAffineComponent input-dim=8 output-dim=4
component-node name=affine2 component=affine2 input=batchnorm
component name=tanh type=TanhComponent dim=4 self-repair-scale=0.09
component-node name=tanh component=tanh input=affine2
component name=scale type=NaturalGradientPerElementScaleComponent dim=4
component-node name=scale component=scale input=tanh
component name=dropout type=DropoutComponent dim=4 dropout-proportion=0.3
component-node name=dropout component=dropout input=scale
component name=log_softmax type=LogSoftmaxComponent dim=4
component-node name=log_softmax component=log_softmax input=dropout
output-node name=output input=log_softmax objective=linear
"""


def _write_examples(path: Path, outputs: dict[str, np.ndarray], rows: np.ndarray, split: int) -> str:
    """Minibatches of ``split`` frames each."""
    with TableWriter(f"ark:{path}", EXAMPLE) as writer:
        for start in range(0, len(rows), split):
            part = slice(start, start + split)
            indexes = np.array([(n, 0, 0) for n in range(len(rows[part]))], np.int32)
            ios = [NnetIo(name, indexes, values[part]) for name, values in {"input": rows, **outputs}.items()]
            writer.write(f"eg-{start}", Example(ios))
    return f"ark:{path}"


@dataclass
class Regression:
    """Models around a good one, examples, and for each component the models' predictions and the targets."""

    names: list[str]
    examples: str
    predictions: list[np.ndarray]  # (models, frames, targets)
    targets: list[np.ndarray]


@pytest.fixture
def regression(tmp_path: Path) -> Regression:
    random = np.random.default_rng(5)
    rows = random.standard_normal((FRAMES, INPUTS)).astype(np.float32)
    best = [random.standard_normal((TARGETS, INPUTS + 1)) for _ in range(2)]
    extended = np.column_stack([rows, np.ones(FRAMES)]).astype(np.float64)
    targets = [extended @ matrix.T + 0.3 * random.standard_normal((FRAMES, TARGETS)) for matrix in best]
    names: list[str] = []
    predictions: list[list[np.ndarray]] = [[], []]
    for index in range(5):
        network = Network.from_config(LINEAR, index)
        for place, name in enumerate(("one", "two")):
            noisy = (best[place] * 0.8 + 0.1 * random.standard_normal(best[place].shape)).astype(np.float32)
            network.components[name].linear[...] = noisy[:, :-1]  # type: ignore[attr-defined]
            network.components[name].bias[...] = noisy[:, -1]  # type: ignore[attr-defined]
            predictions[place].append(extended @ noisy.T.astype(np.float64))
        names.append(str(tmp_path / f"{index}.raw"))
        write_network(names[-1], network)
    outputs = {"output": targets[0].astype(np.float32), "output-2": targets[1].astype(np.float32)}
    examples = _write_examples(tmp_path / "egs.ark", outputs, rows, 64)
    return Regression(names, examples, [np.array(part) for part in predictions], targets)


def _least_squares(predictions: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, float]:
    """The weights whose sum of predictions is nearest to the targets, and -½ of the square of the distance."""
    design = predictions.reshape(len(predictions), -1).T
    weights = np.linalg.lstsq(design, targets.reshape(-1), rcond=None)[0]
    return weights, -0.5 * float(np.sum((design @ weights - targets.reshape(-1)) ** 2))


def test_the_weights_solve_the_least_squares_problem_of_each_component(regression: Regression) -> None:
    names, examples = regression.names, regression.examples
    found = find_weights(names, examples, WeightOptions(num_lbfgs_iters=60))
    total = 0.0
    for component, predicted, target in zip(("one", "two"), regression.predictions, regression.targets, strict=True):
        expected, value = _least_squares(predicted, target)
        total += value
        assert expected.min() < 0.0 or expected.sum() > 1.1, "weights of any sign, of any sum"
        np.testing.assert_allclose(found.weights[component], expected, atol=2e-3)
        combined = found.network.components[component].parameters()["linear"]
        models = [read_network(name).components[component].parameters()["linear"] for name in names]
        np.testing.assert_allclose(combined, np.tensordot(found.weights[component], models, 1), atol=1e-5)
    assert found.objective == pytest.approx(total / (2 * FRAMES), rel=1e-5)
    assert found.objective > found.initial_objective


def test_a_regularizer_shortens_the_parameters_as_ridge_regression_does(regression: Regression) -> None:
    names, examples = regression.names, regression.examples
    strength = 0.2
    found = find_weights(names, examples, WeightOptions(num_lbfgs_iters=60, regularizer=strength))
    for component, predicted, target in zip(("one", "two"), regression.predictions, regression.targets, strict=True):
        models = np.array([_flat(read_network(name), component) for name in names])
        design = predicted.reshape(len(names), -1)
        # ½/(2F) ‖target - Σ w p‖² + ½ r ‖Σ w θ‖² is least where its gradient is zero.
        left = design @ design.T / (2 * FRAMES) + strength * models @ models.T
        expected = np.linalg.solve(left, design @ target.reshape(-1) / (2 * FRAMES))
        np.testing.assert_allclose(found.weights[component], expected, atol=2e-3)


def _flat(network: Network, component: str) -> np.ndarray:
    parameters = network.components[component].parameters().values()
    return np.concatenate([array.reshape(-1) for array in parameters]).astype(np.float64)


def _classification(folder: Path) -> tuple[list[str], str]:
    """Three deep models with statistics of saturated units, and examples with labels."""
    random = np.random.default_rng(1)
    names = []
    for index in range(3):
        network = Network.from_config(DEEP, index)
        for name in ("sigmoid", "tanh"):
            component = network.components[name]
            component.count = 100.0  # type: ignore[attr-defined]
            component.value_sum = np.zeros(component.input_dim)  # type: ignore[attr-defined]
            component.deriv_sum = np.zeros(component.input_dim)  # type: ignore[attr-defined]
        names.append(str(folder / f"deep{index}.raw"))
        write_network(names[-1], network)
    rows = random.standard_normal((FRAMES, INPUTS)).astype(np.float32)
    labels = np.eye(4, dtype=np.float32)[random.integers(0, 4, FRAMES)]
    return names, _write_examples(folder / "labels.ark", {"output": labels}, rows, 80)


@pytest.mark.parametrize("regularizer", [0.0, 0.05])
@pytest.mark.parametrize("test_mode", [False, True])
def test_the_gradient_is_that_of_finite_differences(tmp_path: Path, regularizer: float, test_mode: bool) -> None:
    names, examples = _classification(tmp_path)
    if test_mode:
        for name in names:
            network = read_network(name)
            batchnorm = network.components["batchnorm"]
            batchnorm.count, batchnorm.stats_sumsq = 10.0, np.full(8, 5.0)  # type: ignore[attr-defined]
            write_network(name, network)
    models = Models(names)
    batches = list(minibatches(examples, models.network))
    options = WeightOptions(regularizer=regularizer, batchnorm_test_mode=test_mode)
    function = WeightedObjective(models, batches, options)
    weights = np.random.default_rng(3).normal(0.3, 0.4, models.shape)
    value, gradient = function(weights)
    assert value == function.value(weights)
    step = 2e-3
    differences = np.zeros(models.shape)
    for place in np.ndindex(models.shape):
        change = np.zeros(models.shape)
        change[place] = step
        differences[place] = (function.value(weights + change) - function.value(weights - change)) / (2 * step)
    assert models.names == ["affine1", "affine2", "scale"]
    np.testing.assert_allclose(gradient, differences, atol=2e-3 * np.abs(gradient).max())


def test_weights_have_their_meaning(tmp_path: Path) -> None:
    names, _ = _classification(tmp_path)
    models = Models(names)
    weights = np.array([[0.5, 1.0, 0.0], [-0.25, 0.0, 0.0], [2.0, 0.0, 1.0]])
    models.add_up(weights, models.network)
    networks = [read_network(name) for name in names]
    flat = [_flat(network, "affine1") for network in networks]
    np.testing.assert_allclose(
        _flat(models.network, "affine1"), 0.5 * flat[0] - 0.25 * flat[1] + 2 * flat[2], atol=1e-6
    )
    np.testing.assert_array_equal(_flat(models.network, "affine2"), _flat(networks[0], "affine2"))
    np.testing.assert_array_equal(_flat(models.network, "scale"), _flat(networks[2], "scale"))


def _alike(folder: Path) -> tuple[list[str], str]:
    """Six regressions that differ by 1 %, as models of successive iterations do."""
    random = np.random.default_rng(7)
    rows = random.standard_normal((FRAMES, INPUTS)).astype(np.float32)
    center = Network.from_config(LINEAR, 0)
    names = []
    for index in range(6):
        network = center.copy()
        for component in network.components.values():
            for array in component.parameters().values():
                array *= 1.0 + 0.01 * random.standard_normal(array.shape).astype(np.float32)
        names.append(str(folder / f"alike{index}.raw"))
        write_network(names[-1], network)
    extended = np.column_stack([rows, np.ones(FRAMES)])
    noise = 1.0 + 0.02 * random.standard_normal((TARGETS, INPUTS + 1))
    targets = []
    for name in ("one", "two"):
        parameters = center.components[name].parameters()
        matrix = np.column_stack([parameters["linear"], parameters["bias"]]) * noise
        targets.append((extended @ matrix.T).astype(np.float32))
    return names, _write_examples(folder / "alike.ark", {"output": targets[0], "output-2": targets[1]}, rows, 100)


def test_coordinates_of_the_parameters_take_fewer_evaluations_than_the_weights_themselves(tmp_path: Path) -> None:
    names, examples = _alike(tmp_path)
    models = Models(names)
    batches = list(minibatches(examples, models.network))
    options = WeightOptions(num_lbfgs_iters=40, initial_impr=1e-4)
    function = WeightedObjective(models, batches, options)
    start = np.full(models.shape, 1.0 / 6.0)
    # The optimum by linear algebra: the gradient of a quadratic function is linear.
    flat_start = start.reshape(-1)
    slope = function(start)[1].reshape(-1)
    hessian = np.array([(function(start + 0.5 * d)[1].reshape(-1) - slope) / 0.5 for d in _units(models.shape)])
    optimum = (flat_start - np.linalg.pinv(hessian, rcond=1e-9) @ slope).reshape(models.shape)
    gain = function.value(optimum) - function.value(start)
    assert gain > 1e-4

    def left(coordinates: list[np.ndarray], evaluations: int) -> float:
        limited = WeightOptions(num_lbfgs_iters=evaluations, initial_impr=1e-4)
        found = maximise(function, start, coordinates, limited)
        assert found.num_evaluations <= evaluations
        return 1.0 - (found.value - found.initial_value) / gain

    assert left(function.coordinates(), 15) < 0.02
    assert left([np.eye(6), np.eye(6)], 15) > 0.2


def _units(shape: tuple[int, int]) -> np.ndarray:
    return np.eye(shape[0] * shape[1]).reshape(-1, *shape)


def test_identical_models_are_no_obstacle(regression: Regression) -> None:
    names, examples = regression.names, regression.examples
    found = find_weights([names[0]] * 3, examples, WeightOptions())
    for component, predicted, target in zip(("one", "two"), regression.predictions, regression.targets, strict=True):
        expected, _ = _least_squares(predicted[:1], target)
        assert found.weights[component].sum() == pytest.approx(expected[0], abs=1e-3)


@pytest.mark.parametrize(("improvement", "recovers"), [(1e3, True), (1e30, False)])
def test_a_first_step_much_too_long_leaves_nothing_worse_than_the_start(
    tmp_path: Path, improvement: float, recovers: bool
) -> None:
    names, examples = _classification(tmp_path)
    first = WeightedObjective(Models(names), list(minibatches(examples, read_network(names[0]))), WeightOptions())
    start = first.value(np.array([[1.0] * 3, [0.0] * 3, [0.0] * 3]))
    for evaluations in (1, 2, 20):
        options = WeightOptions(initial_model=0, initial_impr=improvement, num_lbfgs_iters=evaluations)
        found = find_weights(names, examples, options)
        assert found.initial_objective == pytest.approx(start, abs=1e-12)
        assert found.objective >= start
        assert found.num_evaluations <= evaluations
        if evaluations < 3:
            assert found.weights["affine1"].tolist() == [1.0, 0.0, 0.0]
    assert (found.objective > start) == recovers


def test_the_start_is_the_better_of_the_first_model_and_the_average(
    regression: Regression,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names, examples = regression.names, regression.examples
    one = WeightOptions(num_lbfgs_iters=1)
    average = find_weights(names, examples, one)
    assert average.weights["one"].tolist() == [0.2] * 5
    far = read_network(names[1])
    far.scale(-30.0)
    write_network(names[1], far)
    assert find_weights(names, examples, one).weights["two"].tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert "Objective function of the first model is" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("index", "weights"), [(0, [1, 0, 0]), (2, [0, 0, 1]), (3, [1 / 3] * 3), (100000, [1 / 3] * 3)]
)
def test_the_start_can_be_chosen(regression: Regression, index: int, weights: list[float]) -> None:
    names, examples = regression.names, regression.examples
    found = find_weights(names[:3], examples, WeightOptions(num_lbfgs_iters=1, initial_model=index))
    assert found.weights["one"].tolist() == weights


def test_batch_norm_statistics_are_those_of_the_examples(tmp_path: Path) -> None:
    names, examples = _classification(tmp_path)
    network = find_weights(names, examples, WeightOptions()).network
    batchnorm = network.components["batchnorm"]
    assert isinstance(batchnorm, BatchNormComponent)
    assert batchnorm.count == FRAMES
    assert not batchnorm.test_mode
    assert not network.components["dropout"].test_mode  # type: ignore[attr-defined]


def test_components_that_are_not_trained_stay_as_they_are(regression: Regression) -> None:
    names, examples = regression.names, regression.examples
    for name in names[:2]:
        network = read_network(name)
        network.components["one"].learning_rate_factor = 0.0
        write_network(name, network)
    found = find_weights(names[:2], examples, WeightOptions())
    assert list(found.weights) == ["two"]
    np.testing.assert_array_equal(_flat(found.network, "one"), _flat(read_network(names[0]), "one"))
    assert not np.array_equal(_flat(found.network, "two"), _flat(read_network(names[0]), "two"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (WeightOptions(num_lbfgs_iters=0), "--num-lbfgs-iters"),
        (WeightOptions(max_lbfgs_dim=0), "--max-lbfgs-dim"),
        (WeightOptions(initial_impr=0.0), "--initial-impr"),
        (WeightOptions(initial_impr=float("nan")), "--initial-impr"),
        (WeightOptions(regularizer=-1.0), "--regularizer"),
    ],
)
def test_options_that_make_no_sense_are_refused(regression: Regression, options: WeightOptions, says: str) -> None:
    names, examples = regression.names, regression.examples
    with pytest.raises(UserError, match=says):
        find_weights(names, examples, options)


def test_nothing_to_judge_on_is_an_error(regression: Regression, tmp_path: Path) -> None:
    names = regression.names
    with TableWriter(f"ark:{tmp_path / 'none.ark'}", EXAMPLE):
        pass
    with pytest.raises(UserError, match="empty"):
        find_weights(names, f"ark:{tmp_path / 'none.ark'}", WeightOptions())


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


def test_the_program_says_the_weights_and_writes_the_same_bytes_again(regression: Regression, tmp_path: Path) -> None:
    names, examples = regression.names, regression.examples
    outputs = [str(tmp_path / name) for name in ("a.raw", "b.raw")]
    for output in outputs:
        ended = _run("nnet-combine-fast", *names, examples, output)
        assert ended.returncode == 0, ended.stderr
    found = find_weights(names, examples, WeightOptions())
    for component, weights in found.weights.items():
        printed = re.search(rf"Scale parameters of {component} are \[ (.*) \]", ended.stderr)
        assert printed is not None
        np.testing.assert_allclose([float(word) for word in printed[1].split()], weights, rtol=1e-3)
    assert f"changed from {found.initial_objective:.6g} to {found.objective:.6g}" in ended.stderr
    assert Path(outputs[0]).read_bytes() == Path(outputs[1]).read_bytes()
    prob = _run("nnet-compute-prob", outputs[0], examples).stderr
    averages = [float(text) for text in re.findall(r"Overall objective for '\S+' is (\S+) per frame", prob)]
    assert sum(averages) / 2 == pytest.approx(found.objective, rel=1e-4)


def test_shrinking_scales_each_component_by_the_best_factor(regression: Regression, tmp_path: Path) -> None:
    names, examples = regression.names, regression.examples
    output = str(tmp_path / "shrunk.raw")
    ended = _run("nnet-shrink", "--num-bfgs-iters=20", names[0], examples, output)
    assert ended.returncode == 0, ended.stderr
    before, after = read_network(names[0]), read_network(output)
    for component, predicted, target in zip(("one", "two"), regression.predictions, regression.targets, strict=True):
        factor = float(np.vdot(predicted[0], target) / np.vdot(predicted[0], predicted[0]))
        np.testing.assert_allclose(_flat(after, component), factor * _flat(before, component), rtol=1e-3)
        printed = re.search(rf"scale factors per component are \[.* {component}:(\S+)", ended.stderr)
        assert printed is not None
        assert float(printed[1]) == pytest.approx(factor, rel=1e-3)


def test_errors_name_the_file_and_leave_no_output(regression: Regression, tmp_path: Path) -> None:
    names, examples = regression.names, regression.examples
    deep, _ = _classification(tmp_path)
    cut = tmp_path / "cut.raw"
    cut.write_bytes(Path(names[0]).read_bytes()[:-200])
    output = str(tmp_path / "out.raw")
    for words, says in (
        (["nnet-combine-fast", names[0], deep[0], examples, output], "deep0.raw differ in structure"),
        (["nnet-combine-fast", names[0], str(cut), examples, output], "cut.raw"),
        (["nnet-combine-fast", names[0], "ark:x"], "2 arguments"),
        (["nnet-combine-fast", names[0], "ark:missing", output], "missing"),
        (["nnet-shrink", deep[0], examples, output], "output-2"),
        (["nnet-shrink", "--num-bfgs-iters=0", names[0], examples, output], "--num-lbfgs-iters"),
    ):
        ended = _run(*words)
        assert ended.returncode == 1
        errors = [line for line in ended.stderr.splitlines() if line.startswith("ERROR")]
        assert len(errors) == 1, ended.stderr
        assert says in errors[0]
        assert "Traceback" not in ended.stderr
        assert not Path(output).exists()
