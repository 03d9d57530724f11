// What is done to each number by itself: nonlinearities and their derivatives, bias, scales.

extern "C" __global__ void activate(int kind, const float* x, float* y, long long count) {
  long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  float value = x[i];
  if (kind == 0) {
    y[i] = value > 0.0f ? value : (value == value ? 0.0f : value);  // what is not a number stays it
  } else if (kind == 1) {
    y[i] = 1.0f / (1.0f + expf(fminf(-value, 88.0f)));
  } else {
    y[i] = tanhf(value);
  }
}

extern "C" __global__ void times_slope(int kind, const float* y, float* dy, long long count) {
  long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) dy[i] *= slope_of(kind, y[i]);
}

extern "C" __global__ void add_row(float* x, const float* row, unsigned count, unsigned columns, unsigned stride) {
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count) x[(long long)(i / columns) * stride + i % columns] += row[i % columns];
}
