// The threads of one block of a CUDA kernel, as fibers, and where they wait for each other. What is
// undefined on a device, or would hang there, ends the run with a Misuse that says who waits where.
#pragma once

#include <sys/types.h>

#include <cstdio>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "fibers.h"
#include "races.h"

#if defined(__SANITIZE_ADDRESS__)
#define JAXQR_POISON(address, bytes) ASAN_POISON_MEMORY_REGION(address, bytes)
#define JAXQR_UNPOISON(address, bytes) ASAN_UNPOISON_MEMORY_REGION(address, bytes)
#else
#define JAXQR_POISON(address, bytes)
#define JAXQR_UNPOISON(address, bytes)
#endif

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline thread_local uint3 threadIdx{}, blockIdx{};
inline thread_local dim3 blockDim{}, gridDim{};

namespace emulate {

constexpr int kWarp = 32, kMostThreads = 1024;
constexpr size_t kStackBytes = size_t{256} << 10;
constexpr unsigned kAllLanes = ~0u;

// Which of the threads that can go on is next: the first or the last of the block. So one warp runs
// ahead of all others until it has to wait for them, and in the other order it is the last to run.
enum class Order { kForwards = 1, kBackwards = -1 };

// What a kernel did that is undefined or would never end.
class Misuse : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// What a thread waits at: which function, called where, and for a warp's with which mask.
struct Place {
  const char* operation;
  const char* file;
  int line;
  unsigned mask = 0;  // none: the whole block
  int width = 0, bytes = 0;
  bool orders = false;  // memory: who comes here has written what the others read afterwards

  bool operator==(const Place& other) const {
    return operation == other.operation && line == other.line && mask == other.mask &&
           width == other.width && bytes == other.bytes &&
           (file == other.file || !std::strcmp(file, other.file));
  }
  std::string text() const {
    char details[48] = "";
    if (mask) std::snprintf(details, sizeof details, " with mask 0x%08x", mask);
    const char* name = std::strrchr(file, '/');
    return operation + std::string(details) + (width ? ", width " + std::to_string(width) : "") +
           " (" + (name ? name + 1 : file) + ":" + std::to_string(line) + ")";
  }
};

// One thread of the block, and what it brings to an exchange within its warp.
struct Thread {
  std::unique_ptr<Fiber> fiber;
  uint3 index{};
  bool done = false, waits = false;
  Place place{};
  Token before, after;  // the last place
  int source = 0;       // the lane whose value it asks for
  bool vote = false;
  unsigned votes = 0;
  alignas(16) unsigned char value[16], result[16];
};

class Block;
inline thread_local Block* running = nullptr;

class Block {
 public:
  // Run `body` on every thread of a block of this size.
  void run(dim3 size, Order order, const std::function<void()>& body) {
    const Unseen unseen;
    start(size, order, body);
    current_ = next();
    Thread& first = threads_[current_];
    threadIdx = first.index;
    begin_.come();
    main_.switch_to(*first.fiber);
    running = nullptr;
    body_ = nullptr;
    if (!thrown_) return;
    end_.leave();
    threads_.clear();  // their stacks hold unfinished calls
    std::rethrow_exception(std::exchange(thrown_, nullptr));
  }

  // All blocks that were run are done. Among themselves they are not ordered.
  void end_grid() { end_.leave(); }

  Thread& self() { return threads_[current_]; }
  int lane() const { return current_ % kWarp; }

  // The barrier of the block: its threads that have not returned.
  void synchronize(const Place& place) {
    const Unseen unseen;
    if (waiting_ == 0) first_ = current_;
    require_same(place, first_);
    come(place);
    ++waiting_;
    if (!pass_barrier()) pause();
    self().after.leave();
  }

  // Wait until all lanes of the mask are there; they get what they ask for of each other.
  void exchange(const Place& place) {
    check_mask(place);
    come(place);
    if (all_there(place)) {
      hand_over(place);
    } else {
      pause();
    }
    if (place.orders) self().after.leave();
  }

  [[noreturn]] static void fail(const std::string& message) {
    throw Misuse(message + ", in block " + std::to_string(blockIdx.x));
  }

  static std::string who(int thread) { return "thread " + std::to_string(thread); }

 private:
  void come(const Place& place) {
    self().place = place;
    self().waits = true;
    if (place.orders) self().before.come();
  }

  void hand_over(const Place& place) {
    const int first = first_of_warp();
    unsigned votes = 0;
    for_lanes(place.mask, [&](int l) { votes |= unsigned{threads_[first + l].vote} << l; });
    for_lanes(place.mask, [&](int l) {
      Thread& thread = threads_[first + l];
      thread.votes = votes;
      std::memcpy(thread.result, threads_[first + thread.source].value, place.bytes);
    });
    if (place.orders) for_lanes(place.mask, [&](int l) { threads_[first + l].before.leave(); });
    for_lanes(place.mask, [&](int l) { let_go(first + l); });
  }

  void let_go(int t) {
    if (threads_[t].place.orders) threads_[t].after.come();
    threads_[t].waits = false;
    ready_[t] = 1;
  }

  void start(dim3 size, Order order, const std::function<void()>& body) {
    count_ = live_ = static_cast<int>(size.x * size.y * size.z);
    order_ = order;
    body_ = &body;
    waiting_ = 0;
    while (static_cast<int>(threads_.size()) < count_) {
      threads_.emplace_back();
      threads_.back().fiber = std::make_unique<Fiber>(kStackBytes);
    }
    ready_.assign(count_, 1);
    std::memset(returned_, 0, sizeof returned_);
    if (count_ % kWarp) returned_[count_ / kWarp] = ~0u << count_ % kWarp;
    for (int t = 0; t < count_; ++t) {
      Thread& thread = threads_[t];
      thread.done = thread.waits = false;
      const unsigned i = t;
      thread.index = {i % size.x, i / size.x % size.y, i / size.x / size.y};
      thread.fiber->prepare(enter);
    }
    running = this;
  }

