"""The kinds of operations that the tests here run with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from emulated_cuda import EmulatedCuda, compiler

from nnet3py.gpu.operations import HostOperations


@pytest.fixture(scope="session")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> HostOperations:
    """The kernels compiled for the CPU."""
    if compiler() is None:
        pytest.skip("needs a C++ compiler (g++) to run the CUDA kernels on the CPU")
    return EmulatedCuda(Path(tmp_path_factory.mktemp("kernels")))


@pytest.fixture(scope="session")
def gpu() -> Any:
    """The operations on this machine's GPU."""
    pytest.importorskip("cupy")
    from nnet3py.gpu.device import open_device

    hidden = os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # by tests/conftest.py, for the programs that tests start
    try:
        operations = open_device("optional")
    finally:
        if hidden is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = hidden
    if operations is None:
        pytest.skip("needs an NVIDIA GPU")
    return operations
