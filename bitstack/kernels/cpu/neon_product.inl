// The two products of the NEON variants; those of product.inl in smaller vectors and other tables.
//
// fast   As there: bytes, activations in two digits, and a multiply-add in fp32 for a chunk's sums.
// exact  fp32 activations and sums. The table's fp16 is looked up as two bytes, and four such pairs
//        become a vector of fp32.
//
// Two rows are taken at once where registers hold them: they share each load of activations.

namespace bitstack {
namespace {

constexpr int kAhead = 1024;  // bytes of a plane asked for ahead: more than one row's latency

// Asks for what is read `kAhead` bytes after `at` of `rows` rows: of these or of the next ones.
template <int rows>
inline void prefetch(const uint8_t* const* from, int64_t at, int64_t row_bytes) {
  const int64_t ahead = at + kAhead / rows;
  const int64_t skipped = ahead < row_bytes ? 0 : (rows - 1) * row_bytes;
  for (int r = 0; r < rows; ++r) __builtin_prefetch(from[r] + ahead + skipped);
}

// Calls body(chunk, bits[row][plane]) for all chunks of some rows, which lie `step` bytes apart. A
// last chunk that is not whole is read from a copy with zeros behind.
template <int planes, int rows, class Body>
inline void each_chunk(const Matrix& m, int64_t row, int64_t step, const Body& body) {
  constexpr int width = Neon::width;
  const int64_t whole = m.row_bytes / width, left = m.row_bytes % width;
  const uint8_t* from[planes][rows];
  for (int p = 0; p < planes; ++p)
    for (int r = 0; r < rows; ++r) from[p][r] = m.plane[p] + row * m.row_bytes + r * step;
  uint8_t last[planes][rows][width] = {};
  const int64_t ends[2] = {whole, whole + (left > 0)};
  int64_t chunk = 0;
  for (const int64_t end : ends) {
    for (int i = 0; end > whole && i < planes * rows; ++i) {
      const uint8_t*& source = from[i / rows][i % rows];
      memcpy(last[i / rows][i % rows], source + whole * width, size_t(left));
      source = last[i / rows][i % rows];
    }
    for (int64_t at = 0; chunk < end; ++chunk, at += width) {
      Neon::V bits[rows][planes];
      for (int r = 0; r < rows; ++r)
        for (int p = 0; p < planes; ++p) bits[r][p] = Neon::load(from[p][r] + at);
      for (int p = 0; at % 64 == 0 && p < planes; ++p) prefetch<rows>(from[p], at, m.row_bytes);
      body(chunk, bits);
    }
  }
}

template <int planes>
struct Fast {
  using V = Neon::V;
  static constexpr bool wide = planes > 4;  // the table is in more than one register
  static constexpr int rows = wide ? 1 : 2, rows_of_four = 1, width = Neon::width;
  const Matrix& m;
  const ByteActivations& a;
  const Neon::Bytes<planes> high, low;
  Fast(const Matrix& matrix, const ByteTable& bytes, const ByteActivations& activations)
      : m(matrix), a(activations), high(bytes.high), low(bytes.low) {}

  template <int rows, int batch>
  inline void multiply(int64_t row, int64_t token, float* sums) const {
    Neon::Floats total[rows][batch];
    for (int i = 0; i < rows * batch; ++i) total[i / batch][i % batch] = Neon::zero_floats();
    const int64_t next = a.chunks * 16 * width, next_scale = a.chunks * (width / 4);
    const int8_t* value = a.value + token * next;
    const float* scale = a.scale + token * next_scale;
    each_chunk<planes, rows>(m, row, m.row_bytes, [&](int64_t chunk, const V(&bits)[rows][planes]) {
      V codes[rows][field_width(planes)];
      for (int r = 0; r < rows; ++r) Neon::Bytes<planes>::codes(bits[r], codes[r]);
      Neon::Sums sum[rows][batch];
      const int8_t* x = value + chunk * 16 * width;
      if constexpr (wide) add_wide<batch>(codes[0], x, next, sum[0]);
      else add<rows, batch>(codes, x, next, sum);
#pragma GCC unroll 4
      for (int t = 0; t < batch; ++t) {
        const Neon::Floats factor = vld1q_f32(scale + chunk * (width / 4) + t * next_scale);
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r)
          total[r][t] = vfmaq_f32(total[r][t], vcvtq_f32_s32(sum[r][t].sum()), factor);
      }
    });
    for (int r = 0; r < rows; ++r)
      for (int t = 0; t < batch; ++t) sums[r * a.batch + t] = Neon::reduce(total[r][t]);
  }

