"""Nesterov momentum from iteration to iteration, as a library and through nnet-average."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from nnet3py.ensemble.outer_momentum import step_with_momentum, velocity_like
from nnet3py.errors import UserError
from nnet3py.nnet.model_file import read_network, write_network
from nnet3py.nnet.network import Network

CONFIG = """
input-node name=input dim=4
component name=affine type=NaturalGradientAffineComponent input-dim=4 output-dim=6
component-node name=affine component=affine input=input
component name=sigmoid type=SigmoidComponent dim=6
component-node name=sigmoid component=sigmoid input=affine
component name=out type=AffineComponent input-dim=6 output-dim=3
component-node name=out component=out input=sigmoid
output-node name=output input=out
"""


def _network(seed: int) -> Network:
    network = Network.from_config(CONFIG, seed)
    sigmoid = network.components["sigmoid"]
    sigmoid.count = 10.0 * (seed + 1)  # type: ignore[attr-defined]
    return network


def _numbers(network: Network) -> np.ndarray:
    """Every parameter, in float64."""
    arrays = [array for c in network.updatable_components().values() for array in c.parameters().values()]
    return np.concatenate([array.ravel() for array in arrays]).astype(np.float64)


def test_steps_are_those_of_sgd_with_nesterov_momentum() -> None:
    """As torch.optim.SGD(lr=rate, momentum=0.8, nesterov=True) steps when its gradient is start - average."""
    rate, momentum = 0.7, 0.8
    start = _network(0)
    velocity = velocity_like(start)
    expected = _numbers(start)
    buffer = np.zeros_like(expected)
    for seed in (1, 2, 3):
        mean = _network(seed)
        gradient = expected - _numbers(mean)
        buffer = momentum * buffer + gradient
        expected = expected - rate * (gradient + momentum * buffer)
        step_with_momentum(mean, start, velocity, momentum, rate)
        np.testing.assert_allclose(_numbers(mean), expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(_numbers(velocity), -buffer, rtol=1e-4, atol=1e-5)
        assert mean.components["sigmoid"].count == 10.0 * (seed + 1)  # type: ignore[attr-defined]
        start = mean


def test_a_steady_change_is_followed_as_far_as_the_geometric_series_says() -> None:
    start, change = _network(0), _network(1)
    velocity = velocity_like(start)
    place, step = _numbers(start), 0.01 * _numbers(change)
    for _ in range(200):
        mean = start.copy()
        mean.add(0.01, change)
        before = _numbers(start)
        step_with_momentum(mean, start, velocity, 0.5, 1.0)
        start = mean
    np.testing.assert_allclose(_numbers(start) - before, step / (1 - 0.5), rtol=1e-2, atol=1e-4)
    # From rest the way is that of 200 such steps but for what the start lost: μ / (1 - μ)² steps less.
    np.testing.assert_allclose(_numbers(start) - place, step * (200 * 2 - 2 + 1), rtol=1e-2, atol=1e-2)


def test_without_momentum_at_rate_one_the_step_ends_at_the_average() -> None:
    start, mean = _network(0), _network(1)
    expected = _numbers(mean)
    step_with_momentum(mean, start, velocity_like(start), 0.0, 1.0)
    np.testing.assert_allclose(_numbers(mean), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("momentum", "rate"), [(1.0, 1.0), (-0.1, 1.0), (float("nan"), 1.0), (0.5, 0.0)])
def test_momentum_and_rates_that_make_no_sense_are_refused(momentum: float, rate: float) -> None:
    start = _network(0)
    with pytest.raises(UserError, match="--outer-"):
        step_with_momentum(_network(1), start, velocity_like(start), momentum, rate)


def test_a_step_that_is_not_finite_is_an_error() -> None:
    start, mean = _network(0), _network(1)
    next(iter(mean.components["affine"].parameters().values()))[:] = np.inf
    with pytest.raises(UserError, match="affine that are not finite"):
        step_with_momentum(mean, start, velocity_like(start), 0.5, 1.0)


def _average(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["nnet-average", *words], cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for seed in range(5):
        write_network(str(tmp_path / f"{seed}.raw"), _network(seed))
    return tmp_path


@pytest.mark.parametrize("velocity", ["velocity.raw", "velocity.h5"])
def test_the_program_carries_the_velocity_in_a_model_file(models: Path, velocity: str) -> None:
    momentum = ["--outer-momentum=0.5", f"--velocity-out={velocity}"]
    done = _average(models, *momentum, "--start-model=0.raw", "1.raw", "2.raw", "next.raw")
    assert done.returncode == 0, done.stderr
    done = _average(
        models,
        "--outer-momentum=0.5",
        "--start-model=next.raw",
        f"--velocity-in={velocity}",
        "3.raw",
        "4.raw",
        "last.raw",
    )
    assert done.returncode == 0, done.stderr
    at = [_numbers(read_network(str(models / f"{seed}.raw"))) for seed in range(5)]
    first = (at[1] + at[2]) / 2 - at[0]
    after_first = at[0] + first * 1.5
    second = (at[3] + at[4]) / 2 - after_first
    expected = after_first + second + 0.5 * (0.5 * first + second)
    np.testing.assert_allclose(_numbers(read_network(str(models / "last.raw"))), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--outer-momentum=0.5"], "--start-model"),
        (["--velocity-out=v.raw"], "--start-model"),
        (["--outer-momentum=1", "--start-model=0.raw"], "--outer-momentum=1"),
        (["--start-model=0.raw", "--velocity-in=other.raw", "--velocity-out=other.raw"], "two names"),
        (["--start-model=0.raw", "--velocity-in=other.raw"], "other.raw differ"),
        (["--start-model=missing.raw"], "missing.raw"),
    ],
)
def test_what_does_not_fit_is_one_error_and_nothing_is_written(models: Path, words: list[str], says: str) -> None:
    other = CONFIG.replace("output-dim=6", "output-dim=5").replace("dim=6", "dim=5")
    write_network(str(models / "other.raw"), Network.from_config(other))
    done = _average(models, *words, "1.raw", "2.raw", "out.raw")
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    assert len(errors) == 1
    assert says in errors[0]
    assert not (models / "out.raw").exists()
    assert not (models / "v.raw").exists()
