// Loops over XLA's thread pool, and the floating-point mode in which their bodies run.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace jaxqr {

// XLA runs CPU handlers with denormal numbers flushed to zero, in operands and results. That
// costs reflectors all their digits near the ends of the exponent range, so it is off while an
// object of this class lives.
class ExactDenormals {
 public:
#if defined(__x86_64__)
  ExactDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ & ~kFlush); }
  ~ExactDenormals() { _mm_setcsr(saved_); }

 private:
  static constexpr unsigned kFlush = 0x8040;  // FTZ and DAZ
  unsigned saved_;
#elif defined(__aarch64__)
  ExactDenormals() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(saved_ & ~kFlush));
  }
  ~ExactDenormals() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  static constexpr uint64_t kFlush = uint64_t{1} << 24;  // FZ
  uint64_t saved_;
#else
  ExactDenormals() {}
#endif
  ExactDenormals(const ExactDenormals&) = delete;
  ExactDenormals& operator=(const ExactDenormals&) = delete;
};

class Pool {
 public:
  virtual ~Pool() = default;
  virtual long threads() const = 0;
  virtual void schedule(std::function<void()> task) = 0;
};

// What the threads of a loop share. It outlives the loop in tasks that start late.
struct LoopState {
  explicit LoopState(long count) : count(count) {}

  const long count;
  std::atomic<long> next{0}, done{0};
  std::exception_ptr error;  // the first; under the mutex until all is done
  std::mutex mutex;
  std::condition_variable finished;

  bool all_done() const { return done.load() >= count; }

  void add_done(long bodies) {
    if (bodies == 0 || done.fetch_add(bodies) + bodies != count) return;
    std::lock_guard<std::mutex> lock(mutex);
    finished.notify_all();
  }

  void keep_error(std::exception_ptr thrown) {
    std::lock_guard<std::mutex> lock(mutex);
    if (!error) error = thrown;
  }

  void wait() {
    for (int spin = 0; spin < 2000 && !all_done(); ++spin) {
#if defined(__x86_64__)
      _mm_pause();  // the last block is likely to end before a sleep would begin
#endif
    }
    if (all_done()) return;
    std::unique_lock<std::mutex> lock(mutex);
    finished.wait(lock, [this] { return all_done(); });
  }
};

// Run body(i) for every i in [0, count), in any order, on the pool and on the calling thread.
//
// The caller works through the blocks itself and waits for blocks that were begun, never for a
// scheduled task to start: so it cannot deadlock, however busy the pool is. A task that starts
// after the last block was taken touches the shared counter only, which it keeps alive.
// What a body throws is thrown here, once all bodies are done. A pool that refuses a task, by an
// exception, leaves the work to the tasks that it took before and to the caller.
template <class Body>
void parallel_for(Pool& pool, long count, const Body& body) {
  const long helpers = std::min(pool.threads(), count) - 1;
  if (helpers < 1) {
    for (long i = 0; i < count; ++i) body(i);
    return;
  }
  auto state = std::make_shared<LoopState>(count);
  auto work = [state, bodies = &body] {
    long taken = 0;
    {
      ExactDenormals mode;
      for (long i; (i = state->next.fetch_add(1)) < state->count; ++taken) {
        try {
          (*bodies)(i);
        } catch (...) {
          state->keep_error(std::current_exception());
        }
      }
    }
    state->add_done(taken);
  };
  try {
    for (long i = 0; i < helpers; ++i) pool.schedule(work);
  } catch (...) {
    // tasks that wait in the queue point to the body: it must not end before they are of no use
  }
  work();
  state->wait();
  if (state->error) std::rethrow_exception(state->error);
}

}  // namespace jaxqr
