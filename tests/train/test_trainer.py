"""The minibatch loop, and nnet-train-shard and nnet-compute-prob as processes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_minibatches import (
    CONFIG,
    fails_with_one_error,
    minibatch,
    parameters,
    run,
    tiny_network,
    write_examples,
)

from nnet3py.errors import UserError
from nnet3py.nnet.model_file import read_network, write_network
from nnet3py.nnet.network import Network
from nnet3py.train.compute_prob import ComputeProb
from nnet3py.train.parameter_update import Method
from nnet3py.train.trainer import Trainer, TrainerOptions

Files = Callable[..., tuple[Path, Path]]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Writes a model and an archive of merged examples; returns both paths."""

    def write(count: int = 6, affine: str = "NaturalGradientAffineComponent", scale: float = 1.0) -> tuple[Path, Path]:
        model = tmp_path / "0.raw"
        write_network(str(model), tiny_network(affine))
        return model, write_examples(tmp_path / "egs.ark", range(count), scale)

    return write


def test_whole_gradient_agrees_with_finite_differences() -> None:
    network, first = tiny_network("AffineComponent"), minibatch(0)
    prob = ComputeProb(network, compute_derivative=True)
    prob.compute(first)
    assert prob.gradient is not None
    random, step = np.random.default_rng(0), 1e-2
    for name, component in network.updatable_components().items():
        for field, parameter in component.parameters().items():
            direction = random.standard_normal(parameter.shape)
            direction /= np.linalg.norm(direction)
            start = parameter.copy()
            values = []
            for sign in (1, -1):
                parameter[...] = start + np.float32(sign * step) * direction
                at = ComputeProb(network)
                at.compute(first)
                values.append(at.objectives["output"])
            parameter[...] = start
            expected = (values[0] - values[1]) / (2 * step)
            found = float((prob.gradient.updates[name].delta[field] * direction).sum())
            assert found == pytest.approx(expected, rel=5e-3, abs=5e-3), f"{name}.{field}"


def test_one_step_of_plain_sgd_is_the_gradient_times_the_learning_rate() -> None:
    network, first = tiny_network("AffineComponent"), minibatch(0)
    prob = ComputeProb(network, compute_derivative=True)
    prob.compute(first)
    assert prob.gradient is not None
    start, gradient = parameters(network), prob.gradient.flat.copy()
    for component in network.updatable_components().values():
        component.max_change = 0.0
    Trainer(network, TrainerOptions(max_param_change=0.0, method=Method.SGD)).train(first)
    np.testing.assert_allclose(parameters(network) - start, 0.02 * gradient, atol=2e-6)


def test_the_change_of_a_minibatch_obeys_the_limits() -> None:
    network = tiny_network("AffineComponent")
    for component in network.updatable_components().values():
        component.learning_rate = 10.0
    start = network.copy()
    Trainer(network, TrainerOptions(max_param_change=1.0)).train(minibatch(0))
    assert np.linalg.norm(parameters(network) - parameters(start)) == pytest.approx(1.0, rel=1e-4)
    network = start.copy()
    Trainer(network, TrainerOptions(max_param_change=0.0)).train(minibatch(0))
    for name, limit in (("affine1", 0.75), ("affine2", 1.5)):
        pairs = zip(network.components[name].parameters().values(), start.components[name].parameters().values())  # noqa: B905
        change = math.sqrt(sum(float(((new - old) ** 2).sum()) for new, old in pairs))
        assert change == pytest.approx(limit, rel=1e-4)


def test_momentum_adds_a_fading_part_of_earlier_changes() -> None:
    options = TrainerOptions(max_param_change=0.0, method=Method.SGD, momentum=0.6)
    network = tiny_network("AffineComponent")
    trainer = Trainer(network, options)
    expected, delta = parameters(network).astype(float), 0.0
    for seed in range(4):
        prob = ComputeProb(network, compute_derivative=True)
        prob.compute(minibatch(seed))
        assert prob.gradient is not None
        delta = 0.6 * delta + 0.02 * prob.gradient.flat
        expected = expected + 0.4 * delta
        trainer.train(minibatch(seed))
    np.testing.assert_allclose(parameters(network), expected, atol=1e-5)


