"""How many columns the matrices of a table have, by the first of them: what a look before any work can tell."""

from __future__ import annotations

from nnet3py.errors import UserError


def first_columns(script: str) -> int | None:
    """Columns of the first matrix of a script (``feats.scp``).

    None if there is none, it is empty or cannot be read, which is for the job to say that reads them all.
    """
    from nnet3py.tables.holders import GENERAL_MATRIX
    from nnet3py.tables.table import SequentialReader

    try:
        with SequentialReader(f"scp:{script}", GENERAL_MATRIX) as reader:
            for _, matrix in reader:
                return matrix.shape[1] or None
    except UserError:
        pass
    return None


def matrix_columns(rxfilename: str) -> int:
    """Columns of the matrix in a file.

    Raises:
        UserError: it cannot be read.
    """
    from nnet3py.tables.basic_types import read_header
    from nnet3py.tables.matrix import read_matrix
    from nnet3py.tables.streams import open_input

    with open_input(rxfilename) as source:
        return int(read_matrix(source, read_header(source)).shape[1])
