// The online natural gradient of nnet3py/train/natural_gradient.py, whose letters and equations are used here.
// Tables have one row for each estimate. Pointers: 0 W, 1 its column for the appended ones, 2 J, 3 its column of the
// same, 4 K, 5 L, 6 gram, 7 d, 8 rho, 9 A, 10 coefficients of (new W), 11 squared norm. Whole numbers: rank, columns,
// stride of L, rows. Numbers: alpha, eta. Status: 1 not finite, 2 not orthonormal, 4 ill-conditioned.

#define POINTERS 12
#define INTEGERS 4
#define NUMBERS 2

// Norms of both sides of a layer before and after preconditioning: sums[0..3] = ‖X‖², ‖Y‖², ‖X̂‖², ‖Ŷ‖².
// G is HᵀH of [H_y H_x].
extern "C" __global__ void layer_norms(const float* G, int rank_y, int rank_x, const float* gram_y,
                                       const float* gram_x, const double* squares_y, int count_y,
                                       const double* squares_x, int count_x, double ones, double* sums) {
  __shared__ double shared[1024];
  int stride = rank_y + rank_x;
  for (int side = 0; side < 2; ++side) {
    int rank = side ? rank_y : rank_x, offset = side ? 0 : rank_y;
    const float* gram = side ? gram_y : gram_x;
    const double* squares = side ? squares_y : squares_x;
    int count = side ? count_y : count_x;
    double squared = 0.0, change = 0.0;
    for (int i = threadIdx.x; i < count; i += blockDim.x) squared += squares[i];
    for (int i = threadIdx.x; i < rank * rank; i += blockDim.x) {
      int row = i / rank, column = i % rank;
      double L = G[(offset + row) * stride + offset + column];
      change += L * gram[i] - (row == column ? 2.0 * L : 0.0);
    }
    squared = block_sum(squared, shared) + (side ? 0.0 : ones);
    change = block_sum(change, shared);
    if (threadIdx.x == 0) {
      sums[side] = squared;
      sums[2 + side] = squared + change;
    }
  }
}

// Where (norm) loses too many digits: ‖X - H W‖² by itself, as one partial sum a block; elsewhere nothing.
extern "C" __global__ void residual(const float* rows, long long num_rows, int columns, const float* H, int stride,
                                    const float* W, const float* ones_column, int rank, const double* sums, int side,
                                    double* partial) {
  __shared__ double shared[1024];
  if (!(sums[2 + side] < 1.0e-2 * sums[side])) return;
  double sum = 0.0;
  int width = columns + (ones_column ? 1 : 0);
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < num_rows * width;
       i += (long long)gridDim.x * blockDim.x) {
    long long row = i / width;
    int column = (int)(i % width);
    float value = column < columns ? rows[row * columns + column] : 1.0f;
    const float* h = H + row * stride;
    for (int k = 0; k < rank; ++k) value -= h[k] * (column < columns ? W[k * (long long)columns + column] : ones_column[k]);
    sum += (double)value * value;
  }
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// factors[0] = the learning rate times both scales s of (scale), factors[1] = minus that.
extern "C" __global__ void layer_step(const double* sums, const double* partial_y, const double* partial_x,
                                      int count, double learning_rate, float* factors) {
  double step = learning_rate;
  for (int side = 0; side < 2; ++side) {
    double squared = sums[side], hat = sums[2 + side];
    if (hat < 1.0e-2 * squared) {
      const double* partial = side ? partial_y : partial_x;
      hat = 0.0;
      for (int i = 0; i < count; ++i) hat += partial[i];
    }
    if (squared != 0.0 && hat > 0.0) step *= sqrt(squared / hat);
    if (!isfinite(squared)) step = squared - squared;  // not a number
  }
  factors[0] = (float)step;
  factors[1] = (float)-step;
}

// The change of the bias: what the product of Ŷ with the preconditioned ones is, see nnet3py/gpu/natural_gradient.py.
// left: W_y, then Q; sums of H: those of H_y, then H_x.
extern "C" __global__ void bias_change(float* delta, const float* sums_of_y, const float* left, int rank_y,
                                       int rank_x, int dim, const float* sums_of_H, const float* G,
                                       const float* ones_column, const float* factors) {
  extern __shared__ double right[];
  int rank = rank_y + rank_x;
  for (int k = threadIdx.x; k < rank; k += blockDim.x) {
    if (k < rank_y) {
      double p = sums_of_H[k];
      for (int i = 0; i < rank_x; ++i) p -= (double)G[k * rank + rank_y + i] * ones_column[i];
      right[k] = p;
    } else {
      right[k] = ones_column[k - rank_y];
    }
  }
  __syncthreads();
  int j = blockIdx.x * blockDim.x + threadIdx.x;
  if (j >= dim) return;
  double value = sums_of_y[j];
  for (int k = 0; k < rank; ++k) value -= (double)left[(long long)k * dim + j] * right[k];
  delta[j] += (float)((double)factors[0] * value);
}

