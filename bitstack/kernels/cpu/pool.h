// Threads for one loop at a time, shared by all calls of the process.
#pragma once
#include <atomic>
#include <cstdint>
#include <new>

namespace bitstack {

// Calls body(context, i) for i in [0, count), each once, on the calling thread and up to
// threads - 1 others. Returns when all are done; a second caller at the same time works alone.
void parallel_for(int64_t count, int threads, void (*body)(void*, int64_t), void* context);

// The same. Where `body` lacks memory on any thread, the caller gets std::bad_alloc at the end: an
// exception must not leave a helper.
template <class Body>
void parallel_for(int64_t count, int threads, const Body& body) {
  struct Loop {
    const Body& body;
    std::atomic<bool> lacking{false};
  } loop{body};
  parallel_for(
      count, threads,
      [](void* context, int64_t i) {
        Loop& own = *static_cast<Loop*>(context);
        try {
          own.body(i);
        } catch (const std::bad_alloc&) {
          own.lacking.store(true, std::memory_order_relaxed);
        }
      },
      &loop);
  if (loop.lacking.load(std::memory_order_relaxed)) throw std::bad_alloc();
}

}  // namespace bitstack
