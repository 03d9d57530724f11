"""One training step beside the bare matrix products that it needs, and beside PyTorch.

*Efficiency* is the time of the bare products, forward, backward and update, of the same shapes, over the time of the
step; natural gradient's own products are not among them. One thread, minibatches of 512 frames; each step is timed
right after another of the same kind.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timing

from nnet3py import log
from nnet3py.kept_memory import keep_freed_memory
from nnet3py.kernels import switch
from nnet3py.nnet.affine import AffineComponent
from nnet3py.nnet.computation import Computation
from nnet3py.nnet.network import Network
from nnet3py.nnet.nodes import ComponentNode
from nnet3py.nnet.tdnn import TdnnComponent
from nnet3py.train.minibatch import Minibatch, SparseLabels
from nnet3py.train.parameter_update import Method
from nnet3py.train.trainer import Trainer, TrainerOptions

FRAMES = 512
SECONDS = 20.0


@dataclass(frozen=True)
class PnormNetwork:
    """Affine layers with p-norm and normalization: input, (hidden → pooled) x layers, classes."""

    input_dim: int
    layers: int
    hidden: int
    pooled: int
    classes: int

    @property
    def title(self) -> str:
        return f"{self.input_dim} → {self.layers} × [{self.hidden} → p-norm {self.pooled}] → {self.classes}"

    def affine_shapes(self) -> list[tuple[int, int]]:
        """(input dim, output dim) of each affine layer."""
        inputs = [self.input_dim, *[self.pooled] * self.layers]
        return list(zip(inputs, [*[self.hidden] * self.layers, self.classes], strict=True))

    def config(self) -> str:
        """The network in nnet3's configuration language."""
        lines = _Lines(self.input_dim)
        for number, (input_dim, output_dim) in enumerate(self.affine_shapes(), 1):
            dims = f"input-dim={input_dim} output-dim={output_dim} max-change=0.75"
            lines.add(f"affine{number}", f"type=NaturalGradientAffineComponent {dims}")
            if number <= self.layers:
                lines.add(f"pnorm{number}", f"type=PnormComponent input-dim={self.hidden} output-dim={self.pooled}")
                lines.add(f"renorm{number}", f"type=NormalizeComponent dim={self.pooled}")
        return lines.config(self.classes)

    def minibatch(self) -> Minibatch:
        return example_minibatch(self.input_dim, self.classes)


@dataclass(frozen=True)
class ReluNetwork:
    """Affine layers with rectifiers and batch normalisation; with ``offsets`` TDNN layers, 8 frames a sequence."""

    input_dim: int
    layers: int
    hidden: int
    classes: int
    offsets: tuple[int, ...] = ()

    @property
    def title(self) -> str:
        layer = f"TDNN {','.join(map(str, self.offsets))} " if self.offsets else ""
        return f"{self.input_dim} → {self.layers} × [{layer}{self.hidden} → ReLU, batch norm] → {self.classes}"

    def config(self) -> str:
        """The network in nnet3's configuration language."""
        lines, last = _Lines(self.input_dim), self.input_dim
        for number in range(1, self.layers + 1):
            dims = f"input-dim={last} output-dim={self.hidden} max-change=0.75"
            times = f" time-offsets={','.join(map(str, self.offsets))}"
            kind = f"TdnnComponent {dims}{times}" if self.offsets else f"NaturalGradientAffineComponent {dims}"
            lines.add(f"affine{number}", f"type={kind}")
            lines.add(f"relu{number}", f"type=RectifiedLinearComponent dim={self.hidden} self-repair-scale=1e-05")
            lines.add(f"norm{number}", f"type=BatchNormComponent dim={self.hidden}")
            last = self.hidden
        dims = f"input-dim={last} output-dim={self.classes} max-change=1.5"
        lines.add("last", f"type=NaturalGradientAffineComponent {dims}")
        return lines.config(self.classes)

    def minibatch(self) -> Minibatch:
        frames = 8 if self.offsets else 1
        reach = self.layers * max(self.offsets, default=0)
        return example_minibatch(self.input_dim, self.classes, frames, reach)


