"""Training on a GPU beside the bare matrix products that it needs, and beside PyTorch, on the same card in one run.

*Share of the products* is the time of the bare products, forward, backward and update, in the same precision, recorded
in one CUDA graph, over the time of a step; natural gradient's own products are not among them. The time of a thing is
that of many repetitions, until the device has done them; the things take turns.

    python benchmarks/gpu.py [--seconds 2] [network ...] [--minibatch 512,4096] [--precision float32,tf32]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nnet3py.gpu.cuda_operations import CudaOperations
from nnet3py.gpu.trainer import DeviceTrainer
from nnet3py.nnet.network import Network
from nnet3py.train.minibatch import Minibatch, SparseLabels
from nnet3py.train.parameter_update import Method
from nnet3py.train.trainer import Trainer, TrainerOptions


@dataclass(frozen=True)
class GpuNetwork:
    """``layers`` hidden layers of ``hidden`` affine outputs: rectified, or p-norm to ``pooled`` and normalised."""

    name: str
    input_dim: int
    layers: int
    hidden: int
    pooled: int
    classes: int

    @property
    def title(self) -> str:
        if self.pooled == self.hidden:
            return f"{self.input_dim} → {self.layers} × [{self.hidden} → ReLU] → {self.classes}"
        return f"{self.input_dim} → {self.layers} × [{self.hidden} → p-norm {self.pooled}] → {self.classes}"

    def affine_shapes(self) -> list[tuple[int, int]]:
        """(input dim, output dim) of each affine layer."""
        inputs = [self.input_dim, *[self.pooled] * self.layers]
        return list(zip(inputs, [*[self.hidden] * self.layers, self.classes], strict=True))

    def config(self, learning_rate: float) -> str:
        """The network in nnet3's configuration language."""
        lines, last = [f"input-node name=input dim={self.input_dim}"], "input"

        def add(name: str, settings: str) -> None:
            nonlocal last
            lines.append(f"component name={name} {settings}")
            lines.append(f"component-node name={name} component={name} input={last}")
            last = name

        for number, (input_dim, output_dim) in enumerate(self.affine_shapes(), 1):
            dims = f"input-dim={input_dim} output-dim={output_dim} max-change=0.75 learning-rate={learning_rate}"
            scale = " param-stddev=0" if number > self.layers else ""
            add(f"affine{number}", f"type=NaturalGradientAffineComponent {dims}{scale}")
            if number > self.layers:
                break
            if self.pooled == self.hidden:
                add(f"relu{number}", f"type=RectifiedLinearComponent dim={self.hidden} self-repair-scale=1e-05")
            else:
                add(f"pnorm{number}", f"type=PnormComponent input-dim={self.hidden} output-dim={self.pooled}")
                add(f"renorm{number}", f"type=NormalizeComponent dim={self.pooled}")
        add("log-softmax", f"type=LogSoftmaxComponent dim={self.classes}")
        return "\n".join([*lines, f"output-node name=output input={last} objective=linear"])


NETWORKS = {
    network.name: network
    for network in (
        GpuNetwork("relu", 440, 6, 1024, 1024, 8000),
        GpuNetwork("pnorm", 440, 5, 3500, 350, 8000),
        GpuNetwork("small", 143, 4, 2000, 400, 288),
    )
}


def minibatch(network: GpuNetwork, frames: int, seed: int = 0) -> Minibatch:
    """Random frames whose class depends on them."""
    random = np.random.default_rng(seed)
    inputs = random.standard_normal((frames, network.input_dim)).astype(np.float32)
    directions = np.random.default_rng(7).standard_normal((network.input_dim, network.classes)).astype(np.float32)
    labels = (inputs @ directions).argmax(axis=1)
    supervision = SparseLabels(
        np.arange(frames), labels.astype(np.int32), np.ones(frames, np.float32), frames, network.classes, True
    )
    return Minibatch(frames, {"input": (0,), "output": (0,)}, {"input": inputs}, {"output": supervision})


def trained(ops: CudaOperations, network: GpuNetwork, method: Method, frames: int) -> Callable[[], object]:
    """A step, once all its forms have been recorded."""
    options = TrainerOptions(method=method, print_interval=10**9)
    trainer = DeviceTrainer(ops, Network.from_config(network.config(1e-5), 1), options)
    batch = minibatch(network, frames)
    for _ in range(120):
        trainer.train(batch)
    print(
        f"  {len(trainer._graphs)} forms recorded, {'recording' if trainer._recording else 'NOT recording'}", flush=True
    )
    return lambda: trainer.train(batch)


def bare_products(ops: CudaOperations, network: GpuNetwork, frames: int) -> Callable[[], object]:
    """The products alone, as one graph."""
    random = np.random.default_rng(1)
    products = []
    for number, (input_dim, output_dim) in enumerate(network.affine_shapes()):
        x, dy, weights = (
            ops.upload(random.standard_normal(shape).astype(np.float32))
            for shape in ((frames, input_dim), (frames, output_dim), (output_dim, input_dim))
        )
        products.append((ops.empty(dy.shape), x, weights, False, True))
        products.append((ops.empty(weights.shape), dy, x, True, False))
        if number > 0:  # the input needs no derivative
            products.append((ops.empty(x.shape), dy, weights, False, False))

    def run() -> None:
        for product in products:
            ops.product(*product)

    run()
    graph = ops.record(run)
    return lambda: (ops.replay(graph), products)  # the arrays must stay where the graph expects them