def test_l2_regularization_shrinks_by_the_number_of_sequences() -> None:
    network = tiny_network("AffineComponent", "l2-regularize=0.01")
    start, plain = parameters(network), tiny_network("AffineComponent")
    Trainer(network, TrainerOptions(max_param_change=0.0, l2_regularize_factor=0.5)).train(minibatch(0))
    Trainer(plain, TrainerOptions(max_param_change=0.0)).train(minibatch(0))
    expected = -2.0 * 8 * 0.5 * 0.02 * 0.01 * start
    np.testing.assert_allclose(parameters(network) - parameters(plain), expected, atol=1e-6)


@pytest.mark.parametrize("method", [Method.SGD, Method.SIMPLE, Method.ONLINE])
@pytest.mark.parametrize("backstitch", [0.0, 0.3])
def test_training_raises_the_objective(method: Method, backstitch: float) -> None:
    network = tiny_network()
    options = TrainerOptions(method=method, backstitch_training_scale=backstitch, backstitch_training_interval=2)
    before = ComputeProb(network)
    before.compute(minibatch(1000))
    trainer = Trainer(network, options)
    for seed in range(60):
        trainer.train(minibatch(seed))
    after = ComputeProb(network)
    after.compute(minibatch(1000))
    assert after.average_objective() > before.average_objective() + 0.1
    assert trainer.counts.not_finite == 0


def test_a_layer_whose_learning_rate_is_zero_stays_as_it_is() -> None:
    network = tiny_network()
    network.components["affine1"].learning_rate = 0.0
    frozen = network.components["affine1"].parameters()["linear"].copy()
    trained = network.components["affine2"].parameters()["linear"].copy()
    Trainer(network, TrainerOptions()).train(minibatch(0))
    np.testing.assert_array_equal(network.components["affine1"].parameters()["linear"], frozen)
    assert not np.array_equal(network.components["affine2"].parameters()["linear"], trained)


@pytest.mark.parametrize("method", [Method.SGD, Method.SIMPLE, Method.ONLINE])
def test_a_minibatch_that_overflows_leaves_the_parameters_and_the_estimates_untouched(method: Method) -> None:
    network, twin = tiny_network(), tiny_network()
    trainer, other = Trainer(network, TrainerOptions(method=method)), Trainer(twin, TrainerOptions(method=method))
    for seed in range(3):
        trainer.train(minibatch(seed))
        other.train(minibatch(seed))
    with np.errstate(all="ignore"):
        trainer.train(minibatch(3, scale=1e30))
    np.testing.assert_array_equal(parameters(network), parameters(twin))
    assert trainer.counts.not_finite == 1
    if method is Method.ONLINE:
        return  # the estimates' clock has gone on: they are updated on other minibatches from here on
    trainer.train(minibatch(4))
    other.train(minibatch(4))
    np.testing.assert_array_equal(parameters(network), parameters(twin))


def test_options_that_make_no_sense_are_refused() -> None:
    for options in (
        TrainerOptions(momentum=1.0),
        TrainerOptions(max_param_change=-1.0),
        TrainerOptions(batchnorm_stats_scale=1.5),
        TrainerOptions(print_interval=0),
        TrainerOptions(momentum=0.5, backstitch_training_scale=0.3),
        TrainerOptions(l2_regularize_factor=math.nan),
    ):
        with pytest.raises(UserError, match="--"):
            Trainer(tiny_network(), options)


def test_the_program_prints_the_objective_every_interval_and_at_the_end(files: Files, tmp_path: Path) -> None:
    model, archive = files(6)
    ended = run("nnet-train-shard", "--print-interval=2", model, f"ark:{archive}", tmp_path / "1.raw")
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"for 'output' for minibatches 0-1 is -\d\S* over 64 frames\.", ended.stderr)
    assert re.search(r"Overall average objective function for 'output' is -\d\S* over 192 frames\.", ended.stderr)
    assert re.search(r"\[this line is to be parsed by a script:\] log-prob-per-frame=-\d", ended.stderr)
    assert not np.array_equal(parameters(read_network(str(tmp_path / "1.raw"))), parameters(tiny_network()))


