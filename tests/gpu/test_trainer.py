"""A training step written for a device, run with NumPy in the device's place, does what the CPU's does."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tiny_minibatches import minibatch, tiny_network

from nnet3py.errors import UserError
from nnet3py.gpu import components
from nnet3py.gpu.components import ElementwiseProduct, OnHost, device_component
from nnet3py.gpu.operations import HostOperations
from nnet3py.gpu.trained_components import NaturalGradientRepeatedAffine, RepeatedAffine, ScaleAndOffset
from nnet3py.gpu.trainer import DeviceTrainer
from nnet3py.gpu.update import DeviceUpdate
from nnet3py.nnet.component import Layout, Phase
from nnet3py.nnet.dropout import DropoutComponent, GeneralDropoutComponent
from nnet3py.nnet.network import Network
from nnet3py.train.minibatch import Minibatch
from nnet3py.train.optimizer_state import OptimizerState
from nnet3py.train.parameter_update import Method
from nnet3py.train.trainer import Trainer, TrainerOptions

AFFINE = "type=NaturalGradientAffineComponent learning-rate=0.02 max-change=0.75"
LAYERS = {
    "relu and batch normalisation": [
        f"{AFFINE} input-dim=15 output-dim=12",
        "type=RectifiedLinearComponent dim=12",
        "type=BatchNormComponent dim=12 target-rms=0.5",
        f"{AFFINE} input-dim=12 output-dim=3",
    ],
    "batch normalisation in blocks": [
        f"{AFFINE} input-dim=15 output-dim=12",
        "type=BatchNormComponent dim=12 block-dim=4",
        "type=TanhComponent dim=12",
        f"{AFFINE} input-dim=12 output-dim=3",
    ],
    "sigmoid and normalisation with the log of the norm": [
        f"{AFFINE} input-dim=15 output-dim=12",
        "type=SigmoidComponent dim=12",
        "type=NormalizeComponent dim=12 block-dim=6 add-log-stddev=true target-rms=0.7",
        "type=NoOpComponent dim=14 backprop-scale=0.5",
        f"{AFFINE} input-dim=14 output-dim=3 l2-regularize=0.01",
    ],
    "linear and fixed components": [
        "type=FixedAffineComponent input-dim=15 output-dim=15",
        "type=FixedScaleComponent dim=15",
        "type=FixedBiasComponent dim=15",
        "type=LinearComponent input-dim=15 output-dim=6 orthonormal-constraint=-1.0 learning-rate=0.02",
        f"{AFFINE} input-dim=6 output-dim=12 orthonormal-constraint=1.0",
        "type=RectifiedLinearComponent dim=12",
        f"{AFFINE} input-dim=12 output-dim=3",
    ],
    "scale and offset, repeated affine, product": [
        f"{AFFINE} input-dim=15 output-dim=12",
        "type=ScaleAndOffsetComponent dim=12 learning-rate=0.002",
        "type=TanhComponent dim=12",
        "type=NaturalGradientRepeatedAffineComponent input-dim=12 output-dim=18 num-repeats=3 learning-rate=0.002",
        "type=ElementwiseProductComponent input-dim=18 output-dim=6",
        f"{AFFINE} input-dim=6 output-dim=3",
    ],
    "scale and offset in blocks, block affine": [
        f"{AFFINE} input-dim=15 output-dim=12",
        "type=ScaleAndOffsetComponent dim=12 block-dim=4 rank=3 learning-rate=0.02 max-change=0.75",
        "type=PerElementOffsetComponent dim=12 block-dim=6 learning-rate=0.02",
        "type=BlockAffineComponent input-dim=12 output-dim=6 num-blocks=3 learning-rate=0.02",
        "type=TanhComponent dim=6",
        f"{AFFINE} input-dim=6 output-dim=3",
    ],
    "scales, permutation, sums of blocks": [
        f"{AFFINE} input-dim=15 output-dim=12",
        "type=TanhComponent dim=12",
        "type=NaturalGradientPerElementScaleComponent dim=12 learning-rate=0.002 rank=4",
        "type=PermuteComponent column-map=3,1,2,0,11,10,4,5,6,9,8,7",
        "type=PerElementScaleComponent dim=12 learning-rate=0.002",
        "type=RepeatedAffineComponent input-dim=12 output-dim=8 num-repeats=2 learning-rate=0.002",
        "type=SumBlockComponent input-dim=8 output-dim=4 scale=0.7",
        "type=PerElementOffsetComponent dim=4 learning-rate=0.002 use-natural-gradient=false",
        f"{AFFINE} input-dim=4 output-dim=3",
    ],
    "sums of groups": [
        f"{AFFINE} input-dim=15 output-dim=9",
        "type=SoftmaxComponent dim=9",
        "type=SumGroupComponent sizes=2,3,4",
        "type=LogComponent dim=3",
    ],
}


def network_of(layers: list[str]) -> Network:
    lines = ["input-node name=input dim=5"]
    last = "Append(Offset(input, -1), input, Offset(input, 1))"
    for number, layer in enumerate([*layers, "type=LogSoftmaxComponent dim=3"]):
        lines += [
            f"component name=c{number} {layer}",
            f"component-node name=c{number} component=c{number} input={last}",
        ]
        last = f"c{number}"
    return Network.from_config("\n".join([*lines, f"output-node name=output input={last}"]), 3)


def trained(
    network: Network, options: TrainerOptions, minibatches: list[Minibatch], state: OptimizerState | None = None
) -> tuple[Trainer, DeviceTrainer]:
    """``network`` trained by the CPU's trainer and a copy of it by the device's; their networks are in the trainers."""
    cpu = Trainer(network.copy(), options, copy.deepcopy(state))
    device = DeviceTrainer(HostOperations(), network, options, state)
    for one in minibatches:
        cpu.train(one)
        device.train(one)
    device.finish()
    cpu.report()
    device.report()
    return cpu, device


def assert_alike(a: Network, b: Network, tolerance: float) -> None:
    for name, component in a.components.items():
        for field, expected in component.parameters().items():
            found = b.components[name].parameters()[field]
            difference = np.abs(expected - found).max() / max(float(np.abs(expected).max()), 1e-6)
            assert difference <= tolerance, (name, field, difference)


@pytest.mark.parametrize("method", [Method.ONLINE, Method.SGD, Method.SIMPLE, Method.AS_MODEL])
def test_every_training_method_gives_the_same_parameters(method: Method) -> None:
    options = TrainerOptions(method=method, momentum=0.5, max_param_change=0.3)
    cpu, device = trained(tiny_network(), options, [minibatch(seed) for seed in range(40)])
    assert_alike(cpu.network, device.network, 1e-4)
    assert device.counts == cpu.counts
    assert cpu.counts.global_ > 0
    assert device.logs["output"].overall.average == pytest.approx(cpu.logs["output"].overall.average, rel=1e-6)


@pytest.mark.parametrize("kind", LAYERS)
def test_every_kind_of_component_gives_the_same_parameters(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The turns of the orthonormal constraint are drawn apart from those on the CPU: let it be every minibatch's.
    monkeypatch.setattr("nnet3py.train.orthonormal._PROBABILITY", 2.0)
    network = network_of(LAYERS[kind])
    assert not any(isinstance(device_component(HostOperations(), c, c.parameters()), OnHost)
                   for c in network.components.values())  # fmt: skip
    cpu, device = trained(network, TrainerOptions(), [minibatch(seed) for seed in range(30)])
    assert_alike(cpu.network, device.network, 1e-3)


@pytest.mark.parametrize("method", [Method.ONLINE, Method.SGD, Method.SIMPLE])
@pytest.mark.parametrize("kind", ["scale and offset in blocks, block affine", "scales, permutation, sums of blocks",
                                  "scale and offset, repeated affine, product"])  # fmt: skip
def test_every_method_trains_vectors_and_blocks_alike(kind: str, method: Method) -> None:
    options = TrainerOptions(method=method, momentum=0.5)
    cpu, device = trained(network_of(LAYERS[kind]), options, [minibatch(seed) for seed in range(30)])
    assert_alike(cpu.network, device.network, 1e-3)


def test_vectors_and_gradients_go_on_from_the_state_of_either_side() -> None:
    options = TrainerOptions()
    first, second = [minibatch(seed) for seed in range(20)], [minibatch(seed) for seed in range(20, 35)]
    kind = LAYERS["scale and offset, repeated affine, product"]
    cpu, device = trained(network_of(kind), options, first)
    expected, state = cpu.optimizer_state(), device.optimizer_state()
    assert {name: set(found) for name, found in state.estimates.items()} == {
        name: set(found) for name, found in expected.estimates.items()
    }
    assert {("in", "scales"), ("in", "offsets")} == set(state.estimates["c1"])
    whole = Trainer(network_of(kind), options)
    for one in [*first, *second]:
        whole.train(one)
    continued, on_device = trained(device.network, options, second, state)
    assert_alike(whole.network, continued.network, 1e-3)
    assert_alike(whole.network, on_device.network, 1e-3)


def test_blocks_that_two_nodes_share_give_the_same_parameters() -> None:
    lines = ["input-node name=input dim=5"]
    lines.append(f"component name=affine {AFFINE} input-dim=15 output-dim=12")
    splice = "Append(Offset(input, -1), input, Offset(input, 1))"
    lines.append(f"component-node name=affine component=affine input={splice}")
    lines += [
        "component name=tanh type=TanhComponent dim=12",
        "component-node name=first component=tanh input=affine",
    ]
    for name, settings in (
        ("repeated", "type=NaturalGradientRepeatedAffineComponent input-dim=12 output-dim=12 num-repeats=3"),
        ("block", "type=BlockAffineComponent input-dim=12 output-dim=12 num-blocks=2"),
        ("scale", "type=ScaleAndOffsetComponent dim=12"),
    ):
        lines.append(f"component name={name} {settings} learning-rate=0.002")
    last = "first"
    for turn in (1, 2):
        for name in ("repeated", "block", "scale"):
            lines.append(f"component-node name={name}{turn} component={name} input={last}")
            last = f"{name}{turn}"
        lines.append(f"component-node name=tanh{turn} component=tanh input={last}")
        last = f"tanh{turn}"
    lines.append(f"component name=last {AFFINE} input-dim=12 output-dim=3")
    lines.append(f"component-node name=last component=last input={last}")
    lines += [
        "component name=softmax type=LogSoftmaxComponent dim=3",
        "component-node name=softmax component=softmax input=last",
        "output-node name=output input=softmax",
    ]
    network = Network.from_config("\n".join(lines), 2)
    cpu, device = trained(network, TrainerOptions(), [minibatch(seed) for seed in range(30)])
    assert_alike(cpu.network, device.network, 1e-3)


TDNN_OF_TWO_NODES = f"""
input-node name=input dim=5
component name=first {AFFINE} input-dim=5 output-dim=12
component-node name=first component=first input=input
component name=tdnn type=TdnnComponent input-dim=12 output-dim=12 time-offsets=0 learning-rate=0.005
component-node name=one component=tdnn input=first
component name=tanh type=TanhComponent dim=12
component-node name=tanh1 component=tanh input=one
component-node name=two component=tdnn input=tanh1
component-node name=tanh2 component=tanh input=two
component name=last {AFFINE} input-dim=12 output-dim=3
component-node name=last component=last input=tanh2
component name=softmax type=LogSoftmaxComponent dim=3
component-node name=softmax component=softmax input=last
output-node name=output input=softmax
"""


def test_a_tdnn_that_two_nodes_use_has_a_minibatch_from_each() -> None:
    options = TrainerOptions(momentum=0.3)
    network = Network.from_config(TDNN_OF_TWO_NODES, 1)
    cpu, device = Trainer(network.copy(), options), DeviceTrainer(HostOperations(), network.copy(), options)
    operations = Recording()
    recorded = DeviceTrainer(operations, network.copy(), options)
    for seed in range(60):
        for trainer in (cpu, device, recorded):
            trainer.train(minibatch(seed))
    for trainer in (device, recorded):
        trainer.finish()
        assert_alike(cpu.network, trainer.network, 1e-3)
        found = trainer.optimizer_state().estimates
        assert found["tdnn"]["out", "linear"].minibatch == 120
        assert found["last"]["out", "linear"].minibatch == 60
    assert operations.replays > 10


def test_what_one_component_adds_twice_in_a_step_is_added_one_after_the_other() -> None:
    class Ordered(HostOperations):
        def __init__(self) -> None:
            self.order: list[str] = []

        def aside(self, *arrays: Any) -> Any:
            self.order.append("aside")
            return super().aside(*arrays)

        def join(self) -> None:
            self.order.append("join")

    network = Network.from_config(f"""
