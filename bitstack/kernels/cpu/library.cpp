// The C interface of the CPU kernels: which variants this machine runs, and calls with raw pointers.
//
// Arguments are checked by the caller.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "convert.h"
#include "kernel.h"
#include "pool.h"
#include "table.h"
#include "target.h"

#if BITSTACK_AVXVNNI
#include <cpuid.h>
#endif
#if defined(_WIN32)
#define BITSTACK_API extern "C" __declspec(dllexport)
#else
#define BITSTACK_API extern "C" __attribute__((visibility("default")))
#endif

namespace bitstack {
namespace {

constexpr int64_t kTile = 32;        // rows a thread takes at a time
constexpr int64_t kSerial = 1 << 15; // bytes of planes below which waking a thread costs more

struct Variant {
  const Kernel* kernel;
  bool runs;
};

#if BITSTACK_AVXVNNI
// Not every compiler that knows the instructions knows how to ask for them.
bool has_avx_vnni() {
  unsigned a = 0, b, c, d;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}
#endif

std::vector<Variant> find_variants() {
  std::vector<Variant> all;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  all.push_back({&kAvx512Vbmi, vnni && __builtin_cpu_supports("avx512vbmi")});
  all.push_back({&kAvx512Vnni, vnni});
  all.push_back({&kAvx512, avx512});
#if BITSTACK_AVXVNNI
  all.push_back({&kAvxVnni, avx2 && has_avx_vnni()});
#endif
  all.push_back({&kAvx2, avx2});
#endif
  all.push_back({&kPortable, true});
  return all;
}

// Best first.
const std::vector<Variant>& variants() {
  static const std::vector<Variant> all = find_variants();
  return all;
}

// A buffer that keeps its size between calls of one thread, aligned for the widest vector.
class Scratch {
 public:
  ~Scratch() { free(memory_); }
  char* get(size_t bytes) {
    if (bytes > size_) {
      free(memory_);
      size_ = (bytes + 4095) / 4096 * 4096;
      memory_ = static_cast<char*>(aligned_alloc(4096, size_));
      if (!memory_) abort();
    }
    return memory_;
  }

