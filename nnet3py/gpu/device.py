"""Which device computes: the option ``--use-gpu`` carried out."""

from __future__ import annotations

import ctypes
import importlib.util
import time

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.gpu.matrix_product import PRECISIONS
from nnet3py.gpu.operations import HostOperations
from nnet3py.gpu.option import check_choice

_WAIT_SECONDS = 5.0
_SAY_SECONDS = 60.0
_INSTALL = "install CuPy for your CUDA (pip install 'nnet3py[gpu]'), or give --use-gpu=no"


def has_gpu() -> bool:
    """Whether the driver knows a GPU that this process may use. Costs no context on it, and no import of CuPy."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0


def open_device(use_gpu: str, precision: str = "float32") -> HostOperations | None:
    """The operations on a GPU, or None to compute on the CPU.

    ``yes``: a GPU or an error. ``wait``: as yes, but while the GPU is taken by others it waits. ``optional``: a GPU if
    there is one, and CuPy. ``no``: the CPU. ``precision``: of matrix products, float32, tf32 or bfloat16.

    Raises:
        UserError: the values are none, or there is no GPU to be had, or CuPy is not installed.
    """
    check_choice(use_gpu)
    if precision not in PRECISIONS:
        raise UserError(f"--gpu-precision={precision} is not one of {', '.join(PRECISIONS)}.")
    if use_gpu == "no":
        return None
    required = use_gpu in ("yes", "wait")
    if not has_gpu():
        if required:
            raise UserError(
                f"--use-gpu={use_gpu}: this machine has no NVIDIA GPU that may be used (driver missing, or hidden by "
                "CUDA_VISIBLE_DEVICES); give --use-gpu=no to compute on the CPU."
            )
        return None
    if importlib.util.find_spec("cupy") is None:
        if required:
            raise UserError(f"--use-gpu={use_gpu} needs the package CuPy, which is not installed: {_INSTALL}.")
        log.log(f"There is a GPU, but not the package CuPy: computing on the CPU. To use it, {_INSTALL}.")
        return None
    return _opened(use_gpu, precision)


def _opened(use_gpu: str, precision: str) -> HostOperations | None:
    from nnet3py.gpu.cuda_operations import CudaOperations

    said = -_SAY_SECONDS
    while True:
        try:
            operations = CudaOperations(precision)
        except Exception as problem:  # CuPy's errors have no common class
            if "cuda" not in type(problem).__module__.lower() and not isinstance(problem, (RuntimeError, ImportError)):
                raise
            text = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
            if use_gpu == "optional":
                log.warning(f"The GPU cannot be used ({text}): computing on the CPU.")
                return None
            if use_gpu == "yes" or not _is_taken(text):
                raise UserError(f"--use-gpu={use_gpu}: the GPU cannot be used: {text}") from None
            if time.monotonic() - said >= _SAY_SECONDS:
                log.log(f"Waiting for a GPU: {text}")
                said = time.monotonic()
            time.sleep(_WAIT_SECONDS)
            continue
        log.log(f"Computing on the GPU {operations.description()}, products in {precision}.")
        return operations


def _is_taken(problem: str) -> bool:
    """Whether another process having the device is what is wrong: exclusive mode, or no memory left."""
    return any(word in problem.lower() for word in ("busy", "unavailable", "out of memory"))
