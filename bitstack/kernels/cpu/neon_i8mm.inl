// The fast product by matrix products of bytes: eight table entries of each of two rows, times both
// digits of eight activations. One instruction does what two dot products do.
//
// The eight columns must share a scale, so they are two bits of four bytes of a plane: codes of two
// bits are brought together in words before their look-up.

namespace bitstack {
namespace {

// Activations in that order, [chunk][4 words of a plane][4 pairs of bits][digit][bit][4 bytes].
void quantize_pairs(const Matrix& m, const float* x, int64_t token, const ByteActivations& a) {
  quantize<Neon>(m, x, token, a);
  constexpr int size = 16 * Neon::width;
  for (int64_t chunk = 0; chunk < a.chunks; ++chunk) {
    int8_t *to = a.value + (token * a.chunks + chunk) * size, from[size];
    memcpy(from, to, size);
    for (int b = 0; b < 8; ++b)
      for (int digit = 0; digit < 2; ++digit)
        for (int word = 0; word < 4; ++word)
          memcpy(to + 64 * word + 16 * (b / 2) + 8 * digit + 4 * (b % 2),
                 from + 32 * b + 16 * digit + 4 * word, 4);
  }
}

// Codes and tables of pairs of columns, which want one table for both and two vectors at least. So
// one plane is taken like two, of which the upper does not matter, and three like four.
template <int planes>
struct Pairs {
  using V = Neon::V;
  static constexpr int like = planes == 1 ? 2 : planes == 3 ? 4 : planes, F = field_width(like);
  Neon::Bytes<like> table;

  explicit Pairs(const uint8_t* from) : table(Repeated(from).entry) {}

  // The codes of one half of a chunk of two rows, for each of its two words.
  static inline void codes(const V (&bits)[2][planes], int half, V (*out)[F / 2]) {
    V both[planes], code[F];
    for (int p = 0; p < planes; ++p) {
      const uint64x2_t a = vreinterpretq_u64_u8(bits[0][p]), b = vreinterpretq_u64_u8(bits[1][p]);
      both[p] = vreinterpretq_u8_u64(half ? vzip2q_u64(a, b) : vzip1q_u64(a, b));
    }
    if constexpr (planes == 1) code[0] = both[0], code[1] = Neon::shr<1>(both[0]);
    else Transpose<Neon>::codes<planes>(both, code);
    for (int i = 0; i < F / 2; ++i) {
      const uint32x4_t even = vreinterpretq_u32_u8(code[2 * i]);
      const uint32x4_t odd = vreinterpretq_u32_u8(code[2 * i + 1]);
      out[0][i] = vreinterpretq_u8_u32(vtrn1q_u32(even, odd));
      out[1][i] = vreinterpretq_u8_u32(vtrn2q_u32(even, odd));
    }
  }
  // The entries of columns 2 q and 2 q + 1 of every byte.
  inline V look_up(const V* codes, int q) const {
    return table.look_up(codes[2 * q % F / 2], 2 * q / F, 0);
  }

 private:
  struct Repeated {
    uint8_t entry[16];
    explicit Repeated(const uint8_t* from) {
      for (int i = 0; i < 16; ++i) entry[i] = from[i & ((1 << planes) - 1)];
    }
  };
};

template <int planes>
struct FastPairs {
  using V = Neon::V;
  static constexpr int rows = 2, rows_of_four = 2, width = Neon::width;
  const Matrix& m;
  const ByteActivations& a;
  const Pairs<planes> table;
  FastPairs(const Matrix& matrix, const ByteTable& bytes, const ByteActivations& activations)
      : m(matrix), a(activations), table(bytes.high) {}

  // One row is taken twice.
  template <int count, int batch>
  inline void multiply(int64_t row, int64_t token, float* sums) const {
    Neon::Floats total[batch];  // of both digits with one row, and with the next
    for (int t = 0; t < batch; ++t) total[t] = Neon::zero_floats();
    const int64_t next = a.chunks * 16 * width, next_scale = a.chunks * (width / 4);
    const int8_t* value = a.value + token * next;
    const float* scale = a.scale + token * next_scale;
    const int64_t step = (count - 1) * m.row_bytes;
    each_chunk<planes, 2>(m, row, step, [&](int64_t chunk, const V(&bits)[2][planes]) {
      const int8_t* x = value + chunk * 16 * width;
      Neon::Floats factor[batch];
      for (int t = 0; t < batch; ++t)
        factor[t] = vld1q_f32(scale + t * next_scale + chunk * (width / 4));
      V codes[2][Pairs<planes>::F / 2];
      Pairs<planes>::codes(bits, 0, codes);
      add<batch, 0>(codes[0], x, next, factor, total);
      add<batch, 1>(codes[1], x, next, factor, total);
      Pairs<planes>::codes(bits, 1, codes);
      add<batch, 2>(codes[0], x, next, factor, total);
      add<batch, 3>(codes[1], x, next, factor, total);
    });
    for (int t = 0; t < batch; ++t) {
      float sum[4];
      vst1q_f32(sum, total[t]);
      for (int r = 0; r < count; ++r) sums[r * a.batch + t] = 256.0f * sum[2 * r] + sum[2 * r + 1];
    }
  }

 private:
  // The products of one word of both rows, 32 columns with one scale.
  template <int batch, int word>
  inline void add(const V* codes, const int8_t* x, int64_t next, const Neon::Floats* factor,
                  Neon::Floats* total) const {
    int32x4_t sum[batch];
    for (int t = 0; t < batch; ++t) sum[t] = vdupq_n_s32(0);
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
      const V entry = table.look_up(codes, q);
#pragma GCC unroll 4
      for (int t = 0; t < batch; ++t)
        sum[t] = vusmmlaq_s32(sum[t], entry, vld1q_s8(x + t * next + 64 * word + 16 * q));
    }
#pragma GCC unroll 4
    for (int t = 0; t < batch; ++t)
      total[t] = vfmaq_laneq_f32(total[t], vcvtq_f32_s32(sum[t]), factor[t], word);
  }
};

template <int planes>
void pair_rows(const Matrix& m, const ByteTable& bytes, const ByteActivations& a, int64_t begin,
               int64_t end, float* sums) {
  multiply(FastPairs<planes>(m, bytes, a), begin, end, sums);
}

// Tables of two digits are left to the dot products: what two digits of activations save there is
// lost where the lower digit of the table needs one of them only.
struct I8mm {
  static constexpr int width = Neon::width;
  static constexpr bool pairs(int planes) { return planes < kLowFrom; }
  static constexpr Digits digits(int planes) {
    return pairs(planes) ? whole_bytes(planes) : Neon::digits(planes);
  }
  static void quantize(const Matrix& m, const float* x, int64_t token, const ByteActivations& a) {
    if (pairs(m.planes)) quantize_pairs(m, x, token, a);
    else bitstack::quantize<Neon>(m, x, token, a);
  }
  static void fast(const Matrix& m, const ByteTable& bytes, const ByteActivations& a,
                   int64_t begin, int64_t end, float* sums) {
    if (!pairs(m.planes)) return bitstack::fast(m, bytes, a, begin, end, sums);
    const auto rows = m.planes == 1 ? pair_rows<1> : m.planes == 2 ? pair_rows<2> : pair_rows<3>;
    rows(m, bytes, a, begin, end, sums);
  }
};

}  // namespace
}  // namespace bitstack
