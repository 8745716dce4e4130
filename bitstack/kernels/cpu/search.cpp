// What `bitstack/decompose` does most: one panel of the coordinate descent that chooses codes, the
// values of codes, and sums over all weights of one code. Every call is given the counts of its
// buffers and returns an `Error` (see arguments.h); the caller checks dtypes and strides.
//
// Rows are independent, so each thread takes blocks of them through all columns of the panel with
// everything it touches in cache. Floors of a panel of p columns, m rows, J levels: for each weight
// about 6 operations for every node of the tree of codes that is tried, and J p / 2 multiply-adds
// for the panel's own products; 13 J p m bytes.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "arguments.h"
#include "clones.h"
#include "convert.h"
#include "pool.h"

namespace bitstack {
namespace {

constexpr int kRows = 64;    // a block
constexpr int kPanel = 64;   // most columns of a panel
constexpr int kLevels = 8;   // most levels
constexpr int kWindow = 5;   // codes of the lowest level that are tried, where it has more than kAll
constexpr int kAll = 8;

struct Panel {
  int64_t rows, columns, start, width;  // m and n of the matrix; the panel's first column, and p
  int32_t levels, first;  // J; candidates agree with the present code in `first` planes
  const int32_t* planes;  // [J], rising
  const float* const* tables;    // [J] -> [2^planes]
  const float* const* u;         // [J] -> [m]
  const float* const* v;         // [J] -> [n]
  const float* const* products;  // [J] -> [m, n], G
  const float* felt;             // [J, p, p]
  const float* weights;          // [J]
  float* moves;                  // [J, m, p], out
  uint8_t* code;                 // [m, n], in and out
};

// The codes of the lowest level by value, and the borders between neighbours, where only a window
// of them is tried.
struct Ranks {
  int32_t order[256];
  float borders[256];
  int count = 0;  // 0: all codes are tried

