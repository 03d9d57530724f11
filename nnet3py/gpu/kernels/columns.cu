// Sums over the rows of a matrix, column by column. A block has 32 columns and 32 lanes of rows.

__device__ inline void reduce_lanes(double (*sums)[33], int lane, int column) {
  __syncthreads();
  for (int half = 16; half > 0; half /= 2) {
    if (lane < half) sums[lane][column] += sums[lane + half][column];
    __syncthreads();
  }
}

// Sums of the columns and of all squares, of the rows that fall to a block: (blocks y, columns) and one number a block.
extern "C" __global__ void __launch_bounds__(1024) column_sums(const float* x, int rows, int columns, int stride, int rows_of_block,
                                       float* sums_out, double* squares_out) {
  __shared__ double sums[32][33];
  __shared__ double shared[32];
  int column = threadIdx.x % 32, lane = threadIdx.x / 32;
  int at = blockIdx.x * 32 + column, first = blockIdx.y * rows_of_block;
  int last = first + rows_of_block < rows ? first + rows_of_block : rows;
  float sum = 0.0f, square = 0.0f;
  if (at < columns)
    for (int row = first + lane; row < last; row += 32) {
      float value = x[(long long)row * stride + at];
      sum += value;
      square += value * value;
    }
  if (sums_out) {
    sums[lane][column] = sum;
    reduce_lanes(sums, lane, column);
    if (lane == 0 && at < columns) sums_out[blockIdx.y * columns + at] = (float)sums[0][column];
  }
  if (squares_out) {
    double total = block_sum((double)square, shared);
    if (threadIdx.x == 0) squares_out[blockIdx.y * gridDim.x + blockIdx.x] = total;
  }
}

// target += factor times the sum of `parts` rows.
extern "C" __global__ void add_sum_of_rows(float* target, const float* rows, int parts, int columns, float factor) {
  int at = blockIdx.x * blockDim.x + threadIdx.x;
  if (at >= columns) return;
  float sum = 0.0f;
  for (int part = 0; part < parts; ++part) sum += rows[part * columns + at];
  target[at] += factor * sum;
}

// Self-repair: see nnet3py/nnet/nonlinear.py. `counters`: count, oderiv count, dimensions repaired, and processed; they
// are whole numbers, so that the order in which blocks add to them does not matter.
extern "C" __global__ void __launch_bounds__(1024) repair(int kind, const float* y, float* dx, int rows, int columns, int block_dim,
                                  const double* deriv_sum, double* counters, double lower, double upper,
                                  float scale) {
  double count = counters[0];
  int column = threadIdx.x % 32, lane = threadIdx.x / 32;
  int at = blockIdx.x * 32 + column;
  if (blockIdx.x == 0 && threadIdx.x == 0 && count != 0.0) counters[3] += block_dim;
  if (count == 0.0 || at >= columns) return;
  int blocks = columns / block_dim;
  double slope = 0.0;
  for (int block = 0; block < blocks; ++block) slope += deriv_sum[block * block_dim + at % block_dim];
  slope /= blocks;
  bool low = kind == 0 ? slope <= count * lower : slope < count * lower;
  bool high = kind == 0 && !low && slope > count * upper;
  if (!low && !high) return;
  if (lane == 0 && at < block_dim) atomicAdd(&counters[2], 1.0);
  float push = low ? scale : -scale;
  for (int row = lane; row < rows; row += 32) {
    long long i = (long long)row * columns + at;
    if (kind == 0) dx[i] += push;
    else dx[i] -= (kind == 1 ? 2.0f * y[i] - 1.0f : y[i]) * push;
  }
}

// Statistics of a nonlinearity: its values, and its slopes where there are any. Broken sums are not kept.
extern "C" __global__ void __launch_bounds__(1024) add_statistics(int kind, const float* y, long long rows, int columns, double* value_sum,
                                          double* deriv_sum, double* counters) {
  __shared__ double values[32][33];
  __shared__ double slopes[32][33];
  int column = threadIdx.x % 32, lane = threadIdx.x / 32;
  int at = blockIdx.x * 32 + column;
  double value = 0.0, slope = 0.0;
  if (at < columns)
    for (long long row = lane; row < rows; row += 32) {
      float number = y[row * columns + at];
      value += number;
      if (kind >= 0) slope += slope_of(kind, number);
    }
  values[lane][column] = value;
  slopes[lane][column] = slope;
  reduce_lanes(values, lane, column);
  reduce_lanes(slopes, lane, column);
  if (lane == 0 && at < columns && isfinite(values[0][column])) {
    value_sum[at] += values[0][column];
    if (kind >= 0) deriv_sum[at] += slopes[0][column];
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) counters[0] += (double)rows;
}

