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


def add_product(out: Array, factor: float, left: Array, right: Array) -> None:
    """``out += factor * left right`` in one BLAS call, for float32 arrays whose rows or columns are contiguous."""
    assert out.shape == (left.shape[0], right.shape[1])
    assert left.shape[1] == right.shape[0]
    if not (out.size and left.shape[1]):
        return
    places = [_place(array) for array in (right, left, out)]
    if _sgemm is None or None in places or places[2][0] is _TRANSPOSED:  # type: ignore[index]
        out += np.float32(factor) * (left @ right)
        return
    # BLAS counts columns first: to it these arrays are their transposes, and outᵀ += factor rightᵀ leftᵀ.
    (right_form, right_rows), (left_form, left_rows), (_, out_rows) = places  # type: ignore[misc]
    rows, columns, inner = _integer(out.shape[0]), _integer(out.shape[1]), _integer(left.shape[1])
    scale = c_float(factor)
    _sgemm(
        byref(right_form),
        byref(left_form),
        byref(columns),
        byref(rows),
        byref(inner),
        byref(scale),
        c_void_p(right.ctypes.data),
        byref(right_rows),
        c_void_p(left.ctypes.data),
        byref(left_rows),
        byref(_UNIT),
        c_void_p(out.ctypes.data),
        byref(out_rows),
    )


def affine(x: Array, linear: Array, bias: Array) -> Array:
    """``x linearᵀ + bias`` (rows, output dim): the product is added to rows that have the bias already."""
    y = np.empty((len(x), len(linear)), x.dtype)
    y[...] = bias
    add_product(y, 1.0, x, linear.T)
    return y


def _place(array: Array) -> tuple[c_char, Any] | None:
    """Whether BLAS is to take a matrix as it is or transposed, and the distance of rows in memory; None for neither."""
    if array.dtype != np.float32:
        return None
    for form, strides, shape in (
        (_PLAIN, array.strides, array.shape),
        (_TRANSPOSED, array.strides[::-1], array.shape[::-1]),
    ):
        distance, rest = divmod(strides[0], 4) if shape[0] > 1 else (shape[1], 0)
        if rest == 0 and distance >= shape[1] and (strides[1] == 4 or shape[1] == 1):
            return form, _integer(max(1, distance))
    return None