input-node name=input dim=5
component name=tdnn type=TdnnComponent input-dim=5 output-dim=5 time-offsets=0 learning-rate=0.02
component-node name=one component=tdnn input=input
component-node name=two component=tdnn input=one
component name=last {AFFINE} input-dim=5 output-dim=3
component-node name=last component=last input=two
component name=softmax type=LogSoftmaxComponent dim=3
component-node name=softmax component=softmax input=last
output-node name=output input=softmax
""", 1)  # fmt: skip
    operations = Ordered()
    trainer = DeviceTrainer(operations, network, TrainerOptions(method=Method.SGD))
    for seed in range(2):
        operations.order.clear()
        trainer.train(minibatch(seed))
        # last, two, and then one after two; at the end two more
        assert operations.order[-6:] == ["aside", "aside", "join", "aside", "join", "join"]


def test_a_tdnn_and_a_component_that_two_nodes_use_give_the_same_parameters() -> None:
    config = f"""
input-node name=input dim=5
component name=tdnn type=TdnnComponent input-dim=5 output-dim=12 time-offsets=-1,0,1 learning-rate=0.02
component-node name=tdnn component=tdnn input=input
component name=relu type=RectifiedLinearComponent dim=12
component-node name=relu component=relu input=tdnn
component name=shared {AFFINE} input-dim=12 output-dim=12
component-node name=one component=shared input=relu
component-node name=two component=shared input=one
component name=last {AFFINE} input-dim=24 output-dim=3
component-node name=last component=last input=Append(two, Sum(relu, Scale(0.5, one)))
component name=softmax type=SoftmaxComponent dim=3
component-node name=softmax component=softmax input=last
output-node name=output input=softmax objective=quadratic
"""
    cpu, device = trained(Network.from_config(config, 1), TrainerOptions(), [minibatch(seed) for seed in range(30)])
    assert_alike(cpu.network, device.network, 1e-3)


def test_masks_of_dropout_are_those_that_the_cpu_would_use(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [
        f"{AFFINE} input-dim=15 output-dim=12",
        "type=DropoutComponent dim=12 dropout-proportion=0.3",
        "type=RectifiedLinearComponent dim=12",
        "type=GeneralDropoutComponent dim=12 dropout-proportion=0.2 continuous=true",
        "type=DropoutComponent dim=12 dropout-proportion=0.3 dropout-per-frame=true",
        "type=DropoutComponent dim=12 dropout-proportion=0",
        f"{AFFINE} input-dim=12 output-dim=3",
    ]
    drawn: list[int] = []
    for kind in (DropoutComponent, GeneralDropoutComponent):

        def mask(self: Any, layout: Layout, phase: Phase, random: Any, draw: Any = kind.mask) -> Any:
            drawn.append(1)  # the two trainers take turns, and draw a minibatch's masks in the same order
            number = len(drawn) - 8 * ((len(drawn) - 1) // 8)
            own = np.random.default_rng([(len(drawn) - 1) // 8, (number - 1) % 4])
            return draw(self, layout, phase, own)

        monkeypatch.setattr(kind, "mask", mask)
    cpu, device = trained(network_of(layers), TrainerOptions(), [minibatch(seed) for seed in range(30)])
    assert len(drawn) == 30 * 4 * 2
    assert_alike(cpu.network, device.network, 1e-3)


def test_statistics_come_back_to_the_network() -> None:
    minibatches = [minibatch(seed) for seed in range(50)]
    cpu, device = trained(network_of(LAYERS["relu and batch normalisation"]), TrainerOptions(), minibatches)
    for name in ("c1", "c2"):
        expected: Any = cpu.network.components[name]
        found: Any = device.network.components[name]
        if name == "c2":
            assert found.count == pytest.approx(expected.count)
            np.testing.assert_allclose(found.stats_sum, expected.stats_sum, rtol=1e-3, atol=1e-2)
            np.testing.assert_allclose(found.stats_sumsq, expected.stats_sumsq, rtol=1e-3)
        else:  # stored on a random half of the minibatches, not the same on both
            assert 0.2 * 50 * 32 < found.count <= 50 * 32
            np.testing.assert_allclose(found.value_sum / found.count, expected.value_sum / expected.count, rtol=0.5)
            assert found.oderiv_count > 0


@pytest.mark.parametrize("interval", [1, 2])
def test_backstitch_gives_the_same_parameters(interval: int) -> None:
    options = TrainerOptions(backstitch_training_scale=0.3, backstitch_training_interval=interval)
    cpu, device = trained(tiny_network(), options, [minibatch(seed) for seed in range(30)])
    assert_alike(cpu.network, device.network, 1e-4)
    assert device.logs["output_backstitch"].overall.average == pytest.approx(
        cpu.logs["output_backstitch"].overall.average, rel=1e-6
    )


def test_the_state_of_the_optimizer_goes_from_the_device_to_the_cpu_and_back() -> None:
    options = TrainerOptions(momentum=0.5)
    first, second = [minibatch(seed) for seed in range(20)], [minibatch(seed) for seed in range(20, 35)]
    _, device = trained(tiny_network(), options, first)
    state = device.optimizer_state()
    assert state.minibatches == 20
    assert {key for found in state.estimates.values() for key in found} == {("in", "linear"), ("out", "linear")}
    whole = tiny_network()
    trainer = Trainer(whole, options)
    for one in [*first, *second]:
        trainer.train(one)
    continued, on_device = trained(device.network, options, second, state)
    assert_alike(whole, continued.network, 1e-3)
    assert_alike(whole, on_device.network, 1e-3)


def test_a_minibatch_whose_derivatives_overflow_changes_nothing() -> None:
    before = tiny_network()
    options = TrainerOptions()
    bad = [minibatch(1), minibatch(2, scale=1e38), minibatch(3)]
    cpu, device = trained(before, options, bad)
    assert device.counts.not_finite == cpu.counts.not_finite == 1
    assert_alike(cpu.network, device.network, 1e-4)
    assert all(component.has_finite_statistics() for component in device.network.components.values())


class Recording(HostOperations):
    """Records a step by keeping what starts it; sends under one key always to the same place, as recorded steps do."""

    on_device = True

    def __init__(self, fails: bool = False) -> None:
        self.replays = 0
        self.fails = fails
        self._places: dict[Any, np.ndarray] = {}

    def send(self, key: Any, array: np.ndarray) -> np.ndarray:
        place = self._places.setdefault((key, array.shape, array.dtype.str), np.empty(array.shape, array.dtype))
        place[...] = array
        return place

    def record(self, body: Any) -> Any:
        if self.fails:
            raise RuntimeError("no recording here")
        return body

    def replay(self, recorded: Any) -> None:
        self.replays += 1
        recorded()


@pytest.mark.parametrize("kind", ["p-norm", *LAYERS])
def test_recorded_steps_are_the_steps_that_were_recorded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnet3py.train.orthonormal._PROBABILITY", 2.0)
    network = tiny_network() if kind == "p-norm" else network_of(LAYERS[kind])
    operations, options = Recording(), TrainerOptions(momentum=0.3)
    cpu, device = Trainer(network.copy(), options), DeviceTrainer(operations, network, options)
    for seed in range(90):
        cpu.train(minibatch(seed))
        device.train(minibatch(seed))
    device.finish()
    assert operations.replays > 40
    assert_alike(cpu.network, network, 1e-3)
    expected, found = cpu.optimizer_state(), device.optimizer_state()
    for name, estimates in expected.estimates.items():
        for key, estimate in estimates.items():
            assert found.estimates[name][key].minibatch == estimate.minibatch == 90
    cpu.report()
    device.report()
    assert device.logs["output"].overall.average == pytest.approx(cpu.logs["output"].overall.average, rel=1e-4)


def test_where_recording_fails_steps_are_started_piece_by_piece(capsys: pytest.CaptureFixture[str]) -> None:
    layers = [*LAYERS["relu and batch normalisation"][:3], "type=DropoutComponent dim=12 dropout-proportion=0.2"]
    network = network_of([*layers, f"{AFFINE} input-dim=12 output-dim=3"])
    device = DeviceTrainer(Recording(fails=True), network, TrainerOptions())
    for seed in range(40):
        device.train(minibatch(seed))
    device.finish()
    assert capsys.readouterr().err.count("could not be recorded as a graph") == 1
    assert device.minibatches == 40


def test_what_a_recording_that_fails_has_left_is_not_taken_for_a_part_of_the_step() -> None:
    class Breaking(Recording):
        def record(self, body: Any) -> Any:
            for layer in device._layers:
                layer.uses, layer.renewing = 1, not layer.renewing  # as after half of a backward pass
            raise RuntimeError("no recording here")

    network = tiny_network()
    cpu, device = Trainer(network.copy(), TrainerOptions()), DeviceTrainer(Breaking(), network, TrainerOptions())
    for seed in range(40):
        cpu.train(minibatch(seed))
        device.train(minibatch(seed))
    device.finish()
    assert_alike(cpu.network, network, 1e-3)
    assert device.optimizer_state().estimates["affine1"]["in", "linear"].minibatch == 40


@pytest.fixture
def _components_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kinds that have no version for the device, as a component of somebody else's."""
    of_host = (ScaleAndOffset, NaturalGradientRepeatedAffine, ElementwiseProduct)
    kinds = [kind for kind in components._KINDS if kind[1] not in of_host]
    kinds = [kind for kind in kinds if kind[1] is not RepeatedAffine]
    monkeypatch.setattr(components, "_KINDS", tuple(kinds))