// products = rows rowsᵀ, with the column for ones: K of J (which = 0), or gram of W (which = 1), whose rows divided by
// E^½ are then checked for orthonormality. 16 by 16 threads; block x, y: the tile; z: the estimate.
extern "C" __global__ void products_of_rows(const long long* pointers, const int* integers, const double* numbers,
                                            int which, int* status) {
  __shared__ float left[16][33];
  __shared__ float right[16][33];
  const long long* p = pointers + (long long)blockIdx.z * POINTERS;
  int rank = integers[blockIdx.z * INTEGERS], columns = integers[blockIdx.z * INTEGERS + 1];
  const float* rows = (const float*)p[which ? 0 : 2];
  const float* ones = (const float*)p[which ? 1 : 3];
  float* out = (float*)p[which ? 6 : 4];
  int column = threadIdx.x % 16, row = threadIdx.x / 16;
  int i = blockIdx.y * 16 + row, j = blockIdx.x * 16 + column;
  double sum = 0.0;
  for (int start = 0; start < columns; start += 32) {
    for (int k = threadIdx.x; k < 16 * 32; k += blockDim.x) {
      int r = k / 32, c = k % 32;
      int a = blockIdx.y * 16 + r, b = blockIdx.x * 16 + r;
      bool inside = start + c < columns;
      left[r][c] = inside && a < rank ? rows[(long long)a * columns + start + c] : 0.0f;
      right[r][c] = inside && b < rank ? rows[(long long)b * columns + start + c] : 0.0f;
    }
    __syncthreads();
    for (int c = 0; c < 32; ++c) sum += (double)left[row][c] * right[column][c];
    __syncthreads();
  }
  if (i >= rank || j >= rank) return;
  if (ones) sum += (double)ones[i] * ones[j];
  out[i * rank + j] = (float)sum;
  if (which == 0 || !(status[blockIdx.z] & 4)) return;
  const double* d = (const double*)p[7];
  double rho = *(const double*)p[8], alpha = numbers[blockIdx.z * NUMBERS], total = 0.0;
  for (int k = 0; k < rank; ++k) total += d[k];
  double beta = rho * (1.0 + alpha) + alpha * total / (columns + (ones ? 1 : 0));
  double product = sum * sqrt((beta / d[i] + 1.0) * (beta / d[j] + 1.0));
  if (fabs(product - (i == j ? 1.0 : 0.0)) > 1.0e-3) atomicOr(&status[blockIdx.z], 2);
}

__device__ inline int player(int seat, int round, int players) {
  return seat == 0 ? 0 : 1 + (seat - 1 + round) % (players - 1);
}

