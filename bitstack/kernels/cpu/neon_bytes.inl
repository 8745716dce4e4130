// The operations of the NEON variants on bytes: bits to codes, codes to table entries, entries
// times activations. Operations on fp32 are in neon.inl. BITSTACK_DOTPROD: an 8-bit dot product
// exists.
//
// Products of bytes take two of one kind, here signed: table digits are stored less their middle.

namespace bitstack {
namespace {

struct NeonBytes {
  using V = uint8x16_t;
  using Floats = float32x4_t;
  static constexpr int width = 16;

  static inline V load(const void* from) { return vld1q_u8((const uint8_t*)from); }
  template <int n>
  static inline V shr(V a) {
    return vshrq_n_u8(a, n);
  }
  template <int mask>  // bits of `a` where the mask is set, of `b` elsewhere
  static inline V select(V a, V b) {
    return vbslq_u8(vdupq_n_u8(mask), a, b);
  }
  // The upper of every two fields of n bits in `a` and the lower in `b` change places.
  template <int n, int mask>
  static inline void swap(V& a, V& b) {
    const V low = select<mask>(a, vshlq_n_u8(b, n));
    b = select<mask>(shr<n>(a), b);
    a = low;
  }
  template <int mask>  // the look-ups ignore other bits
  static inline V keep(V a) {
    return a;
  }

  // The two digits of 16 activations.
  struct Activations {
    int8x16_t high, low;
    inline explicit Activations(const int8_t* from)
        : high(vld1q_s8(from)), low(vld1q_s8(from + width)) {}
  };

#if BITSTACK_DOTPROD
  static constexpr Digits digits(int /*planes*/) { return {255, 256, 127, 256, 128, 128}; }
  // Sums of one chunk's products: four neighbouring ones are added to a lane, in 32 bits.
  struct Sums {
    int32x4_t whole, rest;
    inline Sums() : whole(vdupq_n_s32(0)), rest(whole) {}  // an implicit one would lack the target
    inline void add_high(V value, const Activations& x) {
      whole = product(whole, value, x.high);
      rest = product(rest, value, x.low);
    }
    inline void add_low(V value, const Activations& x) { rest = product(rest, value, x.high); }
    // activation_low * high products + low ones
    inline int32x4_t sum() const { return vmlaq_n_s32(rest, whole, 256); }

   private:
    static inline int32x4_t product(int32x4_t total, V value, int8x16_t x) {
      return vdotq_s32(total, vreinterpretq_s8_u8(value), x);
    }
  };
#else
  // Products are added in 16 bits, a chunk's eight to a lane: of the upper digits at most
  // 8 * 128 * 31 or 8 * 64 * 63, of the lower ones 8 * 128 * 8, or 8 * 64 * 8 and 8 * 8 * 63.
  static constexpr Digits digits(int planes) {
    return planes > 1 && planes < kLowFrom ? Digits{255, 16, 31, 16, 128, 0}
                                           : Digits{127, 16, 63, 16, 64, 8};
  }
  struct Sums {
    int16x8_t whole[2], rest[2];  // of the first and the last 64 columns
    inline Sums() {
      for (int i = 0; i < 2; ++i) whole[i] = rest[i] = vdupq_n_s16(0);
    }
    inline void add_high(V value, const Activations& x) {
      add(whole, value, x.high);
      add(rest, value, x.low);
    }
    inline void add_low(V value, const Activations& x) { add(rest, value, x.high); }
    inline int32x4_t sum() const { return vmlaq_n_s32(fours(rest), fours(whole), 16); }

   private:
    static inline void add(int16x8_t* total, V value, int8x16_t x) {
      const int8x16_t digits = vreinterpretq_s8_u8(value);
      total[0] = vmlal_s8(total[0], vget_low_s8(digits), vget_low_s8(x));
      total[1] = vmlal_high_s8(total[1], digits, x);
    }
    static inline int32x4_t fours(const int16x8_t* a) {
      return vpaddq_s32(vpaddlq_s16(a[0]), vpaddlq_s16(a[1]));
    }
  };
#endif

  // A table of bytes, 16 at least. An index beyond it must not come.
  template <int planes>
  struct Entries {
    static constexpr int count = planes <= 4 ? 1 : 1 << (planes - 4);
    V table[count];

