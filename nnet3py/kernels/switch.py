"""Which kernels compute what lies between two matrix products: NumPy's functions, or compiled ones.

The compiled kernels (nnet3py.kernels.compiled, by Numba) do in one pass over memory what NumPy does in several. They
give the same bits, so that it makes no difference to a model who had them. Importing Numba takes longer than training a
small network on a small shard, hence the switch: a program turns them on for a network that is worth it.
"""

from __future__ import annotations

import importlib.util
import os
from types import ModuleType

from nnet3py import log
from nnet3py.errors import UserError

VARIABLE = "NNET3PY_KERNELS"
_CHOICES = ("auto", "numba", "numpy")
_WORTH_IT = 500_000

_compiled: ModuleType | None = None


def compiled() -> ModuleType | None:
    """The compiled kernels if they are turned on, else None: then the caller's NumPy code computes the same."""
    return _compiled


def turn_on(num_parameters: int) -> None:
    """Use compiled kernels from now on, as the environment variable NNET3PY_KERNELS says: auto, numba or numpy.

    auto: if Numba is installed and a network of ``num_parameters`` is worth the import. If kernels cannot be compiled,
    or kept for the next time, one line says so.

    Raises:
        UserError: the variable has another value, or wants Numba, which is not installed.
    """
    global _compiled
    turn_off()
    choice = os.environ.get(VARIABLE) or "auto"
    if choice not in _CHOICES:
        raise UserError(f"The environment variable {VARIABLE} is {choice!r}; expected {', '.join(_CHOICES)}.")
    if choice == "numpy" or (choice == "auto" and num_parameters < _WORTH_IT):
        return
    if importlib.util.find_spec("numba") is None:
        if choice == "numba":
            raise UserError(f"{VARIABLE}=numba needs the package Numba: install nnet3py[fast], or unset the variable.")
        return
    try:
        from nnet3py.kernels import compiled as kernels
    except Exception as problem:  # whatever a compiler or a directory of its cache may raise
        if choice == "numba":
            raise
        log.warning(f"The compiled kernels cannot be used ({type(problem).__name__}: {problem}): NumPy computes.")
        return
    _compiled = kernels


def turn_off() -> None:
    """Let NumPy compute."""
    global _compiled
    _compiled = None
