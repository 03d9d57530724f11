"""The networks of egs/digits: how they start, how they grow layer by layer, and with a transform that keeps little."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnet3py.errors import UserError
from nnet3py.nnet.component import Phase
from nnet3py.nnet.computation import Computation
from nnet3py.nnet.configuration import read_config
from nnet3py.nnet.network import Network
from nnet3py.nnet.request import Request
from nnet3py.tables.basic_types import write_header
from nnet3py.tables.matrix import write_matrix
from nnet3py.tables.streams import open_output

RECIPE = Path(__file__).resolve().parents[2] / "egs" / "digits" / "s5"
FEAT_DIM, PDFS, SPLICED = 13, 69, 13 * 11


def make_configs(folder: Path, *options: str) -> Path:
    """Write configurations, and a transform of random numbers where they expect one; returns their directory."""
    rows = next((int(word.partition("=")[2]) for word in options if word.startswith("--lda-dim")), SPLICED)
    with open_output(str(folder / "lda.mat")) as sink:
        write_header(sink, True)
        random = np.random.default_rng(7)
        write_matrix(sink, random.standard_normal((rows, SPLICED + 1)).astype(np.float32) / 12, True)
    command = [sys.executable, str(RECIPE / "local/make_configs.py"), f"--lda={folder}/lda.mat", *options]
    done = subprocess.run([*command, str(FEAT_DIM), str(PDFS), str(folder / "configs")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "configs"


def network_of(*configs: Path) -> Network:
    network = Network()
    for number, config in enumerate(configs):
        network.apply_config(read_config(str(config)), seed=number, where=str(config))
    return network


def outputs(network: Network) -> np.ndarray:
    x = np.random.default_rng(5).standard_normal((11, FEAT_DIM)).astype(np.float32)
    computation = Computation(network, Request({"input": range(-5, 6)}, {"output": [0]}))
    return computation.forward({"input": x}, Phase.TEST, keep_trace=False)[0]["output"]


def test_weights_start_by_fan_in_and_the_last_layer_at_zero(tmp_path: Path) -> None:
    """As the paper has it: a deviation of 1 / sqrt(inputs), and all classes alike at first."""
    network = network_of(make_configs(tmp_path) / "final.config")
    for name, fan_in in (("affine1", SPLICED), ("affine2", 100)):
        layer: Any = network.components[name]
        assert layer.linear.shape == (500, fan_in)
        assert np.std(layer.linear) == pytest.approx(fan_in**-0.5, rel=0.02)
        assert abs(np.mean(layer.linear)) < 0.01 * fan_in**-0.5
    last: Any = network.components["final_affine"]
    assert not last.linear.any()
    assert not last.bias.any()
    np.testing.assert_allclose(outputs(network), -np.log(PDFS), rtol=1e-6)


def test_growth_keeps_the_layers_below_and_starts_the_last_one_anew(tmp_path: Path) -> None:
    configs = make_configs(tmp_path, "--grow=true", "--num-layers=3")
    network = network_of(configs / "layer1.config")
    trained = {}
    random = np.random.default_rng(3)
    for layer in (2, 3):
        for name, component in network.updatable_components().items():  # stands for training
            for array in component.parameters().values():
                array += random.standard_normal(array.shape).astype(np.float32)
            trained[name] = {field: array.copy() for field, array in component.parameters().items()}
        network.apply_config(read_config(str(configs / f"layer{layer}.config")), seed=layer)
        for below in range(1, layer):
            for field, array in network.components[f"affine{below}"].parameters().items():
                np.testing.assert_array_equal(array, trained[f"affine{below}"][field])
        new: Any = network.components[f"affine{layer}"]
        assert np.std(new.linear) == pytest.approx(0.1, rel=0.02)
        np.testing.assert_allclose(outputs(network), -np.log(PDFS), rtol=1e-6)
    assert list(network.updatable_components()) == ["affine1", "final_affine", "affine2", "affine3"]


def test_a_network_grown_layer_by_layer_has_the_structure_of_one_made_at_once(tmp_path: Path) -> None:
    configs = make_configs(tmp_path, "--grow=true", "--num-layers=3")
    grown = network_of(*(configs / f"layer{layer}.config" for layer in (1, 2, 3)))
    whole = network_of(make_configs(tmp_path, "--num-layers=3") / "final.config")
    assert sorted(grown.config_lines()) == sorted(whole.config_lines())
    assert grown.num_parameters() == whole.num_parameters()


def test_the_first_layer_has_the_inputs_that_the_transform_keeps(tmp_path: Path) -> None:
    network = network_of(make_configs(tmp_path, "--lda-dim=40") / "final.config")
    assert network.components["affine1"].input_dim == 40
    config = (tmp_path / "configs/final.config").read_text().replace("input-dim=40", "input-dim=41")
    with pytest.raises(UserError, match=r"affine1.*dimension 40.*expects 41"):
        Network.from_config(config)


@pytest.mark.parametrize(("nonlinearity", "kind"), [("sigmoid", "Sigmoid"), ("tanh", "Tanh"), ("relu", "Rectified")])
def test_hidden_layers_may_have_another_nonlinearity(tmp_path: Path, nonlinearity: str, kind: str) -> None:
    network = network_of(make_configs(tmp_path, f"--nonlinearity={nonlinearity}", "--hidden-dim=30") / "final.config")
    hidden = [component for component in network.components.values() if type(component).__name__.startswith(kind)]
    assert [component.input_dim for component in hidden] == [30, 30]
    assert network.components["final_affine"].input_dim == 30
    np.testing.assert_allclose(outputs(network), np.log(1 / PDFS), atol=1e-6)  # the last layer is zero


def test_a_nonlinearity_that_is_not_known_is_refused(tmp_path: Path) -> None:
    words = [sys.executable, str(RECIPE / "local/make_configs.py"), "--nonlinearity=gelu", "13", "69", str(tmp_path)]
    ended = subprocess.run(words, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "gelu" in ended.stderr


def test_nothing_of_another_network_is_left(tmp_path: Path) -> None:
    configs = make_configs(tmp_path, "--grow=true", "--num-layers=3")
    assert sorted(path.name for path in configs.glob("layer*")) == [f"layer{n}.config" for n in (1, 2, 3)]
    make_configs(tmp_path, "--grow=true")
    assert sorted(path.name for path in configs.glob("layer*")) == ["layer1.config", "layer2.config"]
    make_configs(tmp_path)
    assert sorted(path.name for path in configs.iterdir()) == ["final.config", "splice.config", "vars"]
    (configs / "init.config").write_text("input-node name=input dim=40\n")
    command = [sys.executable, str(RECIPE / "local/make_configs.py"), str(FEAT_DIM), str(PDFS), str(configs)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "init.config, which train_dnn.py would estimate a transform for, is of another network" in done.stderr
