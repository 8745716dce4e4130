// The CPU kernel without vector instructions: any processor, any compiler. A "vector" is a 64-bit
// word, so that the bit transposition is the one of the other variants; the look-ups are loads.
// Floor, a row of 64 columns: planes * 8 bytes; 64 times shift, mask, load, multiply, add. Bound by
// arithmetic: there is no fast product apart from the exact one.
#include <cmath>
#include <cstring>

#include "kernel.h"
#include "convert.h"
#include "transpose.inl"

namespace bitstack {
namespace {

struct Word {
  using V = uint64_t;
  struct Floats {
    float low, high;
  };
  static constexpr int width = 8, unpacked = 2;

  static inline V load(const void* from) {
    V value;
    memcpy(&value, from, 8);
    return value;
  }
  static inline V load_part(const void* from, int bytes) {
    V value = 0;
    memcpy(&value, from, size_t(bytes));
    return value;
  }
  template <int n>
  static inline V shr(V a) {
    return a >> n;
  }
  // The upper of every two fields of n bits in `a` and the lower in `b` change places.
  template <int n, int mask>
  static inline void swap(V& a, V& b) {
    const V moved = ((a >> n) ^ b) & (mask * 0x0101010101010101ull);
    b ^= moved;
    a ^= moved << n;
  }
  template <int mask>
  static inline V keep(V a) {
    return a;
  }
  static inline Floats zero_floats() { return {0.0f, 0.0f}; }
  static inline Floats load_floats(const float* from) { return {from[0], from[1]}; }
  static inline Floats multiply_add(Floats value, const float* x, Floats total) {
    return {total.low + value.low * x[0], total.high + value.high * x[1]};
  }
  static inline Floats add(Floats a, Floats b) { return {a.low + b.low, a.high + b.high}; }
  static inline Floats all(float a) { return {a, a}; }
  static inline Floats larger(Floats a, Floats b) {
    return {a.low > b.low ? a.low : b.low, a.high > b.high ? a.high : b.high};
  }
  static inline void store_floats(Floats a, float* to) {
    to[0] = a.low;
    to[1] = a.high;
  }
  static inline float reduce(Floats a) { return a.low + a.high; }

  template <int planes>
  struct Words {
    const float* table;
    explicit Words(const float* from) : table(from) {}
    inline Floats look_up(V codes, int field) const {
      constexpr V mask = (1 << planes) - 1;
      const V moved = codes >> (field * field_width(planes));
      return {table[moved & mask], table[moved >> 32 & mask]};
    }
  };

  // Codes of two neighbouring columns, as low bits of the word's halves.
  template <int planes>
  static inline V indices(const uint8_t* const* at, int64_t column) {
    V index = 0;
    for (int p = 0; p < planes; ++p) {
      const V bits = at[p][column / 8] >> (column % 8);
      index |= ((bits & 1) | (bits & 2) << 31) << p;
    }
    return index;
  }
  static inline Floats times(Floats a, const float* b, float c) {
    return {a.low * b[0] * c, a.high * b[1] * c};
  }
  static inline void store(Floats value, void* out, int64_t at, Dtype dtype);
};

}  // namespace
}  // namespace bitstack

#include "prepare.inl"
#include "rotate.inl"
#include "outliers.inl"
#include "product.inl"
#include "unpack.inl"
#include "attention.inl"

namespace bitstack {
namespace {
inline void Word::store(Floats value, void* out, int64_t at, Dtype dtype) {
  store_one(value.low, out, at, dtype);
  store_one(value.high, out, at + 1, dtype);
}
}  // namespace

extern const Kernel kPortable = {"portable",  8,            nullptr, nullptr, spread<8>, nullptr,
                                 exact<Word>, unpack<Word>, nullptr, nullptr, rotate<Word>,
                                 outliers, attention<Word>};
}  // namespace bitstack
