"""Whether named files can be read and written, looked at before any work is done.

Pipes and standard streams are passed over, as is what a script's lines point at.
"""

from __future__ import annotations

import errno
import os

from nnet3py.errors import UserError
from nnet3py.tables.streams import require_writable, split_offset
from nnet3py.tables.table import is_rspecifier, is_wspecifier, parse_rspecifier, parse_wspecifier


def require_input(name: str) -> None:
    """Raise UserError if what a rspecifier or rxfilename names is a file that is missing or cannot be read."""
    if not is_rspecifier(name):
        _require_file(name)
        return
    specifier = parse_rspecifier(name)
    if "p" not in specifier.options:
        _require_file(specifier.path)


def require_output(name: str) -> None:
    """Raise UserError if what a wspecifier or wxfilename names could not be written."""
    if not is_wspecifier(name):
        require_writable(name)
        return
    specifier = parse_wspecifier(name)
    if specifier.kind == "scp":  # the script says where each value goes
        _require_file(specifier.path)
        return
    require_writable(specifier.path)
    if specifier.script:
        require_writable(specifier.script)


def require_output_folder(path: str) -> None:
    """Raise UserError if a directory is not there and cannot be made, or nothing can be written into it."""
    existing = os.path.abspath(path)
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    if not os.path.isdir(existing):
        raise UserError(f"Cannot write into {path}: {existing} is not a directory.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"Cannot write into {path}: {os.strerror(errno.EACCES)}.")


def _require_file(rxfilename: str) -> None:
    if rxfilename in ("", "-") or "|" in rxfilename:
        return
    path, _ = split_offset(rxfilename)
    try:
        os.stat(path)
        problem = None if os.access(path, os.R_OK) else os.strerror(errno.EACCES)
    except (OSError, ValueError) as failure:
        problem = getattr(failure, "strerror", None) or str(failure)
    if problem is not None:
        raise UserError(f"Cannot open {rxfilename} to read: {problem}.")
