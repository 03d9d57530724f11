"""The options that say whether, and how, a program computes on a GPU. Importing this imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnet3py.errors import UserError
from nnet3py.program import option

CHOICES = ("yes", "no", "optional", "wait")


def use_gpu_option(default: str = "optional") -> Callable[[Any], Any]:
    """``--use-gpu``, which Kaldi's scripts always give; the program's function gets it as ``use_gpu``."""
    return option(
        "--use-gpu",
        default=default,
        help="yes|no|optional|wait: whether to compute on a GPU. With optional on one if there is one (and CuPy); wait "
        "is yes, but waits while the GPU is taken.",
    )


def no_gpu_option(default: str = "optional") -> Callable[[Any], Any]:
    """``--use-gpu`` of a program that computes on the CPU only."""
    return option(
        "--use-gpu",
        default=default,
        help="yes|no|optional|wait. This program computes on the CPU: yes and wait are errors.",
    )


def gpu_precision_option() -> Callable[[Any], Any]:
    """``--gpu-precision``; the program's function gets it as ``gpu_precision``."""
    return option(
        "--gpu-precision",
        default="float32",
        help="On a GPU, the precision that matrix products are done in: float32, or for more speed tf32 or bfloat16, "
        "which round the factors to 10 or 7 bits after the binary point. What is stored stays float32.",
    )


def check_choice(use_gpu: str) -> None:
    """Raise UserError for a value of ``--use-gpu`` that is none."""
    if use_gpu not in CHOICES:
        raise UserError(f"--use-gpu={use_gpu} is not one of {', '.join(CHOICES[:-1])} and {CHOICES[-1]}.")


def require_cpu(use_gpu: str) -> None:
    """Raise UserError if ``--use-gpu`` asks of a program for the CPU what it cannot do."""
    check_choice(use_gpu)
    if use_gpu in ("yes", "wait"):
        raise UserError(f"--use-gpu={use_gpu}: this program computes on the CPU only; give --use-gpu=no.")
