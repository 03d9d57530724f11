"""Components: derivatives against finite differences, values against closed forms, configuration, statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from component_examples import EXAMPLES

from nnet3py.errors import UserError
from nnet3py.nnet.block_affine import BlockAffineComponent
from nnet3py.nnet.component import Component, Layout, Phase
from nnet3py.nnet.configuration import ConfigLine
from nnet3py.nnet.families import component_class
from nnet3py.nnet.model_file import read_network, write_network
from nnet3py.nnet.network import Network

OUTPUT_TIMES = [0, 1, 2, 3]
SEQUENCES = 2


class SumUpdate:
    """An update of plain gradient ascent at rate 1."""

    learning_rate = 1.0

    def __init__(self, component: Component) -> None:
        self.delta = {name: np.zeros_like(array) for name, array in component.parameters().items()}

    def add_outer_product(self, dy: np.ndarray, x: np.ndarray, linear: str, bias: str | None) -> None:
        self.delta[linear] += dy.T @ x
        if bias is not None:
            self.delta[bias] += dy.sum(axis=0)

    def add_gradient(self, gradient: np.ndarray, bias_gradient: np.ndarray, linear: str, bias: str) -> None:
        self.delta[linear] += gradient
        self.delta[bias] += bias_gradient

    def add_vector(self, field: str, rows: np.ndarray) -> None:
        self.delta[field] += rows.sum(axis=0)


def make(config: str, seed: int = 0) -> Component:
    line = ConfigLine(f"component name=test {config}")
    component = component_class(line.text_value("type")).from_config(line, np.random.default_rng(seed))
    line.text_value("name")
    line.finish()
    component.check()
    return component


def in_double_precision(component: Component) -> Component:
    for name, array in component.parameters().items():
        setattr(component, name, array.astype(np.float64))
    return component


def layout_of(component: Component) -> Layout:
    return Layout(component.input_times(OUTPUT_TIMES), OUTPUT_TIMES, SEQUENCES)


def random_rows(rows: int, dim: int, seed: int) -> np.ndarray:
    """Normal numbers, none near zero, where a rectifier's derivative jumps."""
    x = np.random.default_rng(seed).standard_normal((rows, dim))
    return x + 0.05 * np.sign(x)


def apply(component: Component, x: np.ndarray, phase: Phase = Phase.TRAIN) -> tuple[np.ndarray, Any]:
    return component.propagate(x, layout_of(component), phase, np.random.default_rng(3))


