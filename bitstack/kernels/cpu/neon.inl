// The operations of the NEON variants on fp32 and on 16-bit table entries. Those on bytes are in
// neon_bytes.inl.

namespace bitstack {
namespace {

// A table of 16-bit entries as two of bytes. Sixteen at least: shorter ones are repeated.
template <int planes>
struct HalfBytes {
  static constexpr int count = planes < 4 ? 16 : 1 << planes;
  uint8_t low[count], high[count];
  explicit HalfBytes(const uint16_t* from) {
    for (int i = 0; i < count; ++i) set(i, from[i & ((1 << planes) - 1)]);
  }
  explicit HalfBytes(const float* from) {  // to fp16, which the entries were (see Matrix)
    for (int i = 0; i < count; ++i) set(i, float_to_half(from[i & ((1 << planes) - 1)]));
  }

 private:
  void set(int i, uint16_t entry) {
    low[i] = uint8_t(entry);
    high[i] = uint8_t(entry >> 8);
  }
};

struct Neon : NeonBytes {
  static inline Floats zero_floats() { return vdupq_n_f32(0.0f); }
  static inline Floats add(Floats a, Floats b) { return vaddq_f32(a, b); }
  static inline Floats subtract(Floats a, Floats b) { return vsubq_f32(a, b); }
  static inline Floats load_floats(const float* from) { return vld1q_f32(from); }
  static inline void store_floats(Floats a, float* to) { vst1q_f32(to, a); }
  static inline Floats multiply_add(Floats value, const float* x, Floats total) {
    return vfmaq_f32(total, value, vld1q_f32(x));
  }
  static inline Floats all(float a) { return vdupq_n_f32(a); }
  static inline Floats larger(Floats a, Floats b) { return vmaxq_f32(a, b); }
  static inline float reduce(Floats a) { return vaddvq_f32(a); }
  // Sums and differences at distances 1 and 2 within a vector.
  static inline Floats transform(Floats a) {
    const float one[4] = {1, -1, 1, -1}, two[4] = {1, 1, -1, -1};
    a = vfmaq_f32(vrev64q_f32(a), a, vld1q_f32(one));
    return vfmaq_f32(vextq_f32(a, a, 2), a, vld1q_f32(two));
  }

  // Tables of 16-bit entries are two of bytes, whose results are zipped.
  static inline uint16x8x2_t zip(V low, V high) {
    const V first = vzip1q_u8(low, high), last = vzip2q_u8(low, high);
    return {{vreinterpretq_u16_u8(first), vreinterpretq_u16_u8(last)}};
  }
  // Sixteen numbers in fp32, from fp16.
  struct Numbers {
    Floats part[4];
    inline explicit Numbers(uint16x8x2_t halves) {
      for (int i = 0; i < 2; ++i) {
        const float16x8_t half = vreinterpretq_f16_u16(halves.val[i]);
        part[2 * i] = vcvt_f32_f16(vget_low_f16(half));
        part[2 * i + 1] = vcvt_high_f32_f16(half);
      }
    }
  };

  // Entries of 16 bits, of 16 columns in their natural order.
  static constexpr int halves = 16, unpacked = 16;
  template <int planes>
  struct Halves {
    Entries<planes> low, high;
    explicit Halves(const uint16_t* from) : Halves(HalfBytes<planes>(from)) {}
    explicit Halves(const HalfBytes<planes>& bytes) : low(bytes.low), high(bytes.high) {}
    inline uint16x8x2_t look_up(V index) const {
      return zip(low.look_up(index), high.look_up(index));
    }
  };
  static inline void store_halves(uint16x8x2_t value, uint16_t* out) {
    vst1q_u16(out, value.val[0]);
    vst1q_u16(out + 8, value.val[1]);
  }
  template <int planes>
  struct Words {
    Halves<planes> table;
    explicit Words(const float* from) : table(HalfBytes<planes>(from)) {}
    inline Numbers look_up(V index, int) const { return Numbers(table.look_up(index)); }
  };

  // Codes of 16 columns in their natural order: each byte takes its bit of the planes' two bytes.
  template <int planes>
  static inline V indices(const uint8_t* const* at, int64_t column) {
    const V lane = vcombine_u8(vdup_n_u8(0), vdup_n_u8(1));
    const V bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201ull));
    V index = vdupq_n_u8(0);
    for (int p = planes - 1; p >= 0; --p) {
      uint16_t two;
      memcpy(&two, at[p] + column / 8, 2);
      const V bits = vqtbl1q_u8(vreinterpretq_u8_u16(vdupq_n_u16(two)), lane);
      index = vsliq_n_u8(vtstq_u8(bits, bit), index, 1);  // keeps the lowest bit of the test
    }
    return index;
  }
  template <int planes>
  static inline V half_indices(const uint8_t* const* at, int64_t column) {
    return indices<planes>(at, column);
  }
  static inline Numbers times(Numbers a, const float* b, float c) {
    for (int i = 0; i < 4; ++i)
      a.part[i] = vmulq_n_f32(vmulq_f32(a.part[i], vld1q_f32(b + 4 * i)), c);
    return a;
  }
  static inline void store(Numbers value, void* out, int64_t at, Dtype dtype) {
    for (int i = 0; i < 4; ++i) {
      const Floats part = value.part[i];
      if (dtype == kFloat32) {
        vst1q_f32((float*)out + at + 4 * i, part);
      } else if (dtype == kFloat16) {
        vst1_u16((uint16_t*)out + at + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(part)));
      } else {  // to bfloat16, ties to even
        const uint32x4_t bits = vreinterpretq_u32_f32(part);
        const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
        const uint32x4_t up = vaddq_u32(vaddq_u32(bits, odd), vdupq_n_u32(0x7FFF));
        vst1_u16((uint16_t*)out + at + 4 * i, vshrn_n_u32(up, 16));
      }
    }
  }
};

}  // namespace
}  // namespace bitstack
