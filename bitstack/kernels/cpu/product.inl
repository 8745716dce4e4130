// The two products, written once over a variant's operations `O`. Included after its target is set.
//
// fast   8-bit dot products. A 32-bit lane gathers the four bytes k = 4l .. 4l + 3 of all eight
//        vectors b: 32 neighbouring columns, so one conversion and one multiply-add a chunk apply
//        all its scales. Activations have two digits, high and low, and so has the table from
//        kLowFrom planes on; low * low is left out. A shorter table is rounded to one.
// exact  fp32 activations, fp32 table, fp32 sums.
//
// Rows are taken one after the other: each plane is then one stream of bytes in rising order.

namespace bitstack {
namespace {

constexpr int kAhead = 4096;  // bytes of a plane asked for ahead: more than memory's latency
constexpr int kSecondCache = 2;  // where to: in the first, planes would drive the activations out

template <class O, int planes>
struct FastTables {
  typename O::template Bytes<planes> high, low;
  explicit FastTables(const ByteTable& bytes) : high(bytes.high), low(bytes.low) {}
};

// The codes of a row's columns in one chunk, as Transpose lays them out.
template <class O, int planes>
inline void load(const Matrix& m, int64_t row, int64_t chunk, typename O::V* codes) {
  const int64_t at = chunk * O::width, left = m.row_bytes - at;
  typename O::V bits[kMaxPlanes];
  for (int p = 0; p < planes; ++p) {
    const uint8_t* from = m.plane[p] + row * m.row_bytes + at;
    __builtin_prefetch(from + kAhead, 0, kSecondCache);
    bits[p] = left >= O::width ? O::load(from) : O::load_part(from, int(left));
  }
  Transpose<O>::template codes<planes>(bits, codes);
}

// The products of one chunk. `x` is the chunk of the first token, `next` the way to another's.
template <class O, int planes, int batch>
inline void add_chunk(const FastTables<O, planes>& table, const typename O::V* codes,
                      const int8_t* x, int64_t next, typename O::Sums* sum) {
  constexpr int F = field_width(planes);
#pragma GCC unroll 4
  for (int b = 0; b < 8; b += 2, x += 4 * O::width) {
    const typename O::V one = table.high.look_up(codes[b % F], b / F);
    const typename O::V two = table.high.look_up(codes[(b + 1) % F], (b + 1) / F);
#pragma GCC unroll 4
    for (int t = 0; t < batch; ++t) sum[t].add_high(one, two, x + t * next);
    if constexpr (planes >= kLowFrom) {
      const typename O::V low = table.low.look_up(codes[b % F], b / F);
      const typename O::V low_two = table.low.look_up(codes[(b + 1) % F], (b + 1) / F);
#pragma GCC unroll 4
      for (int t = 0; t < batch; ++t) sum[t].add_low(low, low_two, x + t * next);
    }
  }
}

// The codes of the next chunk are made before the products of this one: neither waits for the other.
template <class O, int planes, int batch>
inline void fast_row(const Matrix& m, const FastTables<O, planes>& table, const ByteActivations& a,
                     int64_t row, int64_t token, float* sums) {
  constexpr int F = field_width(planes);
  typename O::V codes[F], coming[F];
  typename O::Floats total[batch];
  for (int t = 0; t < batch; ++t) total[t] = O::zero_floats();
  load<O, planes>(m, row, 0, coming);
  for (int64_t chunk = 0; chunk < a.chunks; ++chunk) {
    const int64_t at = token * a.chunks + chunk;
    typename O::Sums sum[batch];
    for (int c = 0; c < F; ++c) codes[c] = coming[c];
    if (chunk + 1 < a.chunks) load<O, planes>(m, row, chunk + 1, coming);
    add_chunk<O, planes, batch>(table, codes, a.value + at * 16 * O::width,
                                a.chunks * 16 * O::width, sum);
    for (int t = 0; t < batch; ++t) {
      const float* scale = a.scale + (at + t * a.chunks) * (O::width / 4);
      total[t] = O::scaled_add(sum[t], scale, total[t]);
    }
  }
  for (int t = 0; t < batch; ++t) sums[t] = O::reduce(total[t]);
}

template <class O, int planes, int batch>
inline void exact_row(const Matrix& m, const typename O::template Words<planes>& table,
                      const FloatActivations& a, int64_t row, int64_t token, float* sums) {
  // As many sums whatever the batch, so that several tokens get to the bit what one gets.
  constexpr int F = field_width(planes), chains = 4, each = 32 / chains;
  typename O::Floats total[batch][chains];
  for (int t = 0; t < batch; ++t)
    for (int i = 0; i < chains; ++i) total[t][i] = O::zero_floats();
  for (int64_t chunk = 0; chunk < a.chunks; ++chunk) {
    typename O::V codes[F];
    load<O, planes>(m, row, chunk, codes);
#pragma GCC unroll 32
    for (int n = 0; n < 32; ++n) {
      // The sums of several tokens one by one: together they would not fit the registers.
      const int b = batch == 1 ? n : n % each * chains + n / each;
      const typename O::Floats value = table.look_up(codes[b % F], b / F);
      for (int t = 0; t < batch; ++t) {
        const float* x = a.value + (((token + t) * a.chunks + chunk) * 32 + b) * (O::width / 4);
        total[t][b % chains] = O::multiply_add(value, x, total[t][b % chains]);
      }
    }
  }
  for (int t = 0; t < batch; ++t) {
    for (int i = 1; i < chains; ++i) total[t][0] = O::add(total[t][0], total[t][i]);
    sums[t] = O::reduce(total[t][0]);
  }
}

// Tokens four or two at a time, so that a code is looked up once for all of them; all rows with these
// before the next, so that their activations stay in the first cache.
template <class O, int planes, int tokens>
inline void fast_tokens(const Matrix& m, const FastTables<O, planes>& table,
                        const ByteActivations& a, int64_t begin, int64_t end, int64_t& first,
                        float* sums) {
  for (; first + tokens <= a.batch; first += tokens)
    for (int64_t row = begin; row < end; ++row)
      fast_row<O, planes, tokens>(m, table, a, row, first, sums + (row - begin) * a.batch + first);
}

template <class O, int planes>
void fast_rows(const Matrix& m, const ByteTable& bytes, const ByteActivations& a, int64_t begin,
               int64_t end, float* sums) {
  const FastTables<O, planes> table(bytes);
  int64_t first = 0;
  fast_tokens<O, planes, 4>(m, table, a, begin, end, first, sums);
  fast_tokens<O, planes, 2>(m, table, a, begin, end, first, sums);
  fast_tokens<O, planes, 1>(m, table, a, begin, end, first, sums);
}

template <class O, int planes>
void exact_rows(const Matrix& m, const FloatActivations& a, int64_t begin, int64_t end,
                float* sums) {
  const typename O::template Words<planes> table(m.table);
  for (int64_t row = begin; row < end; ++row, sums += a.batch) {
    int64_t t = 0;
    for (; t + 4 <= a.batch; t += 4) exact_row<O, planes, 4>(m, table, a, row, t, sums + t);
    for (; t < a.batch; ++t) exact_row<O, planes, 1>(m, table, a, row, t, sums + t);
  }
}

template <class O>
void fast(const Matrix& m, const ByteTable& table, const ByteActivations& a, int64_t begin,
          int64_t end, float* sums) {
  using Rows = void (*)(const Matrix&, const ByteTable&, const ByteActivations&, int64_t, int64_t,
                        float*);
  static constexpr Rows rows[kMaxPlanes] = {fast_rows<O, 1>, fast_rows<O, 2>, fast_rows<O, 3>,
                                            fast_rows<O, 4>, fast_rows<O, 5>, fast_rows<O, 6>,
                                            fast_rows<O, 7>, fast_rows<O, 8>};
  rows[m.planes - 1](m, table, a, begin, end, sums);
}

template <class O>
void exact(const Matrix& m, const FloatActivations& a, int64_t begin, int64_t end, float* sums) {
  using Rows = void (*)(const Matrix&, const FloatActivations&, int64_t, int64_t, float*);
  static constexpr Rows rows[kMaxPlanes] = {exact_rows<O, 1>, exact_rows<O, 2>, exact_rows<O, 3>,
                                            exact_rows<O, 4>, exact_rows<O, 5>, exact_rows<O, 6>,
                                            exact_rows<O, 7>, exact_rows<O, 8>};
  rows[m.planes - 1](m, a, begin, end, sums);
}

}  // namespace
}  // namespace bitstack