 private:
  // The products of one chunk. `x` is the chunk of the first token, `next` the way to another's.
  template <int rows, int batch>
  inline void add(const V (&codes)[rows][field_width(planes)], const int8_t* x, int64_t next,
                  Neon::Sums (&sum)[rows][batch]) const {
#pragma GCC unroll 8
    for (int b = 0; b < 8; ++b, x += 2 * width)
#pragma GCC unroll 4
      for (int t = 0; t < batch; ++t) {
        const Neon::Activations digits(x + t * next);
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r) {
          sum[r][t].add_high(high.look_up(codes[r], b), digits);
          if constexpr (planes >= kLowFrom) sum[r][t].add_low(low.look_up(codes[r], b), digits);
        }
      }
  }
  // The same with one digit of the table after the other: registers hold one of them.
  template <int batch>
  inline void add_wide(const V* codes, const int8_t* x, int64_t next, Neon::Sums* sum) const {
    V value[8];
    high.look_up(codes, value);
#pragma GCC unroll 8
    for (int b = 0; b < 8; ++b)
#pragma GCC unroll 4
      for (int t = 0; t < batch; ++t)
        sum[t].add_high(value[b], Neon::Activations(x + 2 * width * b + t * next));
    low.look_up(codes, value);
#pragma GCC unroll 8
    for (int b = 0; b < 8; ++b)
#pragma GCC unroll 4
      for (int t = 0; t < batch; ++t)
        sum[t].add_low(value[b], Neon::Activations(x + 2 * width * b + t * next));
  }
};

template <int planes>
struct Exact {
  using V = Neon::V;
  static constexpr bool wide = Fast<planes>::wide;
  static constexpr int rows = wide ? 1 : 2, rows_of_four = 1, width = Neon::width;
  const Matrix& m;
  const FloatActivations& a;
  const Neon::Bytes<planes> low, high;
  Exact(const Matrix& matrix, const HalfBytes<planes>& bytes, const FloatActivations& activations)
      : m(matrix), a(activations), low(bytes.low), high(bytes.high) {}

  template <int rows, int batch>
  inline void multiply(int64_t row, int64_t token, float* sums) const {
    // As many sums whatever the batch, so that several tokens get to the bit what one gets.
    Neon::Floats total[rows][batch][4];
    for (int i = 0; i < rows * batch * 4; ++i)
      total[i / 4 / batch][i / 4 % batch][i % 4] = Neon::zero_floats();
    const int64_t next = a.chunks * 8 * width;
    each_chunk<planes, rows>(m, row, m.row_bytes, [&](int64_t chunk, const V(&bits)[rows][planes]) {
      V codes[rows][field_width(planes)], value[2][8];
      for (int r = 0; r < rows; ++r) Neon::Bytes<planes>::codes(bits[r], codes[r]);
      if constexpr (wide) low.look_up(codes[0], value[0]), high.look_up(codes[0], value[1]);
      const float* x = a.value + (token * a.chunks + chunk) * 8 * width;
#pragma GCC unroll 8
      for (int b = 0; b < 8; ++b, x += width)
#pragma GCC unroll 4
        for (int r = 0; r < rows; ++r)
          if constexpr (wide) add<batch>(value[0][b], value[1][b], x, next, total[r]);
          else add<batch>(low.look_up(codes[r], b), high.look_up(codes[r], b), x, next, total[r]);
    });
    for (int r = 0; r < rows; ++r)
      for (int t = 0; t < batch; ++t) {
        Neon::Floats* part = total[r][t];
        sums[r * a.batch + t] =
            Neon::reduce(Neon::add(Neon::add(part[0], part[1]), Neon::add(part[2], part[3])));
      }
  }

