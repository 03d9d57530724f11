// Objectives (nnet3py/train/objective.py). The value goes to slot `*slot` of a ring that the host reads now and then.

extern "C" __global__ void __launch_bounds__(1024) sparse_objective(const float* output, int columns, const int* label_rows,
                                            const int* classes, const float* weights, int labels, double* values,
                                            const int* slot) {
  __shared__ double sums[32];
  double sum = 0.0;
  for (int i = threadIdx.x; i < labels; i += blockDim.x)
    if (weights[i] != 0.0f) sum += (double)output[(long long)label_rows[i] * columns + classes[i]] * weights[i];
  sum = block_sum(sum, sums);
  if (threadIdx.x == 0) values[*slot] = sum;
}

extern "C" __global__ void scatter_labels(float* derivative, int columns, const int* label_rows, const int* classes,
                                          const float* weights, int labels) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < labels && weights[i] != 0.0f) derivative[(long long)label_rows[i] * columns + classes[i]] = weights[i];
}

// Dense targets: kind 0 linear, 1 quadratic. One partial sum a block; the derivative where it is asked for.
extern "C" __global__ void __launch_bounds__(1024) dense_objective(int kind, const float* output, const float* targets, float* derivative,
                                           long long count, double* partial) {
  __shared__ double sums[32];
  double sum = 0.0;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < count;
       i += (long long)gridDim.x * blockDim.x) {
    float difference = targets[i] - output[i];
    sum += kind ? -0.5 * (double)difference * difference : (double)output[i] * targets[i];
    derivative[i] = kind ? difference : targets[i];
  }
  sum = block_sum(sum, sums);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

extern "C" __global__ void store_sum(const double* partial, int count, double* values, const int* slot) {
  double sum = 0.0;
  for (int i = 0; i < count; ++i) sum += partial[i];
  values[*slot] = sum;
}

// Sums of squares by class of a derivative that is one weight in each row; and the count of rows.
extern "C" __global__ void label_squares(const int* classes, const float* weights, int rows, int columns,
                                         double* sums, double* counters) {
  __shared__ int some_classes[256];
  __shared__ float some_weights[256];
  int at = blockIdx.x * blockDim.x + threadIdx.x;
  double sum = 0.0;
  for (int first = 0; first < rows; first += 256) {
    __syncthreads();
    if (first + threadIdx.x < rows) {
      some_classes[threadIdx.x] = classes[first + threadIdx.x];
      some_weights[threadIdx.x] = weights[first + threadIdx.x];
    }
    __syncthreads();
    for (int i = 0; i < 256 && first + i < rows; ++i)
      if (some_classes[i] == at) sum += (double)some_weights[i] * some_weights[i];
  }
  if (at < columns && sum != 0.0) sums[at] += sum;
  if (at == 0) counters[1] += (double)rows;
}
