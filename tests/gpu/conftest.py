"""The kinds of operations that the tests here run with."""

from __future__ import annotations

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
    from nnet3py.gpu.device import has_gpu

    if not has_gpu():
        pytest.skip("needs an NVIDIA GPU")
    from nnet3py.gpu.cuda_operations import CudaOperations

    return CudaOperations()
