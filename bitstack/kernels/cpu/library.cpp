// The C interface of the CPU kernels, all but the product of few tokens (see linear.cpp) and what a
// decomposition needs (see search.cpp): rows of the matrix, rotations, outliers of many tokens.
//
// Every call is given the counts of its buffers and returns an `Error` (see arguments.h); where it is
// not kFine nothing beyond them was read or written. Dtypes and strides are checked by the caller.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "call.h"
#include "pool.h"

namespace bitstack {

// out [end - begin, columns] = the matrix rows ids[begin .. end), or rows begin .. end without ids.
BITSTACK_API int32_t bitstack_unpack(int32_t variant, const Coded* coded, const int64_t* ids,
                                     int64_t id_count, int64_t begin, int64_t end, void* out,
                                     int64_t outputs, int32_t dtype, int32_t threads) {
  const Kernel* kernel = find_kernel(variant);
  if (!kernel) return kVariant;
  if (const Error error = check_matrix(*coded)) return error;
  const int64_t rows = coded->rows, columns = coded->columns;
  if (!is_dtype(dtype)) return kDtype;
  if (begin < 0 || end < begin || end > (ids ? id_count : rows)) return kSizes;
  if (!holds(out, outputs, end - begin, columns)) return kOutputs;
  for (int64_t i = begin; ids && i < end; ++i)
    if (ids[i] < 0 || ids[i] >= rows) return kIds;
  return guarded([&]() -> int32_t {
    static thread_local Scratch shared;
    const Matrix m = make_matrix(*coded);
    float* v = reinterpret_cast<float*>(shared.get(size_t(columns) * 4));
    for (int64_t i = 0; i < columns; ++i) v[i] = half_to_float(m.v[i]);
    const int64_t size = columns * (dtype == kFloat32 ? 4 : 2);
    if ((end - begin) * columns < kSerial) threads = 1;
    parallel_for((end - begin + kTile - 1) / kTile, threads, [&](int64_t i) {
      const int64_t first = begin + i * kTile, last = std::min(first + kTile, end);
      char* to = static_cast<char*>(out) + i * kTile * size;
      kernel->unpack(m, v, ids, first, last, to, Dtype(dtype));
    });
    return kFine;
  });
}

// out [end - begin, columns] = u * T[code] in bf16 of the rows begin .. end, where
// bitstack_variant says `halves`.
BITSTACK_API int32_t bitstack_unpack_halves(int32_t variant, const Coded* coded, int64_t begin,
                                            int64_t end, uint16_t* out, int64_t outputs,
                                            int32_t threads) {
  const Kernel* kernel = find_kernel(variant);
  if (!kernel || !kernel->unpack_halves) return kVariant;
  if (const Error error = check_matrix(*coded)) return error;
  const int64_t rows = coded->rows, columns = coded->columns;
  if (begin < 0 || end < begin || end > rows) return kSizes;
  if (!holds(out, outputs, end - begin, columns)) return kOutputs;
  return guarded([&]() -> int32_t {
    const Matrix m = make_matrix(*coded);
    if ((end - begin) * columns < kSerial) threads = 1;
    parallel_for((end - begin + kTile - 1) / kTile, threads, [&](int64_t i) {
      const int64_t first = begin + i * kTile, last = std::min(first + kTile, end);
      kernel->unpack_halves(m, first, last, out + i * kTile * columns);
    });
    return kFine;
  });
}

// out [tokens, columns] = v * x in bf16, where bitstack_variant says `halves`. `v` fp16 [columns].
BITSTACK_API int32_t bitstack_scale_columns(int32_t variant, const uint16_t* v, int64_t scales,
                                            int64_t columns, const uint16_t* x, int64_t inputs,
                                            int64_t tokens, uint16_t* out, int64_t outputs,
                                            int32_t threads) {
  const Kernel* kernel = find_kernel(variant);
  if (!kernel || !kernel->scale_columns) return kVariant;
  if (columns < 1) return kSizes;
  if (!holds(v, scales, columns, 1)) return kScales;
  if (!holds(x, inputs, tokens, columns)) return kInputs;
  if (!holds(out, outputs, tokens, columns)) return kOutputs;
  return guarded([&]() -> int32_t {
    static thread_local Scratch shared;
    float* wide = reinterpret_cast<float*>(shared.get(size_t(columns) * 4));
    for (int64_t i = 0; i < columns; ++i) wide[i] = half_to_float(v[i]);
    parallel_for(tokens, threads, [&](int64_t token) {
      kernel->scale_columns(wide, x + token * columns, columns, out + token * columns);
    });
    return kFine;
  });
}

// out [count, columns] = the vectors x rotated, or with `back` rotated back. In place where both are
// the same memory.
BITSTACK_API int32_t bitstack_rotate(int32_t variant, const void* x, int64_t inputs, int64_t count,
                                     int64_t columns, int32_t dtype, const int8_t* signs,
                                     int64_t flips, int32_t back, void* out, int64_t outputs,
                                     int32_t threads) {
  const Kernel* kernel = find_kernel(variant);
  if (!kernel) return kVariant;
  if (columns < 1) return kSizes;
  if (!is_dtype(dtype)) return kDtype;
  if (!holds(x, inputs, count, columns)) return kInputs;
  if (!holds(out, outputs, count, columns)) return kOutputs;
  if (!holds(signs, flips, 2, columns)) return kSigns;
  return guarded([&]() -> int32_t {
    if (count * columns < kSerial) threads = 1;
    parallel_for(count, threads, [&](int64_t i) {
      float* row = own_floats(columns);
      for (int64_t c = 0; c < columns; ++c) row[c] = load_number(x, i * columns + c, dtype);
      kernel->rotate(row, signs, columns, back != 0);
      for (int64_t c = 0; c < columns; ++c) store_number(row[c], out, i * columns + c, dtype);
    });
    return kFine;
  });
}

// out [batch, rows] += x [batch, columns] times the transposed sparse matrix of `kept` outliers, which
// are as in bitstack_linear. For many tokens, whose product is not one of the above.
BITSTACK_API int32_t bitstack_add_outliers(int32_t variant, const void* positions, int32_t wide,
                                           int64_t kept, const uint16_t* values,
                                           int64_t values_count, int64_t rows, int64_t columns,
                                           const void* x, int64_t inputs, int64_t batch,
                                           int32_t dtype, void* out, int64_t outputs,
                                           int32_t threads) {
  const Kernel* kernel = find_kernel(variant);
  if (!kernel) return kVariant;
  if (rows < 1 || columns < 1 || rows > kMost) return kSizes;
  if (!is_dtype(dtype)) return kDtype;
  if (!holds(x, inputs, batch, columns)) return kInputs;
  if (!holds(out, outputs, batch, rows)) return kOutputs;
  const Outliers outliers{positions, wide != 0, values, kept, columns};
  if (const Error error = check_outliers(outliers, rows, values_count)) return error;
  if (kept == 0 || batch == 0) return kFine;
  const int64_t size = dtype == kFloat32 ? 4 : 2;
  std::atomic<bool> wrong{false};
  return guarded([&]() -> int32_t {
    if (kept < kSerial / batch) threads = 1;
    parallel_for(batch, threads, [&](int64_t token) {
      const void* row = static_cast<const char*>(x) + token * columns * size;
      int64_t met = 0, last = 0;
      for (int64_t begin = 0; begin < rows; begin += kChunk) {
        const int64_t end = std::min(begin + kChunk, rows);
        float sums[kChunk];
        met += kernel->outliers(outliers, row, Dtype(dtype), 1, begin, end, last, sums, 0);
        for (int64_t i = begin, at = token * rows + begin; i < end; ++i, ++at)
          store_number(load_number(out, at, dtype) + sums[i - begin], out, at, dtype);
      }
      if (met != kept) wrong.store(true, std::memory_order_relaxed);
    });
    return wrong.load(std::memory_order_relaxed) ? kPositions : kFine;
  });
}

}  // namespace bitstack
