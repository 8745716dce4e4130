// The fp32 table of a level as bytes, for the fast product.
#pragma once
#include "kernel.h"

namespace bitstack {
namespace {

// To the nearest whole number, of anything below 2^22: a call-free form that becomes vector code.
inline float nearest(float value) { return (value + 12582912.0f) - 12582912.0f; }

// How far entries are from whole numbers, squared and summed, when the range takes `steps` steps.
float rounding_error(const float* table, int count, float low, float range, int steps) {
  const float scale = float(steps) / range;
  float error = 0.0f;
  for (int i = 0; i < count; ++i) {
    const float at = (table[i] - low) * scale, rest = at - nearest(at);
    error += rest * rest;
  }
  return error / (scale * scale);
}

// The number of steps, of those that use most of `most`, that suits the inner entries best.
int best_steps(const float* table, int count, float low, float range, int most) {
  int best = most;
  float least = rounding_error(table, count, low, range, best);
  for (int steps = most - 1; steps > most * 3 / 4 && least > 0.0f; --steps) {
    const float error = rounding_error(table, count, low, range, steps);
    if (error < least) least = error, best = steps;
  }
  return best;
}

ByteTable make_bytes(const Matrix& m, const Digits& digits) {
  const int count = 1 << m.planes;
  float low = m.table[0], high = m.table[0];
  for (int i = 1; i < count; ++i) {
    low = m.table[i] < low ? m.table[i] : low;
    high = m.table[i] > high ? m.table[i] : high;
  }
  const float range = high > low ? high - low : 1.0f;
  const bool short_table = m.planes < kLowFrom;
  const int most = digits.table;
  const int steps = short_table ? best_steps(m.table, count, low, range, most) : most;
  ByteTable bytes{};
  bytes.step = range / float(steps);
  const float middle = float(digits.middle) +
                       (short_table ? 0.0f : float(digits.middle_low) / float(digits.table_low));
  bytes.zero = low + bytes.step * middle;
  for (int i = 0; i < count; ++i) {
    const float at = (m.table[i] - low) * (float(steps) / range);
    const int fine = int(nearest(at * float(digits.table_low)));
    const int whole = short_table ? int(nearest(at)) : fine / digits.table_low;
    bytes.high[i] = uint8_t(whole - digits.middle);
    bytes.low[i] = uint8_t(short_table ? 0 : fine % digits.table_low - digits.middle_low);
  }
  return bytes;
}

}  // namespace
}  // namespace bitstack