  JAXQR_SWITCHES static void enter() {
    Block& block = *running;
    block.self().fiber->arrived();
    block.begin_.leave();
    block.run_thread();
    __builtin_unreachable();
  }

  JAXQR_SWITCHES void run_thread() {
    int to = -1;
    try {
      (*body_)();
      to = finish();
    } catch (...) {
      thrown_ = std::current_exception();
    }
    go(to < 0 ? main_ : *threads_[to].fiber, to, true);
  }

  // This thread is done: which goes on, -1 if it was the last.
  int finish() {
    const Unseen unseen;
    self().done = true;
    returned_[current_ / kWarp] |= 1u << lane();
    ready_[current_] = 0;
    --live_;
    if (waiting_) pass_barrier();
    if (!live_) return -1;
    const int to = next();
    return to < 0 ? stuck() : to;
  }

  void pause() {
    ready_[current_] = 0;
    const int me = current_, next_one = next(), to = next_one < 0 ? stuck() : next_one;
    go(*threads_[to].fiber, to, false);
    current_ = me;
    threadIdx = threads_[me].index;
  }

  JAXQR_SWITCHES void go(Fiber& fiber, int thread, bool last) {
    Fiber& own = *self().fiber;
    if (thread >= 0) current_ = thread, threadIdx = threads_[thread].index;
    if (last) end_.come();
    own.switch_to(fiber, last);
  }

  // The thread that is to run, or -1 if none can.
  int next() const {
    const unsigned char* begin = ready_.data();
    const void* found =
        order_ == Order::kForwards ? memchr(begin, 1, count_) : memrchr(begin, 1, count_);
    return found ? static_cast<int>(static_cast<const unsigned char*>(found) - begin) : -1;
  }

  bool pass_barrier() {
    if (waiting_ < live_) return false;
    for (int t = 0; t < count_; ++t) {
      if (!threads_[t].done) threads_[t].before.leave();
    }
    for (int t = 0; t < count_; ++t) {
      if (!threads_[t].done) let_go(t);
    }
    waiting_ = 0;
    return true;
  }

  // All threads that wait for each other must do so at one place.
  void require_same(const Place& place, int other) const {
    const Thread& thread = threads_[other];
    if (!thread.waits || thread.place == place) return;
    fail(who(current_) + " comes to " + place.text() + ", but " + who(other) + " waits at " +
         thread.place.text());
  }

  int first_of_warp() const { return current_ - lane(); }

  template <class Use>
  static void for_lanes(unsigned mask, const Use& use) {
    for (; mask; mask &= mask - 1) use(__builtin_ctz(mask));
  }

  void check_mask(const Place& place) {
    if (!(place.mask >> lane() & 1)) {
      fail(who(current_) + " calls " + place.text() + ", which lacks its own lane");
    }
    if (const unsigned lacking = place.mask & returned_[current_ / kWarp]) {
      const int other = first_of_warp() + __builtin_ctz(lacking);
      fail(who(current_) + " waits at " + place.text() + " for " + who(other) +
           (other < count_ ? ", which has returned" : ", which the block does not have"));
    }
    const int source = self().source;
    if (!(place.mask >> source & 1)) {
      fail(who(current_) + " asks for the value of lane " + std::to_string(source) + " at " +
           place.text() + ", which lacks that lane");
    }
  }

  // Whether all lanes of the mask wait at this place. The first to be asked is the last to come.
  bool all_there(const Place& place) {
    const int first = first_of_warp();
    bool there = true;
    for (int i = 0; there && i < kWarp; ++i) {
      const int l = order_ == Order::kForwards ? kWarp - 1 - i : i;
      if (!(place.mask >> l & 1)) continue;
      const Thread& other = threads_[first + l];
      there = other.waits && other.place.mask == place.mask;
      if (there) require_same(place, first + l);
    }
    return there;
  }

  [[noreturn]] int stuck() const {
    std::map<std::string, std::vector<int>> groups;
    for (int t = 0; t < count_; ++t) {
      const Thread& thread = threads_[t];
      groups[thread.done ? "returned" : "wait at " + thread.place.text()].push_back(t);
    }
    std::string text = "no thread can go on:";
    for (const auto& [what, members] : groups) {
      text += (text.back() == ':' ? " threads " : "; threads ") + ranges(members) + " " +
              (what == "returned" ? "have " : "") + what;
    }
    fail(text);
  }

  // Such as "0-30, 32".
  static std::string ranges(const std::vector<int>& numbers) {
    std::string text;
    for (size_t i = 0; i < numbers.size();) {
      size_t end = i + 1;
      while (end < numbers.size() && numbers[end] == numbers[end - 1] + 1) ++end;
      text += (i ? ", " : "") + std::to_string(numbers[i]);
      if (end - i > 1) text += "-" + std::to_string(numbers[end - 1]);
      i = end;
    }
    return text;
  }

  Fiber main_;
  Token begin_, end_;  // of the block
  std::vector<Thread> threads_;
  std::vector<unsigned char> ready_;  // whether a thread can go on
  const std::function<void()>* body_ = nullptr;
  Order order_ = Order::kForwards;
  int count_ = 0, live_ = 0, current_ = 0;
  int waiting_ = 0, first_ = 0;  // at the block's barrier: how many wait, and who came first
  unsigned returned_[kMostThreads / kWarp];  // the lanes of each warp whose threads have returned
  std::exception_ptr thrown_;
};

}  // namespace emulate
