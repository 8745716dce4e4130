// Multiplies a matrix of zeros some times, for an emulator that counts the instructions. What it
// does takes as many whatever the numbers are.
//
//     count VARIANT PLANES ROWS COLUMNS TOKENS fast|exact TIMES
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernel.h"

using namespace bitstack;

namespace {

// Those it is linked with. Whether this processor runs one, running it shows.
#if defined(__x86_64__)
const Kernel* const kKernels[] = {&kAvx2};
#else
const Kernel* const kKernels[] = {&kNeon, &kNeonDotprod, &kNeonI8mm};
#endif

const Kernel* find_kernel(const char* name) {
  for (const Kernel* kernel : kKernels)
    if (!strcmp(kernel->name, name)) return kernel;
  return nullptr;
}

struct Zeros {
  std::vector<uint8_t> plane;
  std::vector<uint16_t> u, v;
  Matrix matrix{};

  Zeros(int planes, int64_t rows, int64_t columns)
      : plane(size_t((columns + 7) / 8 * rows)), u(size_t(rows)), v(size_t(columns)) {
    for (int p = 0; p < planes; ++p) matrix.plane[p] = plane.data();
    matrix.planes = planes;
    matrix.rows = rows;
    matrix.columns = columns;
    matrix.row_bytes = (columns + 7) / 8;
    matrix.u = u.data();
    matrix.v = v.data();
  }
};

void multiply(const Kernel& kernel, const Matrix& m, int64_t tokens, bool fast, int times) {
  const int64_t chunk = 8 * kernel.width, chunks = (m.columns + chunk - 1) / chunk;
  const size_t numbers = size_t(tokens * chunks * chunk);
  std::vector<int8_t> bytes(2 * numbers);
  std::vector<float> floats(numbers), scale(numbers / 32), sum(size_t(tokens), 0.0f);
  std::vector<float> sums(size_t(m.rows * tokens));
  const ByteTable table{};
  const ByteActivations a8{tokens, chunks, bytes.data(), scale.data(), sum.data()};
  const FloatActivations a32{tokens, chunks, floats.data()};
  for (int i = 0; i < times; ++i)
    if (fast) kernel.fast(m, table, a8, 0, m.rows, sums.data());
    else kernel.exact(m, a32, 0, m.rows, sums.data());
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 8) return 4;
  const Kernel* kernel = find_kernel(arguments[1]);
  const bool fast = !strcmp(arguments[6], "fast");
  if (!kernel || (fast && !kernel->fast)) return 2;
  const Zeros zeros(atoi(arguments[2]), atoll(arguments[3]), atoll(arguments[4]));
  multiply(*kernel, zeros.matrix, atoll(arguments[5]), fast, atoi(arguments[7]));
  return 0;
}