    Entries() = default;
    explicit Entries(const uint8_t* from) {
      for (int t = 0; t < count; ++t) table[t] = load(from + 16 * t);
    }
    inline V look_up(V index) const {
      V value;
      look_up<1>(&index, &value);
      return value;
    }
    // Of some indices at once, so that registers need to hold 64 entries of a longer table only.
    template <int many>
    inline void look_up(V* index, V* value) const {
#pragma GCC unroll 8
      for (int i = 0; i < many; ++i) value[i] = first(index[i]);
#pragma GCC unroll 4
      for (int t = 4; t < count; t += 4) {
        const uint8x16x4_t next = four(t);
#pragma GCC unroll 8
        for (int i = 0; i < many; ++i) {
          index[i] = vsubq_u8(index[i], vdupq_n_u8(64));
          value[i] = vqtbx4q_u8(value[i], next, index[i]);  // the same where that is beyond 63
        }
      }
    }

   private:
    inline V first(V index) const {  // zero beyond 63
      if constexpr (count == 1) return vqtbl1q_u8(table[0], index);
      if constexpr (count >= 4) return vqtbl4q_u8(four(0), index);
      V value = vqtbl2q_u8({{table[0], table[count - 1]}}, index);
#if defined(__clang__)
      asm("" : "+w"(value));  // clang 16 would make one look-up of two that are zipped, and crash
#endif
      return value;
    }
    inline uint8x16x4_t four(int t) const {
      if constexpr (count < 4) return {};
      else return {{table[t], table[t + 1], table[t + 2], table[t + 3]}};
    }
  };

  // The codes of eight columns as look-ups take them, and a table for the entries of column b of
  // every byte. The bits between those of a code do not matter.
  template <int planes>
  struct Bytes {
    static constexpr int F = field_width(planes), fits = F == 8 ? 1 : 4 / F;
    static constexpr int count = planes == 3 ? 4 : fits;
    Entries<F == 8 ? planes : 4> table[count];

    explicit Bytes(const uint8_t* from) {
      if constexpr (F == 8) {
        table[0] = Entries<planes>(from);
      } else {
        for (int t = 0; t < count; ++t) table[t].table[0] = vqtbl1q_u8(load(from), fields(t));
      }
    }
    static inline void codes(const V* bits, V* out) {
      if constexpr (planes == 3) triples(bits, out);
      else Transpose<NeonBytes>::codes<planes>(bits, out);
    }
    // The entries of column b of every byte, of which vector `b % F` has the codes in a field.
    inline V look_up(const V* codes, int b) const { return look_up(codes[b % F], b / F, b % F); }
    inline V look_up(V codes, int field, int vector) const {
      static_assert(F < 8, "longer tables are looked up for all columns at once");
      const V index = field / fits ? shr<4>(codes) : vandq_u8(codes, vdupq_n_u8(15));
      return table[planes == 3 ? vector : field % fits].look_up(index);
    }
    // The same of all columns, one vector each.
    inline void look_up(const V* codes, V* value) const {
      V index[8];
      for (int b = 0; b < 8; ++b) index[b] = vandq_u8(codes[b], vdupq_n_u8((1 << planes) - 1));
      table[0].template look_up<8>(index, value);
    }

   private:
    // Three planes in ten operations instead of thirteen: the bits of a code lie in its field in
    // another order in each vector, and a foreign one between them. The upper bit is named first.
    static inline void triples(const V* bits, V* out) {
      const V a = bits[0], b = bits[1], c = bits[2];
      const V low = select<0x33>(a, vshlq_n_u8(b, 2));  // b1 b0 a1 a0
      const V high = select<0x33>(shr<2>(a), b);        // b3 b2 a3 a2
      const V left = vshlq_n_u8(c, 1), right = shr<1>(c);
      out[0] = select<0xAA>(left, low);    // c2 b0 c0 a0
      out[1] = select<0xAA>(low, right);   // b1 c3 a1 c1
      out[2] = select<0xAA>(left, high);   // c2 b2 c0 a2
      out[3] = select<0xAA>(high, right);  // b3 c3 a3 c1
    }
    // The codes that the 16 values of four bits stand for in table `t`.
    static inline V fields(int t) {
      constexpr int place[4][3] = {{0, 2, 1}, {1, 3, 0}, {0, 2, 3}, {1, 3, 2}};
      constexpr uint8_t values[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
      V code = vdupq_n_u8(0);
      for (int p = 0; p < planes; ++p) {
        const int8_t from = int8_t(planes == 3 ? place[t][p] : F * t + p);
        const V bit = vandq_u8(vshlq_u8(load(values), vdupq_n_s8(int8_t(-from))), vdupq_n_u8(1));
        code = vorrq_u8(code, vshlq_u8(bit, vdupq_n_s8(int8_t(p))));
      }
      return code;
    }
  };
};

}  // namespace
}  // namespace bitstack