def pytorch_steps(network: GpuNetwork, frames: int, compile_too: bool) -> dict[str, Callable[[], object]]:
    """Plain SGD in PyTorch: eager, compiled, and as a CUDA graph."""
    import torch

    torch.manual_seed(1)

    class Pnorm(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            pooled = x.view(x.shape[0], network.pooled, -1).square().sum(2).sqrt()
            return pooled * pooled.square().mean(1, keepdim=True).clamp_min(1e-10).rsqrt()

    def model() -> Any:
        modules: list[Any] = []
        for number, (input_dim, output_dim) in enumerate(network.affine_shapes(), 1):
            modules.append(torch.nn.Linear(input_dim, output_dim))
            if number <= network.layers:
                modules.append(torch.nn.ReLU() if network.pooled == network.hidden else Pnorm())
        return torch.nn.Sequential(*modules).cuda()

    batch = minibatch(network, frames)
    inputs = torch.from_numpy(batch.inputs["input"]).cuda()
    labels = torch.from_numpy(batch.outputs["output"].classes.astype(np.int64)).cuda()  # type: ignore[union-attr]
    loss = torch.nn.CrossEntropyLoss(reduction="sum")

    def step_of(net: Any) -> tuple[Callable[[], object], Any]:
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-6, foreach=True)

        def step() -> None:
            optimizer.zero_grad(set_to_none=False)
            loss(net(inputs), labels).backward()
            optimizer.step()

        return step, optimizer

    eager, _ = step_of(model())
    steps = {"PyTorch eager": eager}
    if compile_too:
        compiled, _ = step_of(torch.compile(model()))
        compiled()
        steps["PyTorch compiled"] = compiled
    recorded, _ = step_of(model())
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(5):
            recorded()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded()
    steps["PyTorch, CUDA graph"] = graph.replay
    return steps


