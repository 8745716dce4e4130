// x becomes Q x in place: random signs, a Hadamard transform of the first `size` numbers, other
// signs, a Hadamard transform of the last `size`, `size` the largest power of two in `columns`. A
// width that is a power of two takes the first two steps alone. Included after its target is set.
//
// Floor: log2(size) additions a number for each transform and a pass for signs and scale, all in the
// first cache, next to planes * rows / 8 bytes a column of the product it prepares. One thread does
// it for one token, while all threads share the product.

namespace bitstack {
namespace {

// Sums and differences of numbers at distances `half` and 2 * `half`: two steps in one pass.
inline void two_steps(float* x, int64_t size, int64_t half) {
  for (int64_t block = 0; block < size; block += 4 * half) {
    float *p = x + block, *q = p + half, *r = q + half, *s = r + half;
    for (int64_t i = 0; i < half; ++i) {
      const float a = p[i] + q[i], b = p[i] - q[i], c = r[i] + s[i], d = r[i] - s[i];
      p[i] = a + c;
      q[i] = b + d;
      r[i] = a - c;
      s[i] = b - d;
    }
  }
}

inline void one_step(float* x, int64_t size, int64_t half) {
  for (int64_t block = 0; block < size; block += 2 * half) {
    float *p = x + block, *q = p + half;
    for (int64_t i = 0; i < half; ++i) {
      const float a = p[i] + q[i], b = p[i] - q[i];
      p[i] = a;
      q[i] = b;
    }
  }
}

// Distances 1, 2 and 4 within eight numbers at once.
inline void eight(float* x) {
  float s[8], t[8];
  for (int i = 0; i < 4; ++i) {
    s[i] = x[i] + x[i + 4];
    s[i + 4] = x[i] - x[i + 4];
  }
  for (int h = 0; h < 8; h += 4)
    for (int i = 0; i < 2; ++i) {
      t[h + i] = s[h + i] + s[h + i + 2];
      t[h + i + 2] = s[h + i] - s[h + i + 2];
    }
  for (int i = 0; i < 8; i += 2) {
    x[i] = t[i] + t[i + 1];
    x[i + 1] = t[i] - t[i + 1];
  }
}

inline void hadamard(float* x, int64_t size) {
  const float scale = 1.0f / std::sqrt(float(size));
  int64_t half = 1;
  if (size >= 8) {
    for (int64_t i = 0; i < size; i += 8) eight(x + i);
    half = 8;
  }
  for (; 4 * half <= size; half *= 4) two_steps(x, size, half);
  if (half < size) one_step(x, size, half);
  for (int64_t i = 0; i < size; ++i) x[i] *= scale;
}

inline void flip(float* x, const int8_t* signs, int64_t columns) {
  for (int64_t i = 0; i < columns; ++i) x[i] *= float(signs[i]);
}

// `signs` [2, columns], each 1 or -1. `back`: the transposed, which is the inverse.
inline void rotate(float* x, const int8_t* signs, int64_t columns, bool back) {
  int64_t size = 1;
  while (2 * size <= columns) size *= 2;
  const bool whole = size == columns;
  if (!back) {
    flip(x, signs, columns);
    hadamard(x, size);
  }
  if (!whole) {
    if (back) hadamard(x + columns - size, size);
    flip(x, signs + columns, columns);
    if (!back) hadamard(x + columns - size, size);
  }
  if (back) {
    hadamard(x, size);
    flip(x, signs, columns);
  }
}

}  // namespace
}  // namespace bitstack
