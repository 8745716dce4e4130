// The operations of the AVX2 variants on fp32. Those on bytes are in avx2_bytes.inl.

namespace bitstack {
namespace {

struct Avx2 : Avx2Bytes {
  static constexpr int unpacked = 8;

  static inline Floats zero_floats() { return _mm256_setzero_ps(); }
  static inline Floats multiply_add(Floats value, const float* x, Floats total) {
    return _mm256_fmadd_ps(value, _mm256_loadu_ps(x), total);
  }
  static inline Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  static inline Floats subtract(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
  static inline Floats load_floats(const float* from) { return _mm256_loadu_ps(from); }
  static inline void store_floats(Floats a, float* to) { _mm256_storeu_ps(to, a); }
  // Sums and differences at distances 1, 2 and 4 within a vector.
  static inline Floats transform(Floats a) {
    const Floats one = _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1);
    const Floats two = _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1);
    const Floats four = _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1);
    a = _mm256_fmadd_ps(a, one, _mm256_permute_ps(a, 0xB1));
    a = _mm256_fmadd_ps(a, two, _mm256_permute_ps(a, 0x4E));
    return _mm256_fmadd_ps(a, four, _mm256_permute2f128_ps(a, a, 1));
  }
  static inline Floats all(float a) { return _mm256_set1_ps(a); }
  static inline Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
  static inline float reduce(Floats a) {
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
  }

  // Tables of 8 or 16 words in registers; longer ones are gathered from the first-level cache.
  template <int planes>
  struct Words {
    static constexpr int F = field_width(planes);
    const float* entries;
    Floats low, high;

    explicit Words(const float* from) : entries(from) {
      float entry[16];
      for (int i = 0; i < 16; ++i) entry[i] = from[i & ((1 << planes) - 1)];
      low = _mm256_loadu_ps(entry);
      high = _mm256_loadu_ps(entry + 8);
    }
    inline Floats look_up(V codes, int field) const {
      const V moved = field ? _mm256_srli_epi32(codes, field * F) : codes;
      if constexpr (planes <= 3) return _mm256_permutevar8x32_ps(low, moved);
      if constexpr (planes == 4) {
        const Floats upper = _mm256_castsi256_ps(_mm256_slli_epi32(moved, 28));
        return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, moved),
                                _mm256_permutevar8x32_ps(high, moved), upper);
      }
      const V index = _mm256_and_si256(moved, _mm256_set1_epi32((1 << planes) - 1));
      return _mm256_i32gather_ps(entries, index, 4);
    }
  };

  // Codes of 8 columns in their natural order: each lane takes its bit of the planes' bytes.
  template <int planes>
  static inline V indices(const uint8_t* const* at, int64_t column) {
    const V bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    V index = _mm256_setzero_si256();
    for (int p = 0; p < planes; ++p) {
      const V bits = _mm256_and_si256(_mm256_set1_epi32(at[p][column / 8]), bit);
      const V set = _mm256_cmpeq_epi32(bits, bit);
      index = _mm256_or_si256(index, _mm256_and_si256(set, _mm256_set1_epi32(1 << p)));
    }
    return index;
  }
  static inline Floats times(Floats a, const float* b, float c) {
    return _mm256_mul_ps(_mm256_mul_ps(a, _mm256_loadu_ps(b)), _mm256_set1_ps(c));
  }
  static inline void store(Floats value, void* out, int64_t at, Dtype dtype) {
    if (dtype == kFloat32) {
      _mm256_storeu_ps((float*)out + at, value);
    } else if (dtype == kFloat16) {
      _mm_storeu_si128((__m128i*)((uint16_t*)out + at), _mm256_cvtps_ph(value, 0));
    } else {  // to bfloat16, ties to even
      const V bits = _mm256_castps_si256(value);
      const V odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
      const V up = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7FFF));
      const V words = _mm256_srli_epi32(up, 16);
      const V packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(words, words), 8);
      _mm_storeu_si128((__m128i*)((uint16_t*)out + at), _mm256_castsi256_si128(packed));
    }
  }
};

}  // namespace
}  // namespace bitstack
