// Answers calls of the C interface of the CPU kernels through pipes, so that a library of another
// processor can be called from Python: this program is linked with it and runs in an emulator.
//
// A request, all numbers int64: function, number of arguments, then for each its kind and value. A
// buffer is followed by its bytes, a coded matrix by its sizes and buffers. The answer: the result,
// then the bytes of every buffer that may have been written. Every buffer ends at a page that nobody
// may read, so that one byte too many ends the program. Python's half is library.py.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "arguments.h"

using namespace bitstack;

namespace bitstack {
BITSTACK_API int32_t bitstack_interface();
BITSTACK_API const char* bitstack_variant(int32_t, int32_t*, int32_t*, int32_t*);
BITSTACK_API int32_t bitstack_linear(int32_t, int32_t, const Coded*, const int8_t*, int64_t,
                                     const void*, int32_t, int64_t, const uint16_t*, int64_t,
                                     const void*, int64_t, int64_t, int32_t, const void*, int64_t,
                                     int32_t, void*, int64_t, int32_t);
BITSTACK_API int32_t bitstack_unpack(int32_t, const Coded*, const int64_t*, int64_t, int64_t,
                                     int64_t, void*, int64_t, int32_t, int32_t);
BITSTACK_API int32_t bitstack_unpack_halves(int32_t, const Coded*, int64_t, int64_t, uint16_t*,
                                            int64_t, int32_t);
BITSTACK_API int32_t bitstack_scale_columns(int32_t, const uint16_t*, int64_t, int64_t,
                                            const uint16_t*, int64_t, int64_t, uint16_t*, int64_t,
                                            int32_t);
BITSTACK_API int32_t bitstack_rotate(int32_t, const void*, int64_t, int64_t, int64_t, int32_t,
                                     const int8_t*, int64_t, int32_t, void*, int64_t, int32_t);
BITSTACK_API int32_t bitstack_add_outliers(int32_t, const void*, int32_t, int64_t, const uint16_t*,
                                           int64_t, int64_t, int64_t, const void*, int64_t,
                                           int64_t, int32_t, void*, int64_t, int32_t);
BITSTACK_API int32_t bitstack_values(const uint8_t*, int64_t, int32_t, const float*, int64_t,
                                     const float*, int64_t, const float*, int64_t, int64_t,
                                     int64_t, void*, int64_t, int32_t, int32_t);
BITSTACK_API int32_t bitstack_sum_by_code(const uint8_t*, int64_t, int32_t, const float*, int64_t,
                                          const float*, int64_t, const float*, int64_t, int64_t,
                                          int64_t, double*, int64_t, int32_t);
BITSTACK_API int32_t bitstack_spread(const uint8_t*, int64_t, int32_t, const float*, int64_t,
                                     const float*, int64_t, const float*, int64_t, int64_t,
                                     int64_t, const float*, int64_t, float*, int64_t, float*,
                                     int64_t, float*, int64_t, float*, int64_t, int32_t);
BITSTACK_API int32_t bitstack_move(const uint8_t*, int64_t, int32_t, const float*, int64_t,
                                   const float*, int64_t, const float*, int64_t, int64_t, int64_t,
                                   const float*, int64_t, int32_t, int32_t, const uint16_t*,
                                   int64_t, uint16_t*, int64_t, uint8_t*, int64_t, int32_t);
BITSTACK_API int32_t bitstack_attention(int32_t, const AttentionSizes*, int64_t, const void*,
                                        int64_t, const void*, int64_t, const void*, int64_t,
                                        const uint8_t*, int64_t, void*, int64_t, int32_t, int32_t);
}  // namespace bitstack

