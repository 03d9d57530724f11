"""The CUDA kernels on the CPU: their sources compiled as C++, the threads of a block as contexts that take turns.

A stand-in where there is no GPU. It shows that the kernels compute what they should, not how fast they are, nor that
threads which do run at the same time keep out of each other's way.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from nnet3py.gpu import cuda_operations
from nnet3py.gpu.cuda_operations import CudaOperations, kernel_source, kernels_of
from nnet3py.gpu.operations import HostOperations

_SHIM = r"""
#include <setjmp.h>
#include <ucontext.h>
#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>
using std::isfinite;
struct Index { int x, y, z; };
static Index threadIdx, blockIdx, blockDim, gridDim;
static std::vector<double> emulated_shared_memory(1 << 16);
static char* const emulated_shared = reinterpret_cast<char*>(emulated_shared_memory.data());
// A context is entered by setcontext, which is a system call for its signal mask; its turns are jumps, which are none.
struct Turn { jmp_buf place; };
static Turn scheduler;
static std::vector<Turn> turns;
static std::vector<ucontext_t> contexts;
static std::vector<std::vector<char>> stacks;
static std::vector<char> alive, entered;
static int running;
static std::function<void()> body;
static float exchanged[1024];
__attribute__((noinline)) static void turn() {
  if (!_setjmp(turns[running].place)) _longjmp(scheduler.place, 1);
}
__attribute__((noinline)) static void resume(int thread) {
  if (_setjmp(scheduler.place)) return;
  if (entered[thread]) _longjmp(turns[thread].place, 1);
  entered[thread] = 1;
  setcontext(&contexts[thread]);
}
#define __global__
#define __launch_bounds__(threads)
#define __device__
#define __shared__ static
static void __syncthreads() { turn(); }
static float __shfl_xor_sync(unsigned, float value, int offset) {
  int thread = threadIdx.x;
  exchanged[thread] = value;
  turn();
  float other = exchanged[thread ^ offset];
  turn();
  return other;
}
static double exchanged_doubles[1024];
static double __shfl_xor_sync(unsigned, double value, int offset) {
  int thread = threadIdx.x;
  exchanged_doubles[thread] = value;
  turn();
  double other = exchanged_doubles[thread ^ offset];
  turn();
  return other;
}
struct short2 { short x, y; };
static short2 make_short2(short x, short y) { return {x, y}; }
static void atomicAdd(double* at, double value) { *at += value; }
static void atomicOr(int* at, int bits) { *at |= bits; }
static void enter() {
  for (;;) {
    body();
    alive[running] = 0;
    turn();
  }
}
static void make_contexts(int threads) {
  for (int t = contexts.size(); t < threads; ++t) {
    contexts.emplace_back();
    turns.emplace_back();
    stacks.emplace_back(32768);
    entered.push_back(0);
  }
  for (int t = 0; t < threads; ++t)
    if (!entered[t]) {  // else it waits at the end of its last block
      getcontext(&contexts[t]);
      contexts[t].uc_stack.ss_sp = stacks[t].data();
      contexts[t].uc_stack.ss_size = stacks[t].size();
      makecontext(&contexts[t], enter, 0);
    }
}
static void run(const int* grid, int threads) {
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {threads, 1, 1};
  make_contexts(threads);
  for (int z = 0; z < grid[2]; ++z)
    for (int y = 0; y < grid[1]; ++y)
      for (int x = 0; x < grid[0]; ++x) {
        blockIdx = {x, y, z};
        alive.assign(threads, 1);
        for (int left = threads; left > 0;) {
          left = 0;
          for (int t = 0; t < threads; ++t)
            if (alive[t]) {
              running = t;
              threadIdx = {t, 0, 0};
              resume(t);
              left += alive[t];
            }
        }
      }
}
"""


def compiler() -> str | None:
    """A C++ compiler; None where there is none."""
    return shutil.which("g++") or shutil.which("c++")


def _compile(module: str, directory: Path) -> dict[str, Any]:
    source = kernel_source(module)
    source = re.sub(r"extern __shared__ (\w+) (\w+)\[\];", r"\1* \2 = (\1*)emulated_shared;", source)
    launchers = []
    kernels = kernels_of(source)
    for name, parameters in kernels:
        types = [parameter.strip().rsplit(" ", 1)[0] for parameter in parameters.split(",")]
        arguments = ", ".join(f"*({kind}*)arguments[{i}]" for i, kind in enumerate(types))
        launchers.append(
            f'extern "C" void launch_{name}(const int* grid, int threads, void** arguments) {{\n'
            f"  body = [=] {{ {name}({arguments}); }};\n  run(grid, threads);\n}}\n"
        )
    path = directory / f"{module}.cpp"
    path.write_text(_SHIM + source + "".join(launchers))
    library = directory / f"{module}.so"
    options = ["-O2", "-U_FORTIFY_SOURCE", "-w", "-shared", "-fPIC", "-std=c++17"]  # jumps between stacks are wanted
    command = [str(compiler()), *options, "-o", str(library), str(path)]
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(library))
    return {name: getattr(loaded, f"launch_{name}") for name, _ in kernels}


class EmulatedCuda(CudaOperations):
    """The operations with the kernels emulated; products and arrays are NumPy's."""

    on_device = False

    def __init__(self, directory: Path) -> None:
        self.xp = np
        self._kernels = {}
        for module in cuda_operations._MODULES:
            self._kernels.update(_compile(module, directory))
        self._scratch = [np.zeros(cuda_operations._RESIDUAL_BLOCKS) for _ in range(2)]
        self._dense_partial = np.zeros(cuda_operations._DENSE_BLOCKS)
        self._shared_limit = 1 << 18

    def _launch(self, name: str, blocks: Any, threads: int, *arguments: Any, shared: int = 0) -> None:
        sizes = blocks if isinstance(blocks, tuple) else (int(blocks),)
        grid = (ctypes.c_int * 3)(*(*sizes, 1, 1)[:3])
        holders = []
        for argument in arguments:
            if isinstance(argument, np.ndarray) and argument.ndim:
                holders.append(np.array([argument.ctypes.data], np.uint64))
            else:
                holders.append(np.array([argument]))
        pointers = (ctypes.c_void_p * len(holders))(*(holder.ctypes.data for holder in holders))
        self._kernels[name](grid, threads, pointers)

    def _pointer(self, array: Any) -> Any:
        return np.uint64(0 if array is None else array.ctypes.data)

    def _scratch_of_stream(self) -> list[Any]:
        return self._scratch

    aside = HostOperations.aside
    join = HostOperations.join
    product = HostOperations.product
    upload = HostOperations.upload
    download = HostOperations.download
    download_later = HostOperations.download_later
    send = HostOperations.send
