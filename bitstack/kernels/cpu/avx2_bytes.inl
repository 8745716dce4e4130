// The operations of the AVX2 variants on bytes: bits to codes, codes to table entries, entries times
// activations. Operations on fp32 are in avx2.inl. BITSTACK_VNNI: an 8-bit dot product exists.

namespace bitstack {
namespace {

struct Avx2Bytes {
  using V = __m256i;
  using Floats = __m256;
  static constexpr int width = 32;

  static inline V load(const void* from) { return _mm256_loadu_si256((const __m256i*)from); }
  static inline V load_part(const void* from, int bytes) {
    uint8_t whole[32] = {};
    memcpy(whole, from, size_t(bytes));
    return load(whole);
  }
  template <int n>
  static inline V shr(V a) {
    return _mm256_srli_epi32(a, n);
  }
  // The upper of every two fields of n bits in `a` and the lower in `b` change places.
  template <int n, int mask>
  static inline void swap(V& a, V& b) {
    const V moved = keep<mask>(_mm256_xor_si256(shr<n>(a), b));
    b = _mm256_xor_si256(b, moved);
    a = _mm256_xor_si256(a, n == 1 ? _mm256_add_epi8(moved, moved) : _mm256_slli_epi32(moved, n));
  }
  template <int mask>
  static inline V keep(V a) {
    return _mm256_and_si256(a, _mm256_set1_epi8(char(mask)));
  }

#if BITSTACK_VNNI
  static constexpr auto digits = whole_bytes;
  // Sums of one chunk's products: four neighbouring ones are added to a lane, in 32 bits.
  struct Sums {
    V whole, rest;
    inline Sums() : whole(_mm256_setzero_si256()), rest(whole) {}  // implicit ones lack the target
    inline void add_high(V a, V b, const int8_t* x) {
      whole = _mm256_dpbusd_avx_epi32(whole, a, load(x));
      rest = _mm256_dpbusd_avx_epi32(rest, a, load(x + width));
      whole = _mm256_dpbusd_avx_epi32(whole, b, load(x + 2 * width));
      rest = _mm256_dpbusd_avx_epi32(rest, b, load(x + 3 * width));
    }
    inline void add_low(V a, V b, const int8_t* x) {
      rest = _mm256_dpbusd_avx_epi32(rest, a, load(x));
      rest = _mm256_dpbusd_avx_epi32(rest, b, load(x + 2 * width));
    }
    inline V sum() const { return _mm256_add_epi32(_mm256_slli_epi32(whole, 8), rest); }
  };
#else
  // A product of bytes adds two neighbours in 16 bits. These hold two of the upper digits' sums,
  // 2 * 2 * 127 * 63, and of the lower ones' a whole chunk's, 8 * 2 * (127 * 8 + 15 * 63), which
  // are widened once. A table of one digit needs more steps than activations: 2 * 2 * 255 * 31, and
  // 8 * 2 * 255 * 8.
  static constexpr Digits digits(int planes) {
    return planes > 1 && planes < kLowFrom ? Digits{255, 16, 31, 16} : Digits{127, 16, 63, 16};
  }
  struct Sums {
    V whole, rest;
    inline Sums() : whole(_mm256_setzero_si256()), rest(whole) {}  // implicit ones lack the target
    inline void add_high(V a, V b, const int8_t* x) {
      const V both = _mm256_add_epi16(product(a, x), product(b, x + 2 * width));
      whole = _mm256_add_epi32(whole, _mm256_madd_epi16(both, _mm256_set1_epi16(16)));
      rest = _mm256_add_epi16(rest, product(a, x + width));
      rest = _mm256_add_epi16(rest, product(b, x + 3 * width));
      in_order();
    }
    inline void add_low(V a, V b, const int8_t* x) {
      rest = _mm256_add_epi16(rest, product(a, x));
      rest = _mm256_add_epi16(rest, product(b, x + 2 * width));
      in_order();
    }
    inline V sum() const {
      return _mm256_add_epi32(whole, _mm256_madd_epi16(rest, _mm256_set1_epi16(1)));
    }

   private:
    static inline V product(V value, const int8_t* x) {
      return _mm256_maddubs_epi16(value, load(x));
    }
    // Keeps the compiler from adding a chunk up as a tree, whose parts would not fit the registers.
    inline void in_order() { asm("" : "+x"(whole), "+x"(rest)); }
  };
#endif
  // total + scale * (activation_low * high products + low ones)
  static inline Floats scaled_add(const Sums& sums, const float* scale, Floats total) {
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums.sum()), _mm256_loadu_ps(scale), total);
  }

  // Tables of 16 bytes. An index wants bit 7 zero, which `keep` saw to in fields of three planes.
  // Longer tables: one look-up for every 16 entries, chosen among by the upper bits.
  template <int planes>
  struct Bytes {
    static constexpr int F = field_width(planes);
    static constexpr int fits = F == 8 ? 1 : 4 / F, count = F == 8 ? 1 << (planes - 4) : fits;
    V table[count];

    explicit Bytes(const uint8_t* from) {
      for (int t = 0; t < count; ++t) {
        uint8_t entry[16];
        for (int i = 0; i < 16; ++i)
          entry[i] = from[F == 8 ? 16 * t + i : (i >> (F * t)) & ((1 << planes) - 1)];
        table[t] = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)entry));
      }
    }
    inline V look_up(V codes, int field) const {
      const int shift = F == 8 ? 0 : field / fits * 4;
      const V moved = shift ? _mm256_srli_epi32(codes, shift) : codes;
      const V low = planes == 3 ? moved : keep<15>(moved);
      if constexpr (F < 8) return _mm256_shuffle_epi8(table[field % fits], low);
      V value[count];
      for (int t = 0; t < count; ++t) value[t] = _mm256_shuffle_epi8(table[t], low);
      for (int half = count / 2, bit = planes - 1; half; half /= 2, --bit) {
        const V upper = _mm256_slli_epi32(codes, 7 - bit);  // a blend looks at bit 7
        for (int t = 0; t < half; ++t)
          value[t] = _mm256_blendv_epi8(value[t], value[t + half], upper);
      }
      return value[0];
    }
  };
};

}  // namespace
}  // namespace bitstack
