// Bits of up to eight planes become codes: a transposition of 8 x planes bits in every byte lane.
//
// `O` is a vector type's operations (V, shr, shl, select). Field width F is 1, 2, 4 or 8 bits, the
// smallest that holds `planes` bits. F vectors come out; field f of vector c holds the code of
// column c + F f of its byte's eight columns. A butterfly: stage s swaps blocks of 2^s bits between
// two vectors, two shifts and two bit selects a pair. Bits of a field above `planes` are not
// cleared: the tables are filled so that they do not matter.
//
// Floor: F log2(F) shifts and selects each for 8 * width columns.

namespace bitstack {
namespace {

constexpr int field_width(int planes) {
  return planes == 1 ? 1 : planes == 2 ? 2 : planes <= 4 ? 4 : 8;
}

template <class O>
struct Transpose {
  using V = typename O::V;

  // Columns 0 2 4 6 and 1 3 5 7 of two planes, two bits each.
  static inline void pairs(V a, V b, V& even, V& odd) {
    even = O::template select<0x55>(a, O::template shl<1>(b));
    odd = O::template select<0x55>(O::template shr<1>(a), b);
  }

  // Four vectors of four-bit fields: vector c holds columns c and c + 4.
  template <int planes>
  static inline void nibbles(const V* a, V* out) {
    if constexpr (planes == 1) {
      out[0] = a[0];
      out[1] = O::template shr<1>(a[0]);
      out[2] = O::template shr<2>(a[0]);
      out[3] = O::template shr<3>(a[0]);
    } else if constexpr (planes == 2) {
      pairs(a[0], a[1], out[0], out[1]);
      out[2] = O::template shr<2>(out[0]);
      out[3] = O::template shr<2>(out[1]);
    } else {
      V even, odd, even_high = a[2], odd_high = O::template shr<1>(a[2]);
      pairs(a[0], a[1], even, odd);
      if constexpr (planes == 4) pairs(a[2], a[3], even_high, odd_high);
      out[0] = O::template select<0x33>(even, O::template shl<2>(even_high));
      out[1] = O::template select<0x33>(odd, O::template shl<2>(odd_high));
      out[2] = O::template select<0x33>(O::template shr<2>(even), even_high);
      out[3] = O::template select<0x33>(O::template shr<2>(odd), odd_high);
    }
  }

  template <int planes>
  static inline void codes(const V* a, V* out) {
    if constexpr (planes == 1) {
      out[0] = a[0];
    } else if constexpr (planes == 2) {
      pairs(a[0], a[1], out[0], out[1]);
    } else if constexpr (planes <= 4) {
      nibbles<planes>(a, out);
    } else {
      V low[4], high[4];
      nibbles<4>(a, low);
      nibbles<planes - 4>(a + 4, high);
      for (int c = 0; c < 4; ++c) {
        out[c] = O::template select<0x0F>(low[c], O::template shl<4>(high[c]));
        out[c + 4] = O::template select<0x0F>(O::template shr<4>(low[c]), high[c]);
      }
    }
  }
};

}  // namespace
}  // namespace bitstack
