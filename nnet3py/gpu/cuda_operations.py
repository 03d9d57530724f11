"""The operations of a training step on an NVIDIA GPU, by CuPy, cuBLASLt and the kernels in ``kernels/``.

The arithmetic is that of :class:`nnet3py.gpu.operations.HostOperations`, whose docstrings say what each one does. Sums
are taken in an order that does not depend on timing: the same inputs give the same bits.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnet3py.errors import UserError
from nnet3py.gpu.matrix_product import MatrixProducts
from nnet3py.gpu.operations import NONLINEARITIES, Array, Chunks, Estimate, HostOperations, Labels, Layer

_SOURCES = Path(__file__).parent / "kernels"
_THREADS = 256
_SIDE_STREAMS = 3
_RESIDUAL_BLOCKS = 512
_DENSE_BLOCKS = 128
_ROWS_OF_BLOCK = 512  # of sums of columns
_SLICE = 64  # columns, as in natural_gradient.cu
_MOST_RANK = 128  # of products_of_rows
_MOST_KEPT = 48 * 1024  # bytes of a row that a softmax keeps
_MODULES = ("elementwise", "columns", "rows", "objective", "change", "natural_gradient")


def kernel_source(module: str) -> str:
    """The CUDA source of a module of kernels, complete."""
    return "".join(path.read_text() for path in (*sorted(_SOURCES.glob("*.h")), _SOURCES / f"{module}.cu"))


def kernels_of(source: str) -> list[tuple[str, str]]:
    """The name and the parameters of each kernel of a source."""
    return re.findall(r"__global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(([^)]*)\)", source)


class _Slot:
    """Memory through which one array after the other goes to the same place on the device."""

    def __init__(self, cupy: Any, array: np.ndarray) -> None:
        self.target = cupy.empty(array.shape, array.dtype)
        self.turn = 0
        self.pinned = []
        self.staging = [cupy.empty(array.shape, array.dtype) for _ in range(2)]
        self.sent = [cupy.cuda.Event(disable_timing=True) for _ in range(2)]
        self.taken = [cupy.cuda.Event(disable_timing=True) for _ in range(2)]
        for _ in range(2):
            memory = cupy.cuda.alloc_pinned_memory(max(1, array.nbytes))
            self.pinned.append(np.frombuffer(memory, array.dtype, array.size).reshape(array.shape))


class CudaOperations(HostOperations):
    """The operations on the present device; ``precision`` of products: float32, tf32 or bfloat16."""

    on_device = True

    def __init__(self, precision: str = "float32") -> None:
        os.environ.setdefault("CUDA_MODULE_LOADING", "EAGER")  # nothing is to be loaded while a graph is recorded
        import cupy  # type: ignore[import-not-found]

        self.xp = cupy
        self._precision = precision
        self._products = MatrixProducts(cupy)
        self._kernels: dict[str, Any] = {}
        for module in _MODULES:
            source = kernel_source(module)
            compiled = cupy.RawModule(code=source, options=("--std=c++14",))
            for name, _ in kernels_of(source):
                self._kernels[name] = compiled.get_function(name)
        self.stream = self._present = cupy.cuda.Stream(non_blocking=True)
        self.stream.use()
        sides = int(os.environ.get("NNET3PY_SIDE_STREAMS", str(_SIDE_STREAMS)))
        self._sides = [cupy.cuda.Stream(non_blocking=True) for _ in range(sides)]
        self._next_side = 0
        self._used_sides: list[Any] = []
        self._copying = cupy.cuda.Stream(non_blocking=True)
        for stream in (self.stream, *self._sides):
            self._products.prepare(stream.ptr)
        self._held: list[Array] = []
        self._slots: dict[Hashable, _Slot] = {}
        self._residuals = {
            stream.ptr: [cupy.zeros(_RESIDUAL_BLOCKS, np.float64) for _ in range(2)]
            for stream in (self.stream, *self._sides)
        }
        self._dense_partial = cupy.zeros(_DENSE_BLOCKS, np.float64)
        self._pool = cupy.cuda.MemoryPool()
        self._shared_limit = int(cupy.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"])
        self.stream.synchronize()

    def description(self) -> str:
        """The device's name and memory."""
        runtime = self.xp.cuda.runtime
        properties = runtime.getDeviceProperties(runtime.getDevice())
        free, total = runtime.memGetInfo()
        return f"{properties['name'].decode()} ({free / 2**30:.1f} of {total / 2**30:.1f} GiB free)"

    # Arrays

    def empty(self, shape: Any, dtype: Any = np.float32) -> Array:
        return self.xp.empty(shape, dtype)

    def zeros(self, shape: Any, dtype: Any = np.float32) -> Array:
        return self.xp.zeros(shape, dtype)

    def upload(self, array: np.ndarray) -> Array:
        return self.xp.asarray(np.ascontiguousarray(array))

    def download(self, array: Array) -> np.ndarray:
        found = np.asarray(self.xp.asnumpy(array))
        self._present.use()  # CuPy goes back to the default stream after it has copied
        return found

    def send(self, key: Hashable, array: np.ndarray) -> Array:
        array = np.ascontiguousarray(array)
        key = (key, array.shape, array.dtype.str)
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = _Slot(self.xp, array)
        turn = slot.turn = 1 - slot.turn
        slot.sent[turn].synchronize()
        np.copyto(slot.pinned[turn], array)
        self._copying.wait_event(slot.taken[turn])
        runtime = self.xp.cuda.runtime
        runtime.memcpyAsync(
            slot.staging[turn].data.ptr, slot.pinned[turn].ctypes.data, array.nbytes, runtime.memcpyHostToDevice,
            self._copying.ptr,
        )  # fmt: skip
        slot.sent[turn].record(self._copying)
        self.stream.wait_event(slot.sent[turn])
        self.xp.copyto(slot.target, slot.staging[turn])
        slot.taken[turn].record(self.stream)
        return slot.target

    def download_later(self, array: Array) -> Callable[[], np.ndarray]:
        cupy = self.xp
        memory = cupy.cuda.alloc_pinned_memory(array.nbytes)
        found = np.frombuffer(memory, array.dtype, array.size).reshape(array.shape)
        self._copying.wait_event(self.stream.record())
        runtime = cupy.cuda.runtime
        runtime.memcpyAsync(
            found.ctypes.data, array.data.ptr, array.nbytes, runtime.memcpyDeviceToHost, self._copying.ptr
        )
        done = self._copying.record()

        def wait() -> np.ndarray:
            done.synchronize()
            return found

        return wait

    @contextlib.contextmanager
    def aside(self, *arrays: Array) -> Iterator[None]:
        if not self._sides:
            yield
            return
        side = self._sides[self._next_side]
        self._next_side = (self._next_side + 1) % len(self._sides)
        side.wait_event(self.stream.record())
        self._held.extend(arrays)
        if side not in self._used_sides:
            self._used_sides.append(side)
        self._present = side
        side.use()
        try:
            yield
        finally:
            self._present = self.stream
            self.stream.use()

    def join(self) -> None:
        for side in self._used_sides:
            self.stream.wait_event(side.record())
        self._used_sides.clear()
        self._held.clear()
        self._next_side = 0

    def record(self, body: Callable[[], None]) -> Any:
        stream = self.stream
        with self.xp.cuda.using_allocator(self._pool.malloc):
            stream.begin_capture(self.xp.cuda.runtime.streamCaptureModeRelaxed)
            try:
                body()
            except BaseException:
                self.join()
                with contextlib.suppress(Exception):
                    stream.end_capture()
                raise
            graph = stream.end_capture()
        graph.upload(stream)
        return graph

    def replay(self, recorded: Any) -> None:
        recorded.launch(self.stream)

    # Launching

    def _launch(self, name: str, blocks: Any, threads: int, *arguments: Any, shared: int = 0) -> None:
        grid = blocks if isinstance(blocks, tuple) else (int(blocks),)
        if 0 in grid:
            return
        kernel = self._kernels[name]
        if shared > 48 * 1024 and kernel.max_dynamic_shared_size_bytes < shared:
            kernel.max_dynamic_shared_size_bytes = shared
        kernel(grid, (threads,), arguments, shared_mem=shared)

    def _pointer(self, array: Array | None) -> Any:
        """The address of an array, 0 for none."""
        return np.uint64(0 if array is None else array.data.ptr)

    def _scratch_of_stream(self) -> list[Array]:
        """Partial sums of the kernel ``residual`` for each side, on the present stream."""
        return self._residuals[self._present.ptr]

    def _each(self, name: str, count: int, *arguments: Any) -> None:
        """A thread for each of ``count`` numbers."""
        self._launch(name, -(-count // _THREADS), _THREADS, *arguments)

    def _columns(self, name: str, columns: int, *arguments: Any) -> None:
        self._launch(name, -(-columns // 32), 1024, *arguments)

    # Products

    def product(
        self,
        out: Array,
        left: Array,
        right: Array,
        transpose_left: bool = False,
        transpose_right: bool = False,
        alpha: Any = 1.0,
        beta: float = 0.0,
        bias: Array | None = None,
        exact: bool = False,
    ) -> Array:
        return self._products(
            out, left, right, transpose_left=transpose_left, transpose_right=transpose_right, alpha=alpha, beta=beta,
            bias=bias, precision="float32" if exact else self._precision, stream=self._present.ptr,
        )  # fmt: skip

    # Nonlinearities

    def activate(self, kind: str, x: Array) -> Array:
        y = self.xp.empty_like(x)
        self._each("activate", x.size, _int(NONLINEARITIES.index(kind)), x, y, _long(x.size))
        return y

    def times_slope(self, kind: str, y: Array, dy: Array) -> None:
        self._each("times_slope", y.size, _int(NONLINEARITIES.index(kind)), y, dy, _long(y.size))

    def add_statistics(self, kind: str | None, y: Array, value_sum: Array, deriv_sum: Array, counters: Array) -> None:
        number = -1 if kind is None else NONLINEARITIES.index(kind)
        rows, columns = y.shape
        self._columns(
            "add_statistics", columns, _int(number), y, _long(rows), _int(columns), value_sum, deriv_sum, counters
        )

    def add_column_squares(self, dy: Array, sums: Array, counters: Array) -> None:
        rows, columns = dy.shape
        self._columns("add_column_squares", columns, dy, _long(rows), _int(columns), sums, counters)

    def repair(
        self,
        kind: str,
        y: Array,
        dx: Array,
        deriv_sum: Array,
        counters: Array,
        block_dim: int,
        thresholds: tuple[float, float],
        scale: float,
    ) -> None:
        rows, columns = y.shape
        self._columns(
            "repair", columns, _int(NONLINEARITIES.index(kind)), y, dx, _int(rows), _int(columns), _int(block_dim),
            deriv_sum, counters, np.float64(thresholds[0]), np.float64(thresholds[1]), np.float32(scale),
        )  # fmt: skip

    def softmax(self, x: Array, take_log: bool) -> Array:
        y, bytes_ = self.xp.empty_like(x), 4 * x.shape[1]
        kept = bytes_ <= _MOST_KEPT
        self._launch(
            "log_softmax", len(x), 512 if x.shape[1] > 2048 else _THREADS, x, y, _int(x.shape[1]), _int(not take_log),
            _int(kept), shared=bytes_ if kept else 0,
        )  # fmt: skip
        return y

    def softmax_backward(self, y: Array, dy: Array, took_log: bool) -> None:
        self._launch("log_softmax_backward", len(y), _THREADS, y, dy, _int(y.shape[1]), _int(not took_log))

    def label_squares(self, labels: Labels, sums: Array, counters: Array) -> None:
        self._each(
            "label_squares", len(sums), labels.classes, labels.weights, _int(len(labels.classes)), _int(len(sums)),
            sums, counters,
        )  # fmt: skip

    def log_softmax_label_backward(self, y: Array, labels: Labels) -> Array:
        dx = self.xp.empty_like(y)
        self._launch(
            "log_softmax_label_backward", len(y), _THREADS, y, dx, _int(y.shape[1]), labels.classes, labels.weights
        )
        return dx

    # Columns

    def sum_groups(self, x: Array, starts: Array) -> Array:
        y = self.xp.empty((len(x), len(starts) - 1), np.float32)
        self._each("sum_groups", y.size, x, y, starts, _uint(y.size), _uint(y.shape[1]), _uint(x.shape[1]))
        return y

    def take_columns(self, x: Array, columns: Array) -> Array:
        y = self.xp.empty((len(x), len(columns)), np.float32)
        self._each("take_columns", y.size, x, y, columns, _uint(y.size), _uint(y.shape[1]), _uint(x.shape[1]))
        return y

    # Norms

    def pnorm(self, x: Array, num_groups: int) -> Array:
        y = self.xp.empty((len(x), num_groups), np.float32)
        self._each("pnorm", y.size, x, y, _long(y.size), _int(x.shape[1] // num_groups))
        return y

    def pnorm_backward(self, x: Array, y: Array, dy: Array) -> Array:
        dx = self.xp.empty_like(x)
        self._each("pnorm_backward", x.size, x, y, dy, dx, _uint(x.size), _uint(x.shape[1] // y.shape[1]))
        return dx

    def normalize(self, x: Array, block_dim: int, rms: float, log_stddev: bool) -> tuple[Array, Array]:
        rows = x.size // block_dim
        y = self.xp.empty((len(x), x.shape[1] + (rows // max(1, len(x)) if log_stddev else 0)), np.float32)
        factors = self.xp.empty(rows, np.float32)
        self._launch(
            "normalize", -(-rows // 8), 256, x, y, factors, _long(rows), _int(block_dim), np.float32(rms),
            _int(log_stddev),
        )  # fmt: skip
        return y, factors

    def normalize_backward(
        self, x: Array, factors: Array, dy: Array, block_dim: int, rms: float, log_stddev: bool
    ) -> Array:
        rows, dx = x.size // block_dim, self.xp.empty_like(x)
        self._launch(
            "normalize_backward", -(-rows // 8), 256, x, factors, dy, dx, _long(rows), _int(block_dim),
            np.float32(rms), _int(log_stddev),
        )  # fmt: skip
        return dx

    def batch_norm(
        self, x: Array, epsilon: float, rms: float, statistics: Array | None, fade: float
    ) -> tuple[Array, Array]:
        rows, columns = x.shape
        z, scale = self.xp.empty_like(x), self.xp.empty(columns, np.float32)
        self._columns(
            "batch_norm", columns, x, _long(rows), _int(columns), np.float32(epsilon), np.float32(rms), z, scale,
            self._pointer(statistics), np.float64(fade),
        )  # fmt: skip
        return z, scale

    def batch_norm_backward(self, z: Array, scale: Array, dz: Array, rms: float) -> None:
        rows, columns = z.shape
        self._columns("batch_norm_backward", columns, z, scale, dz, _long(rows), _int(columns), np.float32(rms))

    # Objectives

    def sparse_objective(self, output: Array, labels: Labels, values: Array, slot: Array) -> None:
        self._launch(
            "sparse_objective", 1, 1024, output, _int(output.shape[1]), labels.rows, labels.classes, labels.weights,
            _int(len(labels.classes)), values, slot,
        )  # fmt: skip

    def sparse_derivative(self, output: Array, labels: Labels) -> Array:
        derivative, count = self.xp.zeros(output.shape, np.float32), len(labels.classes)
        self._each(
            "scatter_labels", count, derivative, _int(output.shape[1]), labels.rows, labels.classes, labels.weights,
            _int(count),
        )  # fmt: skip
        return derivative

    def dense_objective(self, kind: str, output: Array, targets: Array, values: Array, slot: Array) -> Array:
        derivative = self.xp.empty_like(output)
        self._launch(
            "dense_objective", _DENSE_BLOCKS, 1024, _int(kind == "quadratic"), output, targets, derivative,
            _long(output.size), self._dense_partial,
        )  # fmt: skip
        self._launch("store_sum", 1, 1, self._dense_partial, _int(_DENSE_BLOCKS), values, slot)
        return derivative

    def advance(self, slot: Array, capacity: int) -> None:
        self._launch("next_slot", 1, 1, slot, _int(capacity))

    # The change of all parameters

    def squared_norms(self, delta: Array, parameters: Array, chunks: Chunks, l2_factors: Array) -> None:
        self._launch(
            "squared_norms", len(chunks.component), _THREADS, delta, parameters, chunks.component, chunks.start,
            chunks.length, l2_factors, chunks.partial,
        )  # fmt: skip

    def limit(
        self,
        chunks: Chunks,
        max_changes: Array,
        max_param_change: float,
        scale: float,
        max_change_scale: float,
        scales: Array,
        counts: Array,
    ) -> None:
        self._launch(
            "limit", 1, _THREADS, chunks.partial, chunks.first, _int(len(chunks.spans)), max_changes,
            np.float64(max_param_change), np.float64(scale), np.float64(max_change_scale), scales, counts,
        )  # fmt: skip

    def apply_change(self, delta: Array, parameters: Array, chunks: Chunks, scales: Array, momentum: float) -> None:
        self._launch(
            "apply_change", len(chunks.component), _THREADS, delta, parameters, chunks.component, chunks.start,
            chunks.length, scales, np.float32(momentum),
        )  # fmt: skip

    # Natural gradient

    def column_sums(self, x: Array, sums: Array | None, squares: Array | None) -> None:
        rows, columns = x.shape
        stride = x.strides[0] // 4 if rows > 1 else columns
        self._launch(
            "column_sums", (-(-columns // 32), self.parts_of(rows)), 1024, x, _int(rows), _int(columns), _int(stride),
            _int(_ROWS_OF_BLOCK), self._pointer(sums), self._pointer(squares),
        )  # fmt: skip

    def parts_of(self, rows: int) -> int:
        return max(1, -(-rows // _ROWS_OF_BLOCK))

    def num_squares(self, rows: int, columns: int) -> int:
        return self.parts_of(rows) * max(1, -(-columns // 32))

    def add_sum_of_rows(self, target: Array, rows: Array, factor: float) -> None:
        parts, columns = rows.shape
        self._each("add_sum_of_rows", columns, target, rows, _int(parts), _int(columns), np.float32(factor))

    def add_row(self, x: Array, row: Array) -> None:
        rows, columns = x.shape
        stride = x.strides[0] // 4 if rows > 1 else columns
        self._each("add_row", x.size, x, row, _uint(x.size), _uint(columns), _uint(stride))

    def layer_step(self, layer: Layer, dy: Array, x: Array, learning_rate: float) -> None:
        rank_y, rank_x = layer.y.rank, layer.x.rank
        ones = len(x) if layer.x.ones is not None else 0
        self._launch(
            "layer_norms", 1, 1024, layer.G, _int(rank_y), _int(rank_x), layer.y.gram, layer.x.gram, layer.squares_y,
            _int(len(layer.squares_y)), layer.squares_x, _int(len(layer.squares_x)), np.float64(ones), layer.sums,
        )  # fmt: skip
        partial = self._scratch_of_stream()
        stride = _int(rank_y + rank_x)
        sides = (x, layer.x, layer.H[:, rank_y:], partial[0]), (dy, layer.y, layer.H, partial[1])
        arguments = [
            (
                rows, _int(rows.shape[1]), self._pointer(H), estimate.W, self._pointer(estimate.ones),
                _int(estimate.rank), of_side,
            )
            for rows, estimate, H, of_side in sides
        ]  # fmt: skip
        self._launch(
            "residual", (_RESIDUAL_BLOCKS, 2), _THREADS, _int(len(x)), stride, layer.sums, *arguments[0],
            *arguments[1], shared=16 * max(rank_x, rank_y, 1),
        )  # fmt: skip
        self._launch(
            "layer_step", 1, _THREADS, layer.sums, partial[1], partial[0], _int(_RESIDUAL_BLOCKS),
            np.float64(learning_rate), layer.factors, layer.G, _int(rank_y), _int(rank_x), layer.h_sums,
            _int(len(layer.h_sums)), self._pointer(layer.x.ones), layer.right_ones,
            self._pointer(layer.x.J_ones),
        )  # fmt: skip

    def bias_change(self, delta: Array, layer: Layer) -> None:
        rank, dim = layer.left.shape
        self._launch(
            "bias_change", -(-dim // 32), 256, delta, layer.y_sums, _int(len(layer.y_sums)), layer.left,
            _int(rank), _int(dim), layer.right_ones, layer.factors,
        )  # fmt: skip

    def estimate_table(self, estimates: Sequence[Estimate]) -> Any:
        largest = max(e.rank for e in estimates)
        if largest > _MOST_RANK or _jacobi_bytes(largest) > self._shared_limit - 1024:
            raise UserError(f"A rank of natural gradient of {largest} is too large for this GPU: give --use-gpu=no.")
        pointers = [
            [
                int(self._pointer(array))
                for array in (
                    e.W, e.ones, e.J, e.J_ones, e.K, e.L, e.gram, e.d, e.rho, e.A, e.coefficients, e.squared_norm,
                )
            ]
            for e in estimates
        ]  # fmt: skip
        integers = [[e.rank, e.W.shape[1], e.L.strides[0] // 4, e.num_rows] for e in estimates]
        numbers = [[e.alpha, e.eta] for e in estimates]
        slices = [-(-e.W.shape[1] // _SLICE) for e in estimates]
        first_part = np.cumsum([0, *(n * e.rank**2 for n, e in zip(slices, estimates, strict=True))])
        return (
            list(estimates),
            self.upload(np.array(pointers, np.int64)),
            self.upload(np.array(integers, np.int32)),
            self.upload(np.array(numbers, np.float64)),
            self.upload(first_part.astype(np.int64)),
            self.empty(int(first_part[-1])),
            max(slices),
        )

    def renew(self, table: Any, status: Array) -> None:
        estimates, pointers, integers, numbers, first_part, parts, slices = table
        count = len(estimates)
        rank, widest = max(e.rank for e in estimates), max(e.dim for e in estimates)

        def products(which: int) -> None:
            self._launch(
                "products_of_rows", (slices, count), 256, pointers, integers, _int(which), first_part, parts,
                shared=4 * rank * (_SLICE + 1),
            )  # fmt: skip
            self._launch(
                "sum_products", (-(-rank * rank // 256), count), 256, pointers, integers, numbers, _int(which),
                first_part, parts, status,
            )  # fmt: skip

        products(0)
        self._launch("renew_estimates", count, 1024, pointers, integers, numbers, status, shared=_jacobi_bytes(rank))
        self._launch(
            "renew_W", (-(-widest // 32), count), 256, pointers, integers, status, shared=4 * rank * (rank + 32)
        )
        products(1)


def _jacobi_bytes(rank: int) -> int:
    """Dynamic shared memory of the kernel renew_estimates."""
    return 8 * (2 * rank * (rank + 1) + 7 * (rank + 1))


_int, _uint, _long = np.int32, np.uint32, np.int64
