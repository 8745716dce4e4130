// Bits of up to eight planes become codes: a transposition of 8 x planes bits in every byte lane.
//
// `O` is a vector type's operations (V, shr, swap, keep). Field width F is 1, 2, 4 or 8 bits, the
// smallest that holds `planes` bits. F vectors come out; field f of vector c holds the code of
// column c + F f of its byte's eight columns. A butterfly: stage s swaps blocks of 2^s bits between
// two vectors. Bits of a field above `planes` need not be zero: the tables are filled so that they
// do not matter. But `keep` clears those of three planes, where a variant's look-up wants it.
//
// Floor: F log2(F) / 2 swaps for 8 * width columns, of four operations each with a select of three
// operands, of six without.

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
    O::template swap<1, 0x55>(a, b);
    even = a;
    odd = b;
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
      pairs(a[0], a[1], out[0], out[1]);
      if constexpr (planes == 4) {
        pairs(a[2], a[3], out[2], out[3]);
      } else {
        out[2] = O::template keep<0x55>(a[2]);
        out[3] = O::template keep<0x55>(O::template shr<1>(a[2]));
      }
      O::template swap<2, 0x33>(out[0], out[2]);
      O::template swap<2, 0x33>(out[1], out[3]);
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
      nibbles<4>(a, out);
      nibbles<planes - 4>(a + 4, out + 4);
      for (int c = 0; c < 4; ++c) O::template swap<4, 0x0F>(out[c], out[c + 4]);
    }
  }
};

}  // namespace
}  // namespace bitstack
