// The change of all parameters at once: regularised, measured, limited, added (nnet3py/train/max_change.py).
// Parameters lie one after the other in one array, cut into chunks none of which has numbers of two components.

extern "C" __global__ void squared_norms(float* delta, const float* parameters, const int* chunk_component,
                                         const long long* chunk_start, const int* chunk_length,
                                         const float* l2_factors, double* partial) {
  __shared__ double sums[32];
  int component = chunk_component[blockIdx.x];
  float factor = l2_factors[component];
  float* first = delta + chunk_start[blockIdx.x];
  const float* from = parameters + chunk_start[blockIdx.x];
  double sum = 0.0;
  float part = 0.0f;
  for (int i = threadIdx.x; i < chunk_length[blockIdx.x]; i += blockDim.x) {
    float value = first[i];
    if (factor != 0.0f) first[i] = value = value + factor * from[i];
    part += value * value;
  }
  sum = block_sum((double)part, sums);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// One block. counts: minibatches, minibatches with a change that is not finite, those where the limit of the whole
// model was reached, then for each component those where its own was. scales: one for each component; 0 for all if
// the change is not to be added. A change whose norm float32 cannot represent is not added either.
extern "C" __global__ void limit(const double* partial, const int* first_chunk, int components,
                                 const float* max_changes, double max_param_change, double scale,
                                 double max_change_scale, double* scales, double* counts) {
  __shared__ double sums[32];
  double whole = 0.0;
  bool finite = true;
  for (int c = 0; c < components; ++c) {
    double squared = 0.0;
    for (int i = first_chunk[c] + threadIdx.x; i < first_chunk[c + 1]; i += blockDim.x) squared += partial[i];
    squared = block_sum(squared, sums);
    finite = finite && squared < 3.0e38;
    double norm = sqrt(squared), limit = (double)max_changes[c] * max_change_scale, factor = 1.0;
    bool limited = max_changes[c] != 0.0f && norm * fabs(scale) > limit;
    if (limited) factor = limit / (norm * fabs(scale));
    whole += factor * factor * squared;
    if (threadIdx.x == 0) scales[c] = factor;
  }
  if (threadIdx.x != 0) return;
  counts[0] += 1.0;
  if (!finite) {
    counts[1] += 1.0;
    for (int c = 0; c < components; ++c) scales[c] = 0.0;
    return;
  }
  whole = fabs(scale) * sqrt(whole);
  double factor = 1.0, limit_of_all = max_param_change * max_change_scale;
  if (max_param_change != 0.0 && whole > limit_of_all) {
    factor = limit_of_all / whole;
    counts[2] += 1.0;
  }
  for (int c = 0; c < components; ++c) {
    if (scales[c] < 1.0) counts[3 + c] += 1.0;
    scales[c] *= factor * scale;
  }
}

extern "C" __global__ void apply_change(float* delta, float* parameters, const int* chunk_component,
                                        const long long* chunk_start, const int* chunk_length, const double* scales,
                                        float momentum) {
  double scale = scales[chunk_component[blockIdx.x]];
  float* first = delta + chunk_start[blockIdx.x];
  float* to = parameters + chunk_start[blockIdx.x];
  for (int i = threadIdx.x; i < chunk_length[blockIdx.x]; i += blockDim.x) {
    if (scale != 0.0) {
      to[i] += (float)scale * first[i];
      first[i] *= momentum;
    } else {
      first[i] = 0.0f;
    }
  }
}

extern "C" __global__ void next_slot(int* slot, int capacity) { *slot = (*slot + 1) % capacity; }
