"""Whether the disk has room for what comes next: better asked before than found out by each of many jobs."""

from __future__ import annotations

import os

from nnet3py.errors import UserError


def free_bytes(folder: str) -> int:
    """Bytes that this user may still write to the disk that a folder is on. A quota is not seen."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def require_space(folder: str, needed: int, what: str) -> None:
    """Raise UserError if fewer than ``needed`` bytes are free; ``what`` says in the message what needs them."""
    free = free_bytes(folder)
    if free < needed:
        raise UserError(
            f"{what} needs {_amount(needed)} on the disk of {folder}, where {_amount(free)} are free: "
            f"{_amount(needed - free)} are missing. Make space; the same command then goes on."
        )


def _amount(count: int) -> str:
    """Bytes in a unit that is read easily, ``1.5 GB``."""
    value, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
