"""The edits apply-svd and reduce-rank: what they make of layers, against NumPy's decomposition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnet3py.errors import UserError
from nnet3py.nnet.component import Phase
from nnet3py.nnet.computation import Computation
from nnet3py.nnet.edits import apply_edits
from nnet3py.nnet.model_file import read_network, write_network
from nnet3py.nnet.network import Network
from nnet3py.nnet.request import Request

CONFIG = """\
input-node name=input dim=4
component name=a1 type=AffineComponent input-dim=12 output-dim=10 learning-rate=0.02 max-change=0.5 l2-regularize=0.01
component-node name=a1 component=a1 input=Append(Offset(input, -1), input, Offset(input, 2))
component name=relu1 type=RectifiedLinearComponent dim=10
component-node name=relu1 component=relu1 input=a1
dim-range-node name=half input-node=a1 dim-offset=3 dim=5
input-node name=ivector dim=3
component name=a2 type=NaturalGradientAffineComponent input-dim=18 output-dim=8 learning-rate-factor=0.5
component-node name=a2 component=a2 input=Append(relu1, half, ReplaceIndex(ivector, t, 0))
component name=tiny type=AffineComponent input-dim=8 output-dim=2
component-node name=tiny component=tiny input=Sum(a2, Scale(0.5, Offset(a2, 1)))
output-node name=output input=tiny
output-node name=output-a1 input=a1
"""


def network(rank: int = 0) -> Network:
    """With ``rank``, the matrix of a1 has no more than that."""
    net = Network.from_config(CONFIG, 3)
    if rank:
        random = np.random.default_rng(0)
        layer: Any = net.components["a1"]
        layer.linear = (random.standard_normal((10, rank)) @ random.standard_normal((rank, 12))).astype(np.float32)
    return net


def outputs(net: Network) -> np.ndarray:
    times = {"output": tuple(range(6)), "output-a1": tuple(range(6))}
    given = {"input": tuple(range(-1, 9)), "ivector": (0,)}
    random = np.random.default_rng(1)
    inputs = {
        "input": random.standard_normal((20, 4)).astype(np.float32),
        "ivector": random.standard_normal((2, 3)).astype(np.float32),
    }
    found, _ = Computation(net, Request(given, times, 2)).forward(inputs, Phase.TEST)
    return np.concatenate([found["output"], found["output-a1"]], axis=1)


def truncated(matrix: np.ndarray, rank: int) -> np.ndarray:
    """The best approximation, from the eigenvectors of Mᵀ M."""
    _, vectors = np.linalg.eigh(matrix.T.astype(np.float64) @ matrix)
    kept = vectors[:, -rank:]
    return matrix @ kept @ kept.T


def test_a_layer_becomes_two_whose_product_is_the_best_approximation(capfd: pytest.CaptureFixture[str]) -> None:
    net = network()
    whole: Any = net.components["a1"]
    apply_edits(net, "apply-svd name=a1 bottleneck-dim=4")
    assert list(net.components) == ["relu1", "a2", "tiny", "a1_a", "a1_b"]
    first: Any = net.components["a1_a"]
    second: Any = net.components["a1_b"]
    assert (first.type_name, second.type_name) == ("LinearComponent", "NaturalGradientAffineComponent")
    assert first.params.dtype == second.linear.dtype == np.float32
    np.testing.assert_allclose(second.linear @ first.params, truncated(whole.linear, 4), atol=1e-5)
    np.testing.assert_array_equal(second.bias, whole.bias)
    values = np.linalg.svd(whole.linear, compute_uv=False)[:4]  # each matrix gets the root of each
    np.testing.assert_allclose(np.linalg.norm(first.params, axis=1) ** 2, values, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(second.linear, axis=0) ** 2, values, rtol=1e-5)
    for part in (first, second):
        assert (part.learning_rate, part.max_change, part.l2_regularize) == (0.02, 0.5, 0.01)
    assert first.ranks == (40, 80)
    assert (second.rank_in, second.rank_out) == (20, 80)
    assert first.orthonormal_constraint == second.orthonormal_constraint == 0.0
    assert "dimension reduced from (12,10) to [(12,4), (4,10)]" in capfd.readouterr().err


def test_nodes_are_split_and_read_where_the_layer_was_read() -> None:
    net = network()
    apply_edits(net, "apply-svd name=a* bottleneck-dim=4")
    assert net.config_lines() == [
        "input-node name=input dim=4",
        "input-node name=ivector dim=3",
        "component-node name=a1_a component=a1_a input=Append(Offset(input, -1), input, Offset(input, 2))",
        "component-node name=a1_b component=a1_b input=a1_a",
        "component-node name=relu1 component=relu1 input=a1_b",
        "dim-range-node name=half input-node=a1_b dim-offset=3 dim=5",
        "component-node name=a2_a component=a2_a input=Append(relu1, half, ReplaceIndex(ivector, t, 0))",
        "component-node name=a2_b component=a2_b input=a2_a",
        "component-node name=tiny component=tiny input=Sum(a2_b, Offset(Scale(0.5, a2_b), 1))",
        "output-node name=output input=tiny objective=linear",
        "output-node name=output-a1 input=a1_b objective=linear",
    ]
    assert net.components["a2_b"].learning_rate_factor == 0.5


@pytest.mark.parametrize(
    "edit",
    [
        "apply-svd name=a1 bottleneck-dim=4",
        "apply-svd name=a1 energy-threshold=0.99999",
        "reduce-rank name=a1 rank=4",
    ],
)
def test_a_network_whose_rank_suffices_computes_the_same(edit: str, tmp_path: Path) -> None:
    net = network(rank=3)
    expected = outputs(net)
    apply_edits(net, edit)
    net.check()
    write_network(str(tmp_path / "edited.raw"), net)
    np.testing.assert_allclose(outputs(read_network(str(tmp_path / "edited.raw"))), expected, atol=1e-4)


@pytest.mark.parametrize("energy", [0.1, 0.5, 0.75])
def test_an_energy_threshold_keeps_the_fewest_values_that_reach_it(energy: float) -> None:
    net = network()
    values = np.linalg.svd(net.components["a1"].parameters()["linear"], compute_uv=False) ** 2
    apply_edits(net, f"apply-svd name=a1 energy-threshold={energy}")
    kept = len(net.components["a1_a"].parameters()["params"])
    assert values[:kept].sum() >= energy * values.sum() > values[: kept - 1].sum()


def test_layers_that_would_not_shrink_stay_whole(capfd: pytest.CaptureFixture[str]) -> None:
    net = network()
    lines, components = net.config_lines(), dict(net.components)
    apply_edits(net, "apply-svd name=a1 bottleneck-dim=5 shrinkage-threshold=0.9")  # 5 (12 + 10) / (12 10) = 0.917
    assert "Shrinkage ratio 0.916667 greater than threshold" in capfd.readouterr().err
    apply_edits(net, "apply-svd name=* bottleneck-dim=10")
    err = capfd.readouterr().err
    assert "Not decomposing component relu1 as it is not an AffineComponent" in err
    assert "Not decomposing component tiny with SVD to rank 10 because its dimension is 8 -> 2" in err
    assert "Decomposed 0 components" in err
    assert net.config_lines() == lines
    assert net.components == components
    apply_edits(net, "apply-svd name=a1 bottleneck-dim=5 shrinkage-threshold=0.92")
    assert "a1_a" in net.components


def test_reducing_the_rank_keeps_structure_and_settings(capfd: pytest.CaptureFixture[str]) -> None:
    net = network()
    lines = net.config_lines()
    before = {name: component.parameters() for name, component in net.components.items()}
    apply_edits(net, "reduce-rank name=* rank=3")
    assert net.config_lines() == lines
    for name in ("a1", "a2"):
        linear = net.components[name].parameters()["linear"]
        assert linear.dtype == np.float32
        np.testing.assert_allclose(linear, truncated(before[name]["linear"], 3), atol=1e-5)
        np.testing.assert_array_equal(net.components[name].parameters()["bias"], before[name]["bias"])
        assert np.linalg.matrix_rank(linear, tol=1e-4) == 3
    assert net.components["tiny"].parameters()["linear"] is before["tiny"]["linear"]
    err = capfd.readouterr().err
    assert "Not reducing rank of component tiny with SVD to rank 3 because its dimension is 8 -> 2" in err
    assert "Reduced rank of parameters of 2 components." in err


def test_names_that_grow_into_each_other_are_kept_apart() -> None:
    net = Network.from_config(
        "input-node name=input dim=6\n"
        "component name=x type=AffineComponent input-dim=6 output-dim=6\n"
        "component name=y type=AffineComponent input-dim=6 output-dim=6\n"
        "component-node name=x component=x input=input\ncomponent-node name=x_b component=y input=x\n"
        "output-node name=output input=Sum(x, x_b)"
    )
    apply_edits(net, "apply-svd name=* bottleneck-dim=2")
    assert net.config_lines()[1:] == [
        "component-node name=x_a component=x_a input=input",
        "component-node name=x_b component=x_b input=x_a",
        "component-node name=x_b_a component=y_a input=x_b",
        "component-node name=x_b_b component=y_b input=x_b_a",
        "output-node name=output input=Sum(x_b, x_b_b) objective=linear",
    ]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ("apply-svd bottleneck-dim=2", "name= is missing"),
        ("apply-svd name=a1", "bottleneck-dim above zero or energy-threshold within 0 and 1 is missing"),
        ("apply-svd name=a1 bottleneck-dim=0", "bottleneck-dim above zero"),
        ("apply-svd name=a1 energy-threshold=1", "energy-threshold=1 must be below 1"),
        ("apply-svd name=a1 bottleneck-dim=2 shrinkage-threshold=2", "shrinkage-threshold=2 must be above 0"),
        ("apply-svd name=a1 bottleneck-dim=2 rank=2", "rank= is not understood"),
        ("apply-svd name=taken bottleneck-dim=2", "a component named taken_b already"),
        ("reduce-rank name=a1", "rank= is missing"),
        ("reduce-rank rank=2", "name= is missing"),
        ("reduce-rank name=a1 rank=0", "rank=0 must be above zero"),
    ],
)
def test_an_edit_that_cannot_be_done_changes_nothing(edit: str, message: str) -> None:
    net = network()
    net.apply_config(
        "component name=taken type=AffineComponent input-dim=4 output-dim=4\n"
        "component name=taken_b type=NoOpComponent dim=4"
    )
    lines, components = net.config_lines(), dict(net.components)
    with pytest.raises(UserError, match=message):
        apply_edits(net, edit)
    assert net.config_lines() == lines
    assert net.components == components
