// Loops over a pool of threads.
#include "common/parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>

#include "common/floating_point_mode.h"
#include "common/pool.h"

namespace jaxqr {
namespace {

class SerialPool : public Pool {
 public:
  long threads() const override { return 1; }
  void schedule(std::function<void()>) override {}
};

// What the threads of a loop share. A task that starts after the last index was taken touches the
// counter only, so this outlives the loop in tasks that start late.
class LoopState {
 public:
  explicit LoopState(long count) : count_(count) {}

  // Run the bodies of indices until none is left.
  void work(IndexBody body) {
    long taken = 0;
    {
      ExactDenormals mode;
      for (long i; (i = next_.fetch_add(1)) < count_; ++taken) {
        try {
          body(i);
        } catch (...) {
          keep_error(std::current_exception());
        }
      }
    }
    add_done(taken);
  }

  // Wait until all bodies are done; throw the first of their errors, if there is one.
  void finish() {
    for (int spin = 0; spin < 2000 && !all_done(); ++spin) {
#if defined(__x86_64__)
      _mm_pause();  // the last body is likely to end before a sleep would begin
#endif
    }
    if (!all_done()) {
      std::unique_lock<std::mutex> lock(mutex_);
      finished_.wait(lock, [this] { return all_done(); });
    }
    if (error_) std::rethrow_exception(error_);
  }

 private:
  bool all_done() const { return done_.load() >= count_; }

  void add_done(long bodies) {
    if (bodies == 0 || done_.fetch_add(bodies) + bodies != count_) return;
    std::lock_guard<std::mutex> lock(mutex_);
    finished_.notify_all();
  }

  void keep_error(std::exception_ptr thrown) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!error_) error_ = thrown;
  }

  const long count_;
  std::atomic<long> next_{0}, done_{0};
  std::exception_ptr error_;  // the first; under the mutex until all is done
  std::mutex mutex_;
  std::condition_variable finished_;
};

}  // namespace

long thread_count(const Pool& pool) { return pool.threads(); }

Pool& serial_pool() {
  static SerialPool pool;
  return pool;
}

void parallel_for(Pool& pool, long count, IndexBody body) {
  const long helpers = std::min(pool.threads(), count) - 1;
  if (helpers < 1) {
    for (long i = 0; i < count; ++i) body(i);
    return;
  }
  const auto state = std::make_shared<LoopState>(count);
  try {
    for (long i = 0; i < helpers; ++i) pool.schedule([state, body] { state->work(body); });
  } catch (...) {
    // Tasks that wait in the queue refer to the body: it must not end before they are of no use.
  }
  state->work(body);
  state->finish();
}

void for_ranges(Pool& pool, long count, long cost, RangeBody body) {
  constexpr long kWork = 1 << 15;  // entries that outweigh waking up a thread
  const double wanted = static_cast<double>(count) * cost / kWork;  // no product may overflow
  const long ranges = wanted < count ? static_cast<long>(wanted) + 1 : count;
  if (ranges <= 1) return body(0, count);
  const long size = count / ranges, longer = count % ranges;  // so many ranges have one more
  const auto start = [=](long i) { return i * size + std::min(i, longer); };
  parallel_for(pool, ranges, [&](long i) { body(start(i), start(i + 1)); });
}

void for_groups(Pool& pool, long batch, long width, double cost, RangeBody body) {
  constexpr double kBlockCost = 5e5;
  if (batch == 0) return;
  const long groups = (batch + width - 1) / width;
  const double wanted = groups * (cost / kBlockCost);
  const long blocks = wanted < groups ? std::max(1L, static_cast<long>(wanted)) : groups;
  const long size = (groups + blocks - 1) / blocks * width;
  parallel_for(pool, (batch + size - 1) / size,
               [&](long i) { body(i * size, std::min(size, batch - i * size)); });
}

}  // namespace jaxqr
