// Threads for one loop at a time, shared by all calls of the process.
#pragma once
#include <cstdint>

namespace bitstack {

// Calls body(context, i) for i in [0, count), each once, on the calling thread and up to
// threads - 1 others. Returns when all are done; a second caller at the same time works alone.
void parallel_for(int64_t count, int threads, void (*body)(void*, int64_t), void* context);

template <class Body>
void parallel_for(int64_t count, int threads, const Body& body) {
  parallel_for(
      count, threads, [](void* b, int64_t i) { (*static_cast<const Body*>(b))(i); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace bitstack