class _Lines:
    """A configuration of one component after the other."""

    def __init__(self, input_dim: int) -> None:
        self._lines, self._last = [f"input-node name=input dim={input_dim}"], "input"

    def add(self, name: str, settings: str) -> None:
        self._lines.append(f"component name={name} {settings}")
        self._lines.append(f"component-node name={name} component={name} input={self._last}")
        self._last = name

    def config(self, classes: int) -> str:
        self.add("log-softmax", f"type=LogSoftmaxComponent dim={classes}")
        return "\n".join([*self._lines, f"output-node name=output input={self._last} objective=linear"])


NETWORKS = (PnormNetwork(143, 3, 1000, 200, 288), PnormNetwork(143, 4, 2000, 400, 288))
OTHERS = (ReluNetwork(143, 4, 1024, 2000), ReluNetwork(40, 5, 512, 2000, (-1, 0, 1)))


def report() -> list[str]:
    """A table: frames a second of each way to do a step, and its efficiency (median over turns of the ratio)."""
    lines = ["| network | step | frames a second | efficiency |", "| --- | --- | --- | --- |"]
    keep_freed_memory()
    log.log = lambda message: None  # type: ignore[assignment]  # when max-change is active, every minibatch
    for network in (*NETWORKS, *OTHERS):
        tasks: dict[str, Callable[[], object]] = {"bare products": bare_products(network)}
        tasks["nnet3py, natural gradient"] = nnet3py_step(network, Method.ONLINE, "numba")
        tasks["nnet3py, natural gradient, NumPy alone"] = nnet3py_step(network, Method.ONLINE, "numpy")
        tasks["nnet3py, plain SGD"] = nnet3py_step(network, Method.SGD, "numba")
        if isinstance(network, PnormNetwork):
            try:
                tasks.update(_pytorch_steps(network))
            except ImportError:
                lines.append(f"| {network.title} | PyTorch is not installed here: not measured | | |")
        times = timing.interleaved(tasks, SECONDS, warmups=20, lead_in=True)
        for name, taken in times.items():
            efficiency = timing.median_ratio(times["bare products"], taken)
            lines.append(f"| {network.title} | {name} | {FRAMES / statistics.median(taken):,.0f} | {efficiency:.2f} |")
    return lines


