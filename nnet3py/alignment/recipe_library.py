"""The libraries that only recipes need: those of the extra ``nnet3py[recipes]``.

The wheels of kaldi-hmm-gmm and of kaldifst each carry their own version of OpenFst, and some of its variables are
shared by all libraries of a process: imported after kaldifst 1.8.3, kaldi-hmm-gmm 1.1.4 waits forever for a lock, and
imported before, it does not take kaldifst's transducers. So a process has one of them only, and alignment, which uses
kaldi-hmm-gmm, works without transducers.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from nnet3py.errors import UserError

_EXCLUDE = {
    "kaldi_hmm_gmm": ("kaldifst", "kaldi_decoder"),
    "kaldifst": ("kaldi_hmm_gmm",),
    "kaldi_decoder": ("kaldi_hmm_gmm",),
}


def import_recipe_library(name: str) -> Any:
    """A library of the extra ``nnet3py[recipes]``.

    Raises:
        UserError: it is not installed.
    """
    for other in _EXCLUDE.get(name, ()):
        if other in sys.modules:
            raise RuntimeError(f"{name} cannot be imported into a process that has {other}: run it in its own.")
    try:
        return importlib.import_module(name)
    except ImportError as problem:
        raise UserError(
            f"The Python library {name.replace('_', '-')} cannot be imported ({problem}): pip install nnet3py[recipes]"
        ) from problem