 private:
  char* memory_ = nullptr;
  size_t size_ = 0;
};

int64_t aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

void store_number(float value, void* to, int64_t at, int32_t dtype) {
  if (dtype == kFloat32) static_cast<float*>(to)[at] = value;
  else static_cast<uint16_t*>(to)[at] =
           dtype == kFloat16 ? float_to_half(value) : float_to_bfloat(value);
}

Matrix make_matrix(const void* const* planes, int32_t count, const uint16_t* scale, int64_t rows,
                   int64_t columns) {
  Matrix m{};
  for (int p = 0; p < count; ++p) m.plane[p] = static_cast<const uint8_t*>(planes[p]);
  m.planes = count;
  m.rows = rows;
  m.columns = columns;
  m.row_bytes = (columns + 7) / 8;
  m.u = scale;
  m.v = scale + rows;
  for (int i = 0; i < 1 << count; ++i) m.table[i] = half_to_float(scale[rows + columns + i]);
  return m;
}

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
};

float* own_floats(int64_t count) {
  static thread_local Scratch own;
  return reinterpret_cast<float*>(own.get(size_t(count) * 4));
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
  last = call.kernel->outliers(call.outliers, call.x, Dtype(call.dtype), call.batch, begin, end,
                               begin ? last : 0, call.kept + begin, call.matrix->rows);
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
}  // namespace bitstack

using namespace bitstack;

// Name of variant `index`, best first; null past the last. `runs`: whether this machine can run it.
// `fast`, `halves`: whether it has a fast product and an unpacking to 16 bits of its own.
BITSTACK_API const char* bitstack_variant(int32_t index, int32_t* runs, int32_t* fast,
                                          int32_t* halves) {
  if (index < 0 || index >= int32_t(variants().size())) return nullptr;
  const Variant& variant = variants()[size_t(index)];
  *runs = variant.runs;
  *fast = variant.kernel->fast != nullptr;
  *halves = variant.kernel->unpack_halves != nullptr;
  return variant.kernel->name;
}

// out [batch, rows] = x [batch, columns] times the transposed matrix, plus bias [rows]. With `signs`
// [2, columns] every x is rotated before; `kept` outliers, whose positions row * columns + column
// rise, are multiplied with the x before that.
BITSTACK_API void bitstack_linear(int32_t variant, int32_t fast, const void* const* planes,
                                  int32_t count, const uint16_t* scale, int64_t rows,
                                  int64_t columns, const int8_t* signs, const void* positions,
                                  int32_t wide, const uint16_t* values, int64_t kept,
                                  const void* x, int64_t batch, int32_t dtype, const void* bias,
                                  int32_t bias_dtype, void* out, int32_t threads) {
  static thread_local Scratch shared;
  const Kernel& kernel = *variants()[size_t(variant)].kernel;
  const Matrix m = make_matrix(planes, count, scale, rows, columns);
  Linear call{};
  call.kernel = &kernel;
  call.matrix = &m;
  call.fast = fast && kernel.fast;
  call.batch = batch;
  call.x = x;
  call.out = out;
  call.dtype = dtype;
  call.bias = bias;
  call.bias_dtype = bias_dtype;
  call.signs = signs;
  call.outliers = {positions, wide != 0, values, kept, columns};
  const int64_t part = 8 * kernel.width, parts = (columns + part - 1) / part;
  const int64_t numbers = aligned(batch * parts * part * (call.fast ? 2 : 4));
  const int64_t scales = aligned(batch * parts * kernel.width);
  char* memory = shared.get(size_t(numbers + scales + (batch + (kept ? batch * rows : 0)) * 4));
  if (kept) call.kept = reinterpret_cast<float*>(memory + numbers + scales) + batch;
  if (call.fast) {
    call.bytes = make_bytes(m, kernel.digits(m.planes));
    call.a8 = {batch, parts, reinterpret_cast<int8_t*>(memory),
               reinterpret_cast<float*>(memory + numbers),
               reinterpret_cast<float*>(memory + numbers + scales)};
  } else {
    call.a32 = {batch, parts, reinterpret_cast<float*>(memory)};
  }
  if (m.row_bytes * rows * count * batch < kSerial) threads = 1;
  prefetch(call.outliers);
  // One token is prepared by one thread; meanwhile others multiply with the outliers.
  const int64_t chunks = kept ? (rows + kChunk - 1) / kChunk : 0;
  parallel_for(batch + chunks, threads, [&](int64_t i) {
    if (i < batch) prepare(call, i);
    else multiply_outliers(call, (i - batch) * kChunk, std::min((i - batch + 1) * kChunk, rows));
  });
  parallel_for((rows + kTile - 1) / kTile, threads, [&](int64_t i) {
    tile(call, i * kTile, std::min((i + 1) * kTile, rows));
  });
}

// out [end - begin, columns] = the matrix rows ids[begin .. end), or rows begin .. end without ids.
// Returns 0, or 1 where an id is not a row.
BITSTACK_API int32_t bitstack_unpack(int32_t variant, const void* const* planes, int32_t count,
                                     const uint16_t* scale, int64_t rows, int64_t columns,
                                     const int64_t* ids, int64_t begin, int64_t end, void* out,
                                     int32_t dtype, int32_t threads) {
  for (int64_t i = begin; ids && i < end; ++i)
    if (ids[i] < 0 || ids[i] >= rows) return 1;
  static thread_local Scratch shared;
  const Kernel& kernel = *variants()[size_t(variant)].kernel;
  const Matrix m = make_matrix(planes, count, scale, rows, columns);
  float* v = reinterpret_cast<float*>(shared.get(size_t(columns) * 4));
  for (int64_t i = 0; i < columns; ++i) v[i] = half_to_float(m.v[i]);
  const int64_t size = columns * (dtype == kFloat32 ? 4 : 2);
  if ((end - begin) * columns < kSerial) threads = 1;
  parallel_for((end - begin + kTile - 1) / kTile, threads, [&](int64_t i) {
    const int64_t first = begin + i * kTile, last = first + kTile < end ? first + kTile : end;
    kernel.unpack(m, v, ids, first, last, static_cast<char*>(out) + i * kTile * size, Dtype(dtype));
  });
  return 0;
}

// out [end - begin, columns] = u * T[code] in bf16 of the rows begin .. end, where
// bitstack_variant says `halves`.
BITSTACK_API void bitstack_unpack_halves(int32_t variant, const void* const* planes, int32_t count,
                                         const uint16_t* scale, int64_t rows, int64_t columns,
                                         int64_t begin, int64_t end, uint16_t* out,
                                         int32_t threads) {
  const Kernel& kernel = *variants()[size_t(variant)].kernel;
  const Matrix m = make_matrix(planes, count, scale, rows, columns);
  if ((end - begin) * columns < kSerial) threads = 1;
  parallel_for((end - begin + kTile - 1) / kTile, threads, [&](int64_t i) {
    const int64_t first = begin + i * kTile, last = first + kTile < end ? first + kTile : end;
    kernel.unpack_halves(m, first, last, out + i * kTile * columns);
  });
}

// out [tokens, columns] = v * x in bf16, where bitstack_variant says `halves`.
BITSTACK_API void bitstack_scale_columns(int32_t variant, const uint16_t* scale, int64_t rows,
                                         int64_t columns, const uint16_t* x, int64_t tokens,
                                         uint16_t* out, int32_t threads) {
  static thread_local Scratch shared;
  const Kernel& kernel = *variants()[size_t(variant)].kernel;
  float* v = reinterpret_cast<float*>(shared.get(size_t(columns) * 4));
  for (int64_t i = 0; i < columns; ++i) v[i] = half_to_float(scale[rows + i]);
  parallel_for(tokens, threads, [&](int64_t token) {
    kernel.scale_columns(v, x + token * columns, columns, out + token * columns);
  });
}

// out [count, columns] = the vectors x rotated, or with `back` rotated back. In place where both are
// the same memory.
BITSTACK_API void bitstack_rotate(int32_t variant, const void* x, int64_t count, int64_t columns,
                                  int32_t dtype, const int8_t* signs, int32_t back, void* out,
                                  int32_t threads) {
  const Kernel& kernel = *variants()[size_t(variant)].kernel;
  if (count * columns < kSerial) threads = 1;
  parallel_for(count, threads, [&](int64_t i) {
    float* row = own_floats(columns);
    for (int64_t c = 0; c < columns; ++c) row[c] = load_number(x, i * columns + c, dtype);
    kernel.rotate(row, signs, columns, back != 0);
    for (int64_t c = 0; c < columns; ++c) store_number(row[c], out, i * columns + c, dtype);
  });
}

// out [batch, rows] += x [batch, columns] times the transposed sparse matrix of `kept` outliers, which
// are as in bitstack_linear. For many tokens, whose product is not one of the above.
BITSTACK_API void bitstack_add_outliers(int32_t variant, const void* positions, int32_t wide,
                                        const uint16_t* values, int64_t kept, int64_t rows,
                                        int64_t columns, const void* x, int64_t batch,
                                        int32_t dtype, void* out, int32_t threads) {
  const Kernel& kernel = *variants()[size_t(variant)].kernel;
  const Outliers outliers{positions, wide != 0, values, kept, columns};
  const int64_t size = dtype == kFloat32 ? 4 : 2;
  if (kept * batch < kSerial) threads = 1;
  parallel_for(batch, threads, [&](int64_t token) {
    const void* row = static_cast<const char*>(x) + token * columns * size;
    for (int64_t begin = 0, last = 0; begin < rows; begin += kChunk) {
      const int64_t end = std::min(begin + kChunk, rows);
      float sums[kChunk];
      last = kernel.outliers(outliers, row, Dtype(dtype), 1, begin, end, last, sums, 0);
      for (int64_t i = begin, at = token * rows + begin; i < end; ++i, ++at)
        store_number(load_number(out, at, dtype) + sums[i - begin], out, at, dtype);
    }
  });
}

// Reads `bytes` with all threads: the bandwidth that a product is compared with.
BITSTACK_API uint64_t bitstack_read(const uint64_t* from, int64_t bytes, int32_t threads) {
  constexpr int64_t kBlock = 1 << 15;  // words
  std::vector<uint64_t> totals(size_t(bytes / 8 / kBlock));
  parallel_for(int64_t(totals.size()), threads, [&](int64_t block) {
    uint64_t mixed[8] = {};
    const uint64_t* words = from + block * kBlock;
    for (int64_t i = 0; i < kBlock; i += 8) {
      __builtin_prefetch(words + i + 128);
      for (int j = 0; j < 8; ++j) mixed[j] ^= words[i + j];
    }
    for (int j = 0; j < 8; ++j) totals[size_t(block)] ^= mixed[j];
  });
  uint64_t total = 0;
  for (uint64_t part : totals) total ^= part;
  return total;
}