  explicit Ranks(const Panel& a) {
    const int all = 1 << (a.planes[0] - a.first);
    if (a.first || all <= kAll) return;
    count = all;
    const float* table = a.tables[0];
    for (int i = 0; i < all; ++i) order[i] = i;
    std::stable_sort(order, order + all, [&](int x, int y) { return table[x] < table[y]; });
    for (int i = 0; i + 1 < all; ++i)
      borders[i] = 0.5f * (table[order[i]] + table[order[i + 1]]);
  }
};

struct Block {
  float g[kLevels][kPanel][kRows];   // G, a column contiguous
  float moved[kLevels][kPanel][kRows];
  int32_t now[kPanel][kRows];
  float size[kLevels][kRows], held[kLevels][kRows];  // u v, and the present value in the table
  int32_t prefix[256][kRows];
  float cost[2][256][kRows];
  float best[kRows];
  int32_t chosen[kRows];
  float gathered[kRows];
};

BITSTACK_CLONES void start_column(const Panel& a, Block& b, int c) {
  for (int j = 0; j < a.levels; ++j) {
    const int32_t mask = (1 << a.planes[j]) - 1;
    const float* table = a.tables[j];
    for (int r = 0; r < kRows; ++r) b.held[j][r] = table[b.now[c][r] & mask];
  }
}

// Which codes of the lowest level are tried; returns how many.
BITSTACK_CLONES int find_prefixes(const Panel& a, const Ranks& ranks, Block& b, int c) {
  if (!ranks.count) {
    const int count = 1 << (a.planes[0] - a.first);
    const int32_t kept = (1 << a.first) - 1;
    for (int k = 0; k < count; ++k)
      for (int r = 0; r < kRows; ++r) b.prefix[k][r] = (b.now[c][r] & kept) | (k << a.first);
    return count;
  }
  // The least cost of this level alone is where d = -G / H.
  const float h = a.felt[int64_t(c) * a.width + c];
  int32_t at[kRows];
  float wanted[kRows];
  for (int r = 0; r < kRows; ++r) {
    wanted[r] = b.held[0][r] + b.g[0][c][r] / (h * b.size[0][r]);
    at[r] = 0;
  }
  for (int i = 0; i + 1 < ranks.count; ++i) {
    const float border = ranks.borders[i];
    for (int r = 0; r < kRows; ++r) at[r] += wanted[r] > border ? 1 : 0;
  }
  for (int r = 0; r < kRows; ++r)
    at[r] = std::min(std::max(at[r] - kWindow / 2, 0), ranks.count - kWindow);
  for (int k = 0; k < kWindow; ++k)
    for (int r = 0; r < kRows; ++r) b.prefix[k][r] = ranks.order[at[r] + k];
  return kWindow;
}

// Costs of all nodes of the next level: `from` holds those of the nodes above (null at the root).
BITSTACK_CLONES void add_level(const Panel& a, Block& b, int c, int j, int prefixes, int above,
                               int shift, const float (*from)[kRows], float (*to)[kRows]) {
  const float* table = a.tables[j];
  const float h = a.felt[(int64_t(j) * a.width + c) * a.width + c], w = a.weights[j];
  const float* g = b.g[j][c];
  const int count = 1 << (a.planes[j] - a.planes[0]);  // suffixes
  for (int s = 0; s < count; ++s)
    for (int k = 0; k < prefixes; ++k) {
      const float* parent = from ? from[(s & (above - 1)) * prefixes + k] : nullptr;
      float* cost = to[s * prefixes + k];
      const int32_t high = s << shift;
      for (int r = 0; r < kRows; ++r) {
        const float d = (b.held[j][r] - table[b.prefix[k][r] | high]) * b.size[j][r];
        cost[r] = (parent ? parent[r] : 0.0f) + w * d * (d * h + 2 * g[r]);
      }
    }
}

BITSTACK_CLONES void pick(Block& b, int prefixes, int suffixes, int shift,
                          const float (*cost)[kRows]) {
  for (int s = 0; s < suffixes; ++s)
    for (int k = 0; k < prefixes; ++k) {
      const float* own = cost[s * prefixes + k];
      const int32_t high = s << shift;
      for (int r = 0; r < kRows; ++r) {
        const bool less = own[r] < b.best[r];
        b.best[r] = less ? own[r] : b.best[r];
        b.chosen[r] = less ? (b.prefix[k][r] | high) : b.chosen[r];
      }
    }
}

BITSTACK_CLONES void move(const Panel& a, Block& b, int c) {
  for (int j = 0; j < a.levels; ++j) {
    const int32_t mask = (1 << a.planes[j]) - 1;
    const float* table = a.tables[j];
    float* moved = b.moved[j][c];
    for (int r = 0; r < kRows; ++r)
      moved[r] = (b.held[j][r] - table[b.chosen[r] & mask]) * b.size[j][r];
    const float* felt = a.felt + (int64_t(j) * a.width + c) * a.width;
    for (int next = c + 1; next < int(a.width); ++next) {
      float* g = b.g[j][next];
      const float h = felt[next];
      for (int r = 0; r < kRows; ++r) g[r] += h * moved[r];
    }
  }
}

void choose(const Panel& a, const Ranks& ranks, Block& b, int c, const float (*u)[kRows]) {
  for (int j = 0; j < a.levels; ++j)
    for (int r = 0; r < kRows; ++r) b.size[j][r] = a.v[j][a.start + c] * u[j][r];
  start_column(a, b, c);
  const int prefixes = find_prefixes(a, ranks, b, c), shift = a.planes[0];
  int side = 0, above = 1;
  for (int j = 0; j < a.levels; ++j, side ^= 1) {
    add_level(a, b, c, j, prefixes, above, shift, j ? b.cost[side ^ 1] : nullptr, b.cost[side]);
    above = 1 << (a.planes[j] - a.planes[0]);
  }
  // The present code stays where none is better: it may be outside of the window.
  for (int r = 0; r < kRows; ++r) {
    b.best[r] = 0;
    b.chosen[r] = b.now[c][r];
  }
  pick(b, prefixes, above, shift, b.cost[side ^ 1]);
  move(a, b, c);
  std::memcpy(b.now[c], b.chosen, sizeof b.chosen);
}

// Rows `start` to `start + count`; what is beyond is computed with the last row and forgotten.
void descend(const Panel& a, const Ranks& ranks, int64_t start, int count) {
  static thread_local std::vector<Block> own(1);
  Block& b = own[0];
  float u[kLevels][kRows];
  const int p = int(a.width);
  for (int r = 0; r < kRows; ++r) {
    const int64_t row = start + std::min(r, count - 1);
    for (int c = 0; c < p; ++c) b.now[c][r] = a.code[row * a.columns + a.start + c];
    for (int j = 0; j < a.levels; ++j) {
      u[j][r] = a.u[j][row];
      const float* g = a.products[j] + row * a.columns + a.start;
      for (int c = 0; c < p; ++c) b.g[j][c][r] = g[c];
    }
  }
  for (int c = 0; c < p; ++c) choose(a, ranks, b, c, u);
  for (int r = 0; r < count; ++r) {
    for (int c = 0; c < p; ++c)
      a.code[(start + r) * a.columns + a.start + c] = uint8_t(b.now[c][r]);
    for (int j = 0; j < a.levels; ++j) {
      float* moved = a.moves + (j * a.rows + start + r) * p;
      for (int c = 0; c < p; ++c) moved[c] = b.moved[j][c][r];
    }
  }
}

BITSTACK_CLONES void look_up(const uint8_t* code, int32_t mask, const float* table, const float* v,
                             float u, int64_t columns, float* __restrict out) {
  for (int64_t c = 0; c < columns; ++c) out[c] = table[code[c] & mask] * v[c] * u;
}

BITSTACK_CLONES void round_to_bfloat(const float* from, int64_t count, uint16_t* __restrict to) {
  for (int64_t i = 0; i < count; ++i) to[i] = float_to_bfloat(from[i]);
}

// Counts of the levels' buffers, as bitstack_descend takes them, against the panel.
Error check_levels(const Panel& a, const int64_t* counts) {
  const int64_t J = a.levels;
  for (int64_t j = 0; j < J; ++j) {
    if (a.planes[j] <= (j ? a.planes[j - 1] : 0) || a.planes[j] > kMaxPlanes) return kCodes;
    if (!holds(a.tables[j], counts[j], 1 << a.planes[j], 1)) return kCodes;
    if (!holds(a.u[j], counts[J + j], a.rows, 1)) return kCodes;
    if (!holds(a.v[j], counts[2 * J + j], a.columns, 1)) return kCodes;
    if (!holds(a.products[j], counts[3 * J + j], a.rows, a.columns)) return kCodes;
  }
  return a.first < 0 || a.first > a.planes[0] ? kCodes : kFine;
}

}  // namespace

// Chooses the codes of the panel [start, start + width) of columns again; see Panel. `counts`: the
// numbers in each level's table, u, v and products, [4][levels]; then those of the other buffers.
BITSTACK_API int32_t bitstack_descend(int64_t rows, int64_t columns, int64_t start, int64_t width,
                                      int32_t levels, int32_t first, const int32_t* planes,
                                      const float* const* tables, const float* const* u,
                                      const float* const* v, const float* const* products,
                                      const int64_t* counts, const float* felt, int64_t felts,
                                      const float* weights, int64_t weight_count, float* moves,
                                      int64_t move_count, uint8_t* code, int64_t codes,
                                      int32_t threads) {
  if (levels < 1 || levels > kLevels || width < 1 || width > kPanel) return kCodes;
  if (start < 0 || start > columns - width) return kCodes;
  const Panel panel{rows,   columns, start, width,    levels, first,   planes, tables,
                    u,      v,       products, felt,  weights, moves,  code};
  if (const Error error = check_levels(panel, counts)) return error;
  const bool there = holds(felt, felts, levels * width, width) &&
                     holds(weights, weight_count, levels, 1) &&
                     holds(moves, move_count, rows, levels * width) &&
                     holds(code, codes, rows, columns);
  if (!there) return kCodes;
  return guarded([&]() -> int32_t {
    const Ranks ranks(panel);
    parallel_for((rows + kRows - 1) / kRows, threads, [&](int64_t block) {
      const int64_t begin = block * kRows;
      descend(panel, ranks, begin, int(std::min<int64_t>(kRows, rows - begin)));
    });
    return kFine;
  });
}

// out [rows, columns] = u T[code] v, of the low bits that `count` codes have, in fp32 or bf16.
BITSTACK_API int32_t bitstack_values(const uint8_t* code, int64_t codes, int32_t count,
                                     const float* table, int64_t entries, const float* u,
                                     int64_t us, const float* v, int64_t vs, int64_t rows,
                                     int64_t columns, void* out, int64_t outputs,
                                     int32_t dtype, int32_t threads) {
  if (dtype != kFloat32 && dtype != kBFloat16) return kDtype;
  if (const Error error = check_codes(code, codes, rows, columns, count)) return error;
  if (!holds(table, entries, count, 1) || !holds(u, us, rows, 1) || !holds(v, vs, columns, 1))
    return kScales;
  if (!holds(out, outputs, rows, columns)) return kOutputs;
  return guarded([&]() -> int32_t {
    parallel_for((rows + kRows - 1) / kRows, threads, [&](int64_t block) {
      std::vector<float> row(size_t(dtype == kFloat32 ? 0 : columns));
      for (int64_t r = block * kRows; r < std::min(rows, (block + 1) * kRows); ++r) {
        const int64_t at = r * columns;
        float* to = dtype == kFloat32 ? static_cast<float*>(out) + at : row.data();
        look_up(code + at, count - 1, table, v, u[r], columns, to);
        if (dtype != kFloat32) round_to_bfloat(to, columns, static_cast<uint16_t*>(out) + at);
      }
    });
    return kFine;
  });
}

// sums [count] = the sum of row[r] column[c] x[r, c] over the weights of each code; null x: ones.
BITSTACK_API int32_t bitstack_sum_by_code(const uint8_t* code, int64_t codes, int32_t count,
                                          const float* row, int64_t row_count,
                                          const float* column, int64_t column_count,
                                          const float* x, int64_t inputs, int64_t rows,
                                          int64_t columns, double* sums, int64_t outputs,
                                          int32_t threads) {
  if (const Error error = check_codes(code, codes, rows, columns, count)) return error;
  if (!holds(row, row_count, rows, 1) || !holds(column, column_count, columns, 1)) return kScales;
  if (x && !holds(x, inputs, rows, columns)) return kInputs;
  if (!holds(sums, outputs, count, 1)) return kOutputs;
  return guarded([&]() -> int32_t {
    const int64_t blocks = (rows + kRows - 1) / kRows;
    std::vector<double> parts(size_t(blocks) * size_t(count), 0.0);
    parallel_for(blocks, threads, [&](int64_t block) {
      double* own = parts.data() + block * count;
      // Four sums of every code: two neighbours of one code need not wait for one another.
      float some[4][kMaxEntries];
      for (int64_t r = block * kRows; r < std::min(rows, (block + 1) * kRows); ++r) {
        std::memset(some, 0, sizeof some);
        const uint8_t* at = code + r * columns;
        const float* values = x ? x + r * columns : nullptr;
        for (int64_t c = 0; c < columns; ++c)
          some[c & 3][at[c] & (count - 1)] += column[c] * (values ? values[c] : 1.0f);
        for (int k = 0; k < count; ++k)
          own[k] += double(row[r]) * (some[0][k] + some[1][k] + some[2][k] + some[3][k]);
      }
    });
    for (int64_t block = 0; block < blocks; ++block)
      for (int k = 0; k < count; ++k) sums[k] += parts[size_t(block * count + k)];
    return kFine;
  });
}

}  // namespace bitstack