def timed(tasks: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Milliseconds of one run of each: the median over turns of a turn of many runs."""
    import cupy

    def turn(task: Callable[[], object], runs: int) -> float:
        cupy.cuda.Device().synchronize()
        start = time.perf_counter()
        for _ in range(runs):
            task()
        cupy.cuda.Device().synchronize()
        return (time.perf_counter() - start) / runs * 1e3

    runs, times = {}, {name: [] for name in tasks}
    for name, task in tasks.items():
        turn(task, 8)
        runs[name] = max(8, int(0.08 / (turn(task, 8) / 1e3)))
    end = time.perf_counter() + seconds * len(tasks)
    while time.perf_counter() < end or min(map(len, times.values())) < 3:
        for name, task in tasks.items():
            times[name].append(turn(task, runs[name]))
    return {name: statistics.median(taken) for name, taken in times.items()}


def speed(network: GpuNetwork, frames: int, precision: str, seconds: float, compile_too: bool) -> list[str]:
    """Rows of the table for one network, minibatch size and precision."""
    import torch

    torch.set_float32_matmul_precision({"float32": "highest", "tf32": "high"}.get(precision, "medium"))
    ops = CudaOperations(precision)
    tasks = {"bare products": bare_products(ops, network, frames)}
    tasks["nnet3py, natural gradient"] = trained(ops, network, Method.ONLINE, frames)
    tasks["nnet3py, plain SGD"] = trained(ops, network, Method.SGD, frames)
    tasks.update(pytorch_steps(network, frames, compile_too))
    times = timed(tasks, seconds)
    rows = []
    for name, taken in times.items():
        share = times["bare products"] / taken
        speed_of = f"{taken:.3f} | {frames / taken * 1e3:,.0f} | {share:.2f}"
        rows.append(f"| {network.title} | {frames} | {precision} | {name} | {speed_of} |")
        print(rows[-1], flush=True)
    return rows


def agreement(network: GpuNetwork, frames: int, minibatches: int, precision: str) -> str:
    """How far the parameters are from those that the CPU makes of the same minibatches."""
    config = network.config(2e-4)
    options = TrainerOptions(method=Method.ONLINE, print_interval=10**9)
    on_cpu, on_gpu = Network.from_config(config, 1), Network.from_config(config, 1)
    cpu, gpu = Trainer(on_cpu, options), DeviceTrainer(CudaOperations(precision), on_gpu, options)
    for seed in range(minibatches):
        batch = minibatch(network, frames, seed)
        cpu.train(batch)
        gpu.train(batch)
    gpu.finish()
    start = Network.from_config(config, 1)
    squares, moved = 0.0, 0.0
    for name, component in on_cpu.updatable_components().items():
        for field, parameter in component.parameters().items():
            squares += float(np.square(parameter - on_gpu.components[name].parameters()[field]).sum())
            moved += float(np.square(parameter - start.components[name].parameters()[field]).sum())
    size = sum(float(np.square(p).sum()) for c in on_cpu.components.values() for p in c.parameters().values())
    objectives = [trainer.logs["output"].overall.average for trainer in (cpu, gpu)]
    return (
        f"{network.title}, {frames} frames, {minibatches} minibatches, {precision}: parameters differ by "
        f"{(squares / size) ** 0.5:.2e} of their norm, {(squares / moved) ** 0.5:.2e} of the way they went; objective "
        f"{objectives[0]:.6f} on the CPU, {objectives[1]:.6f} on the GPU"
    )


def profile(network: GpuNetwork, frames: int, precision: str) -> None:
    """Print what the kernels of a step take, by name, most first."""
    import torch

    step = trained(CudaOperations(precision), network, Method.ONLINE, frames)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        for _ in range(40):
            step()
        torch.cuda.synchronize()
    totals: dict[str, list[float]] = {}
    begin, end = min(e.time_range.start for e in found.events()), max(e.time_range.end for e in found.events())
    for event in found.events():
        total = totals.setdefault(event.name[:70], [0.0, 0])
        total[0] += event.time_range.end - event.time_range.start
        total[1] += 1
    print(f"{(end - begin) / 40:.0f} µs a step; sum of kernels {sum(t for t, _ in totals.values()) / 40:.0f}")
    for name, (total, count) in sorted(totals.items(), key=lambda item: -item[1][0])[:28]:
        print(f"{total / 40:8.1f} µs a step {count / 40:6.1f} times {total / count:7.1f} µs  {name}")


def shard(network: GpuNetwork, frames: int, precision: str) -> None:
    """Run the program on a shard of about 400,000 frames of this network's size, and print what it took."""
    import subprocess
    import tempfile

    from nnet3py.egs.example import EXAMPLE, Example, NnetIo
    from nnet3py.nnet.model_file import write_network
    from nnet3py.tables.sparse_matrix import SparseMatrix
    from nnet3py.tables.table import TableWriter

    count = 400_000 // frames
    indexes = np.array([(n, 0, 0) for n in range(frames)], np.int32)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        write_network(str(path / "0.raw"), Network.from_config(network.config(1e-4), 1), True)
        with TableWriter(f"ark:{path}/egs.ark", EXAMPLE) as writer:
            for number in range(8):
                batch = minibatch(network, frames, number)
                classes = batch.outputs["output"].classes.tolist()  # type: ignore[union-attr]
                labels = SparseMatrix.from_rows([[(label, 1.0)] for label in classes], network.classes)
                inputs = NnetIo("input", indexes, batch.inputs["input"])
                writer.write(f"eg-{number}", Example([inputs, NnetIo("output", indexes, labels)]))
        data = (path / "egs.ark").read_bytes()
        with open(path / "egs.ark", "wb") as archive:
            for _ in range(-(-count // 8)):
                archive.write(data)
        root = Path(__file__).resolve().parent.parent
        command = [sys.executable, str(root / "bin" / "nnet-train-shard"), "--use-gpu=yes"]
        command += [f"--gpu-precision={precision}", f"{path}/0.raw", f"ark:{path}/egs.ark", f"{path}/1.raw"]
        environment = {**os.environ, "PYTHONPATH": str(root)}  # nnet3py need not be installed
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        taken = time.perf_counter() - start
        lines = done.stderr.splitlines()
        print("\n".join(line[:160] for line in (lines[:3] + lines[-4:])))
        total = -(-count // 8) * 8 * frames
        what = f"{network.title}, {total:,} frames in minibatches of {frames}, {precision}"
        print(f"nnet-train-shard, {what}: {taken:.1f} s, exit status {done.returncode}", flush=True)


def main() -> None:
    """Print the card, how CPU and GPU agree, and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=["relu", "pnorm"])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--minibatch", default="512,4096")
    parser.add_argument("--precision", default="float32,tf32")
    parser.add_argument("--compile", action="store_true", help="also compiled PyTorch, which takes minutes to compile")
    parser.add_argument(
        "--agreement", type=int, default=0, metavar="N", help="compare with the CPU after N minibatches"
    )
    parser.add_argument("--profile", action="store_true", help="what the time of the first network's steps goes to")
    parser.add_argument("--shard", action="store_true", help="the program on a shard of 400,000 frames")
    given = parser.parse_args()
    print(CudaOperations().description(), flush=True)
    for precision in given.precision.split(",") if given.agreement else ():
        print(agreement(NETWORKS["small"], 512, given.agreement, precision), flush=True)
    if given.profile:
        profile(NETWORKS[given.networks[0]], int(given.minibatch.split(",")[0]), given.precision.split(",")[0])
        return
    if given.shard:
        for precision in given.precision.split(","):
            shard(NETWORKS[given.networks[0]], int(given.minibatch.split(",")[0]), precision)
        return
    for name in given.networks:
        for frames in map(int, given.minibatch.split(",")):
            for precision in given.precision.split(","):
                speed(NETWORKS[name], frames, precision, given.seconds, given.compile)


if __name__ == "__main__":
    main()
