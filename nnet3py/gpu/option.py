"""The option ``--use-gpu``, which Kaldi's scripts always give. Computing on a GPU is not there yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnet3py.errors import UserError
from nnet3py.program import option


def use_gpu_option(default: str = "optional") -> Callable[[Any], Any]:
    """The option; the program's function gets it as ``use_gpu``."""
    return option(
        "--use-gpu", default=default, help="yes|no|optional|wait. Computing on a GPU is not there yet: yes and wait "
        "are errors.",
    )  # fmt: skip


def require_cpu(use_gpu: str) -> None:
    """Raise UserError if ``--use-gpu`` asks for what there is not."""
    if use_gpu not in ("yes", "no", "optional", "wait"):
        raise UserError(f"--use-gpu={use_gpu} is not one of yes, no, optional and wait.")
    if use_gpu in ("yes", "wait"):
        raise UserError(f"--use-gpu={use_gpu}: computing on a GPU is not supported yet; use --use-gpu=no.")
