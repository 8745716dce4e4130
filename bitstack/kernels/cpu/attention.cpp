// Attention of few queries over a cache: every thread takes the queries of some heads.
#include <algorithm>

#include "call.h"
#include "pool.h"

namespace bitstack {
namespace {

constexpr int64_t kMostHead = 1 << 16;  // numbers of a head

// Whether all of a[i][j][k] lies within `count` numbers; `last` are those behind the last stride.
bool lies(const void* from, int64_t count, const int64_t* stride, int64_t a, int64_t b, int64_t c,
          int64_t last) {
  const int64_t sizes[] = {a, b, c};
  if (!from || last > count) return false;
  int64_t left = count - last;
  for (int i = 0; i < 3; ++i) {
    const int64_t steps = sizes[i] - 1;
    if (stride[i] < 0 || (steps > 0 && stride[i] > left / steps)) return false;
    left -= steps * stride[i];
  }
  return true;
}

bool are_sizes(const AttentionSizes& s) {
  const int64_t sizes[] = {s.batch, s.heads, s.group, s.steps, s.tokens};
  for (const int64_t size : sizes)
    if (size < 1 || size > kMost) return false;
  if (s.heads * s.group > kMost || s.heads * s.group * s.steps > kMost) return false;
  return s.key_size >= 1 && s.value_size >= 1 && std::max(s.key_size, s.value_size) <= kMostHead;
}

}  // namespace

// out [batch, steps, heads, value_size] = the values weighed by softmax(scaling * query key^T), of the
// tokens that `mask` shows. `queries`, `keys`, `values`, `masks` and `outputs` count what is behind the
// pointer before, and `size` the bytes of `sizes`.
BITSTACK_API int32_t bitstack_attention(int32_t variant, const AttentionSizes* sizes, int64_t size,
                                        const void* query, int64_t queries, const void* key,
                                        int64_t keys, const void* value, int64_t values,
                                        const uint8_t* mask, int64_t masks, void* out,
                                        int64_t outputs, int32_t dtype, int32_t threads) {
  const Kernel* kernel = find_kernel(variant);
  if (!kernel) return kVariant;
  if (!sizes || size != sizeof(AttentionSizes) || !are_sizes(*sizes)) return kAttention;
  if (!is_dtype(dtype)) return kDtype;
  const AttentionSizes& s = *sizes;
  const int64_t heads = s.heads * s.group;
  const int64_t own[] = {s.steps * heads * s.value_size, heads * s.value_size, s.value_size};
  const bool fits =
      lies(query, queries, s.query, s.batch, heads, s.steps, s.key_size) &&
      lies(key, keys, s.key, s.batch, s.heads, s.tokens, s.key_size) &&
      lies(value, values, s.value, s.batch, s.heads, s.tokens, s.value_size) &&
      lies(out, outputs, own, s.batch, s.steps, heads, s.value_size) &&
      (!mask || lies(mask, masks, s.mask, s.batch, heads, s.steps, s.tokens));
  if (!fits) return kAttention;
  return guarded([&]() -> int32_t {
    const Attention call{sizes, query, key, value, mask, out, Dtype(dtype)};
    const int64_t all = s.group * s.steps, parts = (all + kQueries - 1) / kQueries;
    if (s.batch * s.heads * s.tokens < kSerial / (s.key_size + s.value_size)) threads = 1;
    parallel_for(s.batch * s.heads * parts, threads, [&](int64_t i) {
      const int64_t head = i / parts % s.heads, begin = i % parts * kQueries;
      kernel->attention(call, i / parts / s.heads, head, begin, std::min(begin + kQueries, all),
                        own_floats(attention_floats(s, kernel->width)));
    });
    return kFine;
  });
}

}  // namespace bitstack
