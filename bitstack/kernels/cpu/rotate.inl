// x becomes Q x in place: random signs, a Hadamard transform of the first `size` numbers, other
// signs, a Hadamard transform of the last `size`, `size` the largest power of two in `columns`. A
// width that is a power of two takes the first two steps alone. Included after its target is set.
//
// Floor: log2(size) additions a number for each transform and a pass for signs and scale, all in the
// first cache, next to planes * rows / 8 bytes a column of the product it prepares. One thread does
// it for one token, while all threads share the product: so eight vectors at a time take as many
// steps as fit the registers, 7 of the 9 for 512 numbers in AVX-512 (measured 0.1 microseconds).

namespace bitstack {
namespace {

// Sums and differences of numbers at distance `half`.
inline void one_step(float* x, int64_t size, int64_t half) {
  for (int64_t block = 0; block < size; block += 2 * half) {
    float *__restrict p = x + block, *__restrict q = p + half;
    for (int64_t i = 0; i < half; ++i) {
      const float a = p[i] + q[i], b = p[i] - q[i];
      p[i] = a;
      q[i] = b;
    }
  }
}

// The same at distances `half` and 2 * `half`: two steps in one pass.
inline void two_steps(float* x, int64_t size, int64_t half) {
  for (int64_t block = 0; block < size; block += 4 * half) {
    float *__restrict p = x + block, *__restrict q = p + half, *__restrict r = q + half,
          *__restrict s = r + half;
    for (int64_t i = 0; i < half; ++i) {
      const float a = p[i] + q[i], b = p[i] - q[i], c = r[i] + s[i], d = r[i] - s[i];
      p[i] = a + c;
      q[i] = b + d;
      r[i] = a - c;
      s[i] = b - d;
    }
  }
}

// Distances 1, 2 and 4 within eight numbers at once, without vector operations.
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

// All distances within eight vectors.
template <class O>
inline void eight_vectors(float* x) {
  constexpr int lanes = O::width / 4;
  typename O::Floats v[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) v[i] = O::transform(O::load_floats(x + i * lanes));
#pragma GCC unroll 3
  for (int half = 1; half < 8; half *= 2)
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i)
      if (!(i & half)) {
        const typename O::Floats a = v[i], b = v[i + half];
        v[i] = O::add(a, b);
        v[i + half] = O::subtract(a, b);
      }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) O::store_floats(v[i], x + i * lanes);
}

// Without the factor 1 / sqrt(size), which `flip` applies.
template <class O>
inline void hadamard(float* x, int64_t size) {
  constexpr bool vectors = O::width > 8;
  constexpr int block = vectors ? 2 * O::width : 8;
  int64_t half = 1;
  if (size >= block) {
    for (int64_t i = 0; i < size; i += block)
      if constexpr (vectors) eight_vectors<O>(x + i);
      else eight(x + i);
    half = block;
  }
  for (; 4 * half <= size; half *= 4) two_steps(x, size, half);
  if (half < size) one_step(x, size, half);
}

inline void flip(float* x, const int8_t* signs, int64_t count, float scale) {
  for (int64_t i = 0; i < count; ++i) x[i] *= scale * float(signs[i]);
}

// The signs of all columns, and the factor of a transform of `size` from `begin` on.
inline void flip_and_scale(float* x, const int8_t* signs, int64_t columns, int64_t begin,
                           int64_t size) {
  const int64_t end = begin + size;
  flip(x, signs, begin, 1.0f);
  flip(x + begin, signs + begin, size, 1.0f / std::sqrt(float(size)));
  flip(x + end, signs + end, columns - end, 1.0f);
}

// `signs` [2, columns], each 1 or -1. `back`: the transposed, which is the inverse.
template <class O>
void rotate(float* x, const int8_t* signs, int64_t columns, bool back) {
  int64_t size = 1;
  while (2 * size <= columns) size *= 2;
  const int64_t last = columns - size;  // where the second transform begins
  if (!back) {
    flip_and_scale(x, signs, columns, 0, size);
    hadamard<O>(x, size);
  }
  if (last) {
    if (back) hadamard<O>(x + last, size);
    flip_and_scale(x, signs + columns, columns, last, size);
    if (!back) hadamard<O>(x + last, size);
  }
  if (back) {
    hadamard<O>(x, size);
    flip_and_scale(x, signs, columns, 0, size);
  }
}

}  // namespace
}  // namespace bitstack
