// What `bitstack/tuning` does most: from the gradient of a coded matrix u T[code] v to those of its
// scales, its table and each weight's table value, and steps of the weights' positions.
//
// Floors: 9 and 14 bytes a weight, about 12 and 14 operations (a sum by code and three lookups among
// them). Rows are independent but for sums over columns, which each block of rows has of its own.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "arguments.h"
#include "clones.h"
#include "convert.h"
#include "pool.h"

namespace bitstack {
namespace {

constexpr int kTogether = 64;  // rows that share their sums over columns
constexpr int kLanes = 16;  // sums of a row, which are added at its end

struct Spread {
  const uint8_t* code;  // [m, n], the low bits of `mask` count
  int32_t mask;
  const float* table;
  const float *u, *v;
  const float* gradient;  // [m, n], by the matrix
  float* by_value;        // [m, n], by the table values; may be the same memory
  float* du;        // [m]
  int64_t rows, columns;
};

// The gradients of one row; those by v and by table values are added to what is there.
BITSTACK_CLONES void spread_row(const Spread& a, int64_t r, float* __restrict dv,
                                float* __restrict cells, float* __restrict by_code) {
  const uint8_t* code = a.code + r * a.columns;
  const float* from = a.gradient + r * a.columns;
  float* to = a.by_value + r * a.columns;
  const float* __restrict v = a.v;
  const float u = a.u[r];
  for (int64_t c = 0; c < a.columns; ++c) cells[c] = a.table[code[c] & a.mask];
  float sums[kLanes] = {};
  const int64_t whole = a.columns / kLanes * kLanes;
  for (int64_t c = 0; c < whole; c += kLanes)
    for (int i = 0; i < kLanes; ++i) sums[i] += from[c + i] * cells[c + i] * v[c + i];
  for (int64_t c = whole; c < a.columns; ++c) sums[0] += from[c] * cells[c] * v[c];
  float du = 0;
  for (float sum : sums) du += sum;
  a.du[r] = du;
  for (int64_t c = 0; c < a.columns; ++c) {
    const float g = from[c];
    dv[c] += g * cells[c] * u;
    to[c] = g * v[c] * u;
  }
  // Four sums of every code: two neighbours of one code need not wait for one another.
  for (int64_t c = 0; c < a.columns; ++c) by_code[(c & 3) * kMaxEntries + (code[c] & a.mask)] += to[c];
}

// Where a weight of each code may stand, and the codes beside it among those it may take: the ones
// that share the planes that stay.
struct Cells {
  float value[kMaxEntries], low[kMaxEntries], high[kMaxEntries];  // stands in (low, high]
  float least[kMaxEntries], most[kMaxEntries];  // of all codes it may take, where planes stay
  uint8_t below[kMaxEntries], above[kMaxEntries];

