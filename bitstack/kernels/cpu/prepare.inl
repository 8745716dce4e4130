// Activations laid out for the products. Included by every variant after its target is set, so
// that the compiler vectorises it for that target.
//
// Floor: n multiply-adds and a few times n bytes a token, against m * n / 8 bytes a plane for the
// product itself: below 2% of the time from a few hundred rows on.

namespace bitstack {
namespace {

constexpr float kInfinite = __builtin_inff(), kUnknown = __builtin_nanf("");

// Largest magnitude of 32 numbers, found as integers: floats of one sign sort like their bits, and
// an integer maximum may be taken in any order, so that it becomes vector code.
inline float largest(const float* group) {
  uint32_t most = 0;
  for (int i = 0; i < kGroup; ++i) {
    const uint32_t magnitude = to_bits(group[i]) & 0x7FFFFFFFu;
    most = magnitude > most ? magnitude : most;
  }
  return from_bits(most);
}

// v * x of one chunk, zero past the last column.
template <int width>
inline void scale_chunk(const Matrix& m, const float* x, int64_t chunk, float* out) {
  const int64_t begin = chunk * 8 * width;
  const int64_t count = m.columns - begin < 8 * width ? m.columns - begin : 8 * width;
  for (int64_t i = 0; i < count; ++i) out[i] = half_to_float(m.v[begin + i]) * x[begin + i];
  for (int64_t i = count; i < 8 * width; ++i) out[i] = 0.0f;
}

// The nearest whole number, of anything below 2^22.
inline float nearest(float value) { return (value + 12582912.0f) - 12582912.0f; }

// 32 numbers to a digit and a remainder of `steps` in one of it; their sum in units of a step is
// returned.
template <int steps>
inline int quantize_group(const float* group, float inverse, uint8_t* high, uint8_t* low) {
  constexpr float within = steps < 256 ? steps : 254;  // half of them must fit a signed byte
  int32_t whole[kGroup], rest[kGroup], sum = 0;
  for (int i = 0; i < kGroup; ++i) {
    const float value = group[i] * inverse, rounded = nearest(value);
    whole[i] = int32_t(rounded);
    rest[i] = int32_t(nearest((value - rounded) * within));
    sum += whole[i] * steps + rest[i];
  }
  for (int i = 0; i < kGroup; ++i) {
    high[i] = uint8_t(whole[i]);
    low[i] = uint8_t(rest[i]);
  }
  return sum;
}

// One step of an 8 x 8 transposition of bytes: blocks of `size` bytes change places.
inline void swap_blocks(uint64_t& a, uint64_t& b, int size, uint64_t mask) {
  const uint64_t moved = ((a >> (8 * size)) ^ b) & mask;
  b ^= moved;
  a ^= moved << (8 * size);
}

// out[b * stride + k] = in[8 k + b] for eight bytes k of eight vectors b.
inline void transpose_bytes(const uint8_t* in, int8_t* out, int stride) {
  uint64_t row[8];
  memcpy(row, in, 64);
  for (int k = 0; k < 4; ++k) swap_blocks(row[k], row[k + 4], 4, 0x00000000FFFFFFFFull);
  for (int k = 0; k < 8; k += (k & 1) ? 3 : 1)
    swap_blocks(row[k], row[k + 2], 2, 0x0000FFFF0000FFFFull);
  for (int k = 0; k < 8; k += 2) swap_blocks(row[k], row[k + 1], 1, 0x00FF00FF00FF00FFull);
  for (int b = 0; b < 8; ++b) memcpy(out + b * stride, &row[b], 8);
}

template <class O>
void quantize(const Matrix& m, const float* x, int64_t token, const ByteActivations& a) {
  constexpr int width = O::width, low_steps = O::digits(1).activation_low;
  const float steps = float(O::digits(m.planes).activation);
  float scaled[8 * width], sum = 0.0f;
  uint8_t high[8 * width], low[8 * width];
  for (int64_t chunk = 0; chunk < a.chunks; ++chunk) {
    const int64_t at = token * a.chunks + chunk;
    scale_chunk<width>(m, x, chunk, scaled);
    for (int g = 0; g < width / 4; ++g) {
      const float* group = scaled + g * kGroup;
      const float most = largest(group), inverse = most > 1e-30f ? steps / most : 0.0f;
      const float scale = most < kInfinite ? most / (steps * low_steps) : kUnknown;
      uint8_t *to = high + g * kGroup, *rest = low + g * kGroup;
      if (most < kInfinite) {
        sum += scale * float(quantize_group<low_steps>(group, inverse, to, rest));
      } else {  // no whole number stands for them: the scale alone makes the product NaN
        memset(to, 0, kGroup);
        memset(rest, 0, kGroup);
        sum = kUnknown;
      }
      a.scale[at * (width / 4) + g] = scale;
    }
    int8_t* out = a.value + at * 16 * width;
    for (int k = 0; k < width; k += 8) {
      transpose_bytes(high + 8 * k, out + k, 2 * width);
      transpose_bytes(low + 8 * k, out + width + k, 2 * width);
    }
  }
  a.sum[token] = sum;
}

template <int width>
void spread(const Matrix& m, const float* x, int64_t token, const FloatActivations& a) {
  float scaled[8 * width];
  for (int64_t chunk = 0; chunk < a.chunks; ++chunk) {
    scale_chunk<width>(m, x, chunk, scaled);
    float* out = a.value + (token * a.chunks + chunk) * 8 * width;
    for (int b = 0; b < 32; ++b)
      for (int k = 0; k < width / 4; ++k) out[b * (width / 4) + k] = scaled[32 * k + b];
  }
}

// v * x of one token in bf16, for the matrix product of unpacked panels.
inline void scale_columns(const float* v, const uint16_t* x, int64_t columns, uint16_t* out) {
  for (int64_t i = 0; i < columns; ++i) out[i] = float_to_bfloat(bfloat_to_float(x[i]) * v[i]);
}

}  // namespace
}  // namespace bitstack