namespace {

void read_all(void* to, size_t bytes) {
  if (bytes && fread(to, 1, bytes, stdin) != bytes) exit(feof(stdin) ? 0 : 1);
}

int64_t number() {
  int64_t value;
  read_all(&value, 8);
  return value;
}

// Memory whose end is the end of what may be read or written.
class Buffer {
 public:
  explicit Buffer(int64_t bytes) : bytes_(size_t(bytes)) {
    const size_t page = size_t(sysconf(_SC_PAGESIZE));
    const size_t size = (bytes_ + page - 1) / page * page;
    mapped_ = size + page;
    start_ = static_cast<char*>(
        mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (start_ == MAP_FAILED || mprotect(start_ + size, page, PROT_NONE)) exit(3);
    data_ = start_ + size - bytes_;
    read_all(data_, bytes_);
  }
  Buffer(Buffer&& other) noexcept { *this = std::move(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(start_, other.start_);
    std::swap(data_, other.data_);
    std::swap(mapped_, other.mapped_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Buffer() {
    if (start_) munmap(start_, mapped_);
  }
  char* data() const { return data_; }
  void write() const { fwrite(data_, 1, bytes_, stdout); }

 private:
  char *start_ = nullptr, *data_ = nullptr;
  size_t mapped_ = 0, bytes_ = 0;
};

enum Kind : int64_t { kNumber = 0, kInput = 1, kOutput = 2, kCoded = 3 };

struct Request {
  std::vector<int64_t> arguments;
  std::vector<Buffer> inputs, outputs;
  Coded coded{};

  Request() {
    const int64_t count = number();
    for (int64_t i = 0; i < count; ++i) arguments.push_back(argument(number()));
  }

 private:
  int64_t argument(int64_t kind) {
    if (kind == kNumber) return number();
    if (kind == kCoded) return matrix();
    return buffer(kind == kOutput ? outputs : inputs, number());
  }
  static int64_t buffer(std::vector<Buffer>& to, int64_t bytes) {
    if (bytes < 0) return 0;  // a null pointer
    to.emplace_back(bytes);
    return reinterpret_cast<int64_t>(to.back().data());
  }
  int64_t matrix() {
    coded.rows = number();
    coded.columns = number();
    coded.planes = number();
    coded.scales = number();
    coded.scale = reinterpret_cast<const uint16_t*>(buffer(inputs, number()));
    for (int p = 0; p < kMaxPlanes; ++p) {
      coded.bytes[p] = number();
      coded.plane[p] = reinterpret_cast<const uint8_t*>(buffer(inputs, number()));
    }
    return reinterpret_cast<int64_t>(&coded);
  }
};

template <class T>
T as(int64_t value) {
  if constexpr (std::is_pointer_v<T>) return reinterpret_cast<T>(value);
  else return static_cast<T>(value);
}

template <class R, class... A, size_t... i>
int64_t call(R (*function)(A...), const Request& request, std::index_sequence<i...>) {
  if (request.arguments.size() != sizeof...(A)) exit(4);
  return int64_t(function(as<A>(request.arguments[i])...));
}

template <class R, class... A>
int64_t call(R (*function)(A...), const Request& request) {
  return call(function, request, std::index_sequence_for<A...>());
}

void answer(int64_t value) { fwrite(&value, 8, 1, stdout); }

void list_variants() {
  for (int32_t i = 0, flags[3];; ++i) {
    const char* name = bitstack_variant(i, &flags[0], &flags[1], &flags[2]);
    answer(name ? int64_t(strlen(name)) : -1);
    if (!name) return;
    fputs(name, stdout);
    for (const int32_t flag : flags) answer(flag);
  }
}

int64_t call(int64_t function, const Request& request) {
  switch (function) {
    case 1: return call(bitstack_linear, request);
    case 2: return call(bitstack_unpack, request);
    case 3: return call(bitstack_unpack_halves, request);
    case 4: return call(bitstack_scale_columns, request);
    case 5: return call(bitstack_rotate, request);
    case 6: return call(bitstack_add_outliers, request);
    case 7: return call(bitstack_values, request);
    case 8: return call(bitstack_sum_by_code, request);
    case 9: return call(bitstack_attention, request);
    case 10: return call(bitstack_spread, request);
    case 11: return call(bitstack_move, request);
    default: exit(4);
  }
}

}  // namespace

int main() {
  answer(bitstack_interface());
  list_variants();
  fflush(stdout);
  while (true) {
    const int64_t function = number();
    const Request request;
    answer(call(function, request));
    for (const Buffer& output : request.outputs) output.write();
    fflush(stdout);
  }
}
