// Rows of the dense matrix, written once over a variant's operations `O`. Included after its
// target is set.
//
// Floor: planes / 8 bytes read and 2 or 4 written a weight; planes mask steps, a look-up, two
// products and a store for `O::unpacked` weights. Next to the matrix product that follows it, or
// the copy of an embedding row, the writes are what counts.

namespace bitstack {
namespace {

inline void store_one(float value, void* out, int64_t at, Dtype dtype) {
  if (dtype == kFloat32) ((float*)out)[at] = value;
  else ((uint16_t*)out)[at] = dtype == kFloat16 ? float_to_half(value) : float_to_bfloat(value);
}

inline int code_at(const Matrix& m, int64_t row, int64_t column) {
  int code = 0;
  for (int p = 0; p < m.planes; ++p)
    code |= (m.plane[p][row * m.row_bytes + column / 8] >> (column % 8) & 1) << p;
  return code;
}

// Columns from `begin` on, one at a time.
inline void unpack_scalar(const Matrix& m, const float* v, int64_t row, int64_t begin, void* out,
                          Dtype dtype) {
  const float u = half_to_float(m.u[row]);
  for (int64_t c = begin; c < m.columns; ++c)
    store_one(m.table[code_at(m, row, c)] * v[c] * u, out, c, dtype);
}

template <class O, int planes>
void unpack_rows(const Matrix& m, const float* v, const int64_t* ids, int64_t begin, int64_t end,
                 void* out, Dtype dtype) {
  const typename O::template Words<planes> table(m.table);
  const int64_t whole = m.columns / O::unpacked * O::unpacked;
  const int64_t size = m.columns * (dtype == kFloat32 ? 4 : 2);
  for (int64_t i = begin; i < end; ++i, out = (char*)out + size) {
    const int64_t row = ids ? ids[i] : i;
    const float u = half_to_float(m.u[row]);
    const uint8_t* at[kMaxPlanes];
    for (int p = 0; p < planes; ++p) at[p] = m.plane[p] + row * m.row_bytes;
    for (int64_t c = 0; c < whole; c += O::unpacked) {
      const auto value = table.look_up(O::template indices<planes>(at, c), 0);
      O::store(O::times(value, v + c, u), out, c, dtype);
    }
    unpack_scalar(m, v, row, whole, out, dtype);
  }
}

template <class O>
void unpack(const Matrix& m, const float* v, const int64_t* ids, int64_t begin, int64_t end,
            void* out, Dtype dtype) {
  using Rows = void (*)(const Matrix&, const float*, const int64_t*, int64_t, int64_t, void*,
                        Dtype);
  static constexpr Rows rows[kMaxPlanes] = {unpack_rows<O, 1>, unpack_rows<O, 2>,
                                            unpack_rows<O, 3>, unpack_rows<O, 4>,
                                            unpack_rows<O, 5>, unpack_rows<O, 6>,
                                            unpack_rows<O, 7>, unpack_rows<O, 8>};
  rows[m.planes - 1](m, v, ids, begin, end, out, dtype);
}

// Rows of u * T[code] in bf16: the table is scaled once a row, a weight costs a look-up and a store.
template <class O, int planes>
void half_rows(const Matrix& m, int64_t begin, int64_t end, uint16_t* out) {
  const int64_t whole = m.columns / O::halves * O::halves;
  for (int64_t row = begin; row < end; ++row, out += m.columns) {
    const float u = half_to_float(m.u[row]);
    uint16_t entries[1 << planes];
    for (int i = 0; i < 1 << planes; ++i) entries[i] = float_to_bfloat(m.table[i] * u);
    const typename O::template Halves<planes> table(entries);
    const uint8_t* at[kMaxPlanes];
    for (int p = 0; p < planes; ++p) at[p] = m.plane[p] + row * m.row_bytes;
    for (int64_t c = 0; c < whole; c += O::halves)
      O::store_halves(table.look_up(O::template half_indices<planes>(at, c)), out + c);
    for (int64_t c = whole; c < m.columns; ++c) out[c] = entries[code_at(m, row, c)];
  }
}

template <class O>
void unpack_halves(const Matrix& m, int64_t begin, int64_t end, uint16_t* out) {
  using Rows = void (*)(const Matrix&, int64_t, int64_t, uint16_t*);
  static constexpr Rows rows[kMaxPlanes] = {half_rows<O, 1>, half_rows<O, 2>, half_rows<O, 3>,
                                            half_rows<O, 4>, half_rows<O, 5>, half_rows<O, 6>,
                                            half_rows<O, 7>, half_rows<O, 8>};
  rows[m.planes - 1](m, begin, end, out);
}

}  // namespace
}  // namespace bitstack
