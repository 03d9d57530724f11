// What is done to each number by itself: nonlinearities and their derivatives, bias, scales.
// Kinds of nonlinearity: 0 rectified linear, 1 sigmoid, 2 hyperbolic tangent.

__device__ inline float slope_of(int kind, float y) {
  if (kind == 0) return y > 0.0f ? 1.0f : 0.0f;
  return kind == 1 ? (1.0f - y) * y : 1.0f - y * y;
}

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

// Self-repair: see nnet3py/nnet/nonlinear.py. `counters`: count, oderiv count, dimensions repaired, and processed.
extern "C" __global__ void repair(int kind, const float* y, float* dx, long long rows, int columns, int block_dim,
                                  const double* deriv_sum, double* counters, double lower, double upper,
                                  float scale) {
  double count = counters[0];
  if (count == 0.0) return;
  int blocks = columns / block_dim;
  long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i == 0) {
    double repaired = 0.0;
    for (int column = 0; column < block_dim; ++column) {
      double slope = 0.0;
      for (int block = 0; block < blocks; ++block) slope += deriv_sum[block * block_dim + column];
      slope /= blocks;
      bool low = kind == 0 ? slope <= count * lower : slope < count * lower;
      repaired += (low || (kind == 0 && slope > count * upper)) ? 1.0 : 0.0;
    }
    counters[2] += repaired;
    counters[3] += block_dim;
  }
  if (i >= rows * columns) return;
  int column = (int)(i % columns) % block_dim;
  double slope = 0.0;
  for (int block = 0; block < blocks; ++block) slope += deriv_sum[block * block_dim + column];
  slope /= blocks;
  if (kind == 0) {
    if (slope <= count * lower) dx[i] += scale;
    else if (slope > count * upper) dx[i] -= scale;
  } else if (slope < count * lower) {
    dx[i] -= (kind == 1 ? 2.0f * y[i] - 1.0f : y[i]) * scale;
  }
}

extern "C" __global__ void add_row(float* x, const float* row, long long rows, int columns, int stride) {
  long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i < rows * columns) x[i / columns * stride + i % columns] += row[i % columns];
}
