"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# The programs of this checkout come first, then the Python that runs the tests.
os.environ["PATH"] = os.pathsep.join([str(ROOT / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])


@pytest.fixture(scope="session")
def kaldi_reference() -> Path:
    """The folder of files written by Kaldi itself; a user's checkout does not have it."""
    folder = ROOT.parent / "shared" / "kaldi-reference"
    if not folder.is_dir():
        pytest.skip("no ../shared/kaldi-reference beside this checkout: files written by Kaldi are not distributed")
    return folder
