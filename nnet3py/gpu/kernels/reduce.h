// Sums over the threads of a block, in an order that does not depend on timing: the same numbers give the same bits.
// `shared` has one element for each thread; the number of threads is a power of two. Every thread gets the result.

__device__ inline double block_sum(double value, double* shared) {
  int thread = threadIdx.x;
  shared[thread] = value;
  __syncthreads();
  for (int half = blockDim.x / 2; half > 0; half /= 2) {
    if (thread < half) shared[thread] += shared[thread + half];
    __syncthreads();
  }
  double sum = shared[0];
  __syncthreads();
  return sum;
}

__device__ inline float warp_sum(float value) {
  for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

__device__ inline float warp_max(float value) {
  for (int offset = 16; offset > 0; offset /= 2)
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
  return value;
}
