// The product with the weights that a matrix keeps beside its codes. Included by every variant after
// its target is set, so that the compiler vectorises it for that target.
//
// Floor: 6 or 10 bytes an outlier, and for each token six accesses of the first cache: two cycles,
// measured three. A row has about one outlier, so a branch at the end of a row could not be predicted
// and would cost as much as ten of them: rows and columns are computed instead, for many at once.
// Many rows at once, too: in between the rows of the product the same work takes twice as long.

namespace bitstack {
namespace {

constexpr int kOutliers = 64;  // taken at once

// Where the outliers at `position` or behind it begin: at `guess`, if that is right.
template <class Position>
inline int64_t find_outlier(const Position* positions, int64_t count, int64_t position,
                            int64_t guess) {
  if (guess <= count && (guess == 0 || positions[guess - 1] < position) &&
      (guess == count || positions[guess] >= position))
    return guess;
  int64_t first = 0;  // not std::lower_bound: the linker might keep the copy made for this target
  for (int64_t left = count; left > 0;) {
    const int64_t half = left / 2;
    const bool before = positions[first + half] < position;
    first += before ? half + 1 : 0;
    left = before ? left - half - 1 : half;
  }
  return first;
}

// Splits offsets row * columns + column of at most kChunk rows, without a division.
inline void split_offsets(const int32_t* offset, int count, int32_t columns, int32_t* row,
                          int32_t* column) {
  const float inverse = 1.0f / float(columns);
  for (int i = 0; i < count; ++i) {
    const int32_t quotient = int32_t(float(offset[i]) * inverse);  // wrong by one at most
    const int32_t rest = offset[i] - quotient * columns;
    const int32_t wrong = (rest >= columns) - (rest < 0);
    row[i] = quotient + wrong;
    column[i] = rest - wrong * columns;
  }
}

// Offsets of positions from `from`; false where one is not in [0, limit). Differences are taken
// without a sign, so that no position can make them overflow.
template <class Position, class Unsigned>
inline bool find_offsets(const Position* positions, int count, int64_t from, int64_t limit,
                         int32_t* offset) {
  Unsigned outside = 0;
  for (int i = 0; i < count; ++i) {
    const Unsigned at = Unsigned(positions[i]) - Unsigned(from);
    outside |= Unsigned(at >= Unsigned(limit));
    offset[i] = int32_t(at);
  }
  return outside == 0;
}

// Of one token, in two sums a row [2][kChunk]: neighbours often share a row, and would wait for one
// another. Returns how many there were, -1 where one is outside.
template <class Position, class Unsigned, Dtype dtype>
inline int64_t add_chunk(const Outliers& o, const void* x, int64_t begin, int64_t end, int64_t& at,
                         float* sums) {
  const Position* positions = static_cast<const Position*>(o.positions);
  const int64_t from = begin * o.columns, to = end * o.columns;
  const int64_t first = find_outlier(positions, o.count, from, at);
  at = first;
  for (int taken = kOutliers; taken == kOutliers; at += taken) {
    int32_t offset[kOutliers], row[kOutliers], column[kOutliers];
    float value[kOutliers];
    const int left = o.count - at < kOutliers ? int(o.count - at) : kOutliers;
    taken = 0;
    for (int i = 0; i < left; ++i) taken += positions[at + i] < to;
    if (!find_offsets<Position, Unsigned>(positions + at, taken, from, to - from, offset))
      return -1;
    split_offsets(offset, taken, int32_t(o.columns), row, column);
    for (int i = 0; i < taken; ++i) value[i] = half_to_float(o.values[at + i]);
    int i = 0;
    for (; i + 1 < taken; i += 2) {
      sums[row[i]] += value[i] * load_number(x, column[i], dtype);
      sums[kChunk + row[i + 1]] += value[i + 1] * load_number(x, column[i + 1], dtype);
    }
    if (i < taken) sums[row[i]] += value[i] * load_number(x, column[i], dtype);
  }
  return at - first;
}

template <class Position, class Unsigned, Dtype dtype>
int64_t multiply_outliers(const Outliers& o, const void* x, int64_t tokens, int64_t begin,
                          int64_t end, int64_t& guess, float* out, int64_t stride) {
  const int64_t size = o.columns * (dtype == kFloat32 ? 4 : 2);
  int64_t count = 0, last = guess;
  for (int64_t t = 0; t < tokens && count >= 0; ++t) {
    float sums[2 * kChunk] = {};
    const void* row = static_cast<const char*>(x) + t * size;
    last = guess;
    count = add_chunk<Position, Unsigned, dtype>(o, row, begin, end, last, sums);
    for (int64_t i = 0; i < end - begin; ++i) out[t * stride + i] = sums[i] + sums[kChunk + i];
  }
  guess = last;
  return count;
}

int64_t outliers(const Outliers& o, const void* x, Dtype dtype, int64_t tokens, int64_t begin,
                 int64_t end, int64_t& guess, float* out, int64_t stride) {
  using Multiply = int64_t (*)(const Outliers&, const void*, int64_t, int64_t, int64_t, int64_t&,
                               float*, int64_t);
  static constexpr Multiply all[2][3] = {{multiply_outliers<int32_t, uint32_t, kFloat32>,
                                          multiply_outliers<int32_t, uint32_t, kBFloat16>,
                                          multiply_outliers<int32_t, uint32_t, kFloat16>},
                                         {multiply_outliers<int64_t, uint64_t, kFloat32>,
                                          multiply_outliers<int64_t, uint64_t, kBFloat16>,
                                          multiply_outliers<int64_t, uint64_t, kFloat16>}};
  return all[o.wide][dtype](o, x, tokens, begin, end, guess, out, stride);
}

}  // namespace
}  // namespace bitstack
