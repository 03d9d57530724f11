"""The CUDA kernels, on the CPU and where there is one on a GPU, compute what NumPy does."""

from __future__ import annotations

import pytest
from operation_checks import CHECKS, compare

from nnet3py.gpu.operations import HostOperations


@pytest.mark.parametrize("name", CHECKS)
def test_a_kernel_on_the_cpu_agrees_with_numpy(emulated: HostOperations, name: str) -> None:
    compare(name, emulated, 1e-4)


@pytest.mark.parametrize("name", CHECKS)
def test_an_operation_on_the_gpu_agrees_with_numpy(gpu: HostOperations, name: str) -> None:
    compare(name, gpu, 2e-3 if "dominate" in name else 2e-4)
