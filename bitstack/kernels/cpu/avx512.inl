// The operations of the three AVX-512 variants. BITSTACK_VNNI: an 8-bit dot product exists.
// BITSTACK_VBMI: a byte shuffle looks up 64 entries instead of 16.
//
// Floors a row of 512 columns, 3 planes, VNNI + VBMI (ports 0 and 5 take vector work):
//   fast   192 bytes; 8 shifts + 8 selects + 4 shifts, 8 look-ups, 16 dot products, 4 to scale: 48
//          operations = 24 cycles (measured 31), so 6 to 8 bytes a cycle: above what a core reads
//          from memory.
//   exact  192 bytes; 12 + 4 * 7 shifts and selects, 32 look-ups, 32 multiply-adds: 108 operations
//          = 54 cycles (measured 73), 2.6 to 3.6 bytes a cycle: about what a core reads
//          from memory.

namespace bitstack {
namespace {

struct Avx512 {
  using V = __m512i;
  using Floats = __m512;
  static constexpr int width = 64;

  static inline V load(const void* from) { return _mm512_loadu_si512(from); }
  static inline V load_part(const void* from, int bytes) {
    return _mm512_maskz_loadu_epi8(~0ull >> (64 - bytes), from);
  }
  template <int n>
  static inline V shr(V a) {
    return _mm512_srli_epi32(a, n);
  }
  template <int n>
  static inline V shl(V a) {
    if constexpr (n == 1) return _mm512_add_epi8(a, a);  // runs on either port, a shift on one
    return _mm512_slli_epi32(a, n);
  }
  template <int mask>  // bits of `a` where the mask is set, of `b` elsewhere
  static inline V select(V a, V b) {
    return _mm512_ternarylogic_epi32(b, a, _mm512_set1_epi8(mask), 0xD8);
  }
  // The upper of every two fields of n bits in `a` and the lower in `b` change places.
  template <int n, int mask>
  static inline void swap(V& a, V& b) {
    const V low = select<mask>(a, shl<n>(b));
    b = select<mask>(shr<n>(a), b);
    a = low;
  }
  template <int mask>  // the look-ups ignore other bits
  static inline V keep(V a) {
    return a;
  }
  static inline V zero() { return _mm512_setzero_si512(); }
  static inline Floats zero_floats() { return _mm512_setzero_ps(); }

#if BITSTACK_VNNI
  static constexpr auto digits = whole_bytes;
  // Sums of one chunk's products. A dot product adds four neighbouring ones of unsigned and signed
  // bytes to a lane, in 32 bits: nothing is rounded.
  struct Sums {
    V whole, rest;
    inline Sums() : whole(zero()), rest(zero()) {}  // an implicit one would lack the target
    inline void add_high(V a, V b, const int8_t* x) {
      whole = _mm512_dpbusd_epi32(whole, a, load(x));
      rest = _mm512_dpbusd_epi32(rest, a, load(x + width));
      whole = _mm512_dpbusd_epi32(whole, b, load(x + 2 * width));
      rest = _mm512_dpbusd_epi32(rest, b, load(x + 3 * width));
    }
    inline void add_low(V a, V b, const int8_t* x) {
      rest = _mm512_dpbusd_epi32(rest, a, load(x));
      rest = _mm512_dpbusd_epi32(rest, b, load(x + 2 * width));
    }
  };
  // total + scale * (256 * whole + rest)
  static inline Floats scaled_add(const Sums& sums, const float* scale, Floats total) {
    const V sum = _mm512_add_epi32(_mm512_slli_epi32(sums.whole, 8), sums.rest);
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_loadu_ps(scale), total);
  }
#endif
  static inline Floats multiply_add(Floats value, const float* x, Floats total) {
    return _mm512_fmadd_ps(value, _mm512_loadu_ps(x), total);
  }
  static inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static inline Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
  static inline Floats load_floats(const float* from) { return _mm512_loadu_ps(from); }
  static inline void store_floats(Floats a, float* to) { _mm512_storeu_ps(to, a); }
  // Sums and differences at distances 1, 2, 4 and 8 within a vector.
  static inline Floats transform(Floats a) {
    a = sums(a, _mm512_permute_ps(a, 0xB1), 0xAAAA);
    a = sums(a, _mm512_permute_ps(a, 0x4E), 0xCCCC);
    a = sums(a, _mm512_shuffle_f32x4(a, a, 0xB1), 0xF0F0);
    return sums(a, _mm512_shuffle_f32x4(a, a, 0x4E), 0xFF00);
  }
  static inline Floats sums(Floats a, Floats other, __mmask16 minus) {  // other + a or other - a
    const Floats one = _mm512_set1_ps(1.0f);
    return _mm512_fmadd_ps(a, _mm512_mask_sub_ps(one, minus, zero_floats(), one), other);
  }
  static inline Floats all(float a) { return _mm512_set1_ps(a); }
  static inline Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
  static inline float reduce(Floats a) { return _mm512_reduce_add_ps(a); }

#if BITSTACK_VBMI
  // Tables of 64 bytes: a field that lies within the low six bits needs no shift, only its own
  // copy of the table, in which the other bits do not matter.
  template <int planes>
  struct Bytes {
    static constexpr int F = field_width(planes), fits = F == 8 ? 1 : (6 - planes) / F + 1;
    static constexpr int count = F == 8 ? (planes <= 6 ? 1 : 1 << (planes - 6)) : fits;
    V table[count];

