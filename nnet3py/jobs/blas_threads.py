"""How many threads the BLAS of a job may start: those that the engine has counted for it, so that cores suffice."""

from __future__ import annotations

import os

VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def blas_threads(num_threads: int) -> dict[str, str]:
    """Environment variables for a job of ``--num-threads``; what the user has set is kept as it is."""
    return {name: os.environ.get(name, str(num_threads)) for name in VARIABLES}
