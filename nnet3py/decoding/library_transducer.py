"""Transducers handed to the libraries of the extra ``nnet3py[recipes]``.

OpenFst crashes on some damaged files (an arc to a state that is not there, say), so files are read and checked here,
and the libraries are given what was read.
"""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING

from nnet3py.alignment.recipe_library import import_recipe_library
from nnet3py.tables.streams import open_output
from nnet3py.tables.transducer import Transducer, read_transducer_file, write_const

if TYPE_CHECKING:
    import kaldifst


def const_transducer(transducer: Transducer) -> kaldifst.StdConstFst:
    """OpenFst's const form of it, which needs the least memory.

    Raises:
        UserError: kaldifst is not installed, or there is no room for a temporary file.
    """
    fst = import_recipe_library("kaldifst")
    with tempfile.TemporaryDirectory(prefix="nnet3py.") as folder:
        path = os.path.join(folder, "fst")
        with open_output(path) as sink:
            write_const(sink, transducer)
        return fst.StdConstFst.read(path)


def read_vector_transducer(rxfilename: str) -> kaldifst.StdVectorFst:
    """A transducer from a file, in OpenFst's vector form, which can be changed.

    Raises:
        UserError: the file cannot be read or is not a transducer; kaldifst is not installed.
    """
    fst = import_recipe_library("kaldifst")
    return fst.StdVectorFst(const_transducer(read_transducer_file(rxfilename)))