// Eigenvalues and eigenvectors of a symmetric positive definite matrix by Jacobi's rotations, all threads of a block:
// of n numbers, n/2 disjoint pairs are rotated at a time, as the rounds of a tournament pair its players.
// A: (n, stride), its diagonal becomes the eigenvalues; V: the same shape, its columns become the eigenvectors.
__device__ void jacobi(double* A, double* V, int n, int stride, double* cosine, double* sine, int* rotated) {
  int players = n + n % 2, pairs = players / 2;
  for (int i = threadIdx.x; i < n * n; i += blockDim.x) V[i / n * stride + i % n] = i / n == i % n ? 1.0 : 0.0;
  for (int sweep = 0; sweep < 20; ++sweep) {
    if (threadIdx.x == 0) *rotated = 0;
    __syncthreads();
    for (int round = 0; round < players - 1; ++round) {
      for (int pair = threadIdx.x; pair < pairs; pair += blockDim.x) {
        int p = player(pair, round, players), q = player(players - 1 - pair, round, players);
        double c = 1.0, s = 0.0;
        if (p < n && q < n) {
          double off = A[p * stride + q], at_p = A[p * stride + p], at_q = A[q * stride + q];
          double relative = off * off, largest = fabs(at_p * at_q);
          if (relative > 1.0e-28 * largest && relative > 0.0) {
            double tau = (at_q - at_p) / (2.0 * off);
            double t = (tau >= 0.0 ? 1.0 : -1.0) / (fabs(tau) + sqrt(1.0 + tau * tau));
            c = 1.0 / sqrt(1.0 + t * t);
            s = t * c;
            if (relative > 1.0e-12 * largest) *rotated = 1;
          }
        }
        cosine[pair] = c;
        sine[pair] = s;
      }
      __syncthreads();
      for (int block = threadIdx.x; block < pairs * pairs; block += blockDim.x) {
        int i = block / pairs, j = block % pairs;
        int p = player(i, round, players), q = player(players - 1 - i, round, players);
        int u = player(j, round, players), v = player(players - 1 - j, round, players);
        double ci = cosine[i], si = sine[i], cj = cosine[j], sj = sine[j];
        bool has_q = q < n && p < n, has_v = v < n && u < n;
        int row_1 = p < n ? p : q, row_2 = has_q ? q : row_1, column_1 = u < n ? u : v, column_2 = has_v ? v : column_1;
        double a = A[row_1 * stride + column_1], b = A[row_1 * stride + column_2];
        double e = A[row_2 * stride + column_1], f = A[row_2 * stride + column_2];
        double top_1 = ci * a - si * e, top_2 = ci * b - si * f, bottom_1 = si * a + ci * e, bottom_2 = si * b + ci * f;
        A[row_1 * stride + column_1] = cj * top_1 - sj * top_2;
        if (has_v) A[row_1 * stride + column_2] = sj * top_1 + cj * top_2;
        if (has_q) A[row_2 * stride + column_1] = cj * bottom_1 - sj * bottom_2;
        if (has_q && has_v) A[row_2 * stride + column_2] = sj * bottom_1 + cj * bottom_2;
      }
      for (int one = threadIdx.x; one < n * pairs; one += blockDim.x) {
        int row = one / pairs, j = one % pairs;
        int u = player(j, round, players), v = player(players - 1 - j, round, players);
        if (u < n && v < n && sine[j] != 0.0) {
          double a = V[row * stride + u], b = V[row * stride + v];
          V[row * stride + u] = cosine[j] * a - sine[j] * b;
          V[row * stride + v] = sine[j] * a + cosine[j] * b;
        }
      }
      __syncthreads();
    }
    if (!*rotated) break;
    __syncthreads();
  }
  __syncthreads();
}

