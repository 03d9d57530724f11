"""Compiled kernels give the bits that NumPy gives, and NumPy computes where they are not to be had."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_minibatches import minibatch, parameters, tiny_network, write_examples

from nnet3py.errors import UserError
from nnet3py.kernels import switch
from nnet3py.nnet.batch_norm import BatchNormComponent
from nnet3py.nnet.component import Component, Layout, Phase
from nnet3py.nnet.model_file import write_network
from nnet3py.nnet.nonlinear import RectifiedLinearComponent
from nnet3py.nnet.normalize import NormalizeComponent
from nnet3py.nnet.pnorm import PnormComponent
from nnet3py.train.trainer import Trainer, TrainerOptions


@pytest.fixture
def numba(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The compiled kernels, turned off again afterwards."""
    pytest.importorskip("numba")
    monkeypatch.setenv(switch.VARIABLE, "numba")
    switch.turn_on(0)
    assert switch.compiled() is not None
    yield
    switch.turn_off()


def pnorm(size: int, groups: int) -> Component:
    component = PnormComponent()
    component.input_size, component.output_size = size * groups, groups
    return component


def normalize(dim: int, block_dim: int, add_log_stddev: bool) -> Component:
    component = NormalizeComponent()
    component.dim, component.block_dim, component.target_rms = dim, block_dim, 0.7
    component.add_log_stddev = add_log_stddev
    return component


def batch_norm(dim: int, block_dim: int) -> Component:
    component = BatchNormComponent()
    component.dim, component.block_dim = dim, block_dim
    component.stats_sum, component.stats_sumsq = np.zeros(block_dim), np.zeros(block_dim)
    return component


def rectifier(dim: int) -> Component:
    component = RectifiedLinearComponent()
    component.dim = component.block_dim = dim
    return component


COMPONENTS: dict[str, Callable[[], Component]] = {
    "p-norm of 5": lambda: pnorm(5, 40),
    "p-norm of 10": lambda: pnorm(10, 33),
    "p-norm of 7": lambda: pnorm(7, 13),
    "p-norm of 1": lambda: pnorm(1, 9),
    "normalisation": lambda: normalize(200, 200, False),
    "normalisation in blocks": lambda: normalize(66, 33, True),
    "batch normalisation": lambda: batch_norm(120, 120),
    "batch normalisation in blocks": lambda: batch_norm(120, 40),
    "rectifier": lambda: rectifier(77),
}


def passes(component: Component) -> list[np.ndarray]:
    """Output and input derivative for rows with zeros, infinities that come, and numbers of all sizes."""
    random = np.random.default_rng(5)
    x = (random.standard_normal((65, component.input_dim)) * 10.0 ** random.integers(-6, 6, (65, 1))).astype(np.float32)
    x[3] = 0.0
    layout = Layout((0,), (0,), len(x))
    y, memo = component.propagate(x, layout, Phase.TRAIN)
    y = y.copy()
    dy = random.standard_normal(y.shape).astype(np.float32)
    dx = component.backprop(memo, dy, layout, None, True)
    assert dx is not None
    return [y, dx]


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_component_gives_the_same_bits_with_compiled_kernels(name: str, numba: None) -> None:
    found = passes(COMPONENTS[name]())
    switch.turn_off()
    for expected, array in zip(passes(COMPONENTS[name]()), found, strict=True):
        assert np.array_equal(expected.view(np.int32), array.view(np.int32))


def test_training_gives_the_same_bits_with_compiled_kernels(numba: None) -> None:
    results = []
    for turned_on in (True, False):
        if not turned_on:
            switch.turn_off()
        network = tiny_network()
        trainer = Trainer(network, TrainerOptions())
        for seed in range(20):
            trainer.train(minibatch(seed))
        results.append(parameters(network))
    assert np.array_equal(*results)


def test_all_kernels_can_be_compiled_beforehand(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    script = "from nnet3py.kernels.compiled import prepare; prepare()"
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
    kept = {path.name.split(".")[1].split("-")[0] for path in tmp_path.rglob("*.nbi")}
    assert kept == {
        "_group_norms", "_group_norms_backward", "_normalize_backward", "_centre_and_scale", "_batch_norm_backward",
        "_rectifier_backward",
    }  # fmt: skip


def test_small_networks_are_left_to_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(switch.VARIABLE, raising=False)
    switch.turn_on(1000)
    assert switch.compiled() is None


def test_without_numba_numpy_computes_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv(switch.VARIABLE, "auto")
    switch.turn_on(10**7)
    assert switch.compiled() is None
    monkeypatch.setenv(switch.VARIABLE, "numba")
    with pytest.raises(UserError, match="needs the package Numba"):
        switch.turn_on(10**7)
    monkeypatch.setenv(switch.VARIABLE, "fortran")
    with pytest.raises(UserError, match="expected auto, numba, numpy"):
        switch.turn_on(10**7)


def train(folder: Path, **environment: Any) -> subprocess.CompletedProcess[str]:
    words = ["nnet-train-shard", "0.raw", "ark:egs.ark", "1.raw"]
    return subprocess.run(
        words, cwd=folder, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


def test_the_program_writes_the_same_model_with_either_kind_of_kernels(tmp_path: Path) -> None:
    pytest.importorskip("numba")
    write_network(str(tmp_path / "0.raw"), tiny_network(), True)
    write_examples(tmp_path / "egs.ark", range(6))
    models = []
    for kernels in ("numba", "numpy"):
        done = train(tmp_path, NNET3PY_KERNELS=kernels)
        assert done.returncode == 0, done.stderr
        models.append((tmp_path / "1.raw").read_bytes())
    assert models[0] == models[1]
    done = train(tmp_path, NNET3PY_KERNELS="cobol")
    assert done.returncode == 1
    assert done.stderr.count("ERROR (") == 1


def test_kernels_that_fail_are_said_in_one_line_and_numpy_computes(tmp_path: Path) -> None:
    write_network(str(tmp_path / "0.raw"), tiny_network(), True)
    write_examples(tmp_path / "egs.ark", range(3))
    broken = tmp_path / "broken" / "numba"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise OSError('no compiler here')\n")
    (tmp_path / "sitecustomize.py").write_text("import nnet3py.kernels.switch as s\ns._WORTH_IT = 0\n")
    path = os.pathsep.join([str(tmp_path / "broken"), str(tmp_path), str(Path(__file__).resolve().parents[2])])
    done = train(tmp_path, PYTHONPATH=path, NNET3PY_KERNELS="auto")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("The compiled kernels cannot be used (OSError: no compiler here): NumPy computes.") == 1
