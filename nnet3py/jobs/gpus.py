"""This machine's GPUs, shared out to jobs by the environment variable ``CUDA_VISIBLE_DEVICES``."""

from __future__ import annotations

import os
import re
import subprocess

from nnet3py import log
from nnet3py.errors import UserError
from nnet3py.text.lines import decode

_GPU = re.compile(r"\d+|(?:GPU|MIG)-\S+", re.ASCII)
VARIABLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus() -> list[str] | None:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; None where that cannot be found out.

    A variable that is set already is believed, by the user or by the queue in whose job this is; as in CUDA, an entry
    that names no GPU (-1, or Slurm's NoDevFiles) hides itself and all after it.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen is not None:
        entries = [entry.strip() for entry in chosen.split(",")]
        hidden = (position for position, entry in enumerate(entries) if not _GPU.fullmatch(entry))
        return entries[: next(hidden, len(entries))]
    try:
        listing = decode(subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=True).stdout)
    except (OSError, subprocess.CalledProcessError):
        return None
    return [str(number) for number, _ in enumerate(line for line in listing.splitlines() if line.startswith("GPU "))]


def share_out(gpus_per_job: int) -> list[str] | None:
    """The values of CUDA_VISIBLE_DEVICES for jobs that run at the same time, a GPU in one of them only.

    None where it is not known which GPUs there are, which is said: jobs then run one at a time.

    Raises:
        UserError: there are fewer GPUs than one job needs.
    """
    gpus = visible_gpus()
    if gpus is None:
        log.warning("nvidia-smi does not say how many GPUs there are: running one job at a time.")
        return None
    if len(gpus) < gpus_per_job:
        where = f" in {VARIABLE}={os.environ[VARIABLE]}" if VARIABLE in os.environ else ""
        raise UserError(f"A job needs {gpus_per_job} GPUs (--gpu), and there are {len(gpus)}{where}.")
    starts = range(0, len(gpus) - gpus_per_job + 1, gpus_per_job)
    return [",".join(gpus[start : start + gpus_per_job]) for start in starts]