  Cells(const float* table, int32_t count, int32_t kept) {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    const int32_t families = 1 << kept;
    std::vector<int32_t> own(size_t(count / families));
    for (int32_t family = 0; family < families; ++family) {
      for (size_t i = 0; i < own.size(); ++i) own[i] = family + int32_t(i) * families;
      std::stable_sort(own.begin(), own.end(),
                       [&](int32_t a, int32_t b) { return table[a] < table[b]; });
      for (size_t i = 0; i < own.size(); ++i) {
        const int32_t code = own[i];
        const int32_t last = own[std::max<size_t>(i, 1) - 1];
        const int32_t next = own[std::min(i + 1, own.size() - 1)];
        value[code] = table[code];
        low[code] = i ? (table[last] + table[code]) / 2 : -infinity;
        high[code] = i + 1 < own.size() ? (table[code] + table[next]) / 2 : infinity;
        least[code] = kept ? table[own.front()] : -infinity;
        most[code] = kept ? table[own.back()] : infinity;
        below[code] = uint8_t(last);
        above[code] = uint8_t(next);
      }
    }
  }
};

struct Move {
  const uint8_t* code;  // [m, n], the low bits of `mask` count
  int32_t mask;
  const float* gradient;
  const uint16_t* offset;  // fp16 [m, n], of a position from its table value
  uint16_t* next;          // out, the same; may be the same memory
  const float *row, *column;  // a step is gradient * row * column
  int32_t learns;       // bits; the others change only with one of these
  uint8_t* moved;       // out, [m, n]
  int64_t columns;
};

BITSTACK_CLONES void step(const Move& a, const Cells& cells, int64_t r, float* __restrict position,
                          uint8_t* __restrict leaves) {
  const uint8_t* __restrict code = a.code + r * a.columns;
  const float* __restrict g = a.gradient + r * a.columns;
  const uint16_t* __restrict offset = a.offset + r * a.columns;
  const float row = a.row[r];
  for (int64_t c = 0; c < a.columns; ++c) position[c] = half_to_float(offset[c]);
  for (int64_t c = 0; c < a.columns; ++c) {
    const int32_t at = code[c] & a.mask;
    float p = cells.value[at] + position[c] - g[c] * a.column[c] * row;
    p = p > cells.most[at] ? cells.most[at] : p;
    p = p < cells.least[at] ? cells.least[at] : p;
    position[c] = p;
    leaves[c] = !((p > cells.low[at]) & (p <= cells.high[at]));
  }
}

BITSTACK_CLONES void keep_offsets(const Move& a, const Cells& cells, int64_t r,
                                  const float* __restrict position) {
  const uint8_t* __restrict moved = a.moved + r * a.columns;
  uint16_t* __restrict offset = a.next + r * a.columns;
  for (int64_t c = 0; c < a.columns; ++c)
    offset[c] = float_to_half(position[c] - cells.value[moved[c]]);
}

// The codes of the cells that positions left for.
void change_codes(const Move& a, const Cells& cells, int64_t r, const float* position,
                  const uint8_t* leaves) {
  const uint8_t* code = a.code + r * a.columns;
  uint8_t* moved = a.moved + r * a.columns;
  for (int64_t c = 0; c < a.columns; ++c) {
    const uint8_t old = code[c] & uint8_t(a.mask);
    moved[c] = old;
    if (!leaves[c]) continue;
    uint8_t at = old;
    while (position[c] > cells.high[at]) at = cells.above[at];
    while (position[c] <= cells.low[at]) at = cells.below[at];
    if ((at ^ old) & a.learns) moved[c] = at;
  }
}

}  // namespace

// From the gradient [rows, columns] by u T[code] v: du, dv and dt [count], and that by each weight's
// value in the table, which may take its place.
BITSTACK_API int32_t bitstack_spread(const uint8_t* code, int64_t codes, int32_t count,
                                     const float* table, int64_t entries, const float* u,
                                     int64_t us, const float* v, int64_t vs, int64_t rows,
                                     int64_t columns, const float* gradient, int64_t gradients,
                                     float* by_value, int64_t values, float* du, int64_t dus, float* dv, int64_t dvs, float* dt,
                                     int64_t dts, int32_t threads) {
  if (const Error error = check_codes(code, codes, rows, columns, count)) return error;
  if (!holds(table, entries, count, 1) || !holds(u, us, rows, 1) || !holds(v, vs, columns, 1))
    return kScales;
  if (!holds(gradient, gradients, rows, columns)) return kInputs;
  if (!holds(by_value, values, rows, columns)) return kOutputs;
  if (!holds(du, dus, rows, 1) || !holds(dv, dvs, columns, 1) || !holds(dt, dts, count, 1))
    return kOutputs;
  return guarded([&]() -> int32_t {
    const Spread spread{code, count - 1, table, u, v, gradient, by_value, du, rows, columns};
    const int64_t blocks = (rows + kTogether - 1) / kTogether;
    std::vector<float> by_column(size_t(blocks * columns), 0.0f);
    std::vector<double> by_code(size_t(blocks) * size_t(count), 0.0);
    parallel_for(blocks, threads, [&](int64_t block) {
      std::vector<float> cells(static_cast<size_t>(columns));
      for (int64_t r = block * kTogether; r < std::min(rows, (block + 1) * kTogether); ++r) {
        float some[4 * kMaxEntries] = {};
        spread_row(spread, r, by_column.data() + block * columns, cells.data(), some);
        for (int k = 0; k < count; ++k)
          for (int i = 0; i < 4; ++i)
            by_code[size_t(block * count + k)] += double(some[i * kMaxEntries + k]);
      }
    });
    std::fill(dv, dv + columns, 0.0f);
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t c = 0; c < columns; ++c) dv[c] += by_column[size_t(block * columns + c)];
    for (int k = 0; k < count; ++k) {
      double sum = 0;
      for (int64_t block = 0; block < blocks; ++block) sum += by_code[size_t(block * count + k)];
      dt[k] = float(sum);
    }
    return kFine;
  });
}

// moved [rows, columns]: the codes after each position has gone gradient * row * column towards
// lower values. The low `kept` planes stay; those from `learning` on change only where a lower one
// does. `offset`, in fp16, is how far each position is from the value of its code; `next` the same
// afterwards, which may take its place.
BITSTACK_API int32_t bitstack_move(const uint8_t* code, int64_t codes, int32_t count,
                                   const float* table, int64_t entries, const float* row,
                                   int64_t row_count, const float* column, int64_t column_count,
                                   int64_t rows, int64_t columns, const float* gradient,
                                   int64_t gradients, int32_t kept, int32_t learning,
                                   const uint16_t* offset, int64_t offsets, uint16_t* next,
                                   int64_t nexts, uint8_t* moved, int64_t outputs,
                                   int32_t threads) {
  if (const Error error = check_codes(code, codes, rows, columns, count)) return error;
  if (kept < 0 || learning < 0 || kept > kMaxPlanes || (1 << kept) > count) return kPlanes;
  if (!holds(table, entries, count, 1) || !holds(row, row_count, rows, 1) ||
      !holds(column, column_count, columns, 1))
    return kScales;
  if (!holds(gradient, gradients, rows, columns)) return kInputs;
  if (!holds(offset, offsets, rows, columns)) return kInputs;
  if (!holds(next, nexts, rows, columns) || !holds(moved, outputs, rows, columns))
    return kOutputs;
  return guarded([&]() -> int32_t {
    const Cells cells(table, count, kept);
    const int32_t learns = (1 << std::min(learning, kMaxPlanes)) - 1;
    const Move move{code, count - 1, gradient, offset, next, row, column, learns, moved, columns};
    parallel_for((rows + kTogether - 1) / kTogether, threads, [&](int64_t block) {
      std::vector<float> position(static_cast<size_t>(columns));
      std::vector<uint8_t> leaves(static_cast<size_t>(columns));
      for (int64_t r = block * kTogether; r < std::min(rows, (block + 1) * kTogether); ++r) {
        step(move, cells, r, position.data(), leaves.data());
        change_codes(move, cells, r, position.data(), leaves.data());
        keep_offsets(move, cells, r, position.data());
      }
    });
    return kFine;
  });
}

}  // namespace bitstack