def slope(function: Any, array: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """Central differences of ``function()`` by each element of ``array``, which it reads."""
    found = np.zeros(array.shape)
    for index in np.ndindex(*array.shape):
        kept = array[index]
        array[index] = kept + step
        above = function()
        array[index] = kept - step
        found[index] = (above - function()) / (2 * step)
        array[index] = kept
    return found


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("config", EXAMPLES.values(), ids=EXAMPLES.keys())
def test_derivatives_agree_with_finite_differences(config: str, phase: Phase) -> None:
    component = in_double_precision(make(config))
    layout = layout_of(component)
    x = random_rows(len(layout.input_times) * SEQUENCES, component.input_dim, 1)
    if hasattr(component, "stats_sum"):
        component.accumulate_statistics(apply(component, random_rows(40, component.input_dim, 5))[1])
    weights = random_rows(len(OUTPUT_TIMES) * SEQUENCES, component.output_dim, 2)

    def objective() -> float:
        return float((apply(component, x, phase)[0] * weights).sum())

    update = SumUpdate(component)
    y, memo = apply(component, x, phase)
    assert y.shape == weights.shape
    dx = component.backprop(memo, weights.copy(), layout, update, True)
    assert dx is not None
    np.testing.assert_allclose(dx, slope(objective, x), rtol=1e-5, atol=2e-6)
    for name, array in component.parameters().items():
        np.testing.assert_allclose(update.delta[name], slope(objective, array), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("config", EXAMPLES.values(), ids=EXAMPLES.keys())
def test_single_precision_in_gives_single_precision_out_and_leaves_the_input_alone(config: str) -> None:
    component = make(config)
    layout = layout_of(component)
    x = random_rows(len(layout.input_times) * SEQUENCES, component.input_dim, 1).astype(np.float32)
    before = x.copy()
    y, memo = apply(component, x)
    dx = component.backprop(memo, np.ones_like(y), layout, SumUpdate(component), True)
    assert dx is not None
    assert y.dtype == dx.dtype == np.float32
    assert dx.shape == x.shape
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("config", EXAMPLES.values(), ids=EXAMPLES.keys())
def test_without_a_wish_for_it_there_is_no_input_derivative(config: str) -> None:
    component = make(config)
    layout = layout_of(component)
    x = random_rows(len(layout.input_times) * SEQUENCES, component.input_dim, 1).astype(np.float32)
    y, memo = apply(component, x)
    assert component.backprop(memo, np.ones_like(y), layout, None, False) is None


@pytest.mark.parametrize("config", EXAMPLES.values(), ids=EXAMPLES.keys())
def test_each_form_of_model_file_holds_all_of_a_component(config: str, tmp_path: Path) -> None:
    network = Network.from_config(
        f"input-node name=input dim={make(config).input_dim}\ncomponent name=c {config}\n"
        "component-node name=c component=c input=input\noutput-node name=output input=c"
    )
    component: Any = network.components["c"]
    if hasattr(component, "test_mode"):
        component.test_mode = True
    if component.updatable:
        component.learning_rate, component.max_change, component.l2_regularize = 0.25, 0.5, 0.125
    forms = {"binary": True, "text": False, "c.h5": True}
    for name, binary in forms.items():
        write_network(str(tmp_path / name), network, binary)
    for name in forms:
        again: Any = read_network(str(tmp_path / name)).components["c"]
        assert type(again) is type(component)
        for field in component.fields:
            if not field.obsolete:
                kept, found = getattr(component, field.attribute), getattr(again, field.attribute)
                np.testing.assert_allclose(found, kept, rtol=1e-6, atol=1e-6, err_msg=f"{name} {field.token}")
        if name != "text":
            write_network(str(tmp_path / "again"), read_network(str(tmp_path / name)))
            assert (tmp_path / "again").read_bytes() == (tmp_path / "binary").read_bytes()


@pytest.mark.parametrize("config", EXAMPLES.values(), ids=EXAMPLES.keys())
def test_info_starts_with_the_type(config: str) -> None:
    component = make(config)
    assert component.info().startswith(f"{component.type_name}, ")
    assert str(component.output_dim) in component.info()


def test_a_pnorm_group_of_zeros_has_no_derivative() -> None:
    component = make("type=PnormComponent input-dim=4 output-dim=2")
    x = np.array([[0.0, 0.0, 3.0, -4.0]], np.float32)
    y, memo = apply(component, x)
    np.testing.assert_array_equal(y, [[0.0, 5.0]])
    dx = component.backprop(memo, np.ones_like(y), layout_of(component), None, True)
    np.testing.assert_allclose(dx, [[0.0, 0.0, 0.6, -0.8]], rtol=1e-6)


def test_normalize_gives_the_target_rms_and_leaves_zeros_finite() -> None:
    component = make("type=NormalizeComponent dim=8 target-rms=0.3 add-log-stddev=true")
    x = np.vstack([random_rows(3, 8, 1), np.zeros((1, 8))]).astype(np.float32)
    y, memo = apply(component, x)
    np.testing.assert_allclose(np.sqrt(np.mean(y[:3, :8] ** 2, axis=1)), 0.3, rtol=1e-6)
    np.testing.assert_allclose(y[:3, 8], np.log(np.sqrt(np.mean(x[:3] ** 2, axis=1))), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(y[3, :8], 0.0)
    dx = component.backprop(memo, np.ones_like(y), layout_of(component), None, True)
    assert np.isfinite(y).all()
    assert np.isfinite(dx).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["Sigmoid", "Tanh", "Softmax", "LogSoftmax", "Log", "RectifiedLinear"])
def test_nonlinearities_stay_finite_for_large_inputs(kind: str) -> None:
    component = make(f"type={kind}Component dim=4")
    x = np.array([[1e4, -1e4, 0.0, 90.0], [-200.0, -100.0, -89.0, -1e5]], np.float32)
    y, memo = apply(component, x)
    dx = component.backprop(memo, np.ones_like(y), layout_of(component), None, True)
    assert np.isfinite(y).all()
    assert np.isfinite(dx).all()


def test_softmax_sums_to_one_and_is_the_exponential_of_log_softmax() -> None:
    x = 5 * random_rows(6, 10, 1).astype(np.float32)
    probabilities, _ = apply(make("type=SoftmaxComponent dim=10"), x)
    logs, _ = apply(make("type=LogSoftmaxComponent dim=10"), x)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(np.exp(logs), probabilities, rtol=1e-5)


def test_softmax_is_floored_as_in_kaldi() -> None:
    y, _ = apply(make("type=SoftmaxComponent dim=2"), np.array([[0.0, -1000.0]], np.float32))
    assert y[0, 1] == np.float32(1e-20)


def test_parameters_start_with_the_default_deviation() -> None:
    component: Any = make("type=NaturalGradientAffineComponent input-dim=400 output-dim=300")
    assert np.std(component.linear) == pytest.approx(1 / 20, rel=0.02)
    assert np.std(component.bias) == pytest.approx(1.0, rel=0.2)
    assert abs(np.mean(component.linear)) < 0.001
    assert component.natural_gradient.rank_in == 20
    assert component.natural_gradient.rank_out == 80
    assert component.num_parameters() == 401 * 300


def test_small_layers_have_small_ranks() -> None:
    component: Any = make("type=NaturalGradientAffineComponent input-dim=7 output-dim=4")
    assert (component.rank_in, component.rank_out) == (4, 2)


def test_the_same_seed_gives_the_same_parameters() -> None:
    config = EXAMPLES["affine"]
    first, same, other = (make(config, seed).parameters()["linear"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def test_settings_of_a_trained_component_are_read() -> None:
    component = make("type=AffineComponent input-dim=2 output-dim=3 learning-rate=0.1 learning-rate-factor=2 "
                     "max-change=0.75 l2-regularize=0.01")  # fmt: skip
    assert component.learning_rate == 0.1
    assert "learning-rate=0.1, l2-regularize=0.01, learning-rate-factor=2, max-change=0.75," in component.info()


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ("type=AffineComponent input-dim=2", "output-dim= is missing"),
        ("type=AffineComponent input-dim=0 output-dim=3", "input-dim=0 must be above zero"),
        ("type=AffineComponent input-dim=2 output-dim=3 rank-in=3", "rank-in= is not understood"),
        ("type=AffineComponent input-dim=2 output-dim=3 param-stddev=-1", "param-stddev=-1 must not be negative"),
        ("type=AffineComponent input-dim=2 output-dim=3 learning-rate=-1", "learning-rate must not be negative"),
        ("type=AffineComponent matrix=no-such-file", "no-such-file"),
        ("type=NaturalGradientAffineComponent input-dim=2 output-dim=3 rank-in=0", "rank-in and rank-out"),
        ("type=PnormComponent input-dim=10 output-dim=3", "multiple"),
        ("type=NormalizeComponent dim=10 block-dim=3", "multiple"),
        ("type=SumGroupComponent sizes=1,0", "above zero"),
        ("type=PermuteComponent column-map=0,2", "permutation"),
        ("type=DropoutComponent dim=3 dropout-proportion=1.5", "from 0 to 1"),
        ("type=RectifiedLinearComponent dim=3 self-repair-scale=0.5", "self-repair-scale"),
        ("type=TdnnComponent input-dim=2 output-dim=2 time-offsets=1,1", "repeat"),
        ("type=BatchNormComponent dim=10 epsilon=0", "epsilon=0 must be above zero"),
        ("type=SumBlockComponent input-dim=7 output-dim=3", "multiple of output-dim"),
        ("type=RepeatedAffineComponent input-dim=6 output-dim=5 num-repeats=3", "multiples of num-repeats=3"),
        ("type=RepeatedAffineComponent input-dim=6 output-dim=6", "num-repeats= is missing"),
        ("type=BlockAffineComponent input-dim=7 output-dim=6 num-blocks=3", "multiples of num-blocks=3"),
        ("type=BlockAffineComponent input-dim=6 output-dim=6 num-blocks=0", "num-blocks=0 must be above zero"),
        ("type=SpecAugmentTimeMaskComponent zeroed-proportion=0.5", "dim= is missing"),
        ("type=SpecAugmentTimeMaskComponent dim=3 zeroed-proportion=1", "from 0 to below 1"),
        ("type=SpecAugmentTimeMaskComponent dim=3 zeroed-proportion=-0.1", "from 0 to below 1"),
        ("type=SpecAugmentTimeMaskComponent dim=3 zeroed-proportion=0.95", "leave a frame or more"),
        ("type=SpecAugmentTimeMaskComponent dim=3 time-mask-max-frames=1", "must be above 1"),
        ("type=LstmNonlinearityComponent cell-dim=3", "does not support"),
    ],
)
def test_an_impossible_configuration_is_a_user_error(config: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        make(config)


@pytest.mark.parametrize("name", ["rank_in", "rank_out", "update_period", "alpha", "num_samples_history"])
def test_natural_gradient_settings_of_zero_are_refused(name: str) -> None:
    component = make(EXAMPLES["natural gradient affine"])
    setattr(component, name, 0)
    with pytest.raises(UserError, match="must all be above zero"):
        component.check()


def test_nonlinear_statistics_are_sums_of_values_and_derivatives() -> None:
    component: Any = make("type=TanhComponent dim=3")
    x = random_rows(8, 3, 1).astype(np.float32)
    y, memo = component.propagate(x, layout_of(component), Phase.TRAIN)
    component.accumulate_statistics(memo)
    component.accumulate_statistics(memo)
    assert component.count == 16
    np.testing.assert_allclose(component.value_sum, 2 * y.sum(axis=0), rtol=1e-6)
    np.testing.assert_allclose(component.deriv_sum, 2 * (1 - y**2).sum(axis=0), rtol=1e-5)
    component.zero_statistics()
    assert component.count == 0
    assert not component.value_sum.any()


def test_a_training_pass_stores_statistics_of_about_half_of_the_minibatches_and_of_the_first() -> None:
    component: Any = make("type=SigmoidComponent dim=3")
    random = np.random.default_rng(0)
    x = random_rows(8, 3, 1).astype(np.float32)
    counts = []
    for _ in range(100):
        y, memo = component.propagate(x, layout_of(component), Phase.TRAIN, random)
        component.accumulate_statistics(memo)
        component.backprop(memo, np.ones_like(y), layout_of(component), None, True)
        counts.append(component.count)
    assert counts[0] == 8
    assert 30 * 8 < counts[-1] < 70 * 8
    assert component.oderiv_count > 8
    np.testing.assert_allclose(component.oderiv_sumsq, component.oderiv_count)


@pytest.mark.parametrize("kind", ["Sigmoid", "Tanh"])
def test_self_repair_pulls_saturated_units_towards_zero(kind: str) -> None:
    component: Any = make(f"type={kind}Component dim=3 self-repair-scale=0.01")
    x = np.tile(np.array([[10.0, 0.1, -10.0]], np.float32), (8, 1))
    y, memo = component.propagate(x, layout_of(component), Phase.TRAIN)
    component.accumulate_statistics(memo)
    random = np.random.default_rng(0)
    pushes = np.zeros(3)
    for _ in range(50):
        y, memo = component.propagate(x, layout_of(component), Phase.TRAIN, random)
        pushes += component.backprop(memo, np.zeros_like(y), layout_of(component), None, True)[0]
    assert pushes[0] < -0.2  # about 50 minibatches at the scale of 0.01
    assert pushes[1] == 0.0
    assert pushes[2] > 0.2
    assert 0 < component.num_dims_self_repaired < component.num_dims_processed


def test_self_repair_of_a_rectifier_lifts_dead_units_and_lowers_those_always_on() -> None:
    component: Any = make("type=RectifiedLinearComponent dim=3 self-repair-scale=0.01")
    x = np.array([[1.0, 1.0, -1.0], [1.0, -1.0, -1.0]], np.float32)
    y, memo = component.propagate(x, layout_of(component), Phase.TRAIN)
    component.accumulate_statistics(memo)
    random = np.random.default_rng(0)
    pushes = np.zeros(3)
    for _ in range(50):
        y, memo = component.propagate(x, layout_of(component), Phase.TRAIN, random)
        pushes += component.backprop(memo, np.zeros_like(y), layout_of(component), None, True)[0]
    assert pushes[0] < -0.2
    assert pushes[1] == 0.0
    assert pushes[2] > 0.2


def test_batch_norm_standardises_in_training_and_remembers_for_test() -> None:
    component: Any = make("type=BatchNormComponent dim=4 target-rms=0.5 epsilon=1e-5")
    random = np.random.default_rng(1)
    batches = [(random.standard_normal((500, 4)) * [1, 2, 3, 4] + [0, 1, -2, 5]).astype(np.float32) for _ in range(4)]
    for x in batches:
        y, memo = component.propagate(x, layout_of(component), Phase.TRAIN)
        np.testing.assert_allclose(y.mean(axis=0), 0.0, atol=1e-5)
        np.testing.assert_allclose(y.std(axis=0), 0.5, rtol=1e-4)
        component.accumulate_statistics(memo)
    assert component.count == 2000
    everything = np.vstack(batches).astype(np.float64)
    y, _ = component.propagate(batches[0], layout_of(component), Phase.TEST)
    expected = 0.5 * (batches[0] - everything.mean(axis=0)) / everything.std(axis=0)
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_batch_norm_in_test_mode_keeps_its_statistics() -> None:
    component: Any = make("type=BatchNormComponent dim=4")
    _, memo = component.propagate(random_rows(10, 4, 1).astype(np.float32), layout_of(component), Phase.TRAIN)
    component.accumulate_statistics(memo)
    component.test_mode = True
    component.zero_statistics()
    assert component.count == 10


def test_batch_norm_without_statistics_warns_and_uses_those_of_the_data(capfd: pytest.CaptureFixture[str]) -> None:
    component = make("type=BatchNormComponent dim=4")
    y, _ = component.propagate(random_rows(10, 4, 1).astype(np.float32), layout_of(component), Phase.TEST)
    assert "WARNING" in capfd.readouterr().err
    np.testing.assert_allclose(y.mean(axis=0), 0.0, atol=1e-6)


def test_dropout_sets_its_proportion_to_zero_in_training_and_scales_in_test() -> None:
    component = make("type=DropoutComponent dim=100 dropout-proportion=0.3")
    x = np.ones((100, 100), np.float32)
    layout = Layout(range(100), range(100), 1)
    y, _ = component.propagate(x, layout, Phase.TRAIN, np.random.default_rng(0))
    assert (y == 0).mean() == pytest.approx(0.3, abs=0.02)
    assert set(np.unique(y)) == {0.0, 1.0}
    np.testing.assert_allclose(component.propagate(x, layout, Phase.TEST)[0], 0.7, rtol=1e-6)
    with pytest.raises(ValueError, match="random="):
        component.propagate(x, layout, Phase.TRAIN)


def test_general_dropout_masks_are_shared_along_time_and_average_to_one() -> None:
    component = make("type=GeneralDropoutComponent dim=400 dropout-proportion=0.25 time-period=10")
    layout = Layout(range(20), range(20), 3)
    y, _ = component.propagate(np.ones((60, 400), np.float32), layout, Phase.TRAIN, np.random.default_rng(0))
    masks = y.reshape(20, 3, 400)
    assert (masks[:10] == masks[0]).all()
    assert (masks[10:] == masks[10]).all()
    assert not (masks[0] == masks[10]).all()
    assert not (masks[0, 0] == masks[0, 1]).all()
    assert masks.mean() == pytest.approx(1.0, abs=0.05)
    assert (masks == 0).mean() == pytest.approx(0.25, abs=0.03)


def test_spec_augment_zeroes_bands_of_at_most_its_proportion() -> None:
    component = make("type=GeneralDropoutComponent dim=40 specaugment-max-proportion=0.5")
    layout = Layout([0], [0], 200)
    y, _ = component.propagate(np.ones((200, 40), np.float32), layout, Phase.TRAIN, np.random.default_rng(0))
    zeroed = (y == 0).sum(axis=1)
    assert zeroed.max() == 20
    assert zeroed.min() == 0
    # A band on the circle of dimensions has one beginning.
    begins = ((y == 0) & (np.roll(y, 1, axis=1) != 0)).sum(axis=1)
    assert set(begins) == {0, 1}


@pytest.mark.parametrize(
    ("config", "info"),
    [
        (
            "type=RepeatedAffineComponent input-dim=6 output-dim=9 num-repeats=3 param-stddev=0 bias-mean=0.5",
            "input-dim=6, output-dim=9, learning-rate=0.001, num-repeats=3, linear-params-rms=0, "
            "bias-{mean,stddev}=0.5,0",
        ),
        (
            "type=NaturalGradientRepeatedAffineComponent input-dim=6 output-dim=4 num-repeats=2 param-stddev=0 "
            "bias-mean=-1 max-change=0.75",
            "input-dim=6, output-dim=4, learning-rate=0.001, max-change=0.75, num-repeats=2, linear-params-rms=0, "
            "bias-{mean,stddev}=-1,0",
        ),
        (
            "type=BlockAffineComponent input-dim=6 output-dim=9 num-blocks=3 param-stddev=0 bias-stddev=0 "
            "learning-rate=0.5",
            "input-dim=6, output-dim=9, learning-rate=0.5, num-blocks=3, linear-params-rms=0, bias-{mean,stddev}=0,0",
        ),
        ("type=SumBlockComponent input-dim=6 output-dim=2 scale=0.7", "input-dim=6, output-dim=2, scale=0.7"),
        (
            "type=SpecAugmentTimeMaskComponent dim=6 zeroed-proportion=0.2 time-mask-max-frames=4",
            "dim=6, zeroed-proportion=0.2, time-mask-max-frames=4",
        ),
    ],
)
def test_info_is_what_kaldis_nnet3_info_printed(config: str, info: str) -> None:
    component = make(config)
    assert component.info() == f"{component.type_name}, {info}"


def test_time_masks_are_stretches_of_whole_frames_within_each_sequence() -> None:
    component = make("type=SpecAugmentTimeMaskComponent dim=3 zeroed-proportion=0.2 time-mask-max-frames=5")
    layout = Layout(range(4000), range(4000), 3)
    x = np.ones((12000, 3), np.float32)
    y, _ = component.propagate(x, layout, Phase.TRAIN, np.random.default_rng(0))
    assert set(np.unique(y)) == {0.0, 1.0}
    assert (y == y[:, :1]).all()
    for sequence in y[:, 0].reshape(4000, 3).T:
        ends = np.flatnonzero(np.diff(sequence)) + 1
        lengths = {value: np.diff(ends)[sequence[ends[:-1]] == value] for value in (0.0, 1.0)}
        assert set(lengths[0.0]) == set(range(1, 6))
        assert set(lengths[1.0]) == set(range(1, 21))  # 5 (1 - 0.2) / 0.2
        assert lengths[1.0].mean() == pytest.approx(10.5, rel=0.1)
    assert (y == 0).mean() == pytest.approx(3 / 13.5, rel=0.1)
    assert not (y.reshape(4000, 3, 3)[:, 0] == y.reshape(4000, 3, 3)[:, 1]).all()
    np.testing.assert_array_equal(component.propagate(x, layout, Phase.TEST)[0], x)


def test_a_sequence_starts_with_a_stretch_that_passes_as_often_as_kaldi_has_it() -> None:
    component = make("type=SpecAugmentTimeMaskComponent dim=1 zeroed-proportion=0.25")
    y, _ = component.propagate(
        np.ones((4000, 1), np.float32), Layout([0], [0], 4000), Phase.TRAIN, np.random.default_rng(0)
    )
    assert y.mean() == pytest.approx(0.25, abs=0.03)


def test_a_repeated_affine_layer_becomes_a_block_affine_one_that_computes_the_same() -> None:
    repeated: Any = make("type=RepeatedAffineComponent input-dim=6 output-dim=9 num-repeats=3 bias-stddev=1 "
                         "learning-rate=0.2 max-change=0.3")  # fmt: skip
    blocks = BlockAffineComponent.of_repeated(repeated)
    blocks.check()
    x = random_rows(8, 6, 1)
    matrix = np.kron(np.eye(3), repeated.linear)  # the block-diagonal matrix, written out
    expected = x @ matrix.T + np.tile(repeated.bias, 3)
    for component in (repeated, blocks):
        np.testing.assert_allclose(apply(component, x)[0], expected, rtol=1e-6)
    assert (blocks.learning_rate, blocks.max_change) == (0.2, 0.3)
    assert repeated.num_parameters() * 3 == blocks.num_parameters()


def test_a_tdnn_component_is_an_affine_layer_over_spliced_input() -> None:
    component: Any = make(EXAMPLES["tdnn"])
    layout = layout_of(component)
    assert layout.input_times == [-1, 0, 1, 2, 3, 4, 5]
    x = random_rows(len(layout.input_times) * SEQUENCES, 3, 1)
    blocks = x.reshape(-1, SEQUENCES, 3)
    spliced = np.stack([np.concatenate([blocks[t + o + 1] for o in (-1, 0, 2)], axis=1) for t in OUTPUT_TIMES])
    y, _ = component.propagate(x, layout, Phase.TRAIN)
    np.testing.assert_allclose(y, spliced.reshape(-1, 9) @ component.linear.T + component.bias, rtol=1e-6)
