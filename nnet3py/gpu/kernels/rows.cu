// What is done row by row: sums of groups, p-norm, normalisation, softmax. See the modules of the same names in nnet3py/nnet.

extern "C" __global__ void sum_groups(const float* x, float* y, const int* starts, unsigned outputs, unsigned groups,
                                      unsigned columns) {
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= outputs) return;
  const float* row = x + (long long)(i / groups) * columns;
  float sum = 0.0f;
  for (int k = starts[i % groups]; k < starts[i % groups + 1]; ++k) sum += row[k];
  y[i] = sum;
}

extern "C" __global__ void take_columns(const float* x, float* y, const int* chosen, unsigned outputs,
                                        unsigned columns_y, unsigned columns_x) {
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < outputs) y[i] = x[(long long)(i / columns_y) * columns_x + chosen[i % columns_y]];
}

extern "C" __global__ void pnorm(const float* x, float* y, long long outputs, int group) {
  long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= outputs) return;
  const float* first = x + i * group;
  float sum = 0.0f;
  for (int k = 0; k < group; ++k) sum += first[k] * first[k];
  y[i] = sqrtf(sum);
}

// A thread an input, although those of a group then divide alike: neighbouring threads write neighbouring numbers, which
// was measured to be faster by half than a thread a group.
extern "C" __global__ void pnorm_backward(const float* x, const float* y, const float* dy, float* dx,
                                          unsigned inputs, unsigned group) {
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= inputs) return;
  unsigned output = i / group;
  float norm = y[output];
  dx[i] = x[i] * (dy[output] / (norm == 0.0f ? 1.0f : norm));
}

// Eight rows a block, a warp each. With `log_stddev` a row of y has one number more than one of x.
extern "C" __global__ void normalize(const float* x, float* y, float* factors, long long rows, int dim, float rms,
                                     int log_stddev) {
  long long row = (long long)blockIdx.x * 8 + threadIdx.x / 32;
  int lane = threadIdx.x % 32;
  bool inside = row < rows;
  const float* from = x + row * dim;
  float sum = 0.0f;
  if (inside)
    for (int i = lane; i < dim; i += 32) sum += from[i] * from[i];
  sum = warp_sum(sum);
  if (!inside) return;
  float factor = 1.0f / sqrtf(fmaxf(sum / (dim * rms * rms), 1.3552527156068805e-20f));
  float* to = y + row * (dim + log_stddev);
  for (int i = lane; i < dim; i += 32) to[i] = from[i] * factor;
  if (lane == 0) {
    factors[row] = factor;
    if (log_stddev) to[dim] = logf(rms) - logf(factor);
  }
}

extern "C" __global__ void normalize_backward(const float* x, const float* factors, const float* dy, float* dx,
                                              long long rows, int dim, float rms, int log_stddev) {
  long long row = (long long)blockIdx.x * 8 + threadIdx.x / 32;
  int lane = threadIdx.x % 32;
  bool inside = row < rows;
  const float* from = x + row * dim;
  const float* by = dy + row * (dim + log_stddev);
  float product = 0.0f, square = 0.0f;
  if (inside)
    for (int i = lane; i < dim; i += 32) {
      product += by[i] * from[i];
      square += from[i] * from[i];
    }
  product = warp_sum(product);
  square = warp_sum(square);
  if (!inside) return;
  float factor = factors[row];
  bool floored = factor >= 8589934592.0f;  // 2^33: the mean square was below 2^-66
  float towards_x = floored ? 0.0f : -factor * factor * factor / (dim * rms * rms) * product;
  if (log_stddev) towards_x += by[dim] / fmaxf(square, dim * 1.3552527156068805e-20f);
  for (int i = lane; i < dim; i += 32) dx[row * dim + i] = factor * by[i] + from[i] * towards_x;
}

// A block a row, which it reads once if `kept`: dynamic memory then has room for it.
extern "C" __global__ void log_softmax(const float* x, float* y, int columns, int take_exp, int kept) {
  extern __shared__ float row[];
  __shared__ float best[32];
  __shared__ double sums[32];
  const float* from = x + (long long)blockIdx.x * columns;
  float* to = y + (long long)blockIdx.x * columns;
  float largest = -3.402823466e+38f;
  for (int i = threadIdx.x; i < columns; i += blockDim.x) {
    float value = from[i];
    if (kept) row[i] = value;
    largest = fmaxf(largest, value);
  }
  largest = warp_max(largest);
  if (threadIdx.x % 32 == 0) best[threadIdx.x / 32] = largest;
  __syncthreads();
  for (int i = 0; i < blockDim.x / 32; ++i) largest = fmaxf(largest, best[i]);
  const float* again = kept ? row : from;
  float sum = 0.0f;
  for (int i = threadIdx.x; i < columns; i += blockDim.x) sum += expf(again[i] - largest);
  float total = (float)block_sum(sum, sums);
  float log_total = logf(total);
  for (int i = threadIdx.x; i < columns; i += blockDim.x) {
    float shifted = again[i] - largest;
    to[i] = take_exp ? fmaxf(expf(shifted) / total, 1.0e-20f) : shifted - log_total;
  }
}

extern "C" __global__ void log_softmax_backward(const float* y, float* dy, int columns, int of_softmax) {
  __shared__ double sums[32];
  const float* output = y + (long long)blockIdx.x * columns;
  float* derivative = dy + (long long)blockIdx.x * columns;
  float sum = 0.0f;
  for (int i = threadIdx.x; i < columns; i += blockDim.x)
    sum += of_softmax ? output[i] * derivative[i] : derivative[i];
  float total = (float)block_sum(sum, sums);
  for (int i = threadIdx.x; i < columns; i += blockDim.x)
    derivative[i] = of_softmax ? (derivative[i] - total) * output[i] : derivative[i] - expf(output[i]) * total;
}

// The same where the derivative with respect to the output is one weight in each row: weight (of the label - exp y).
extern "C" __global__ void log_softmax_label_backward(const float* y, float* dx, int columns, const int* classes,
                                                      const float* weights) {
  const float* output = y + (long long)blockIdx.x * columns;
  float* derivative = dx + (long long)blockIdx.x * columns;
  float weight = weights[blockIdx.x];
  int label = classes[blockIdx.x];
  for (int i = threadIdx.x; i < columns; i += blockDim.x)
    derivative[i] = (i == label ? weight : 0.0f) - expf(output[i]) * weight;
}
