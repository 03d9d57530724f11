"""Matrix products by cuBLASLt, called through ctypes.

CuPy's own products refuse to be recorded in a CUDA graph, and offer neither the reduced precisions of the matrix units
for float32 arrays nor a factor that lies on the device. The library is the one that CuPy has loaded.

Source: NVIDIA, "cuBLAS Library User Guide", chapter "Using the cuBLASLt API".
"""

from __future__ import annotations

import ctypes
from ctypes import byref, c_float, c_int, c_int32, c_int64, c_size_t, c_uint64, c_void_p
from typing import Any

from nnet3py.errors import UserError

_FLOAT = 0  # CUDA_R_32F
_COMPUTE = {"float32": 68, "bfloat16": 75, "tf32": 77}  # CUBLAS_COMPUTE_32F, ..._FAST_16BF, ..._FAST_TF32
PRECISIONS = tuple(_COMPUTE)
_POINTER_MODE, _TRANSPOSE_A, _TRANSPOSE_B, _EPILOGUE, _BIAS = 2, 3, 4, 7, 8
_ADD_BIAS = 4
_DEVICE_POINTERS = 1
_MAX_WORKSPACE = 1
_WORKSPACE_BYTES = 1 << 25


class _Heuristic(ctypes.Structure):
    _fields_ = (
        ("algorithm", c_uint64 * 8),
        ("workspace", c_size_t),
        ("state", c_int),
        ("waves", c_float),
        ("reserved", c_int * 4),
    )


