"""Keeping freed memory in the process between minibatches, or utterances.

Each of them allocates and frees the same arrays. The C library's default is to give such pieces back to the operating
system at once, which must then clear each page anew: measured, a fifth of the time of an SGD step, and a twentieth of
that of making and merging examples. The settings are the process's own and last to its end.
"""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # names of settings in glibc's malloc.h
_KEPT = 1 << 25  # the largest threshold that every glibc accepts


def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory for the next request; False where it is not glibc, which is harmless."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_TRIM_THRESHOLD, 1 << 30), (_TOP_PAD, 1 << 26), (_MMAP_THRESHOLD, _KEPT))
    accepted = [mallopt(name, value) == 1 for name, value in settings]
    return all(accepted)
