// The online natural gradient of nnet3py/train/natural_gradient.py, whose letters and equations are used here.
// Tables have one row for each estimate. Pointers: 0 W, 1 its column for the appended ones, 2 J, 3 its column of the
// same, 4 K, 5 L, 6 gram, 7 d, 8 rho, 9 A, 10 coefficients of (new W), 11 squared norm. Whole numbers: rank, columns,
// stride of L, rows. Numbers: alpha, eta. Status: 1 not finite, 2 not orthonormal, 4 ill-conditioned.

#define POINTERS 12
#define INTEGERS 4
#define NUMBERS 2

// Norms of both sides of a layer before and after preconditioning: sums[0..3] = ‖X‖², ‖Y‖², ‖X̂‖², ‖Ŷ‖².
// G is HᵀH of [H_y H_x].
extern "C" __global__ void __launch_bounds__(1024) layer_norms(const float* G, int rank_y, int rank_x, const float* gram_y,
                                       const float* gram_x, const double* squares_y, int count_y,
                                       const double* squares_x, int count_x, double ones, double* sums) {
  __shared__ double shared[32];
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
// Four rows at a time, so that W is read from nearby once for all of them. Dynamic memory: four rows of H.
// Block y: the side, 0 for X and 1 for Y.
extern "C" __global__ void residual(int num_rows, int stride, const double* sums, const float* x, int columns_x,
                                    const float* H_x, const float* W_x, const float* ones_x, int rank_x,
                                    double* partial_x, const float* y, int columns_y, const float* H_y,
                                    const float* W_y, const float* ones_y, int rank_y, double* partial_y) {
  extern __shared__ float h[];
  __shared__ double shared[32];
  int side = blockIdx.y;
  if (!(sums[2 + side] < 1.0e-2 * sums[side])) return;
  const float *rows = side ? y : x, *H = side ? H_y : H_x, *W = side ? W_y : W_x;
  const float* ones_column = side ? ones_y : ones_x;
  int columns = side ? columns_y : columns_x, rank = side ? rank_y : rank_x;
  double sum = 0.0;
  int width = columns + (ones_column ? 1 : 0);
  for (int first = blockIdx.x * 4; first < num_rows; first += gridDim.x * 4) {
    int count = num_rows - first < 4 ? num_rows - first : 4;
    __syncthreads();
    for (int i = threadIdx.x; i < count * rank; i += blockDim.x)
      h[i] = H[(long long)(first + i / rank) * stride + i % rank];
    __syncthreads();
    for (int column = threadIdx.x; column < width; column += blockDim.x) {
      float values[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      for (int r = 0; r < 4; ++r)
        if (r < count) values[r] = column < columns ? rows[(long long)(first + r) * columns + column] : 1.0f;
      for (int k = 0; k < rank; ++k) {
        float w = column < columns ? W[(long long)k * columns + column] : ones_column[k];
        for (int r = 0; r < 4; ++r)
          if (r < count) values[r] -= h[r * rank + k] * w;
      }
      for (int r = 0; r < 4; ++r) sum += (double)values[r] * values[r];
    }
  }
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) (side ? partial_y : partial_x)[blockIdx.x] = sum;
}

// factors[0] = the learning rate times both scales s of (scale), factors[1] = minus that. right: what the preconditioned
// ones are made of, [p; w] of nnet3py/gpu/natural_gradient.py; sums of H: parts of those of H_y, then H_x,
// whose sum is the column of J for the ones.
extern "C" __global__ void layer_step(const double* sums, const double* partial_y, const double* partial_x,
                                      int count, double learning_rate, float* factors, const float* G, int rank_y,
                                      int rank_x, const float* sums_of_H, int parts, const float* ones_column,
                                      float* right, float* J_ones) {
  __shared__ double shared[32];
  double step = learning_rate;
  for (int side = 0; side < 2; ++side) {
    double squared = sums[side], hat = sums[2 + side];
    if (hat < 1.0e-2 * squared) {
      const double* partial = side ? partial_y : partial_x;
      hat = 0.0;
      for (int i = threadIdx.x; i < count; i += blockDim.x) hat += partial[i];
      hat = block_sum(hat, shared);
    }
    if (squared != 0.0 && hat > 0.0) step *= sqrt(squared / hat);
    if (!isfinite(squared)) step = squared - squared;  // not a number
  }
  if (threadIdx.x == 0) {
    factors[0] = (float)step;
    factors[1] = (float)-step;
  }
  int rank = rank_y + rank_x;
  if (!ones_column) return;
  for (int k = threadIdx.x; k < rank; k += blockDim.x) {
    if (k < rank_y) {
      float p = 0.0f;
      for (int part = 0; part < parts; ++part) p += sums_of_H[part * rank + k];
      for (int i = 0; i < rank_x; ++i) p -= G[k * rank + rank_y + i] * ones_column[i];
      right[k] = p;
    } else {
      right[k] = ones_column[k - rank_y];
      float sum = 0.0f;
      for (int part = 0; part < parts; ++part) sum += sums_of_H[part * rank + k];
      J_ones[k - rank_y] = sum;
    }
  }
}

// The change of the bias: what the product of Ŷ with the preconditioned ones is. left: W_y, then Q. A block has 32
// columns, and 8 lanes share out the rows of `left`.
extern "C" __global__ void bias_change(float* delta, const float* sums_of_y, int parts, const float* left, int rank,
                                       int dim, const float* right, const float* factors) {
  __shared__ float sums[8][33];
  int column = threadIdx.x % 32, lane = threadIdx.x / 32, j = blockIdx.x * 32 + column;
  float value = 0.0f;
  if (j < dim)
    for (int k = lane; k < rank; k += 8) value -= left[(long long)k * dim + j] * right[k];
  sums[lane][column] = value;
  __syncthreads();
  if (lane != 0 || j >= dim) return;
  for (int other = 1; other < 8; ++other) value += sums[other][column];
  for (int part = 0; part < parts; ++part) value += sums_of_y[part * dim + j];
  delta[j] += factors[0] * value;
}

// products = rows rowsᵀ of J (which = 0) or W (which = 1), first the part of it that 64 columns make. 16 by 16 threads,
// each of which has every 16th row and column of the products, at most 8 of each. Block x: the 64 columns; y: the estimate.
#define SLICE 64
#define MOST 8

extern "C" __global__ void products_of_rows(const long long* pointers, const int* integers, int which,
                                            const long long* first_part, float* parts) {
  extern __shared__ float tile[];
  const long long* p = pointers + (long long)blockIdx.y * POINTERS;
  int rank = integers[blockIdx.y * INTEGERS], columns = integers[blockIdx.y * INTEGERS + 1];
  int start = blockIdx.x * SLICE;
  if (start >= columns) return;
  const float* rows = (const float*)p[which ? 0 : 2];
  for (int k = threadIdx.x; k < rank * SLICE; k += blockDim.x) {
    int r = k / SLICE, c = k % SLICE;
    tile[r * (SLICE + 1) + c] = start + c < columns ? rows[(long long)r * columns + start + c] : 0.0f;
  }
  __syncthreads();
  int column = threadIdx.x % 16, row = threadIdx.x / 16;
  float sums[MOST][MOST], left[MOST], right[MOST];
  for (int i = 0; i < MOST; ++i)
    for (int j = 0; j < MOST; ++j) sums[i][j] = 0.0f;
  for (int c = 0; c < SLICE; ++c) {
#pragma unroll
    for (int i = 0; i < MOST; ++i) {
      left[i] = row + 16 * i < rank ? tile[(row + 16 * i) * (SLICE + 1) + c] : 0.0f;
      right[i] = column + 16 * i < rank ? tile[(column + 16 * i) * (SLICE + 1) + c] : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < MOST; ++i)
#pragma unroll
      for (int j = 0; j < MOST; ++j) sums[i][j] += left[i] * right[j];
  }
  float* out = parts + first_part[blockIdx.y] + (long long)blockIdx.x * rank * rank;
#pragma unroll
  for (int i = 0; i < MOST; ++i)
#pragma unroll
    for (int j = 0; j < MOST; ++j)
      if (row + 16 * i < rank && column + 16 * j < rank) out[(row + 16 * i) * rank + column + 16 * j] = sums[i][j];
}

// The sum of the parts, with the column for ones: K (which = 0), or the gram matrix of W (which = 1). The rows of W
// divided by E^½ are then checked for orthonormality if the renewal was ill-conditioned.
extern "C" __global__ void sum_products(const long long* pointers, const int* integers, const double* numbers,
                                        int which, const long long* first_part, const float* parts, int* status) {
  __shared__ double shared[32];
  const long long* p = pointers + (long long)blockIdx.y * POINTERS;
  int rank = integers[blockIdx.y * INTEGERS], columns = integers[blockIdx.y * INTEGERS + 1];
  const float* ones = (const float*)p[which ? 1 : 3];
  float* out = (float*)p[which ? 6 : 4];
  int k = blockIdx.x * blockDim.x + threadIdx.x, count = (columns + SLICE - 1) / SLICE;
  double total = 0.0;
  const double* d = (const double*)p[7];
  bool checking = which == 1 && (status[blockIdx.y] & 4);
  if (checking)
    for (int i = threadIdx.x; i < rank; i += blockDim.x) total += d[i];
  total = block_sum(total, shared);
  if (k >= rank * rank) return;
  const float* part = parts + first_part[blockIdx.y] + k;
  float sum = 0.0f;
  for (int i = 0; i < count; ++i) sum += part[(long long)i * rank * rank];
  int i = k / rank, j = k % rank;
  if (ones) sum += ones[i] * ones[j];
  out[k] = sum;
  if (!checking) return;
  double rho = *(const double*)p[8], alpha = numbers[blockIdx.y * NUMBERS];
  double beta = rho * (1.0 + alpha) + alpha * total / (columns + (ones ? 1 : 0));
  double product = sum * sqrt((beta / d[i] + 1.0) * (beta / d[j] + 1.0));
  if (fabs(product - (i == j ? 1.0 : 0.0)) > 1.0e-3) atomicOr(&status[blockIdx.y], 2);
}

// Eigenvalues and eigenvectors of a symmetric positive definite matrix by Jacobi's rotations, all threads of a block:
// of n numbers, n/2 disjoint pairs are rotated at a time, as the rounds of a tournament pair its players. A thread has
// some blocks of two rows and two columns, and some pairs of elements of V, always the same. Pairs whose element is
// below 1e-14 of what it could be are left; when in a whole sweep all were below 1e-4, the sweep has made them 1e-8, and
// that is enough.
// A: (n, stride), its largest number about 1; its diagonal becomes the eigenvalues; V: the same shape, its rows become
// the eigenvectors. pairs: the two numbers of each pair; the second is -1 where one of an odd number has no partner.
#define BLOCKS 4
#define ELEMENTS 8

__device__ void jacobi(double* A, double* V, int n, int stride, double* cosine, double* sine, short2* pairs,
                       int* rotated) {
  int players = n + n % 2, count = players / 2;
  for (int i = threadIdx.x; i < n * n; i += blockDim.x) V[i / n * stride + i % n] = i / n == i % n ? 1.0 : 0.0;
  short block_row[BLOCKS], block_column[BLOCKS], element_pair[ELEMENTS], element_column[ELEMENTS];
#pragma unroll
  for (int k = 0; k < BLOCKS; ++k) {
    int block = threadIdx.x + k * blockDim.x;
    block_row[k] = block < count * count ? (short)(block / count) : (short)-1;
    block_column[k] = (short)(block % count);
  }
#pragma unroll
  for (int k = 0; k < ELEMENTS; ++k) {
    int element = threadIdx.x + k * blockDim.x;
    element_pair[k] = element < n * count ? (short)(element / n) : (short)-1;
    element_column[k] = (short)(element % n);
  }
  for (int sweep = 0; sweep < 20; ++sweep) {
    if (threadIdx.x == 0) *rotated = 0;
    __syncthreads();
    for (int round = 0; round < players - 1; ++round) {
      for (int pair = threadIdx.x; pair < count; pair += blockDim.x) {
        int p = pair == 0 ? 0 : 1 + (pair - 1 + round) % (players - 1);
        int q = 1 + (players - 2 - pair + round) % (players - 1);
        if (p >= n) { p = q; q = n; }
        double c = 1.0, s = 0.0;
        if (q < n) {
          double off = A[p * stride + q], at_p = A[p * stride + p], at_q = A[q * stride + q];
          double squared = off * off, largest = fabs(at_p * at_q);
          if (squared > 1.0e-28 * largest && fabs(off) > 1.0e-30) {
            // An angle that is not quite right rotates not quite enough; a sine and cosine that do not belong together
            // would be wrong. So only the tangent is found in single precision.
            float tau = (float)(at_q - at_p) / (float)(2.0 * off);
            float tangent = (tau >= 0.0f ? 1.0f : -1.0f) / (fabsf(tau) + sqrtf(1.0f + tau * tau));
            double t = tangent, square = 1.0 + t * t, near = 1.0f / sqrtf((float)square);
            near = near * (1.5 - 0.5 * square * near * near);  // Newton's steps towards 1 / sqrt(square)
            c = near * (1.5 - 0.5 * square * near * near);
            s = t * c;
            if (squared > 1.0e-8 * largest) *rotated = 1;
          }
        }
        cosine[pair] = c;
        sine[pair] = s;
        pairs[pair] = make_short2((short)p, (short)(q < n ? q : -1));
      }
      __syncthreads();
#pragma unroll
      for (int k = 0; k < BLOCKS; ++k) {
        int i = block_row[k], j = block_column[k];
        if (i < 0) break;
        int p = pairs[i].x, q = pairs[i].y, u = pairs[j].x, v = pairs[j].y;
        double ci = cosine[i], si = sine[i], cj = cosine[j], sj = sine[j];
        double* row_p = A + p * stride;
        double* row_q = A + (q < 0 ? p : q) * stride;
        int w = v < 0 ? u : v;
        double a = row_p[u], b = row_p[w], e = row_q[u], f = row_q[w];
        double top_1 = ci * a - si * e, top_2 = ci * b - si * f;
        double bottom_1 = si * a + ci * e, bottom_2 = si * b + ci * f;
        row_p[u] = cj * top_1 - sj * top_2;
        if (v >= 0) row_p[v] = sj * top_1 + cj * top_2;
        if (q >= 0) {
          row_q[u] = cj * bottom_1 - sj * bottom_2;
          if (v >= 0) row_q[v] = sj * bottom_1 + cj * bottom_2;
        }
      }
#pragma unroll
      for (int k = 0; k < ELEMENTS; ++k) {
        int pair = element_pair[k];
        if (pair < 0) break;
        double c = cosine[pair], s = sine[pair];
        if (s == 0.0) continue;
        double *p = V + pairs[pair].x * stride + element_column[k], *q = V + pairs[pair].y * stride + element_column[k];
        double a = *p, b = *q;
        *p = c * a - s * b;
        *q = s * a + c * b;
      }
      __syncthreads();
    }
    if (!*rotated) break;
    __syncthreads();
  }
  __syncthreads();
}

// From K and L to d, rho, A and the coefficients of (new W). One block an estimate.
// Dynamic memory: two matrices (n, n + 1), seven vectors of n + 1 numbers.
extern "C" __global__ void __launch_bounds__(1024) renew_estimates(const long long* pointers, const int* integers, const double* numbers,
                                           int* status) {
  extern __shared__ double memory[];
  __shared__ double reduced[32];
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
  short2* pairs = (short2*)(order + stride);

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
  // Scaled, so that its numbers can be single ones.
  part = 0.0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) part += Z[i * stride + i];
  double size = block_sum(part, reduced);
  if (!(size > 0.0)) size = 1.0;
  for (int k = threadIdx.x; k < n * n; k += blockDim.x) Z[k / n * stride + k % n] /= size;
  __syncthreads();
  jacobi(Z, U, n, stride, cosine, sine, pairs, &rotated);

  // The largest first; equal ones in the order they have.
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    double value = Z[i * stride + i];
    int place = 0;
    for (int j = 0; j < n; ++j) {
      double other = Z[j * stride + j];
      if (other > value || (other == value && j < i)) ++place;
    }
    c[place] = value * size;
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
    A[k] = (float)(ratio * sqrt_new_e / c[i] * U[(int)order[i] * stride + j] * inverse_sqrt_e[j]);
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