@pytest.mark.usefixtures("_components_of_the_host")
def test_a_component_without_a_version_for_the_device_is_computed_on_the_host(
    capsys: pytest.CaptureFixture[str],
) -> None:
    network = network_of(LAYERS["scale and offset, repeated affine, product"])
    cpu, device = trained(network, TrainerOptions(), [minibatch(seed) for seed in range(30)])
    assert_alike(cpu.network, device.network, 1e-3)
    assert "Computed on the CPU, for want of a version for the GPU: ElementwiseProductC" in capsys.readouterr().err


@pytest.mark.usefixtures("_components_of_the_host")
def test_what_the_host_computes_is_not_recorded() -> None:
    for network, method in ((network_of(LAYERS["scale and offset, repeated affine, product"]), Method.ONLINE),
                            (tiny_network(), Method.SIMPLE)):  # fmt: skip
        operations = Recording()
        device = DeviceTrainer(operations, network, TrainerOptions(method=method))
        for seed in range(40):
            device.train(minibatch(seed))
        device.finish()
        assert operations.replays == 0


def test_arrays_of_the_host_are_sent_where_a_component_on_the_host_leaves_them() -> None:
    class Elsewhere:
        """An array on a device: not one of NumPy's."""

        def __init__(self, array: np.ndarray) -> None:
            self.array = array
            self.shape = array.shape

        def __len__(self) -> int:
            return len(self.array)

    class Device(HostOperations):
        on_device = True

        def __init__(self) -> None:
            self.multiplied: list[type] = []

        def upload(self, array: np.ndarray) -> Any:
            return Elsewhere(array)

        def product(self, out: Any, left: Any, right: Any, *_: Any, **__: Any) -> Any:
            self.multiplied += [type(left), type(right)]

        def column_sums(self, x: Any, sums: Any, squares: Any) -> None:
            self.multiplied.append(type(x))
            sums.fill(0.0)

    component = tiny_network().components["affine2"]
    delta = {field: np.zeros_like(array) for field, array in component.parameters().items()}
    operations = Device()
    update = DeviceUpdate(operations, component, Method.SGD, delta)
    rows = np.ones((2, 3), np.float32), np.ones((2, 4), np.float32)
    update.add_outer_product(*rows, "linear", "bias")
    update.add_outer_product(Elsewhere(rows[0]), Elsewhere(rows[1]), "linear", None)
    assert set(operations.multiplied) == {Elsewhere}


def test_several_threads_are_for_cpus() -> None:
    with pytest.raises(UserError, match="--num-threads above 1 is for CPUs"):
        DeviceTrainer(HostOperations(), tiny_network(), replace(TrainerOptions(), num_threads=2))