    explicit Bytes(const uint8_t* from) {
      for (int t = 0; t < count; ++t) {
        uint8_t entry[64];
        for (int i = 0; i < 64; ++i)
          entry[i] = from[F == 8 ? (64 * t + i) & ((1 << planes) - 1)
                                        : (i >> (F * t)) & ((1 << planes) - 1)];
        table[t] = load(entry);
      }
    }
    inline V look_up(V codes, int field) const {
      if constexpr (F == 8) {
        if constexpr (planes <= 6) return _mm512_permutexvar_epi8(codes, table[0]);
        const V low = _mm512_permutex2var_epi8(table[0], codes, table[1]);
        if constexpr (planes == 8)
          return _mm512_mask_mov_epi8(
              low, _mm512_movepi8_mask(codes),
              _mm512_permutex2var_epi8(table[count - 2], codes, table[count - 1]));
        return low;
      }
      const int shift = field / fits * fits * F;
      const V moved = shift ? _mm512_srli_epi32(codes, shift) : codes;
      return _mm512_permutexvar_epi8(moved, table[field % fits]);
    }
  };
#elif BITSTACK_VNNI
  // Tables of 16 bytes, which want bit 7 of an index to be zero. Longer tables: one look-up for
  // every 16 entries, chosen among by the upper bits.
  template <int planes>
  struct Bytes {
    static constexpr int F = field_width(planes), fits = F == 8 ? 1 : 4 / F;
    static constexpr int count = F == 8 ? 1 << (planes - 4) : fits;
    V table[count];

    explicit Bytes(const uint8_t* from) {
      for (int t = 0; t < count; ++t) {
        uint8_t entry[16];
        for (int i = 0; i < 16; ++i)
          entry[i] = from[F == 8 ? 16 * t + i : (i >> (F * t)) & ((1 << planes) - 1)];
        table[t] = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)entry));
      }
    }
    inline V look_up(V codes, int field) const {
      const int shift = F == 8 ? 0 : field / fits * 4;
      const V moved = shift ? _mm512_srli_epi32(codes, shift) : codes;
      const V low = _mm512_and_si512(moved, _mm512_set1_epi8(15));
      if constexpr (F < 8) return _mm512_shuffle_epi8(table[field % fits], low);
      V value[count];
      for (int t = 0; t < count; ++t) value[t] = _mm512_shuffle_epi8(table[t], low);
      for (int half = count / 2, bit = planes - 1; half; half /= 2, --bit) {
        const __mmask64 upper = _mm512_test_epi8_mask(codes, _mm512_set1_epi8(char(1 << bit)));
        for (int t = 0; t < half; ++t)
          value[t] = _mm512_mask_mov_epi8(value[t], upper, value[t + half]);
      }
      return value[0];
    }
  };