// Sums of squares of the derivatives that come to a nonlinearity.
extern "C" __global__ void __launch_bounds__(1024) add_column_squares(const float* dy, long long rows, int columns, double* sums_out,
                                              double* counters) {
  __shared__ double squares[32][33];
  int column = threadIdx.x % 32, lane = threadIdx.x / 32;
  int at = blockIdx.x * 32 + column;
  double square = 0.0;
  if (at < columns)
    for (long long row = lane; row < rows; row += 32) {
      float number = dy[row * columns + at];
      square += (double)number * number;
    }
  squares[lane][column] = square;
  reduce_lanes(squares, lane, column);
  if (lane == 0 && at < columns && isfinite(squares[0][column])) sums_out[at] += squares[0][column];
  if (blockIdx.x == 0 && threadIdx.x == 0) counters[1] += (double)rows;
}

// Batch normalisation (nnet3py/nnet/batch_norm.py); statistics: count, then sums, then sums of squares, all faded.
extern "C" __global__ void __launch_bounds__(1024) batch_norm(const float* x, long long rows, int columns, float epsilon, float target_rms,
                                      float* z, float* scale_out, double* statistics, double fade) {
  __shared__ double sums[32][33];
  __shared__ double squares[32][33];
  int column = threadIdx.x % 32, lane = threadIdx.x / 32;
  int at = blockIdx.x * 32 + column;
  double sum = 0.0, square = 0.0;
  if (at < columns)
    for (long long row = lane; row < rows; row += 32) {
      double number = x[row * columns + at];
      sum += number;
      square += number * number;
    }
  sums[lane][column] = sum;
  squares[lane][column] = square;
  reduce_lanes(sums, lane, column);
  reduce_lanes(squares, lane, column);
  if (blockIdx.x == 0 && threadIdx.x == 0 && statistics) statistics[0] = (statistics[0] + (double)rows) * fade;
  if (at >= columns) return;
  double mean = sums[0][column] / rows, mean_square = squares[0][column] / rows;
  double variance = mean_square - mean * mean;
  if (variance < 0.0) variance = 0.0;
  float scale = (float)(target_rms / sqrt(variance + (double)epsilon));
  if (lane == 0) {
    scale_out[at] = scale;
    if (statistics && isfinite(mean_square)) {
      statistics[1 + at] = (statistics[1 + at] + sums[0][column]) * fade;
      statistics[1 + columns + at] = (statistics[1 + columns + at] + squares[0][column]) * fade;
    }
  }
  float centre = (float)mean;
  for (long long row = lane; row < rows; row += 32) z[row * columns + at] = (x[row * columns + at] - centre) * scale;
}

extern "C" __global__ void __launch_bounds__(1024) batch_norm_backward(const float* z, const float* scale, float* dz, long long rows,
                                               int columns, float target_rms) {
  __shared__ double sums[32][33];
  __shared__ double products[32][33];
  int column = threadIdx.x % 32, lane = threadIdx.x / 32;
  int at = blockIdx.x * 32 + column;
  double sum = 0.0, product = 0.0;
  if (at < columns)
    for (long long row = lane; row < rows; row += 32) {
      double number = dz[row * columns + at];
      sum += number;
      product += number * z[row * columns + at];
    }
  sums[lane][column] = sum;
  products[lane][column] = product;
  reduce_lanes(sums, lane, column);
  reduce_lanes(products, lane, column);
  if (at >= columns) return;
  float factor = scale[at], mean = (float)(sums[0][column] / rows);
  float towards_z = (float)(-factor * products[0][column] / ((double)target_rms * target_rms * rows));
  for (long long row = lane; row < rows; row += 32) {
    long long i = row * columns + at;
    dz[i] = (dz[i] - mean) * factor + z[i] * towards_z;
  }
}
