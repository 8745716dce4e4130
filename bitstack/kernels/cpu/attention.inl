// Attention of few queries over a cache, for up to kQueries queries that share their keys. Included
// after its target is set. The softmax goes block by block over the cache (online softmax: Milakov
// and Gimelshein, arXiv 1805.02867), so that keys and values are read once and no row of scores is
// kept.
//
// Floors, a head of keys of t tokens and d numbers, g queries: 4 t d bytes in bf16; 4 t d g
// operations, of which a core of AVX-512 does 64 a cycle. At d = 64 and g = 4 that is 16 cycles a
// token against 256 bytes, which a core reads in about 50: bound by memory if nothing else were to
// do. To add up the dots and to take exponentials comes to about as many operations again.

namespace bitstack {
namespace {

inline void widen(const void* from, int64_t at, int64_t count, Dtype dtype, float* to) {
  const uint16_t* half = static_cast<const uint16_t*>(from) + at;
  if (dtype == kBFloat16)
    for (int64_t i = 0; i < count; ++i) to[i] = bfloat_to_float(half[i]);
  else if (dtype == kFloat16)
    for (int64_t i = 0; i < count; ++i) to[i] = half_to_float(half[i]);
  else memcpy(to, static_cast<const float*>(from) + at, size_t(count) * 4);
}

// e^x of x <= 0 to 2e-7, in operations that become vector code; 0 below e^-87; NaN stays NaN.
inline float exponential(float x) {
  const float y = (x > -87.0f ? x : -87.0f) * 1.44269504f, whole = nearest(y);
  const float f = (y - whole) * 0.69314718f;
  const float series =
      1.0f +
      f * (1.0f + f * (0.5f + f * (1 / 6.0f + f * (1 / 24.0f + f * (1 / 120.0f + f / 720.0f)))));
  const float power = from_bits(uint32_t(int32_t(whole) + 127) << 23);
  return x < -87.0f ? 0.0f : series * power + (x - x);
}

template <class O>
inline float largest_of(const float* value) {
  constexpr int lanes = O::width / 4;
  float lane[lanes];
  typename O::Floats most = O::load_floats(value);
  for (int64_t i = lanes; i < kBlock; i += lanes) most = O::larger(most, O::load_floats(value + i));
  O::store_floats(most, lane);
  for (int half = lanes / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) lane[i] = lane[i] > lane[i + half] ? lane[i] : lane[i + half];
  return lane[0];
}

// One query and its running softmax.
struct Query {
  const float* query;    // scaled
  const uint8_t* mask;   // null where there is none
  float *score, *total;  // of a block of keys; the weighed values so far
  float most = -kInfinite, sum = 0.0f;
};

template <class O>
inline void take_keys(Query& q, const float* key, int64_t first, int64_t count, int64_t size) {
  for (int64_t t = 0; t < count; ++t, key += size) {
    typename O::Floats sum = O::zero_floats();
    for (int64_t i = 0; i < size; i += O::width / 4)
      sum = O::multiply_add(O::load_floats(q.query + i), key + i, sum);
    q.score[t] = O::reduce(sum);
  }
  for (int64_t t = 0; q.mask && t < count; ++t)
    if (!q.mask[first + t]) q.score[t] = -kInfinite;
  for (int64_t t = count; t < kBlock; ++t) q.score[t] = -kInfinite;
}

// Scores become weights relative to the largest so far; what was summed before is scaled to it.
template <class O>
inline void weigh(Query& q, int64_t size) {
  const float found = largest_of<O>(q.score), now = found > q.most ? found : q.most;
  const float base = now == -kInfinite ? 0.0f : now, before = exponential(q.most - base);
  for (int64_t i = 0; i < kBlock; ++i) q.score[i] = exponential(q.score[i] - base);
  typename O::Floats sum = O::zero_floats();
  for (int64_t i = 0; i < kBlock; i += O::width / 4) sum = O::add(sum, O::load_floats(q.score + i));
  q.sum = q.sum * before + O::reduce(sum);
  q.most = now;
  if (before != 1.0f)
    for (int64_t i = 0; i < size; ++i) q.total[i] *= before;
}

template <class O, int vectors>
inline void add_values(Query& q, const float* value, int64_t count, int64_t size, int64_t at) {
  constexpr int lanes = O::width / 4;
  typename O::Floats total[vectors];
  for (int v = 0; v < vectors; ++v) total[v] = O::load_floats(q.total + at + v * lanes);
  for (int64_t t = 0; t < count; ++t) {
    const typename O::Floats weight = O::all(q.score[t]);
    for (int v = 0; v < vectors; ++v)
      total[v] = O::multiply_add(weight, value + t * size + at + v * lanes, total[v]);
  }
  for (int v = 0; v < vectors; ++v) O::store_floats(total[v], q.total + at + v * lanes);
}

template <class O>
inline void take_values(Query& q, const float* value, int64_t count, int64_t size) {
  constexpr int64_t lanes = O::width / 4;
  int64_t at = 0;
  for (; at + 4 * lanes <= size; at += 4 * lanes) add_values<O, 4>(q, value, count, size, at);
  for (; at < size; at += lanes) add_values<O, 1>(q, value, count, size, at);
}

// Queries begin .. end - 1 of those that read the keys of `head` in `sequence`. `memory` has
// `attention_floats` of numbers.
template <class O>
void attention(const Attention& a, int64_t sequence, int64_t head, int64_t begin, int64_t end,
               float* memory) {
  const AttentionSizes& s = *a.sizes;
  const int64_t wide = padded(s.key_size, O::width), broad = padded(s.value_size, O::width);
  const int64_t count = end - begin;
  float *keys = memory + kQueries * (wide + broad + kBlock), *values = keys + kBlock * wide;
  Query queries[kQueries];
  memset(memory, 0, size_t(values + kBlock * broad - memory) * 4);
  for (int64_t i = 0; i < count; ++i, memory += wide + broad + kBlock) {
    const int64_t own = head * s.group + (begin + i) / s.steps, step = (begin + i) % s.steps;
    const int64_t hidden = sequence * s.mask[0] + own * s.mask[1] + step * s.mask[2];
    const int64_t at = sequence * s.query[0] + own * s.query[1] + step * s.query[2];
    widen(a.query, at, s.key_size, a.dtype, memory);
    for (int64_t c = 0; c < s.key_size; ++c) memory[c] *= float(s.scaling);
    queries[i].query = memory;
    queries[i].total = memory + wide;
    queries[i].score = memory + wide + broad;
    queries[i].mask = a.mask ? a.mask + hidden : nullptr;
  }
  const auto read = [&](const void* from, const int64_t* stride, int64_t first, int64_t some,
                        int64_t numbers, float* to, int64_t apart) {
    for (int64_t t = 0; t < some; ++t) {
      const int64_t at = sequence * stride[0] + head * stride[1] + (first + t) * stride[2];
      widen(from, at, numbers, a.dtype, to + t * apart);
    }
  };
  for (int64_t first = 0; first < s.tokens; first += kBlock) {
    const int64_t some = s.tokens - first < kBlock ? s.tokens - first : kBlock;
    read(a.key, s.key, first, some, s.key_size, keys, wide);
    read(a.value, s.value, first, some, s.value_size, values, broad);
    for (int64_t i = 0; i < count; ++i) {
      take_keys<O>(queries[i], keys, first, some, wide);
      weigh<O>(queries[i], broad);
      take_values<O>(queries[i], values, some, broad);
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    const int64_t own = head * s.group + (begin + i) / s.steps, step = (begin + i) % s.steps;
    const int64_t row = (sequence * s.steps + step) * s.heads * s.group + own;
    const float inverse = queries[i].sum == 0.0f ? 0.0f : 1.0f / queries[i].sum;
    for (int64_t c = 0; c < s.value_size; ++c)
      store_one(queries[i].total[c] * inverse, a.out, row * s.value_size + c, a.dtype);
  }
}

}  // namespace
}  // namespace bitstack