#endif

  // Tables of 16 or 32 words in registers; longer ones are gathered from the first-level cache.
  template <int planes>
  struct Words {
    static constexpr int F = field_width(planes), fits = F == 8 ? 1 : 4 / F;
    static constexpr int count = F == 8 ? (planes <= 6 ? 1 << (planes - 4) : 0) : fits;
    const float* entries;
    Floats table[count + 1];

    explicit Words(const float* from) : entries(from) {
      for (int t = 0; t < count; ++t) {
        float entry[16];
        for (int i = 0; i < 16; ++i)
          entry[i] = from[F == 8 ? 16 * t + i : (i >> (F * t)) & ((1 << planes) - 1)];
        table[t] = _mm512_loadu_ps(entry);
      }
    }
    inline Floats look_up(V codes, int field) const {
      const int shift = F == 8 ? 8 * field : field / fits * 4;
      const V moved = shift ? _mm512_srli_epi32(codes, shift) : codes;
      if constexpr (F < 8) return _mm512_permutexvar_ps(moved, table[field % fits]);
      if constexpr (planes == 5) return _mm512_permutex2var_ps(table[0], moved, table[count - 1]);
      if constexpr (planes == 6) {
        const Floats low = _mm512_permutex2var_ps(table[0], moved, table[1]);
        const Floats high = _mm512_permutex2var_ps(table[count - 2], moved, table[count - 1]);
        return _mm512_mask_mov_ps(low, _mm512_test_epi32_mask(moved, _mm512_set1_epi32(32)), high);
      }
      const V index = _mm512_and_si512(moved, _mm512_set1_epi32((1 << planes) - 1));
      return _mm512_i32gather_ps(index, entries, 4);
    }
  };

  // Codes of 16 columns in their natural order: the planes' bits are masks that set index bits.
  static constexpr int unpacked = 16;
  template <int planes>
  static inline V indices(const uint8_t* const* at, int64_t column) {
    V index = zero();
    for (int p = 0; p < planes; ++p) {
      uint16_t bits;
      memcpy(&bits, at[p] + column / 8, 2);
      index = _mm512_mask_or_epi32(index, bits, index, _mm512_set1_epi32(1 << p));
    }
    return index;
  }
  // Table entries in bf16, of 32 columns in their natural order.
  template <int planes>
  struct Halves {
    static constexpr int count = planes <= 5 ? 1 : 1 << (planes - 5);
    V table[count];

    explicit Halves(const uint16_t* from) {
      for (int t = 0; t < count; ++t) {
        uint16_t entry[32];
        for (int i = 0; i < 32; ++i) entry[i] = from[(32 * t + i) & ((1 << planes) - 1)];
        table[t] = load(entry);
      }
    }
    inline V look_up(V codes) const {
      if constexpr (count == 1) return _mm512_permutexvar_epi16(codes, table[0]);
      V value[(count + 1) / 2];
      for (int t = 0; t < count / 2; ++t)
        value[t] = _mm512_permutex2var_epi16(table[2 * t], codes, table[2 * t + 1]);
      for (int half = count / 4, bit = planes - 1; half; half /= 2, --bit) {
        const __mmask32 upper = _mm512_test_epi16_mask(codes, _mm512_set1_epi16(short(1 << bit)));
        for (int t = 0; t < half; ++t)
          value[t] = _mm512_mask_mov_epi16(value[t], upper, value[t + half]);
      }
      return value[0];
    }
  };
  static constexpr int halves = 32;
  template <int planes>
  static inline V half_indices(const uint8_t* const* at, int64_t column) {
    V index = zero();
    for (int p = 0; p < planes; ++p) {
      uint32_t bits;
      memcpy(&bits, at[p] + column / 8, 4);
      index = _mm512_mask_add_epi16(index, bits, index, _mm512_set1_epi16(short(1 << p)));
    }
    return index;
  }
  static inline void store_halves(V value, uint16_t* out) { _mm512_storeu_si512(out, value); }

  static inline Floats times(Floats a, const float* b, float c) {
    return _mm512_mul_ps(_mm512_mul_ps(a, _mm512_loadu_ps(b)), _mm512_set1_ps(c));
  }
  static inline void store(Floats value, void* out, int64_t at, Dtype dtype) {
    if (dtype == kFloat32) {
      _mm512_storeu_ps((float*)out + at, value);
    } else if (dtype == kFloat16) {
      _mm256_storeu_si256((__m256i*)((uint16_t*)out + at), _mm512_cvtps_ph(value, 0));
    } else {  // to bfloat16, ties to even
      const V bits = _mm512_castps_si512(value);
      const V odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
      const V up = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7FFF));
      const __m256i half = _mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16));
      _mm256_storeu_si256((__m256i*)((uint16_t*)out + at), half);
    }
  }
};

}  // namespace
}  // namespace bitstack
