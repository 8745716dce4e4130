// The product of few tokens with a coded matrix: activations are laid out, rotated and multiplied with
// the outliers first, then every thread takes rows.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "call.h"
#include "pool.h"
#include "table.h"

namespace bitstack {
namespace {

int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

struct Linear {
  const Kernel* kernel;
  const Matrix* matrix;
  bool fast;
  ByteTable bytes;
  ByteActivations a8;
  FloatActivations a32;
  int64_t batch;
  const void* x;
  void* out;
  int32_t dtype;
  const void* bias;
  int32_t bias_dtype;
  const int8_t* signs;  // of the rotation; null: none
  Outliers outliers;
  float* kept;  // the product with the outliers, [batch][rows]; null where there are none
  std::atomic<int64_t>* met;  // outliers that were found in the rows they belong to
};

// Bytes of a table hold finite numbers only; others are left to the exact product.
bool is_finite(const Matrix& m) {
  bool all = true;
  for (int i = 0; i < 1 << m.planes; ++i) all &= std::isfinite(m.table[i]);
  return all;
}

void prepare(const Linear& call, int64_t token) {
  const Matrix& m = *call.matrix;
  float* row = own_floats(m.columns);
  for (int64_t i = 0; i < m.columns; ++i)
    row[i] = load_number(call.x, token * m.columns + i, call.dtype);
  if (call.signs) call.kernel->rotate(row, call.signs, m.columns, false);
  if (call.fast) call.kernel->quantize(m, row, token, call.a8);
  else call.kernel->spread(m, row, token, call.a32);
}

void multiply_outliers(const Linear& call, int64_t begin, int64_t end) {
  static thread_local int64_t last = 0;  // a thread's chunks mostly follow one another
  if (!begin) last = 0;
  const int64_t count =
      call.kernel->outliers(call.outliers, call.x, Dtype(call.dtype), call.batch, begin, end, last,
                            call.kept + begin, call.matrix->rows);
  if (count > 0) call.met->fetch_add(count, std::memory_order_relaxed);
}

// Asks memory for what is read first of the outliers.
void prefetch(const Outliers& o) {
  const int64_t count = std::min(o.count, kChunk), size = o.wide ? 8 : 4;
  for (int64_t i = 0; i < count * size; i += 64)
    __builtin_prefetch(static_cast<const char*>(o.positions) + i);
  for (int64_t i = 0; i < count; i += 32) __builtin_prefetch(o.values + i);
}

// out = u * sum + bias + kept, in loops without a branch, that become vector code.
void finish(const Linear& call, int64_t begin, int64_t count, const float* sums) {
  const Matrix& m = *call.matrix;
  float u[kTile], bias[kTile] = {}, value[kTile];
  for (int64_t i = 0; i < count; ++i) u[i] = half_to_float(m.u[begin + i]);
  for (int64_t i = 0; call.bias && i < count; ++i)
    bias[i] = load_number(call.bias, begin + i, call.bias_dtype);
  for (int64_t t = 0; t < call.batch; ++t) {
    const float step = call.fast ? call.bytes.step : 1.0f;
    const float zero = call.fast ? call.bytes.zero * call.a8.sum[t] : 0.0f;
    for (int64_t i = 0; i < count; ++i)
      value[i] = u[i] * (step * sums[i * call.batch + t] + zero) + bias[i];
    const int64_t at = t * m.rows + begin;
    for (int64_t i = 0; call.kept && i < count; ++i) value[i] += call.kept[at + i];
    for (int64_t i = 0; i < count; ++i) store_number(value[i], call.out, at + i, call.dtype);
  }
}

void tile(const Linear& call, int64_t begin, int64_t end) {
  const Matrix& m = *call.matrix;
  float* sums = own_floats((end - begin) * call.batch);
  if (call.fast) call.kernel->fast(m, call.bytes, call.a8, begin, end, sums);
  else call.kernel->exact(m, call.a32, begin, end, sums);
  finish(call, begin, end - begin, sums);
}

}  // namespace

// out [batch, rows] = x [batch, columns] times the transposed matrix, plus bias [rows]. With `signs`
// [2, columns] every x is rotated before; `kept` outliers, whose positions row * columns + column
// rise, are multiplied with the x before that. `flips`, `values_count`, `inputs`, `biases` and
// `outputs` count what is behind the pointer before.
BITSTACK_API int32_t bitstack_linear(int32_t variant, int32_t fast, const Coded* coded,
                                     const int8_t* signs, int64_t flips, const void* positions,
                                     int32_t wide, int64_t kept, const uint16_t* values,
                                     int64_t values_count, const void* x, int64_t inputs,
                                     int64_t batch, int32_t dtype, const void* bias,
                                     int64_t biases, int32_t bias_dtype, void* out,
                                     int64_t outputs, int32_t threads) {
  const Kernel* kernel = find_kernel(variant);
  if (!kernel) return kVariant;
  if (const Error error = check_matrix(*coded)) return error;
  const int64_t rows = coded->rows, columns = coded->columns;
  if (!is_dtype(dtype) || !is_dtype(bias_dtype)) return kDtype;
  if (!holds(x, inputs, batch, columns)) return kInputs;
  if (!holds(out, outputs, batch, rows)) return kOutputs;
  if (bias && !holds(bias, biases, rows, 1)) return kBiases;
  if (signs && !holds(signs, flips, 2, columns)) return kSigns;
  const Outliers outliers{positions, wide != 0, values, kept, columns};
  if (const Error error = check_outliers(outliers, rows, values_count)) return error;
  if (batch == 0) return kFine;
  return guarded([&]() -> int32_t {
    static thread_local Scratch shared;
    const Matrix m = make_matrix(*coded);
    std::atomic<int64_t> met{0};
    Linear call{};
    call.kernel = kernel;
    call.matrix = &m;
    call.fast = fast && kernel->fast && is_finite(m);
    call.batch = batch;
    call.x = x;
    call.out = out;
    call.dtype = dtype;
    call.bias = bias;
    call.bias_dtype = bias_dtype;
    call.signs = signs;
    call.outliers = outliers;
    call.met = &met;
    const int64_t part = 8 * kernel->width, parts = (columns + part - 1) / part;
    const int64_t numbers = aligned(batch * parts * part * (call.fast ? 2 : 4));
    const int64_t scaled = aligned(batch * parts * kernel->width);
    char* memory = shared.get(size_t(numbers + scaled + (batch + (kept ? batch * rows : 0)) * 4));
    if (kept) call.kept = reinterpret_cast<float*>(memory + numbers + scaled) + batch;
    if (call.fast) {
      call.bytes = make_bytes(m, kernel->digits(m.planes));
      call.a8 = {batch, parts, reinterpret_cast<int8_t*>(memory),
                 reinterpret_cast<float*>(memory + numbers),
                 reinterpret_cast<float*>(memory + numbers + scaled)};
    } else {
      call.a32 = {batch, parts, reinterpret_cast<float*>(memory)};
    }
    if (m.row_bytes * rows * m.planes < kSerial / batch) threads = 1;
    prefetch(call.outliers);
    // One token is prepared by one thread; meanwhile others multiply with the outliers.
    const int64_t chunks = kept ? (rows + kChunk - 1) / kChunk : 0;
    parallel_for(batch + chunks, threads, [&](int64_t i) {
      if (i < batch) prepare(call, i);
      else multiply_outliers(call, (i - batch) * kChunk, std::min((i - batch + 1) * kChunk, rows));
    });
    if (met.load(std::memory_order_relaxed) != kept) return kPositions;
    // Long runs of rows: at each beginning memory has not been asked for anything yet.
    const int64_t run = std::max<int64_t>(1, rows / kTile / (threads * kRuns)) * kTile;
    parallel_for((rows + run - 1) / run, threads, [&](int64_t i) {
      const int64_t end = std::min((i + 1) * run, rows);
      for (int64_t row = i * run; row < end; row += kTile)
        tile(call, row, std::min(row + kTile, end));
    });
    return kFine;
  });
}

}  // namespace bitstack
