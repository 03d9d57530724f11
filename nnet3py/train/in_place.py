"""Sums in place by BLAS, during which other threads run.

NumPy has no product that adds to an array. SciPy has (:mod:`scipy.linalg.blas`), but keeps Python's interpreter lock
while it computes, and this product is a third of a training step: threads that train one network would wait for each
other. The same Fortran routines, called through ctypes, let go of it. They are those of the OpenBLAS that comes with
NumPy: SciPy's is another library with threads of its own, and with two BLAS threads the two pools, which wait for work
without sleeping, kept each other from the processor (a step took four times as long). Where NumPy has another BLAS,
they are SciPy's, by the addresses that it publishes for Cython.
"""

from __future__ import annotations

import ctypes
import re
from ctypes import byref, c_char, c_float, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray

_SAXPY = ("int", "s", "s", "int", "s", "int")
_SGEMM = (*["char"] * 2, *["int"] * 3, "s", "s", "int", "s", "int", "s", "s", "int")


def _from_numpy(*names: str) -> list[Any] | None:
    """The routines of the OpenBLAS within NumPy, whose whole numbers have 64 bits; None where there is none."""
    folder = Path(np.__file__).resolve().parent.parent / "numpy.libs"
    for path in sorted(folder.glob("libscipy_openblas64_*.so*")):
        try:
            library = ctypes.CDLL(str(path))
            routines = [getattr(library, f"scipy_{name}_64_") for name in names]
        except (OSError, AttributeError):
            continue
        for routine in routines:
            routine.restype = None
        return routines
    return None


def _from_scipy(name: str, *types: str) -> Any:
    """The Fortran routine as a function of addresses; None if this SciPy has it with arguments of other types."""
    from scipy.linalg import cython_blas  # here: the import takes a tenth of a second, and is seldom needed

    capsule = cython_blas.__pyx_capi__[name]
    name_of = ctypes.pythonapi.PyCapsule_GetName
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    address_of = ctypes.pythonapi.PyCapsule_GetPointer
    address_of.restype, address_of.argtypes = c_void_p, [ctypes.py_object, ctypes.c_char_p]
    signature = name_of(capsule)
    found = re.findall(r"(\w+) \*", signature.decode())
    if [word.rsplit("cython_blas_", 1)[-1] for word in found] != list(types):
        return None
    return ctypes.CFUNCTYPE(None, *[c_void_p] * len(types))(address_of(capsule, signature))


_integer: Any = c_int64
_routines = _from_numpy("saxpy", "sgemm")
if _routines is None:
    _integer = c_int
    _routines = [_from_scipy("saxpy", *_SAXPY), _from_scipy("sgemm", *_SGEMM)]
_saxpy, _sgemm = _routines
_ONE = _integer(1)
_PLAIN, _TRANSPOSED = c_char(b"N"), c_char(b"T")
_UNIT = c_float(1.0)


def add_scaled(target: Array, factor: float, addend: Array) -> None:
    """``target += factor * addend`` without a temporary, for float32 arrays of one shape."""
    if target.size == 0:
        return
    in_order = target.flags.c_contiguous and addend.flags.c_contiguous
    if _saxpy is not None and in_order and target.dtype == addend.dtype == np.float32:
        assert target.shape == addend.shape
        count, scale = _integer(target.size), c_float(factor)
        _saxpy(
            byref(count),
            byref(scale),
            c_void_p(addend.ctypes.data),
            byref(_ONE),
            c_void_p(target.ctypes.data),
            byref(_ONE),
        )
    else:
        target += target.dtype.type(factor) * addend


def add_product(delta: Array, factor: float, left: Array, right: Array) -> None:
    """``delta += factor * leftᵀ right`` in one BLAS call: left (N, p), right (N, q), delta (p, q) float32."""
    arrays = (delta, left, right)
    if _sgemm is None or not all(a.flags.c_contiguous and a.dtype == np.float32 for a in arrays):
        delta += np.float32(factor) * (left.T @ right)
    elif delta.size and len(left):
        # BLAS counts columns first: to it these arrays are their transposes, and deltaᵀ += factor rightᵀ left.
        assert delta.shape == (left.shape[1], right.shape[1])
        assert len(left) == len(right)
        p, q, rows = _integer(left.shape[1]), _integer(right.shape[1]), _integer(len(left))
        scale = c_float(factor)
        _sgemm(
            byref(_PLAIN),
            byref(_TRANSPOSED),
            byref(q),
            byref(p),
            byref(rows),
            byref(scale),
            c_void_p(right.ctypes.data),
            byref(q),
            c_void_p(left.ctypes.data),
            byref(p),
            byref(_UNIT),
            c_void_p(delta.ctypes.data),
            byref(q),
        )