 private:
  // The products of column b of every byte, whose table entries have these two bytes.
  template <int batch>
  inline void add(V one, V two, const float* x, int64_t next, Neon::Floats (*total)[4]) const {
    const Neon::Numbers value(Neon::zip(one, two));
#pragma GCC unroll 4
    for (int t = 0; t < batch; ++t)
      for (int i = 0; i < 4; ++i)
        total[t][i] = vfmaq_f32(total[t][i], value.part[i], vld1q_f32(x + t * next + 4 * i));
  }
};

// Four tokens at once, so that a code is looked up once for four of them, of fewer rows.
template <class Product>
void multiply(const Product& product, int64_t begin, int64_t end, float* sums) {
  constexpr int most = Product::rows, few = Product::rows_of_four;
  const int64_t batch = product.a.batch, fours = batch / 4 * 4;
  while (begin < end) {
    const bool whole = begin + most <= end;
    const int64_t count = whole ? most : 1;
    for (int64_t t = 0; t < fours; t += 4)
      for (int64_t r = 0; r < count; r += few)
        if (whole) product.template multiply<few, 4>(begin + r, t, sums + r * batch + t);
        else product.template multiply<1, 4>(begin, t, sums + t);
    for (int64_t t = fours; t < batch; ++t)
      if (whole) product.template multiply<most, 1>(begin, t, sums + t);
      else product.template multiply<1, 1>(begin, t, sums + t);
    begin += count;
    sums += count * batch;
  }
}

template <int planes>
void fast_rows(const Matrix& m, const ByteTable& bytes, const ByteActivations& a, int64_t begin,
               int64_t end, float* sums) {
  multiply(Fast<planes>(m, bytes, a), begin, end, sums);
}

void fast(const Matrix& m, const ByteTable& bytes, const ByteActivations& a, int64_t begin,
          int64_t end, float* sums) {
  using Rows = void (*)(const Matrix&, const ByteTable&, const ByteActivations&, int64_t, int64_t,
                        float*);
  static constexpr Rows rows[kMaxPlanes] = {fast_rows<1>, fast_rows<2>, fast_rows<3>, fast_rows<4>,
                                            fast_rows<5>, fast_rows<6>, fast_rows<7>, fast_rows<8>};
  rows[m.planes - 1](m, bytes, a, begin, end, sums);
}

template <int planes>
void exact_rows(const Matrix& m, const FloatActivations& a, int64_t begin, int64_t end,
                float* sums) {
  multiply(Exact<planes>(m, HalfBytes<planes>(m.table), a), begin, end, sums);
}

void exact(const Matrix& m, const FloatActivations& a, int64_t begin, int64_t end, float* sums) {
  using Rows = void (*)(const Matrix&, const FloatActivations&, int64_t, int64_t, float*);
  static constexpr Rows rows[kMaxPlanes] = {exact_rows<1>, exact_rows<2>, exact_rows<3>,
                                            exact_rows<4>, exact_rows<5>, exact_rows<6>,
                                            exact_rows<7>, exact_rows<8>};
  rows[m.planes - 1](m, a, begin, end, sums);
}

// Activations in the order of the exact product: column 8k + b is number 16 b + k of its chunk.
void spread_bytes(const Matrix& m, const float* x, int64_t token, const FloatActivations& a) {
  constexpr int width = Neon::width;
  float scaled[8 * width];
  for (int64_t chunk = 0; chunk < a.chunks; ++chunk) {
    scale_chunk<width>(m, x, chunk, scaled);
    float* out = a.value + (token * a.chunks + chunk) * 8 * width;
    for (int b = 0; b < 8; ++b)
      for (int k = 0; k < width; ++k) out[b * width + k] = scaled[8 * k + b];
  }
}

}  // namespace
}  // namespace bitstack