def test_the_same_inputs_give_the_same_bytes(files: Files, tmp_path: Path) -> None:
    model, archive = files()
    for name in ("a.raw", "b.raw"):
        assert run("nnet-train-shard", model, f"ark:{archive}", tmp_path / name).returncode == 0
    assert (tmp_path / "a.raw").read_bytes() == (tmp_path / "b.raw").read_bytes()


def test_a_truncated_archive_is_one_error_and_leaves_the_old_model(files: Files, tmp_path: Path) -> None:
    model, archive = files()
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) - 300])
    old = tmp_path / "1.raw"
    old.write_bytes(b"the old model")
    fails_with_one_error(run("nnet-train-shard", model, f"ark:{archive}", old), "egs.ark", "minibatch-5")
    assert old.read_bytes() == b"the old model"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.raw", "1.raw", "egs.ark"]


def test_an_empty_table_is_an_error(files: Files, tmp_path: Path) -> None:
    model, archive = files(0)
    fails_with_one_error(run("nnet-train-shard", model, f"ark:{archive}", tmp_path / "1.raw"), "no examples")
    fails_with_one_error(run("nnet-compute-prob", model, f"ark:{archive}"), "no frames")
    assert not (tmp_path / "1.raw").exists()


def test_examples_with_nan_are_named(files: Files, tmp_path: Path) -> None:
    model, archive = files(2, scale=math.nan)
    ended = run("nnet-train-shard", model, f"ark:{archive}", tmp_path / "1.raw")
    fails_with_one_error(ended, "minibatch-0", "not finite")


def test_training_that_overflows_everywhere_writes_no_model(files: Files, tmp_path: Path) -> None:
    model, archive = files(3, scale=1e30)
    ended = run("nnet-train-shard", model, f"ark:{archive}", tmp_path / "1.raw")
    fails_with_one_error(ended, "finite")
    assert not (tmp_path / "1.raw").exists()


def test_examples_for_another_network_are_refused(files: Files, tmp_path: Path) -> None:
    _, archive = files(1)
    other = CONFIG.format(affine="AffineComponent", extra="")
    wide = other.replace("dim=5", "dim=6", 1).replace("input-dim=15", "input-dim=18")
    write_network(str(tmp_path / "wide.raw"), Network.from_config(wide))
    ended = run("nnet-train-shard", tmp_path / "wide.raw", f"ark:{archive}", tmp_path / "1.raw")
    fails_with_one_error(ended, "minibatch-0", "dimension 5", "expects 6")
    more = other.replace("output-dim=3", "output-dim=4").replace(
        "LogSoftmaxComponent dim=3", "LogSoftmaxComponent dim=4"
    )
    write_network(str(tmp_path / "more.raw"), Network.from_config(more))
    ended = run("nnet-train-shard", tmp_path / "more.raw", f"ark:{archive}", tmp_path / "1.raw")
    fails_with_one_error(ended, "4 (nnet) vs. 3 (egs)")


def test_an_unknown_method_is_refused(files: Files, tmp_path: Path) -> None:
    model, archive = files(1)
    ended = run("nnet-train-shard", "--update=adam", model, f"ark:{archive}", tmp_path / "1.raw")
    fails_with_one_error(ended, "adam", "online-ng")


def test_compute_prob_prints_objective_and_accuracy(files: Files) -> None:
    model, archive = files(3)
    ended = run("nnet-compute-prob", "--compute-per-dim-accuracy=true", model, f"ark:{archive}")
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"Overall log-likelihood for 'output' is -\d\S* per frame, over 96 frames\.", ended.stderr)
    assert re.search(r"Overall accuracy for 'output' is \d\S* per frame, over 96 frames\.", ended.stderr)
    assert re.search(r"Overall per-dim accuracy vector for 'output' is \[ (\S+ ){3}\] per frame", ended.stderr)
