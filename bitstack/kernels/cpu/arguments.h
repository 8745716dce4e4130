// What a call of the C interface is refused for, and the tests of counts behind it.
//
// Counts come from the buffers themselves and sizes from the caller's idea of them; where the two
// disagree nothing is read or written. Dtypes and strides cannot be seen here: the caller checks
// them. The order of the errors is that of `kernels/library.py`, which has the words for them.
#pragma once
#include <cstdint>
#include <new>

#include "kernel.h"

#if defined(_WIN32)
#define BITSTACK_API extern "C" __declspec(dllexport)
#else
#define BITSTACK_API extern "C" __attribute__((visibility("default")))
#endif

namespace bitstack {

enum Error : int32_t {
  kFine = 0,
  kVariant,   // there is none of this number, or this machine or variant lacks what was called
  kPlanes,    // not 1 to 8
  kSizes,     // rows, columns or a range of rows
  kBytes,     // of a plane
  kScales,    // numbers in the scale set
  kInputs,    // numbers in x
  kOutputs,   // numbers in out
  kBiases,    // numbers in the bias
  kSigns,     // of the rotation
  kIds,       // one is not a row
  kPositions, // of outliers: outside of the matrix, or not rising
  kDtype,     // not a number of `Dtype`
  kCodes,     // levels, planes or the panel of a search
  kAttention, // sizes and strides do not fit the buffers
  kMemory,    // the system gave none
};

constexpr int64_t kMost = int64_t(1) << 31;        // rows, columns or tokens
constexpr int64_t kMostScattered = int64_t(1) << 23;  // columns of a matrix with outliers

// Whether a buffer at `from` is there and holds a * b elements.
inline bool holds(const void* from, int64_t count, int64_t a, int64_t b) {
  if (a < 0 || b < 0 || a > kMost || b > kMost || count != a * b) return false;
  return from || count == 0;
}

inline bool is_dtype(int32_t dtype) { return dtype >= kFloat32 && dtype <= kFloat16; }

// A coded matrix as the caller hands it over; `Coded` in `kernels/library.py` is the same.
struct Coded {
  const uint8_t* plane[kMaxPlanes];
  int64_t bytes[kMaxPlanes];  // of each plane
  const uint16_t* scale;
  int64_t scales;  // numbers in the scale set
  int64_t rows, columns, planes;
};

inline Error check_matrix(const Coded& m) {
  if (m.planes < 1 || m.planes > kMaxPlanes) return kPlanes;
  if (m.rows < 1 || m.columns < 1 || m.rows > kMost || m.columns > kMost) return kSizes;
  for (int64_t p = 0; p < m.planes; ++p)
    if (!holds(m.plane[p], m.bytes[p], m.rows, (m.columns + 7) / 8)) return kBytes;
  const int64_t length = m.rows + m.columns + (1 << m.planes);
  return m.scale && m.scales == length ? kFine : kScales;
}

// Positions in 32 bits must be able to say every place.
inline Error check_outliers(const Outliers& o, int64_t rows, int64_t values) {
  if (o.count == 0) return kFine;
  const bool there = o.positions && o.values && o.count > 0 && o.count == values;
  const bool fits = o.columns < kMostScattered && (o.wide || rows * o.columns <= kMost);
  return there && fits ? kFine : kPositions;
}

// A mask of `count` codes over a matrix of `codes` codes.
inline Error check_codes(const void* code, int64_t codes, int64_t rows, int64_t columns, int32_t count) {
  if (count < 1 || count > kMaxEntries || (count & (count - 1))) return kPlanes;
  return holds(code, codes, rows, columns) ? kFine : kCodes;
}

// The error of `body`, or that memory was lacking.
template <class Body>
int32_t guarded(const Body& body) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return kMemory;
  }
}

}  // namespace bitstack