def _library() -> Any:
    """cuBLASLt as CuPy finds it: by the name that this process has loaded it under."""
    import cupy_backends.cuda.libs.cublas  # type: ignore[import-not-found]  # noqa: F401  (loads cuBLAS, which needs cuBLASLt)

    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            path = line.split(maxsplit=5)[-1].rstrip("\n")
            if "libcublasLt.so" in path:
                return ctypes.CDLL(path)
    for name in ("libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise UserError("The library cuBLASLt, a part of CUDA, was not found: install CuPy with its CUDA libraries.")


def _check(status: int, what: str) -> None:
    if status != 0:
        raise RuntimeError(f"{what} failed with cuBLAS status {status}")


class MatrixProducts:
    """Products of float32 matrices on the device, row by row in memory, in one of :data:`PRECISIONS`.

    What is found out about a product's shape is kept. Each stream has a workspace of its own, so that a product gives
    the same bits whatever runs beside it.
    """

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self._lib = _library()
        self._handle = c_void_p()
        _check(self._lib.cublasLtCreate(byref(self._handle)), "cublasLtCreate")
        self._plans: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        self._workspaces: dict[int, Any] = {}
        self._constants = cupy.array([0.0, 1.0], cupy.float32)

    def __call__(
        self,
        out: Any,
        left: Any,
        right: Any,
        *,
        transpose_left: bool = False,
        transpose_right: bool = False,
        alpha: Any = 1.0,
        beta: float = 0.0,
        bias: Any = None,
        precision: str = "float32",
        stream: int,
    ) -> Any:
        """``out = alpha op(left) op(right) + beta out (+ bias to each row)``; returns ``out``.

        Arrays are (rows, columns) float32 whose columns are neighbours in memory. ``alpha`` is a number, or an array of
        one on the device (then ``beta`` is 0 or 1). ``op`` is the transpose where it is asked for. ``stream``: the
        address of the stream that it is started on.
        """
        rows, columns = out.shape
        inner = left.shape[0] if transpose_left else left.shape[1]
        if rows == 0 or columns == 0 or inner == 0:
            if beta == 0.0:
                out.fill(0.0)
                if bias is not None:
                    out += bias
            return out
        on_device = not isinstance(alpha, float)
        factors: tuple[Any, Any]
        strides = tuple(array.strides[0] // 4 if array.shape[0] > 1 else array.shape[1] for array in (left, right, out))
        aligned = tuple(_alignment(array.data.ptr) for array in (left, right, out))
        key = (rows, columns, inner, transpose_left, transpose_right, on_device, bias is not None, precision)
        whole_key = (*key, strides, aligned)
        plan = self._plans.get(whole_key)
        if plan is None:
            plan = self._plans[whole_key] = self._plan(*key, strides, aligned)
        description, layouts, heuristic = plan
        if bias is not None:
            self._set(description, _BIAS, c_uint64(bias.data.ptr))
        if on_device:
            factors = (c_void_p(alpha.data.ptr), c_void_p(self._constants.data.ptr + (4 if beta else 0)))
        else:
            factors = (byref(c_float(alpha)), byref(c_float(beta)))
        status = self._lib.cublasLtMatmul(
            self._handle,
            description,
            factors[0],
            c_void_p(right.data.ptr),  # the library counts columns first: to it all matrices are their transposes
            layouts[1],
            c_void_p(left.data.ptr),
            layouts[0],
            factors[1],
            c_void_p(out.data.ptr),
            layouts[2],
            c_void_p(out.data.ptr),
            layouts[2],
            byref(heuristic.algorithm),
            c_void_p(self._workspace(stream)),
            c_size_t(heuristic.workspace),
            c_void_p(stream),
        )
        _check(status, "cublasLtMatmul")
        return out

    def _workspace(self, stream: int) -> int:
        if stream not in self._workspaces:
            self._workspaces[stream] = self._cupy.cuda.alloc(_WORKSPACE_BYTES)
        return int(self._workspaces[stream].ptr)

    def prepare(self, stream: int) -> None:
        """Give a stream its workspace; nothing can be allocated while the stream is recorded."""
        self._workspace(stream)

    def _set(self, description: Any, attribute: int, value: Any) -> None:
        _check(
            self._lib.cublasLtMatmulDescSetAttribute(
                description, attribute, byref(value), c_size_t(ctypes.sizeof(value))
            ),
            "cublasLtMatmulDescSetAttribute",
        )

    def _plan(
        self,
        rows: int,
        columns: int,
        inner: int,
        transpose_left: bool,
        transpose_right: bool,
        on_device: bool,
        has_bias: bool,
        precision: str,
        strides: tuple[int, ...],
        aligned: tuple[int, ...],
    ) -> tuple[Any, ...]:
        description = c_void_p()
        _check(
            self._lib.cublasLtMatmulDescCreate(byref(description), _COMPUTE[precision], _FLOAT),
            "cublasLtMatmulDescCreate",
        )
        self._set(description, _TRANSPOSE_A, c_int32(transpose_right))
        self._set(description, _TRANSPOSE_B, c_int32(transpose_left))
        if on_device:
            self._set(description, _POINTER_MODE, c_int32(_DEVICE_POINTERS))
        if has_bias:
            self._set(description, _EPILOGUE, c_int32(_ADD_BIAS))
            self._set(description, _BIAS, c_uint64(256))  # its place is set for each product
        shapes = (
            (inner, rows) if transpose_left else (rows, inner),
            (columns, inner) if transpose_right else (inner, columns),
            (rows, columns),
        )
        layouts = []
        for (of_rows, of_columns), stride in zip(shapes, strides, strict=True):
            layout = c_void_p()
            created = self._lib.cublasLtMatrixLayoutCreate(
                byref(layout), _FLOAT, c_uint64(of_columns), c_uint64(of_rows), c_int64(stride)
            )
            _check(created, "cublasLtMatrixLayoutCreate")
            layouts.append(layout)
        return description, layouts, self._heuristic(description, layouts, aligned)

    def _heuristic(self, description: Any, layouts: list[Any], aligned: tuple[int, ...]) -> _Heuristic:
        preference = c_void_p()
        _check(self._lib.cublasLtMatmulPreferenceCreate(byref(preference)), "cublasLtMatmulPreferenceCreate")
        settings = [(_MAX_WORKSPACE, c_size_t(_WORKSPACE_BYTES))]
        # Smallest alignments of A, B, C and D: attributes 5 to 8.
        for attribute, bytes_ in zip((5, 6, 7, 8), (aligned[1], aligned[0], aligned[2], aligned[2]), strict=True):
            settings.append((attribute, ctypes.c_uint32(bytes_)))  # type: ignore[arg-type]
        for attribute, value in settings:
            self._lib.cublasLtMatmulPreferenceSetAttribute(
                preference, attribute, byref(value), c_size_t(ctypes.sizeof(value))
            )
        found, count = _Heuristic(), c_int()
        status = self._lib.cublasLtMatmulAlgoGetHeuristic(
            self._handle, description, layouts[1], layouts[0], layouts[2], layouts[2], preference, 1, byref(found),
            byref(count),
        )  # fmt: skip
        _check(status, "cublasLtMatmulAlgoGetHeuristic")
        self._lib.cublasLtMatmulPreferenceDestroy(preference)
        if count.value == 0:
            raise RuntimeError("cuBLASLt knows no way to do this product")
        return found


def _alignment(address: int) -> int:
    """The largest power of two up to 256 that divides an address."""
    return min(256, address & -address)
