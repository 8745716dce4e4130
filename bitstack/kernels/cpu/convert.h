// Half-precision numbers to fp32 and back, without instructions that only some machines have.
#pragma once
#include <cstdint>
#include <cstring>

#include "kernel.h"

namespace bitstack {
namespace {

inline float from_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

inline uint32_t to_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

inline float half_to_float(uint16_t half) {
  const uint32_t magnitude = half & 0x7FFFu;
  // 2^112 moves the exponent bias from 15 to 127 and makes subnormals normal.
  const float scaled = from_bits(magnitude << 13) * from_bits(0x77800000u);
  const uint32_t special = (magnitude << 13) | 0x7F800000u;  // infinity and NaN
  const uint32_t bits = magnitude >= 0x7C00u ? special : to_bits(scaled);
  return from_bits(bits | (uint32_t(half & 0x8000u) << 16));
}

// Round to nearest, ties to even.
inline uint16_t float_to_half(float value) {
  const uint32_t bits = to_bits(value), sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude >= 0x47800000u)  // 65536 and above, infinity, NaN
    return uint16_t(sign | (magnitude > 0x7F800000u ? 0x7E00u : 0x7C00u));
  if (magnitude < 0x38800000u)  // below 2^-14: adding 0.5 rounds at the last subnormal bit
    return uint16_t(sign | (to_bits(from_bits(magnitude) + 0.5f) - 0x3F000000u));
  const uint32_t odd = (magnitude >> 13) & 1u;
  return uint16_t(sign | ((magnitude - 0x38000000u + 0xFFFu + odd) >> 13));
}

inline float bfloat_to_float(uint16_t value) { return from_bits(uint32_t(value) << 16); }

inline uint16_t float_to_bfloat(float value) {
  const uint32_t bits = to_bits(value), rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const bool nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
  return uint16_t(nan ? (bits >> 16) | 0x40u : rounded);  // NaN stays NaN
}

inline float load_number(const void* from, int64_t at, int32_t dtype) {
  if (dtype == kFloat32) return static_cast<const float*>(from)[at];
  const uint16_t half = static_cast<const uint16_t*>(from)[at];
  return dtype == kFloat16 ? half_to_float(half) : bfloat_to_float(half);
}

}  // namespace
}  // namespace bitstack
