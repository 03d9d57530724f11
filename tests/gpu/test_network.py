"""Forward passes on a device, with NumPy in its place, and what becomes of the option that asks for a GPU."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest
from tiny_minibatches import minibatch, tiny_network, write_examples

from nnet3py.errors import UserError
from nnet3py.gpu import components, device
from nnet3py.gpu.network import DeviceComputations
from nnet3py.gpu.operations import HostOperations
from nnet3py.nnet import component
from nnet3py.nnet.families import component_class
from nnet3py.nnet.network import Network
from nnet3py.nnet.utterance import UtteranceComputer
from nnet3py.tables.holders import MATRIX
from nnet3py.tables.table import SequentialReader
from nnet3py.train.network_output import compute_examples
from nnet3py.train.trainer import Trainer, TrainerOptions

NORMALISED = """
input-node name=input dim=5
component name=affine1 type=NaturalGradientAffineComponent input-dim=15 output-dim=12
component-node name=affine1 component=affine1 input=Append(Offset(input, -1), input, Offset(input, 1))
component name=relu type=RectifiedLinearComponent dim=12
component-node name=relu component=relu input=affine1
component name=norm type=BatchNormComponent dim=12
component-node name=norm component=norm input=relu
component name=dropout type=DropoutComponent dim=12 dropout-proportion=0.3
component-node name=dropout component=dropout input=norm
component name=affine2 type=NaturalGradientAffineComponent input-dim=12 output-dim=3
component-node name=affine2 component=affine2 input=dropout
component name=log-softmax type=LogSoftmaxComponent dim=3
component-node name=log-softmax component=log-softmax input=affine2
output-node name=output input=log-softmax
"""


def trained() -> Network:
    network = Network.from_config(NORMALISED, 2)
    trainer = Trainer(network, TrainerOptions())
    for seed in range(5):
        trainer.train(minibatch(seed))
    return network


def test_an_utterance_on_the_device_has_the_output_that_it_has_on_the_cpu() -> None:
    network = trained()
    features = np.random.default_rng(3).standard_normal((130, 5)).astype(np.float32)
    expected = UtteranceComputer(network).compute(features)
    found = UtteranceComputer(network, computations=DeviceComputations(HostOperations(), network)).compute(features)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_examples_on_the_device_have_the_outputs_that_they_have_on_the_cpu(tmp_path: Path) -> None:
    network, examples = tiny_network(), write_examples(tmp_path / "egs.ark", range(3))
    for name, how in (("cpu", None), ("device", DeviceComputations(HostOperations(), network))):
        assert compute_examples(network, f"ark:{examples}", f"ark:{tmp_path / name}", computations=how) == 3
    tables = [dict(SequentialReader(f"ark:{tmp_path / name}", MATRIX)) for name in ("cpu", "device")]
    for key, expected in tables[0].items():
        np.testing.assert_allclose(tables[1][key], expected, rtol=1e-5, atol=1e-6)


def test_without_a_gpu_optional_is_the_cpu_and_yes_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_gpu", lambda: False)
    assert device.open_device("no") is None
    assert device.open_device("optional") is None
    for choice in ("yes", "wait"):
        with pytest.raises(UserError, match=f"--use-gpu={choice}: this machine has no NVIDIA GPU"):
            device.open_device(choice)


def test_a_gpu_without_cupy_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device, "has_gpu", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert device.open_device("optional") is None
    assert "computing on the CPU" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"needs the package CuPy.*pip install"):
        device.open_device("yes")


class BusyError(RuntimeError):
    """What CuPy raises where another process has the GPU."""


def test_wait_tries_again_until_the_gpu_is_free(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = []

    class Operations(HostOperations):
        def __init__(self, precision: str) -> None:
            tried.append(precision)
            if len(tried) < 3:
                raise BusyError("cudaErrorDevicesUnavailable: all CUDA-capable devices are busy or unavailable")

        def description(self) -> str:
            return "stand-in"

    module = types.ModuleType("cuda_operations")
    module.CudaOperations = Operations  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nnet3py.gpu.cuda_operations", module)
    monkeypatch.setattr(device, "has_gpu", lambda: True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    monkeypatch.setattr(device, "_WAIT_SECONDS", 0.01)
    assert isinstance(device.open_device("wait", "tf32"), Operations)
    assert tried == ["tf32"] * 3
    said = capsys.readouterr().err
    assert said.count("Waiting for a GPU") == 1
    assert "Computing on the GPU stand-in, products in tf32" in said
    tried.clear()
    with pytest.raises(UserError, match="--use-gpu=yes: the GPU cannot be used: cudaErrorDevicesUnavailable"):
        device.open_device("yes")
    tried.clear()
    assert device.open_device("optional") is None
    assert "computing on the CPU" in capsys.readouterr().err


def test_a_precision_that_is_none_is_an_error() -> None:
    with pytest.raises(UserError, match="--gpu-precision=half is not one of"):
        device.open_device("no", "half")


def test_every_component_has_a_version_for_the_device() -> None:
    component_class("AffineComponent")  # the families are imported
    assert len(component.REGISTRY) > 30
    on_device = tuple(kind for kind, _ in components._KINDS)
    assert [name for name, kind in component.REGISTRY.items() if not issubclass(kind, on_device)] == []
