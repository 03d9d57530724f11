"""Fixing of saturated units, on layers of one input whose average derivative is known."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from nnet3py.ensemble.saturation import FixOptions, fix
from nnet3py.errors import UserError
from nnet3py.nnet.component import Phase
from nnet3py.nnet.computation import Computation
from nnet3py.nnet.model_file import read_network, write_network
from nnet3py.nnet.network import Network
from nnet3py.nnet.request import Request

WEIGHTS = np.array([0.1, 2.0, 8.0, 30.0], np.float32)  # in the linear part, in between, and two that are saturated
BIASES = np.array([0.05, -0.3, 0.5, -3.2], np.float32)
INPUTS = np.linspace(-3.0, 3.0, 61, dtype=np.float32)

CONFIG = """
input-node name=input dim=1
component name=affine type={affine}
component-node name=affine component=affine input=input
component name=nonlinearity type={nonlinearity} dim=4
component-node name=nonlinearity component=nonlinearity input=affine
output-node name=output input=nonlinearity objective=quadratic
"""
AFFINE = "NaturalGradientAffineComponent input-dim=1 output-dim=4"
TDNN = "TdnnComponent input-dim=1 output-dim=4 time-offsets=0"


def _network(nonlinearity: str = "SigmoidComponent", affine: str = AFFINE, config: str = CONFIG) -> Network:
    """A layer that has seen every input once, with statistics."""
    network = Network.from_config(config.format(affine=affine, nonlinearity=nonlinearity))
    layer = network.components["affine"]
    layer.linear[...] = WEIGHTS[:, None]  # type: ignore[attr-defined]
    layer.bias[...] = BIASES  # type: ignore[attr-defined]
    computation = Computation(network, Request({"input": [0]}, {"output": [0]}, len(INPUTS)))
    computation.forward({"input": INPUTS[:, None]}, Phase.TRAIN, store_statistics=True)
    return network


def _rows(network: Network, name: str = "affine") -> np.ndarray:
    """[W b], a row a unit."""
    parameters = network.components[name].parameters()
    return np.column_stack([parameters["linear"], parameters["bias"]]).astype(float)


def _slopes(nonlinearity: str) -> np.ndarray:
    """The average derivative of each unit over its largest possible, without the library."""
    z = np.outer(INPUTS, WEIGHTS) + BIASES
    if nonlinearity == "SigmoidComponent":
        return np.mean(4.0 * expit(z) * expit(-z), axis=0)
    if nonlinearity == "TanhComponent":
        return np.mean(1.0 - np.tanh(z) ** 2, axis=0)
    return np.mean(z > 0, axis=0)


@pytest.mark.parametrize("affine", [AFFINE, TDNN, "AffineComponent input-dim=1 output-dim=4"])
@pytest.mark.parametrize("nonlinearity", ["SigmoidComponent", "TanhComponent"])
def test_rows_of_units_out_of_range_are_scaled_towards_it(nonlinearity: str, affine: str) -> None:
    network = _network(nonlinearity, affine)
    before, slopes = _rows(network), _slopes(nonlinearity)
    low, high = float(slopes[2] * 1.25), float(slopes[0] / 1.1)  # the third is just too small, the first just too large
    (done,) = fix(network, FixOptions(min_average_deriv=low, max_average_deriv=high))
    assert (done.nonlinearity, done.affine, done.num_units) == ("nonlinearity", "affine", 4)
    assert (done.num_small, done.num_large) == (2, 1)
    np.testing.assert_allclose(_rows(network) / before, np.outer([1.1, 1.0, 0.8, 0.5], [1, 1]), rtol=1e-5)


def test_a_unit_far_below_the_range_is_scaled_by_the_parameter_factor_only() -> None:
    network = _network()
    before = _rows(network)
    fix(network, FixOptions(parameter_factor=3.0, min_average_deriv=0.5, max_average_deriv=0.51))
    np.testing.assert_allclose(_rows(network)[3], before[3] / 3.0, rtol=1e-6)


def test_rectified_linear_units_have_their_bias_changed() -> None:
    network = _network("RectifiedLinearComponent")
    before, active = _rows(network), _slopes("RectifiedLinearComponent")
    assert active[1] < 0.49 < active[2] < 0.55 < active[0]
    (done,) = fix(network, FixOptions(min_average_deriv=0.49, max_average_deriv=0.55, relu_bias_change=0.25))
    assert (done.num_small, done.num_large) == (2, 1)
    expected = np.array([-0.25, 0.25, 0.0, 0.25])
    np.testing.assert_allclose(_rows(network) - before, np.column_stack([np.zeros(4), expected]), atol=1e-6)


def test_fixing_again_and_again_brings_units_into_the_range() -> None:
    network = _network()
    for _ in range(12):
        fix(network, FixOptions())
        layer = network.components["affine"].parameters()
        z = INPUTS[:, None] * layer["linear"][:, 0] + layer["bias"]
        statistics = network.components["nonlinearity"]
        statistics.deriv_sum[...] = (expit(z) * expit(-z)).sum(axis=0)  # type: ignore[attr-defined]
    slopes = 4.0 * np.mean(expit(z) * expit(-z), axis=0)
    assert slopes.min() > 0.095
    assert slopes.max() < 0.76


def test_units_without_statistics_are_left_alone_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    network = _network()
    network.components["nonlinearity"].zero_statistics()
    before = _rows(network)
    assert fix(network, FixOptions()) == []
    np.testing.assert_array_equal(_rows(network), before)
    assert "WARNING" in (printed := capsys.readouterr().err)
    assert "component nonlinearity: the model has no statistics" in printed


READ_TWICE = CONFIG.replace("input=nonlinearity", "input=Append(nonlinearity, affine)")
SHARED = CONFIG + "component-node name=again component=nonlinearity input=affine\n"
SCALED = CONFIG.replace("input=affine\noutput", "input=Scale(2.0, affine)\noutput")


@pytest.mark.parametrize("config", [READ_TWICE, SHARED, SCALED])
def test_a_layer_that_something_else_depends_on_is_passed_over(config: str) -> None:
    network = _network(config=config)
    before = _rows(network)
    assert fix(network, FixOptions()) == []
    np.testing.assert_array_equal(_rows(network), before)


def test_a_layer_that_is_not_trained_is_passed_over() -> None:
    network = _network()
    network.components["affine"].learning_rate_factor = 0.0
    before = _rows(network)
    assert fix(network, FixOptions()) == []
    np.testing.assert_array_equal(_rows(network), before)


@pytest.mark.parametrize("damage", [-1.0, 20.0, np.nan])
def test_statistics_that_cannot_be_are_an_error_that_names_the_component(damage: float) -> None:
    network = _network()
    network.components["nonlinearity"].deriv_sum[2] = damage  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"Component nonlinearity .* cannot have"):
        fix(network, FixOptions())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (FixOptions(min_average_deriv=0.8), "--min-average-deriv"),
        (FixOptions(min_average_deriv=-0.1), "--min-average-deriv"),
        (FixOptions(max_average_deriv=float("nan")), "--max-average-deriv"),
        (FixOptions(parameter_factor=1.0), "--parameter-factor"),
        (FixOptions(relu_bias_change=-1.0), "--relu-bias-change"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: FixOptions, says: str) -> None:
    with pytest.raises(UserError, match=says):
        fix(_network(), options)


def test_the_program_says_how_many_units_it_changed_and_is_repeatable(tmp_path: Path) -> None:
    write_network(str(tmp_path / "1.raw"), _network())
    for name in ("a.raw", "b.raw"):
        ended = subprocess.run(["nnet-fix", "1.raw", name], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 0, ended.stderr
    changed = "(after affine), decreased parameters for 2 indexes, and increased them for 1 out of a total of 4"
    assert f"For component nonlinearity {changed}" in ended.stderr
    assert (tmp_path / "a.raw").read_bytes() == (tmp_path / "b.raw").read_bytes()
    fixed = _network()
    fix(fixed, FixOptions())
    np.testing.assert_array_equal(_rows(read_network(str(tmp_path / "a.raw"))), _rows(fixed))


def test_a_network_without_such_units_is_written_as_it_is_with_a_warning(tmp_path: Path) -> None:
    lines = CONFIG.format(affine=AFFINE, nonlinearity="NoOpComponent")
    write_network(str(tmp_path / "1.raw"), Network.from_config(lines))
    ended = subprocess.run(["nnet-fix", "1.raw", "2.raw"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "WARNING" in ended.stderr
    assert (tmp_path / "2.raw").read_bytes() == (tmp_path / "1.raw").read_bytes()
