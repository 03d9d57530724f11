// The slope of a nonlinearity at its output. Kinds: 0 rectified linear, 1 sigmoid, 2 hyperbolic tangent.

__device__ inline float slope_of(int kind, float y) {
  if (kind == 0) return y > 0.0f ? 1.0f : 0.0f;
  return kind == 1 ? (1.0f - y) * y : 1.0f - y * y;
}
