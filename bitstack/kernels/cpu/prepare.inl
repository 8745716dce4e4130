// Activations laid out for the products. Included by every variant after its target is set, so
// that the compiler vectorises it for that target.
//
// Floor: n multiply-adds and a few times n bytes a token, against m * n / 8 bytes a plane for the
// product itself: below 2% of the time from a few hundred rows on.

namespace bitstack {
namespace {

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

// 32 numbers to 8 bits and 8 bits of remainder; their sum in units of scale / 256 is returned.
inline int quantize_group(const float* group, float inverse, int8_t* high, int8_t* low) {
  int sum = 0;
  for (int i = 0; i < kGroup; ++i) {
    const float value = group[i] * inverse, rounded = __builtin_rintf(value);
    const int rest = int(__builtin_rintf((value - rounded) * 254.0f));  // -127 .. 127
    high[i] = int8_t(int(rounded));
    low[i] = int8_t(rest);
    sum += int(rounded) * 256 + rest;
  }
  return sum;
}

template <int width>
void quantize(const Matrix& m, const float* x, int64_t token, const ByteActivations& a) {
  float scaled[8 * width], sum = 0.0f;
  int8_t high[8 * width], low[8 * width];
  for (int64_t chunk = 0; chunk < a.chunks; ++chunk) {
    const int64_t at = token * a.chunks + chunk;
    scale_chunk<width>(m, x, chunk, scaled);
    for (int g = 0; g < width / 4; ++g) {
      const float* group = scaled + g * kGroup;
      const float most = largest(group), inverse = most > 1e-30f ? 127.0f / most : 0.0f;
      const float scale = most / (127.0f * 256.0f);
      sum += scale * float(quantize_group(group, inverse, high + g * kGroup, low + g * kGroup));
      a.scale[at * (width / 4) + g] = scale;
    }
    int8_t* out = a.value + at * 16 * width;
    for (int b = 0; b < 8; ++b, out += 2 * width)
      for (int k = 0; k < width; ++k) {
        out[k] = high[8 * k + b];
        out[width + k] = low[8 * k + b];
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

}  // namespace
}  // namespace bitstack
