"""Evaluation of networks: against direct formulas and finite differences, planning, errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nnet3py.errors import UserError
from nnet3py.nnet.component import Component, Phase
from nnet3py.nnet.computation import Computation, ComputationCache
from nnet3py.nnet.network import Network
from nnet3py.nnet.request import Request
from nnet3py.nnet.times import network_context, required_input_times

SPLICED = """
input-node name=input dim=3
input-node name=ivector dim=2
component name=affine type=AffineComponent input-dim=11 output-dim=4
component-node name=affine component=affine input=Append(Offset(input, -2), input, Offset(input, 1), ReplaceIndex(ivector, t, 0))
output-node name=output input=affine
"""  # noqa: E501
EVERYTHING = """
input-node name=input dim=3
component name=first type=NaturalGradientAffineComponent input-dim=6 output-dim=6
component-node name=first component=first input=Append(Offset(input, -1), Offset(input, 2))
dim-range-node name=left input-node=first dim-offset=0 dim=3
dim-range-node name=right input-node=first dim-offset=2 dim=4
component name=tanh type=TanhComponent dim=3
component-node name=tanh component=tanh input=Sum(left, Scale(-0.5, Offset(left, 1)))
component name=second type=LinearComponent input-dim=13 output-dim=4
component-node name=second component=second input=Append(tanh, Offset(right, 1), IfDefined(Offset(tanh, -3)), Round(tanh, 2))
component name=noop type=NoOpComponent dim=4
component-node name=noop component=noop input=Sum(second, Failover(Offset(right, 9), Offset(right, -1)), Const(0.5, 4))
component name=tdnn type=TdnnComponent input-dim=4 output-dim=3 time-offsets=0,2
component-node name=tdnn component=tdnn input=Switch(noop, second)
component-node name=again component=tdnn input=noop
component name=norm type=NormalizeComponent dim=3
component-node name=norm component=norm input=Sum(tdnn, again)
output-node name=output input=norm objective=quadratic
output-node name=other input=Append(Scale(2.0, again), tdnn)
"""  # noqa: E501


class SumUpdate:
    """An update of plain gradient ascent at rate 1."""

    learning_rate = 1.0

    def __init__(self, component: Component) -> None:
        self.delta = {name: np.zeros(array.shape, np.float32) for name, array in component.parameters().items()}

    def add_outer_product(self, dy: np.ndarray, x: np.ndarray, linear: str, bias: str | None) -> None:
        self.delta[linear] += dy.T @ x
        if bias is not None:
            self.delta[bias] += dy.sum(axis=0)

    def add_vector(self, field: str, rows: np.ndarray) -> None:
        self.delta[field] += rows.sum(axis=0)


def normal(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)


def updates_of(network: Network) -> dict[str, SumUpdate]:
    return {name: SumUpdate(component) for name, component in network.updatable_components().items()}


def chain(*inputs: str) -> str:
    """A network of no-ops of dimension 2, the first node reading ``input``, each other what is given for it."""
    lines = ["input-node name=input dim=2", "component name=c type=NoOpComponent dim=2"]
    lines += [f"component-node name=n{i} component=c input={text}" for i, text in enumerate(inputs)]
    return "\n".join([*lines, f"output-node name=output input=n{len(inputs) - 1}"])


def test_a_spliced_layer_is_the_affine_transform_of_its_frames_and_ivector() -> None:
    network = Network.from_config(SPLICED, seed=1)
    affine: Any = network.components["affine"]
    times, n = np.arange(-2, 6), 3
    x, ivector = normal(8 * n, 3), normal(n, 2, 1)
    request = Request({"input": times, "ivector": [0]}, {"output": np.arange(5)}, n)
    outputs, _ = Computation(network, request).forward({"input": x, "ivector": ivector}, Phase.TEST)
    frames = x.reshape(8, n, 3)
    for t in range(5):
        for s in range(n):
            row = np.concatenate([frames[t, s], frames[t + 2, s], frames[t + 3, s], ivector[s]])
            np.testing.assert_allclose(
                outputs["output"][t * n + s], affine.linear @ row + affine.bias, rtol=1e-5, atol=1e-6
            )


def test_sequences_and_chunks_are_independent_of_each_other() -> None:
    network = Network.from_config(EVERYTHING, seed=1)
    times = np.arange(-10, 20)
    x = normal(30 * 4, 3)
    both = Computation(network, Request({"input": times}, {"output": np.arange(6), "other": [2]}, 4))
    together, _ = both.forward({"input": x}, Phase.TEST)
    one = Computation(network, Request({"input": times}, {"output": np.arange(6)}, 1))
    for s in range(4):
        alone, _ = one.forward({"input": x[s::4]}, Phase.TEST)
        np.testing.assert_allclose(together["output"][s::4], alone["output"], rtol=1e-5, atol=1e-6)


def test_derivatives_of_every_kind_of_node_agree_with_finite_differences() -> None:
    network = Network.from_config(EVERYTHING, seed=1)
    times = np.arange(-10, 12)
    x = normal(len(times) * 2, 3)
    computation = Computation(network, Request({"input": times}, {"output": [0, 1, 2, 3], "other": [-1, 2]}, 2))
    weights = {"output": normal(8, 3, 1), "other": normal(4, 6, 2)}

    def objective() -> float:
        outputs, _ = computation.forward({"input": x}, Phase.TRAIN)
        return sum(float((outputs[name].astype(np.float64) * weights[name]).sum()) for name in weights)

    updates = updates_of(network)
    _, trace = computation.forward({"input": x}, Phase.TRAIN)
    copies = {name: array.copy() for name, array in weights.items()}
    derivatives = computation.backward(trace, copies, updates, want_input_derivs=True)
    checked = [(x, derivatives["input"])]
    checked += [
        (array, updates[name].delta[key])
        for name, component in network.updatable_components().items()
        for key, array in component.parameters().items()
    ]
    for seed, (array, derivative) in enumerate(checked):
        direction = normal(1, array.size, 10 + seed).reshape(array.shape)
        kept = array.copy()
        array += 1e-3 * direction
        above = objective()
        array[...] = kept - 1e-3 * direction
        below = objective()
        array[...] = kept
        assert (above - below) / 2e-3 == pytest.approx(float((derivative * direction).sum()), rel=5e-3, abs=5e-3)
        assert np.abs(derivative).max() > 0.01


def test_derivatives_of_inputs_come_in_the_order_of_the_request() -> None:
    network = Network.from_config(chain("Offset(input, 1)"))
    given = [5, 2, 3, 4]
    computation = Computation(network, Request({"input": given}, {"output": [3, 1]}, 1))
    x = normal(4, 2)
    outputs, trace = computation.forward({"input": x}, Phase.TEST)
    np.testing.assert_array_equal(outputs["output"], [x[3], x[1]])
    derivative = np.array([[1, 2], [3, 4]], np.float32)
    found = computation.backward(trace, {"output": derivative}, {}, want_input_derivs=True)
    np.testing.assert_array_equal(found["input"], [[0, 0], [3, 4], [0, 0], [1, 2]])


@pytest.mark.parametrize("step", [2, 3])
def test_subsampled_frames_are_every_second_or_third(step: int) -> None:
    network = Network.from_config(chain(f"Append(Offset(input, -{step}))", f"Sum(n0, Offset(n0, {step}))"))
    times = np.arange(-step, 30)
    x = normal(len(times) * 2, 2)
    wanted = np.arange(0, 24, step)
    computation = Computation(network, Request({"input": times}, {"output": wanted}, 2))
    assert (np.diff(computation.node_times("n0")) == step).all()
    outputs, _ = computation.forward({"input": x}, Phase.TEST)
    frames = x.reshape(-1, 2, 2)
    np.testing.assert_allclose(outputs["output"], (frames[wanted] + frames[wanted + step]).reshape(-1, 2), rtol=1e-6)


def test_nodes_are_computed_only_at_the_times_that_are_needed() -> None:
    network = Network.from_config(chain("Offset(input, 1)", "Append(Offset(n0, 2))", "Failover(n1, Offset(n0, 50))"))
    computation = Computation(network, Request({"input": np.arange(100)}, {"output": [5, 6]}, 1))
    assert computation.node_times("n1").tolist() == [5, 6]
    assert computation.node_times("n0").tolist() == [7, 8]


def test_components_below_all_trained_ones_get_no_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network.from_config(
        """
        input-node name=input dim=4
        component name=norm type=NormalizeComponent dim=4
        component-node name=norm component=norm input=input
        component name=a type=AffineComponent input-dim=4 output-dim=4
        component-node name=a component=a input=norm
        component name=tanh type=TanhComponent dim=4
        component-node name=tanh component=tanh input=a
        component name=b type=AffineComponent input-dim=4 output-dim=4
        component-node name=b component=b input=tanh
        output-node name=output input=b
        """
    )
    asked: dict[str, bool] = {}
    for name, component in network.components.items():
        original = component.backprop

        def spy(
            memo: Any, dy: Any, layout: Any, update: Any, want_dx: bool, name: str = name, call: Any = original
        ) -> Any:
            asked[name] = want_dx
            return call(memo, dy, layout, update, want_dx)

        monkeypatch.setattr(component, "backprop", spy)
    computation = Computation(network, Request({"input": [0]}, {"output": [0]}, 5))

    def backward(names: list[str]) -> dict[str, bool]:
        asked.clear()
        _, trace = computation.forward({"input": normal(5, 4)}, Phase.TRAIN)
        updates = {name: SumUpdate(network.components[name]) for name in names}
        computation.backward(trace, {"output": normal(5, 4, 1)}, updates)
        return dict(asked)

    assert backward(["a", "b"]) == {"b": True, "tanh": True, "a": False}
    assert backward(["b"]) == {"b": False}
    assert backward([]) == {}


def test_a_node_that_feeds_several_gets_the_sum_of_their_derivatives() -> None:
    network = Network.from_config(chain("input", "Sum(n0, n0, Scale(3.0, n0))", "Sum(n1, Offset(n0, 1))"))
    computation = Computation(network, Request({"input": [0, 1]}, {"output": [0]}, 1))
    _, trace = computation.forward({"input": normal(2, 2)}, Phase.TEST)
    found = computation.backward(trace, {"output": np.ones((1, 2), np.float32)}, {}, want_input_derivs=True)
    np.testing.assert_array_equal(found["input"], [[5, 5], [1, 1]])


def test_a_trace_goes_back_once() -> None:
    computation = Computation(Network.from_config(chain("input")), Request({"input": [0]}, {"output": [0]}, 1))
    _, trace = computation.forward({"input": normal(1, 2)}, Phase.TEST)
    computation.backward(trace, {}, {})
    with pytest.raises(ValueError, match="once"):
        computation.backward(trace, {}, {})


def test_without_a_trace_nothing_is_kept() -> None:
    computation = Computation(Network.from_config(chain("input")), Request({"input": [0]}, {"output": [0]}, 1))
    _, trace = computation.forward({"input": normal(1, 2)}, Phase.TEST, keep_trace=False)
    assert trace.memos == {}


def test_statistics_are_stored_only_when_asked_for() -> None:
    network = Network.from_config(
        """
        input-node name=input dim=2
        component name=relu type=RectifiedLinearComponent dim=2
        component-node name=relu component=relu input=input
        output-node name=output input=relu
        """
    )
    relu: Any = network.components["relu"]
    computation = Computation(network, Request({"input": [0]}, {"output": [0]}, 7))
    computation.forward({"input": normal(7, 2)}, Phase.TRAIN)
    assert relu.count == 0
    computation.forward({"input": normal(7, 2)}, Phase.TRAIN, store_statistics=True)
    assert relu.count == 7


def test_too_little_context_says_what_is_missing() -> None:
    network = Network.from_config(chain("Append(Offset(input, -2))", "Offset(n0, 3)"))
    with pytest.raises(UserError, match=r"Output output at time 5 cannot.* input is given at times 0 to 5, and 6 are"):
        Computation(network, Request({"input": np.arange(6)}, {"output": [3, 4, 5]}, 1))


def test_unknown_names_missing_data_and_wrong_shapes_are_user_errors() -> None:
    network = Network.from_config(chain("input"))
    with pytest.raises(UserError, match="no"):
        Computation(network, Request({"feats": [0]}, {"output": [0]}, 1))
    with pytest.raises(UserError, match="output-xent"):
        Computation(network, Request({"input": [0]}, {"output-xent": [0]}, 1))
    with pytest.raises(UserError, match="distinct"):
        Request({"input": [0, 0]}, {"output": [0]}, 1)
    computation = Computation(network, Request({"input": [0, 1]}, {"output": [0]}, 3))
    with pytest.raises(UserError, match="input"):
        computation.forward({}, Phase.TEST)
    with pytest.raises(UserError, match="expects 6 rows of dimension 2, found 6 by 5"):
        computation.forward({"input": normal(6, 5)}, Phase.TEST)


def test_the_index_x_is_refused() -> None:
    network = Network.from_config(chain("Offset(input, 0, 1)"))
    with pytest.raises(UserError, match="index x"):
        Computation(network, Request({"input": [0]}, {"output": [0]}, 1))


def test_recurrent_networks_are_refused() -> None:
    with pytest.raises(UserError, match="recurrent"):
        Network.from_config(chain("Sum(input, IfDefined(Offset(n1, -1)))", "n0"))


@pytest.mark.parametrize(
    ("inputs", "context"),
    [
        (["input"], (0, 0)),
        (["Sum(Offset(input, -2), Offset(input, 3))"], (2, 3)),
        (["Offset(input, 5)"], (0, 5)),
        (["Sum(Offset(input, -1), input)", "Sum(Offset(n0, -20), Offset(n0, 30))"], (21, 30)),
        (["Sum(input, IfDefined(Offset(input, -9)))"], (0, 0)),
        (["Failover(Offset(input, -9), input)"], (0, 0)),
        (["Round(input, 3)"], (2, 0)),
        (["Switch(Offset(input, -1), Offset(input, 2))"], (1, 2)),
    ],
)
def test_the_context_is_what_an_output_needs_at_most(inputs: list[str], context: tuple[int, int]) -> None:
    assert network_context(Network.from_config(chain(*inputs))) == context


def test_required_input_times_are_those_that_are_read() -> None:
    network = Network.from_config(SPLICED)
    found = required_input_times(network, "output", [0, 3])
    assert {name: times.tolist() for name, times in found.items()} == {"input": [-2, 0, 1, 3, 4], "ivector": [0]}


def test_plans_are_made_once_per_structure() -> None:
    network = Network.from_config(chain("input"))
    cache = ComputationCache(network, capacity=2)
    first = cache.get(Request({"input": np.arange(3)}, {"output": np.arange(3)}, 2))
    assert cache.get(Request({"input": [0, 1, 2]}, {"output": [0, 1, 2]}, 2)) is first
    assert cache.get(Request({"input": [0, 1, 2]}, {"output": [0, 1, 2]}, 3)) is not first
    cache.get(Request({"input": [0]}, {"output": [0]}, 3))
    assert cache.get(Request({"input": [0, 1, 2]}, {"output": [0, 1, 2]}, 2)) is not first


def test_a_plan_goes_on_with_replaced_parameters() -> None:
    network = Network.from_config(SPLICED, seed=1)
    computation = Computation(network, Request({"input": np.arange(-2, 2), "ivector": [0]}, {"output": [0]}, 1))
    data = {"input": normal(4, 3), "ivector": normal(1, 2)}
    affine: Any = network.components["affine"]
    affine.linear = np.zeros_like(affine.linear)
    outputs, _ = computation.forward(data, Phase.TEST)
    np.testing.assert_array_equal(outputs["output"][0], affine.bias)