def program_report() -> list[str]:
    """The whole program on a shard beside its steps alone, on minibatches that are in memory."""
    from nnet3py.egs.example import EXAMPLE, Example, NnetIo
    from nnet3py.nnet.model_file import write_network
    from nnet3py.tables.sparse_matrix import SparseMatrix
    from nnet3py.tables.table import TableWriter

    network, count = NETWORKS[1], 250
    batch = network.minibatch()
    indexes = np.array([(n, 0, 0) for n in range(FRAMES)], np.int32)
    classes = batch.outputs["output"].classes.tolist()  # type: ignore[union-attr]
    labels = SparseMatrix.from_rows([[(label, 1.0)] for label in classes], network.classes)
    example = Example([NnetIo("input", indexes, batch.inputs["input"]), NnetIo("output", indexes, labels)])
    keep_freed_memory()
    log.log = lambda message: None  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_network(f"{folder}/0.raw", Network.from_config(network.config(), 1), True)
        with TableWriter(f"ark:{folder}/egs.ark", EXAMPLE) as writer:
            for number in range(count):
                writer.write(f"minibatch{number}", example)
        step = nnet3py_step(network, Method.ONLINE, "numba")

        def steps() -> None:
            for _ in range(count):
                step()

        def program() -> None:
            command = ["nnet-train-shard", "0.raw", "ark:egs.ark", "1.raw"]
            subprocess.run(command, cwd=folder, check=True, capture_output=True)

        times = timing.interleaved({"steps": steps, "program": program}, 60.0, warmups=1)
        start = time.perf_counter()
        command = ["nnet-train-shard", "0.raw", "ark:nnet-subset-egs --n=1 ark:egs.ark ark:- |", "1.raw"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        first = time.perf_counter() - start
    ratio = timing.median_ratio(times["program"], times["steps"])
    return [
        f"nnet-train-shard on {count * FRAMES:,} frames, {network.title}: {statistics.median(times['program']):.1f} s, "
        f"{ratio:.3f} times its steps alone; on one minibatch {first:.2f} s."
    ]


def bare_products(network: PnormNetwork | ReluNetwork) -> Callable[[], object]:
    """The products of a step, with arrays of their shapes, ready to be done."""
    random = np.random.default_rng(1)
    products = []
    built = Network.from_config(network.config(), 1)
    computation = Computation(built, network.minibatch().request)
    is_first = True
    for rows, component in _layers(built, computation):
        output_dim, width = component.linear.shape
        x = random.standard_normal((rows, width)).astype(np.float32)
        dy = random.standard_normal((rows, output_dim)).astype(np.float32)
        weights = random.standard_normal((output_dim, width)).astype(np.float32)
        products.append((x, weights.T, np.empty_like(dy)))
        products.append((dy.T, x, np.empty_like(weights)))
        if not is_first:  # the input needs no derivative
            products.append((dy, weights, np.empty_like(x)))
        is_first = False

    def run() -> None:
        for left, right, out in products:
            np.matmul(left, right, out=out)

    return run


def _layers(network: Network, computation: Computation) -> list[tuple[int, AffineComponent | TdnnComponent]]:
    """The affine layers and how many rows each has."""
    found = []
    for node in network.nodes:
        component = network.components[node.component] if isinstance(node, ComponentNode) else None
        if isinstance(component, AffineComponent | TdnnComponent):
            rows = len(computation.node_times(node.name)) * computation.request.num_sequences
            found.append((rows, component))
    return found


def example_minibatch(input_dim: int, classes: int, frames: int = 1, reach: int = 0) -> Minibatch:
    """Random frames with random labels: sequences of ``frames`` frames, with ``reach`` more of input on either side."""
    random = np.random.default_rng(0)
    sequences = FRAMES // frames
    times = tuple(range(-reach, frames + reach))
    inputs = random.standard_normal((len(times) * sequences, input_dim)).astype(np.float32)
    labels, weights = random.integers(0, classes, FRAMES), np.ones(FRAMES, np.float32)
    rows = np.arange(FRAMES)
    supervision = SparseLabels(rows, labels.astype(np.int32), weights, FRAMES, classes, one_per_row=True)
    request = {"input": times, "output": tuple(range(frames))}
    return Minibatch(sequences, request, {"input": inputs}, {"output": supervision})


def nnet3py_step(network: PnormNetwork | ReluNetwork, method: Method, kernels: str = "numpy") -> Callable[[], object]:
    trainer = Trainer(Network.from_config(network.config(), 1), TrainerOptions(method=method, print_interval=10**9))
    minibatch = network.minibatch()
    os.environ[switch.VARIABLE] = kernels
    switch.turn_on(0)
    chosen = switch.compiled()

    def step() -> None:
        switch._compiled = chosen
        trainer.train(minibatch)

    return step


def _pytorch_steps(network: PnormNetwork) -> dict[str, Callable[[], object]]:
    """Plain SGD in PyTorch, eager and compiled."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(1)

    class Pnorm(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            pooled = x.view(x.shape[0], network.pooled, -1).square().sum(2).sqrt()
            return pooled * pooled.square().mean(1, keepdim=True).clamp_min(1e-10).rsqrt()

    def step_of(compiled: bool) -> Callable[[], object]:
        modules: list[torch.nn.Module] = []
        for number, (input_dim, output_dim) in enumerate(network.affine_shapes(), 1):
            modules.append(torch.nn.Linear(input_dim, output_dim))
            if number <= network.layers:
                modules.append(Pnorm())
        model = torch.nn.Sequential(*modules)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
        batch = network.minibatch()
        labels = batch.outputs["output"]
        assert isinstance(labels, SparseLabels)
        inputs, classes = torch.from_numpy(batch.inputs["input"]), torch.from_numpy(labels.classes.astype(np.int64))
        loss = torch.nn.CrossEntropyLoss(reduction="sum")
        forward = torch.compile(model) if compiled else model

        def run() -> None:
            optimizer.zero_grad()
            loss(forward(inputs), classes).backward()
            optimizer.step()

        return run

    steps = {"PyTorch eager, plain SGD": step_of(False)}
    compiled = step_of(True)
    try:
        compiled()
        steps["PyTorch compiled, plain SGD"] = compiled
    except Exception as problem:  # it needs a C++ compiler
        print(f"PyTorch does not compile here: {type(problem).__name__}")
    return steps
