// Why not OpenMP: its loop ends at a barrier that every thread must reach, those without work too.
// On a machine with other work each product would wait for the scheduler, ten times as long as the
// product takes. Here the caller waits only for helpers that have taken a piece and not finished it;
// whoever comes late finds the loop closed. A helper looks for the next loop for a short while (the
// gap between two layers), giving its core to anything else that wants it, and then sleeps.
#include "pool.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace bitstack {
namespace {

constexpr auto kLinger = std::chrono::microseconds(200);

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

class Pool {
 public:
  void run(int64_t count, int threads, void (*body)(void*, int64_t), void* context) {
    std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    if (threads < 2 || count < 2 || !turn.owns_lock()) {
      for (int64_t i = 0; i < count; ++i) body(context, i);
      return;
    }
    grow(threads - 1);
    count_ = count;
    body_ = body;
    context_ = context;
    limit_.store(threads - 1, std::memory_order_relaxed);
    next_.store(0, std::memory_order_relaxed);
    open();
    work();
    close();
  }

 private:
  // The gate: how often it was opened, whether it is open, and how many helpers are inside.
  static constexpr uint64_t kInside = 0xFFFF, kOpen = 0x10000, kEpoch = 0x20000;

  void open() {
    // Sequentially consistent, as are the sleeper's steps: one of the two sees the other.
    gate_.fetch_add(kEpoch + kOpen);
    if (sleepers_.load() == 0) return;
    std::lock_guard<std::mutex> lock(sleep_);
    wake_.notify_all();
  }

  void close() {
    gate_.fetch_sub(kOpen);
    for (int spins = 0; gate_.load() & kInside; ++spins)
      spins < 4096 ? pause() : std::this_thread::yield();
  }

  void work() {
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_;)
      body_(context_, i);
  }

  bool enter(uint64_t seen) {
    while (seen & kOpen)
      if (gate_.compare_exchange_weak(seen, seen + 1)) return true;
    return false;
  }

  void help(int index) {
    for (uint64_t done = 0;;) {
      const uint64_t seen = await(done);
      done = seen / kEpoch;
      if (index >= limit_.load(std::memory_order_relaxed) || !enter(seen)) continue;
      work();
      gate_.fetch_sub(1);
    }
  }

  // The gate, once it was opened after the `done`-th time.
  uint64_t await(uint64_t done) {
    const auto until = std::chrono::steady_clock::now() + kLinger;
    do {
      for (int spins = 0; spins < 64; ++spins, pause()) {
        const uint64_t seen = gate_.load();
        if (seen / kEpoch != done) return seen;
      }
      std::this_thread::yield();
    } while (std::chrono::steady_clock::now() < until);
    std::unique_lock<std::mutex> lock(sleep_);
    sleepers_.fetch_add(1);
    wake_.wait(lock, [&] { return gate_.load() / kEpoch != done; });
    sleepers_.fetch_sub(1);
    return gate_.load();
  }

  void grow(int helpers) {
    try {
      for (; helpers_ < helpers; ++helpers_) std::thread(&Pool::help, this, helpers_).detach();
    } catch (const std::exception&) {
      // The system gives no more threads or memory: those there are do the work.
    }
  }

  std::mutex turn_, sleep_;
  std::condition_variable wake_;
  std::atomic<uint64_t> gate_{0};
  std::atomic<int64_t> next_{0};
  std::atomic<int> sleepers_{0}, limit_{0};
  int64_t count_ = 0;
  void (*body_)(void*, int64_t) = nullptr;
  void* context_ = nullptr;
  int helpers_ = 0;
};

// Never destroyed: helpers may still look at it while the process ends. A forked child has none of
// its parent's threads and starts a pool of its own.
std::atomic<Pool*> shared{nullptr};

Pool& pool() {
  static const bool once = [] {
    shared = new Pool;
#if !defined(_WIN32)
    pthread_atfork(nullptr, nullptr, [] { shared = new Pool; });
#endif
    return true;
  }();
  (void)once;
  return *shared.load(std::memory_order_relaxed);
}

}  // namespace

void parallel_for(int64_t count, int threads, void (*body)(void*, int64_t), void* context) {
  pool().run(count, threads, body, context);
}

}  // namespace bitstack
