"""One training step beside the bare matrix products that it needs, and beside PyTorch.

*Efficiency* is the time of the bare products, forward, backward and update, of the same shapes, over the time of the
step; natural gradient's own products are not among them. One thread, minibatches of 512 frames.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import timing

from nnet3py.egs.minibatch import Minibatch, SparseLabels
from nnet3py.nnet.network import Network
from nnet3py.train.kept_memory import keep_freed_memory
from nnet3py.train.parameter_update import Method
from nnet3py.train.trainer import Trainer, TrainerOptions

FRAMES = 512
SECONDS = 15.0


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
        lines, last = [f"input-node name=input dim={self.input_dim}"], "input"

        def add(name: str, settings: str) -> None:
            nonlocal last
            lines.append(f"component name={name} {settings}")
            lines.append(f"component-node name={name} component={name} input={last}")
            last = name

        for number, (input_dim, output_dim) in enumerate(self.affine_shapes(), 1):
            dims = f"input-dim={input_dim} output-dim={output_dim} max-change=0.75"
            add(f"affine{number}", f"type=NaturalGradientAffineComponent {dims}")
            if number <= self.layers:
                add(f"pnorm{number}", f"type=PnormComponent input-dim={self.hidden} output-dim={self.pooled}")
                add(f"renorm{number}", f"type=NormalizeComponent dim={self.pooled}")
        add("log-softmax", f"type=LogSoftmaxComponent dim={self.classes}")
        return "\n".join([*lines, f"output-node name=output input={last} objective=linear"])


NETWORKS = (PnormNetwork(143, 3, 1000, 200, 288), PnormNetwork(143, 4, 2000, 400, 288))


def report() -> list[str]:
    """A table: frames a second of each way to do a step, and its efficiency (median over turns of the ratio)."""
    lines = ["| network | step | frames a second | efficiency |", "| --- | --- | --- | --- |"]
    keep_freed_memory()
    for network in NETWORKS:
        tasks: dict[str, Callable[[], object]] = {"bare products": _bare_products(network)}
        tasks["nnet3py, natural gradient"] = _nnet3py_step(network, Method.ONLINE)
        tasks["nnet3py, plain SGD"] = _nnet3py_step(network, Method.SGD)
        try:
            tasks["PyTorch eager, plain SGD"] = _pytorch_step(network)
        except ImportError:
            lines.append(f"| {network.title} | PyTorch is not installed here: not measured | | |")
        times = timing.interleaved(tasks, SECONDS, warmups=20)
        for name, taken in times.items():
            efficiency = timing.median_ratio(times["bare products"], taken)
            lines.append(f"| {network.title} | {name} | {FRAMES / statistics.median(taken):,.0f} | {efficiency:.2f} |")
    return lines


def _data(network: PnormNetwork) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    inputs = random.standard_normal((FRAMES, network.input_dim)).astype(np.float32)
    return inputs, random.integers(0, network.classes, FRAMES)


def _bare_products(network: PnormNetwork) -> Callable[[], object]:
    random = np.random.default_rng(1)
    products = []
    for number, (input_dim, output_dim) in enumerate(network.affine_shapes()):
        x = random.standard_normal((FRAMES, input_dim)).astype(np.float32)
        dy = random.standard_normal((FRAMES, output_dim)).astype(np.float32)
        weights = random.standard_normal((output_dim, input_dim)).astype(np.float32)
        products.append((x, weights.T, np.empty_like(dy)))
        products.append((dy.T, x, np.empty_like(weights)))
        if number > 0:  # the input needs no derivative
            products.append((dy, weights, np.empty_like(x)))

    def run() -> None:
        for left, right, out in products:
            np.matmul(left, right, out=out)

    return run


def example_minibatch(network: PnormNetwork) -> Minibatch:
    """Random frames with random labels, for a network."""
    inputs, labels = _data(network)
    rows, weights = np.arange(FRAMES), np.ones(FRAMES, np.float32)
    supervision = SparseLabels(rows, labels.astype(np.int32), weights, FRAMES, network.classes, one_per_row=True)
    return Minibatch(FRAMES, {"input": (0,), "output": (0,)}, {"input": inputs}, {"output": supervision})


def _nnet3py_step(network: PnormNetwork, method: Method) -> Callable[[], object]:
    trainer = Trainer(Network.from_config(network.config(), 1), TrainerOptions(method=method, print_interval=10**9))
    minibatch = example_minibatch(network)
    return lambda: trainer.train(minibatch)


def _pytorch_step(network: PnormNetwork) -> Callable[[], object]:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(1)

    class Pnorm(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            pooled = x.view(x.shape[0], network.pooled, -1).square().sum(2).sqrt()
            return pooled * pooled.square().mean(1, keepdim=True).clamp_min(1e-10).rsqrt()

    modules: list[torch.nn.Module] = []
    for number, (input_dim, output_dim) in enumerate(network.affine_shapes(), 1):
        modules.append(torch.nn.Linear(input_dim, output_dim))
        if number <= network.layers:
            modules.append(Pnorm())
    model = torch.nn.Sequential(*modules)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
    inputs, labels = (torch.from_numpy(array) for array in _data(network))
    loss = torch.nn.CrossEntropyLoss(reduction="sum")

    def run() -> None:
        optimizer.zero_grad()
        loss(model(inputs), labels).backward()
        optimizer.step()

    return run
