// What the calls of the C interface share: scratch memory, a matrix made of its buffers, and when a
// loop is worth more than one thread.
#pragma once
#include <cstdlib>
#include <new>

#include "arguments.h"
#include "convert.h"
#include "kernel.h"

namespace bitstack {

// The kernel of a variant that this machine runs; null for any other number.
const Kernel* find_kernel(int32_t variant);

namespace {

constexpr int64_t kTile = 32;         // rows whose sums are held together
constexpr int64_t kRuns = 4;          // of rows that each thread takes of a product, if all are as fast
constexpr int64_t kSerial = 1 << 15;  // bytes of planes below which waking a thread costs more

// A buffer that keeps its size between calls of one thread, aligned for the widest vector.
class Scratch {
 public:
  ~Scratch() { free(memory_); }
  char* get(size_t bytes) {
    if (bytes > size_ || !memory_) {
      free(memory_);
      size_ = 0;
      const size_t size = (bytes / 4096 + 1) * 4096;
      memory_ = static_cast<char*>(aligned_alloc(4096, size));
      if (!memory_) throw std::bad_alloc();
      size_ = size;
    }
    return memory_;
  }

 private:
  char* memory_ = nullptr;
  size_t size_ = 0;
};

inline float* own_floats(int64_t count) {
  static thread_local Scratch own;
  return reinterpret_cast<float*>(own.get(size_t(count) * 4));
}

inline void store_number(float value, void* to, int64_t at, int32_t dtype) {
  if (dtype == kFloat32) static_cast<float*>(to)[at] = value;
  else static_cast<uint16_t*>(to)[at] =
           dtype == kFloat16 ? float_to_half(value) : float_to_bfloat(value);
}

inline Matrix make_matrix(const Coded& from) {
  Matrix m{};
  for (int64_t p = 0; p < from.planes; ++p) m.plane[p] = from.plane[p];
  m.planes = int(from.planes);
  m.rows = from.rows;
  m.columns = from.columns;
  m.row_bytes = (from.columns + 7) / 8;
  m.u = from.scale;
  m.v = from.scale + from.rows;
  const uint16_t* table = from.scale + from.rows + from.columns;
  for (int i = 0; i < 1 << from.planes; ++i) m.table[i] = half_to_float(table[i]);
  return m;
}

}  // namespace
}  // namespace bitstack