// From K and L to d, rho, A and the coefficients of (new W). One block an estimate.
// Dynamic memory: two matrices (n, n + 1), six vectors of n + 1 numbers.
extern "C" __global__ void renew_estimates(const long long* pointers, const int* integers, const double* numbers,
                                           int* status) {
  extern __shared__ double memory[];
  __shared__ double reduced[1024];
  __shared__ int rotated;
  const long long* p = pointers + (long long)blockIdx.x * POINTERS;
  const int* whole = integers + blockIdx.x * INTEGERS;
  int n = whole[0], stride_L = whole[2], stride = n + 1;
  double dim = whole[1] + (p[1] ? 1 : 0), rows = whole[3];
  double alpha = numbers[blockIdx.x * NUMBERS], eta = numbers[blockIdx.x * NUMBERS + 1];
  const float *K = (const float*)p[4], *L = (const float*)p[5];
  double *d = (double*)p[7], *rho_at = (double*)p[8];
  float *A = (float*)p[9], *coefficients = (float*)p[10];
  double squared_norm = *(const double*)p[11], rho = *rho_at;
  double *Z = memory, *U = Z + n * stride, *old_d = U + n * stride, *inverse_sqrt_e = old_d + stride;
  double *cosine = inverse_sqrt_e + stride, *sine = cosine + stride, *c = sine + stride, *order = c + stride;

  double part = 0.0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) part += old_d[i] = d[i];
  double sum_d = block_sum(part, reduced);
  double beta = rho * (1.0 + alpha) + alpha * sum_d / dim;
  for (int i = threadIdx.x; i < n; i += blockDim.x) inverse_sqrt_e[i] = sqrt(beta / old_d[i] + 1.0);
  __syncthreads();
  double ratio = eta / rows, broken = 0.0;
  for (int k = threadIdx.x; k < n * n; k += blockDim.x) {
    int i = k / n, j = k % n;
    double outer = inverse_sqrt_e[i] * inverse_sqrt_e[j];
    double mean_K = 0.5 * ((double)K[i * n + j] + K[j * n + i]);
    double cross = (double)L[i * stride_L + j] * (old_d[j] + rho) + (double)L[j * stride_L + i] * (old_d[i] + rho);
    double value = ratio * ratio * outer * mean_K + ratio * (1.0 - eta) * outer * cross;
    if (i == j) value += (1.0 - eta) * (1.0 - eta) * (old_d[i] + rho) * (old_d[i] + rho);
    Z[i * stride + j] = value;
    if (!isfinite(value)) broken = 1.0;
  }
  if (block_sum(broken, reduced) > 0.0) {
    if (threadIdx.x == 0) status[blockIdx.x] = 1;
    return;
  }
  jacobi(Z, U, n, stride, cosine, sine, &rotated);

  // The largest first; equal ones in the order they have.
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    double value = Z[i * stride + i];
    int place = 0;
    for (int j = 0; j < n; ++j) {
      double other = Z[j * stride + j];
      if (other > value || (other == value && j < i)) ++place;
    }
    c[place] = value;
    order[place] = i;
  }
  __syncthreads();
  double floor = (1.0 - eta) * rho * (1.0 - eta) * rho, largest = c[0], smallest = c[n - 1];
  int ill = largest > 1.0e6 * smallest || smallest < floor;
  __syncthreads();
  part = 0.0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    c[i] = sqrt(c[i] > floor ? c[i] : floor);
    part += c[i];
  }
  double sum_c = block_sum(part, reduced);
  double trace = ratio * squared_norm + (1.0 - eta) * (dim * rho + sum_d);
  double new_rho = (trace - sum_c) / (dim - n);
  double least = 5.0e-4 * c[0];
  if (least < 1.0e-10) least = 1.0e-10;
  part = 0.0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    double new_d = c[i] - new_rho;
    if (!(new_d > least)) new_d = least;
    d[i] = new_d;
    part += new_d;
  }
  double new_sum = block_sum(part, reduced);
  if (!(new_rho > least)) new_rho = least;
  double new_beta = new_rho * (1.0 + alpha) + alpha * new_sum / dim;
  for (int k = threadIdx.x; k < n * n; k += blockDim.x) {
    int i = k / n, j = k % n;
    double sqrt_new_e = 1.0 / sqrt(new_beta / d[i] + 1.0);
    A[k] = (float)(ratio * sqrt_new_e / c[i] * U[j * stride + (int)order[i]] * inverse_sqrt_e[j]);
  }
  for (int i = threadIdx.x; i < n; i += blockDim.x)
    coefficients[i] = (float)((1.0 - eta) * rows / eta * (old_d[i] + rho));
  if (threadIdx.x == 0) {
    *rho_at = new_rho;
    status[blockIdx.x] = ill ? 4 : 0;
  }
}

// (new W), in place: each block has 32 columns of one estimate, which depend on these columns alone.
// Dynamic memory: A (n, n) and B (n, 32) as float. 256 threads.
extern "C" __global__ void renew_W(const long long* pointers, const int* integers, const int* status) {
  extern __shared__ float tiles[];
  const long long* p = pointers + (long long)blockIdx.y * POINTERS;
  int n = integers[blockIdx.y * INTEGERS], columns = integers[blockIdx.y * INTEGERS + 1];
  int width = columns + (p[1] ? 1 : 0);
  if ((status[blockIdx.y] & 1) || blockIdx.x * 32 >= width) return;
  float *W = (float*)p[0], *W_ones = (float*)p[1];
  const float *J = (const float*)p[2], *J_ones = (const float*)p[3], *A = (const float*)p[9];
  const float* coefficients = (const float*)p[10];
  float *A_tile = tiles, *B = tiles + n * n;
  for (int k = threadIdx.x; k < n * n; k += blockDim.x) A_tile[k] = A[k];
  int column = threadIdx.x % 32, lane = threadIdx.x / 32, at = blockIdx.x * 32 + column;
  for (int k = lane; k < n; k += 8) {
    float value = 0.0f;
    if (at < columns) value = J[(long long)k * columns + at] + coefficients[k] * W[(long long)k * columns + at];
    else if (at < width) value = J_ones[k] + coefficients[k] * W_ones[k];
    B[k * 32 + column] = value;
  }
  __syncthreads();
  for (int i = lane; i < n; i += 8) {
    float sum = 0.0f;
    for (int k = 0; k < n; ++k) sum += A_tile[i * n + k] * B[k * 32 + column];
    if (at < columns) W[(long long)i * columns + at] = sum;
    else if (at < width) W_ones[i] = sum;
  }
}
