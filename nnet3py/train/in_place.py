"""Sums in place by BLAS, during which other threads run.

SciPy's own functions for these routines (:mod:`scipy.linalg.blas`) keep Python's interpreter lock while they compute,
and the second of them is a third of a training step: threads that train one network would wait for each other. The same
routines, called through ctypes by the addresses that SciPy publishes for Cython, let go of it.
"""

from __future__ import annotations

import ctypes
import re
from ctypes import byref, c_char, c_float, c_int, c_void_p
from typing import Any

import numpy as np
from scipy.linalg import cython_blas

Array = np.ndarray


def _routine(name: str, *types: str) -> Any:
    """The Fortran routine as a function of addresses; None if this SciPy has it with arguments of other types."""
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


_saxpy = _routine("saxpy", "int", "s", "s", "int", "s", "int")
_sgemm = _routine("sgemm", *["char"] * 2, *["int"] * 3, "s", "s", "int", "s", "int", "s", "s", "int")
_ONE = c_int(1)
_PLAIN, _TRANSPOSED = c_char(b"N"), c_char(b"T")
_UNIT = c_float(1.0)


def add_scaled(target: Array, factor: float, addend: Array) -> None:
    """``target += factor * addend`` without a temporary, for float32 arrays of one shape."""
    if target.size == 0:
        return
    in_order = target.flags.c_contiguous and addend.flags.c_contiguous
    if _saxpy is not None and in_order and target.dtype == addend.dtype == np.float32:
        assert target.shape == addend.shape
        count, scale = c_int(target.size), c_float(factor)
        _saxpy(byref(count), byref(scale), addend.ctypes.data, byref(_ONE), target.ctypes.data, byref(_ONE))
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
        p, q, rows, scale = c_int(left.shape[1]), c_int(right.shape[1]), c_int(len(left)), c_float(factor)
        _sgemm(
            byref(_PLAIN),
            byref(_TRANSPOSED),
            byref(q),
            byref(p),
            byref(rows),
            byref(scale),
            right.ctypes.data,
            byref(q),
            left.ctypes.data,
            byref(p),
            byref(_UNIT),
            delta.ctypes.data,
            byref(q),
        )
