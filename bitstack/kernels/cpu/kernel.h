// What the variants of the CPU kernel share: plain structs, and the table of functions each fills.
//
// A variant (portable, AVX2, AVX-VNNI, three of AVX-512, three of NEON) is one source file compiled for
// one instruction set; which of them runs is decided in variants.cpp. Nothing here or there knows of
// torch.
#pragma once
#include <cstddef>
#include <cstdint>

#include "target.h"

namespace bitstack {

constexpr int kMaxPlanes = 8;
constexpr int kMaxEntries = 256;  // of a table: 2^kMaxPlanes
constexpr int64_t kChunk = 256;   // rows whose outliers are multiplied at once
constexpr int64_t kGroup = 32;    // columns that share one activation scale in the fast product
constexpr int kLowFrom = 4;       // planes from which the fast product's table has two digits

enum Dtype : int32_t { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

// One level of a coded matrix. Plane p: [rows, row_bytes], bit i of byte k is column 8k + i.
struct Matrix {
  const uint8_t* plane[kMaxPlanes];
  int planes;
  int64_t rows, columns, row_bytes;
  const uint16_t* u;          // fp16 [rows]
  const uint16_t* v;          // fp16 [columns]
  float table[kMaxEntries];   // [2^planes], each of them a number of fp16
};

// How many steps the digits of the fast product have: as many as a variant's sums can hold.
struct Digits {
  int table, table_low;            // high = 0 .. table; steps of `low` in one of `high`
  int activation, activation_low;  // high = -activation .. activation; likewise
  // What the table's bytes are stored less of, where products take signed ones: half of the steps.
  int middle = 0, middle_low = 0;
};
constexpr Digits whole_bytes(int /*planes*/) { return {255, 256, 127, 256}; }

// The table as one or two digits: T[i] = zero + step * (high[i] + low[i] / table_low), of signed
// bytes where the digits have a middle.
struct ByteTable {
  uint8_t high[kMaxEntries], low[kMaxEntries];
  float step, zero;
};

// Columns are taken a chunk at a time: as many as one vector of `width` bytes holds bits. The bit
// transposition of a chunk delivers column 8k + b as byte k of vector b, so activations are laid
// out in that order once a call, zero past the last column. Each is scale * (activation_low * high + low).
struct ByteActivations {
  int64_t batch, chunks;
  int8_t* value;  // [batch][chunk][8 b][high, low][width k]
  float* scale;   // [batch][chunk][width / 4]: one for 32 neighbouring columns
  float* sum;     // [batch]: the sum over all columns, which the table's zero point needs
};

// The same in fp32: column 32k + b is word k of vector b, [batch][chunk][32 b][width / 4 k].
struct FloatActivations {
  int64_t batch, chunks;
  float* value;
};

// A sparse part of a matrix, for inputs before their rotation. Fewer than 2^23 columns; positions of
// 32 bits only where all places of the matrix fit them.
struct Outliers {
  const void* positions;   // row * columns + column, rising
  bool wide;               // positions are int64, not int32
  const uint16_t* values;  // fp16
  int64_t count, columns;
};

// Sizes and strides of an attention call, in numbers; `AttentionSizes` in `kernels/library.py` is the same.
struct AttentionSizes {
  int64_t batch, heads, group;  // heads of keys, and heads of queries for each of them
  int64_t steps, tokens;        // queries of a head, and keys
  int64_t key_size, value_size;
  int64_t query[3], key[3], value[3], mask[3];  // strides: sequence, head, step or token
  double scaling;  // of the products of queries and keys
};

struct Attention {
  const AttentionSizes* sizes;
  const void *query, *key, *value;
  const uint8_t* mask;  // 0 hides a token, all others are seen; null hides none
  void* out;            // [batch, steps, heads * group, value_size]
  Dtype dtype;          // of all but the mask
};

constexpr int64_t kQueries = 8;  // that are taken through the keys together
constexpr int64_t kBlock = 64;   // keys and values that are held in fp32 meanwhile

// A number of floats, to whole vectors of `width` bytes.
inline int64_t padded(int64_t count, int width) {
  return (count + width / 4 - 1) / (width / 4) * (width / 4);
}
inline int64_t attention_floats(const AttentionSizes& s, int width) {
  const int64_t both = padded(s.key_size, width) + padded(s.value_size, width);
  return (kQueries + kBlock) * both + kQueries * kBlock;
}

struct Kernel {
  const char* name;
  int width;  // bytes of a vector; a chunk is 8 * width columns
  Digits (*digits)(int planes);  // null without `fast`
  // v * x of one token, laid out for `fast` and for `exact`. A variant without products of bytes has
  // null for `quantize` and `fast`.
  void (*quantize)(const Matrix&, const float* x, int64_t token, const ByteActivations&);
  void (*spread)(const Matrix&, const float* x, int64_t token, const FloatActivations&);
  // sums[(row - begin) * batch + token] = sum over columns of T[code] * v * x, without u.
  void (*fast)(const Matrix&, const ByteTable&, const ByteActivations&, int64_t begin, int64_t end,
               float* sums);
  void (*exact)(const Matrix&, const FloatActivations&, int64_t begin, int64_t end, float* sums);
  // out[i - begin][columns] = u * T[code] * v of the matrix row ids[i], or of row i without ids.
  // `v` is in fp32.
  void (*unpack)(const Matrix&, const float* v, const int64_t* ids, int64_t begin, int64_t end,
                 void* out, Dtype);
  // For a matrix product in bf16; null where vectors bring nothing. The first:
  // out[i - begin][columns] = u * T[code]. The second: v * x of one token.
  void (*unpack_halves)(const Matrix&, int64_t begin, int64_t end, uint16_t* out);
  void (*scale_columns)(const float* v, const uint16_t* x, int64_t columns, uint16_t* out);
  // x becomes Q x in place, or with `back` its inverse; `signs` [2, columns] are 1 or -1.
  void (*rotate)(float* x, const int8_t* signs, int64_t columns, bool back);
  // out[token * stride + row - begin] = S x, of at most kChunk rows, whose outliers may begin at
  // `guess`: right or wrong, but a search would wait for memory. `guess` becomes where those of
  // `end` begin. Returns how many outliers these rows have, or -1 where one it came to is not of
  // them. All chunks of rows together have all outliers, or positions do not rise.
  int64_t (*outliers)(const Outliers&, const void* x, Dtype, int64_t tokens, int64_t begin,
                      int64_t end, int64_t& guess, float* out, int64_t stride);
  // Queries begin .. end - 1, of at most kQueries, that read the keys of `head`: query i is step
  // i % steps of head `head * group + i / steps`. `memory` has
  // `attention_floats` of numbers.
  void (*attention)(const Attention&, int64_t sequence, int64_t head, int64_t begin, int64_t end,
                    float* memory);
};

extern const Kernel kPortable;
#if defined(__x86_64__)
extern const Kernel kAvx2, kAvxVnni, kAvx512, kAvx512Vnni, kAvx512Vbmi;
#elif BITSTACK_NEON
extern const Kernel kNeon, kNeonDotprod, kNeonI8mm;
#endif

}  // namespace bitstack
