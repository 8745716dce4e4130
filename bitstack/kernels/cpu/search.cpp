// One panel of the coordinate descent that chooses codes (bitstack/decompose/search.py).
//
// Rows are independent, so each thread takes blocks of them through all columns of the panel with
// everything it touches in cache. Floors for a panel of p columns, m rows, J levels and K
// candidates: 6 J K p m operations for the choices, J p² m for the products inside the panel, and
// 12 J p m bytes. Arguments are checked by the caller.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "pool.h"

#if defined(_WIN32)
#define BITSTACK_API extern "C" __declspec(dllexport)
#else
#define BITSTACK_API extern "C" __attribute__((visibility("default")))
#endif

// The compiler makes one copy of the inner loops for each kind of machine; the loader picks.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define BITSTACK_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define BITSTACK_CLONES
#endif

namespace bitstack {
namespace {

constexpr int64_t kRows = 64;

struct Panel {
  int64_t rows, columns;  // m and p
  int32_t levels;         // J
  int32_t first;          // candidates agree with the present code in this many planes
  int32_t candidates;     // K
  const int32_t* planes;  // [J]
  const float* const* tables;  // [J] -> [2^planes]
  const float* u;              // [J, m]
  const float* v;              // [J, p]
  const float* felt;           // [J, p, p]
  const float* weights;        // [J]
  float* products;             // [J, p, m], G of the panel
  float* moves;                // [J, p, m], out
  uint8_t* code;               // [p, m], in and out
};

// Rows `start` to `start + count` of column `c`.
BITSTACK_CLONES void choose(const Panel& a, int64_t c, int64_t start, int64_t count) {
  float best[kRows], cost[kRows], old[kRows];
  int32_t now[kRows], chosen[kRows];
  uint8_t* code = a.code + c * a.rows + start;
  const int32_t kept = (1 << a.first) - 1;
  for (int64_t r = 0; r < count; ++r) {
    now[r] = code[r];
    chosen[r] = 0;
    best[r] = std::numeric_limits<float>::infinity();
  }
  for (int32_t k = 0; k < a.candidates; ++k) {
    const int32_t high = k << a.first;
    for (int64_t r = 0; r < count; ++r) cost[r] = 0;
    for (int32_t j = 0; j < a.levels; ++j) {
      const int32_t mask = (1 << a.planes[j]) - 1;
      const float* table = a.tables[j];
      const float v = a.v[j * a.columns + c], w = a.weights[j];
      const float h = a.felt[(j * a.columns + c) * a.columns + c];
      const float* g = a.products + (j * a.columns + c) * a.rows + start;
      const float* u = a.u + j * a.rows + start;
      for (int64_t r = 0; r < count; ++r) {
        const float d = (table[now[r] & mask] - table[((now[r] & kept) | high) & mask]) * v * u[r];
        cost[r] += w * d * (d * h + 2 * g[r]);
      }
    }
    for (int64_t r = 0; r < count; ++r) {
      const bool less = cost[r] < best[r];
      best[r] = less ? cost[r] : best[r];
      chosen[r] = less ? high : chosen[r];
    }
  }
  for (int32_t j = 0; j < a.levels; ++j) {
    const int32_t mask = (1 << a.planes[j]) - 1;
    const float* table = a.tables[j];
    const float v = a.v[j * a.columns + c];
    const float* u = a.u + j * a.rows + start;
    for (int64_t r = 0; r < count; ++r)
      old[r] = (table[now[r] & mask] - table[((now[r] & kept) | chosen[r]) & mask]) * v * u[r];
    std::memcpy(a.moves + (j * a.columns + c) * a.rows + start, old, size_t(count) * 4);
    const float* felt = a.felt + (j * a.columns + c) * a.columns;
    for (int64_t next = c + 1; next < a.columns; ++next) {
      float* g = a.products + (j * a.columns + next) * a.rows + start;
      const float h = felt[next];
      for (int64_t r = 0; r < count; ++r) g[r] += h * old[r];
    }
  }
  for (int64_t r = 0; r < count; ++r) code[r] = uint8_t((now[r] & kept) | chosen[r]);
}

}  // namespace

BITSTACK_API void bitstack_descend(int64_t rows, int64_t columns, int32_t levels, int32_t first,
                                   int32_t candidates, const int32_t* planes,
                                   const float* const* tables, const float* u, const float* v,
                                   const float* felt, const float* weights, float* products,
                                   float* moves, uint8_t* code, int32_t threads) {
  const Panel panel{rows, columns, levels,  first,    candidates, planes, tables,
                    u,    v,       felt,    weights,  products,   moves,  code};
  parallel_for((rows + kRows - 1) / kRows, threads, [&](int64_t block) {
    const int64_t start = block * kRows;
    const int64_t count = std::min(kRows, rows - start);
    for (int64_t c = 0; c < columns; ++c) choose(panel, c, start, count);
  });
}

}  // namespace bitstack
