// CUDA for g++: a file of kernels that includes no header of its own compiles behind this one, and
// emulate::launch runs one of them on the CPU, for tests.
//
// The threads of a block are fibers, which change over only where they must wait for each other. In
// the two orders a kernel that lacks a barrier gives different results. Dynamic shared memory,
// which kernels get from emulate::shared_memory(), begins as NaN in every block. Any number of
// threads may launch at a time, each runs its own blocks one after another.
#pragma once

#include <math.h>
#include <stdint.h>

#include <list>
#include <type_traits>

#include "block.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))
// in a function this is static, too
#define __shared__ thread_local

namespace emulate {

// As on a device, if nothing else is asked for.
constexpr size_t kSharedBytes = size_t{48} << 10;
constexpr unsigned kMostBlocks = 0x7fffffff;

// The dynamic shared memory of a block: exactly what was asked for, between bytes that nothing may
// touch. The address sanitizer sees reads and writes there, everyone else only writes.
class SharedMemory {
 public:
  explicit SharedMemory(size_t bytes) : bytes_(bytes), memory_(bytes + 2 * kMargin + kUnit) {
    const size_t over = reinterpret_cast<uintptr_t>(memory_.data()) % kUnit;
    begin_ = memory_.data() + kMargin + (over ? kUnit - over : 0);
    std::memset(begin_ - kMargin, kMark, kMargin);
    std::memset(begin_ + bytes_, kMark, kMargin);
    JAXQR_POISON(begin_ - kMargin, kMargin);
    JAXQR_POISON(begin_ + bytes_, kMargin);
  }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  ~SharedMemory() { JAXQR_UNPOISON(memory_.data(), memory_.size()); }

  unsigned char* begin() const { return begin_; }
  void fill() { std::memset(begin_, 0xff, bytes_); }

#if defined(__SANITIZE_ADDRESS__)
  void check() const {}
#else
  void check() const {
    for (size_t i = 0; i < kMargin; ++i) {
      if (begin_[bytes_ + i] != kMark || *(begin_ - 1 - i) != kMark) {
        throw Misuse("a kernel writes outside of its " + std::to_string(bytes_) +
                     " bytes of shared memory, in block " + std::to_string(blockIdx.x));
      }
    }
  }
#endif

 private:
  static constexpr size_t kUnit = 16, kMargin = 256;
  static constexpr unsigned char kMark = 0xa5;
  size_t bytes_;
  std::vector<unsigned char> memory_;
  unsigned char* begin_;
};

inline thread_local unsigned char* dynamic_shared_memory = nullptr;
inline unsigned char* shared_memory() { return dynamic_shared_memory; }

// What a launch may ask for; a kernel may be promised less threads and given more memory.
struct Limits {
  unsigned threads = kMostThreads;
  size_t shared_bytes = kSharedBytes;
};

// Run kernel() on every thread of a grid of one dimension.
//
// Throws Misuse where a launch or what the kernel does is wrong.
inline void launch(const std::function<void()>& kernel, dim3 grid, dim3 block, size_t shared_bytes,
                   Order order = Order::kForwards, Limits limits = {}) {
  const auto require = [](bool good, const char* what, size_t got, size_t most) {
    if (good) return;
    throw Misuse("a launch with " + std::to_string(got) + " " + what + ", where " +
                 std::to_string(most) + " are the most");
  };
  const size_t threads = size_t{block.x} * block.y * block.z;
  if (running) throw Misuse("a kernel launches a kernel");
  require(threads > 0 && threads <= limits.threads, "threads in a block", threads, limits.threads);
  require(shared_bytes <= limits.shared_bytes, "bytes of shared memory", shared_bytes,
          limits.shared_bytes);
  require(grid.x > 0 && grid.x <= kMostBlocks, "blocks", grid.x, kMostBlocks);
  require(grid.y == 1 && grid.z == 1, "rows of blocks", size_t{grid.y} * grid.z, 1);
  static thread_local Block fibers;
  std::list<SharedMemory> memories;  // one for all blocks, or for each
  blockDim = block, gridDim = grid;
  const Unseen unseen;
  for (unsigned b = 0; b < grid.x; ++b) {
    if (memories.empty() || kSeesRaces) memories.emplace_back(shared_bytes);
    // the blocks of a grid, too, come in any order
    blockIdx = {order == Order::kForwards ? b : grid.x - 1 - b, 0, 0};
    dynamic_shared_memory = memories.back().begin();
    memories.back().fill();
    fibers.run(block, order, kernel);
    memories.back().check();
  }
  fibers.end_grid();
}

inline Block& block() {
  if (!running) throw Misuse("a function of the device is called outside of a launch");
  return *running;
}

// A value of `lane` of this thread's warp.
template <class V>
V shuffle(const char* operation, unsigned mask, V value, int lane, int width, const char* file,
          int line) {
  static_assert(std::is_arithmetic_v<V> && (sizeof(V) == 4 || sizeof(V) == 8),
                "CUDA shuffles numbers of four and of eight bytes");
  const Unseen unseen;
  Block& block = emulate::block();
  Thread& me = block.self();
  me.source = lane;
  std::memcpy(me.value, &value, sizeof value);
  block.exchange({operation, file, line, mask, width, sizeof value});
  std::memcpy(&value, me.result, sizeof value);
  return value;
}

// Checks the distance to another lane; gives the first lane of this one's segment.
inline int segment(const char* operation, unsigned distance, int width, const char* file,
                   int line) {
  const Place place{operation, file, line};
  if (width < 1 || width > kWarp || (width & (width - 1))) {
    block().fail("width " + std::to_string(width) + " at " + place.text() +
                 " is no power of two up to 32");
  }
  if (distance >= kWarp) {
    block().fail("distance " + std::to_string(distance) + " at " + place.text() +
                 " is not below 32");
  }
  return block().lane() & ~(width - 1);
}

// The lanes of the mask whose threads bring true. As a shuffle it orders no accesses to memory,
// unless it is told to.
inline unsigned vote(const char* operation, unsigned mask, bool value, const char* file, int line,
                     bool orders = false) {
  const Unseen unseen;
  Block& block = emulate::block();
  Thread& me = block.self();
  me.source = block.lane();
  me.vote = value;
  block.exchange({operation, file, line, mask, 0, 0, orders});
  return me.votes;
}

}  // namespace emulate

// Where a function is called stands in its default arguments.
#define JAXQR_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(JAXQR_CALLER) {
  emulate::block().synchronize({"__syncthreads", file, line, 0, 0, 0, true});
}
inline void __syncwarp(unsigned mask = emulate::kAllLanes, JAXQR_CALLER) {
  emulate::vote("__syncwarp", mask, false, file, line, true);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, JAXQR_CALLER) {
  return emulate::vote("__ballot_sync", mask, predicate != 0, file, line);
}
inline int __any_sync(unsigned mask, int predicate, JAXQR_CALLER) {
  return emulate::vote("__any_sync", mask, predicate != 0, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, JAXQR_CALLER) {
  return emulate::vote("__all_sync", mask, predicate != 0, file, line) == mask;
}

template <class V>
V __shfl_sync(unsigned mask, V value, int lane, int width = emulate::kWarp, JAXQR_CALLER) {
  const char* name = "__shfl_sync";
  const int first = emulate::segment(name, 0, width, file, line);
  return emulate::shuffle(name, mask, value, first + (lane & (width - 1)), width, file, line);
}
template <class V>
V __shfl_up_sync(unsigned mask, V value, unsigned delta, int width = emulate::kWarp, JAXQR_CALLER) {
  const char* name = "__shfl_up_sync";
  const int first = emulate::segment(name, delta, width, file, line), own = emulate::block().lane();
  const int other = own - static_cast<int>(delta), lane = other < first ? own : other;
  return emulate::shuffle(name, mask, value, lane, width, file, line);
}
template <class V>
V __shfl_down_sync(unsigned mask, V value, unsigned delta, int width = emulate::kWarp,
                   JAXQR_CALLER) {
  const char* name = "__shfl_down_sync";
  const int first = emulate::segment(name, delta, width, file, line), own = emulate::block().lane();
  const int other = own + static_cast<int>(delta), lane = other >= first + width ? own : other;
  return emulate::shuffle(name, mask, value, lane, width, file, line);
}
template <class V>
V __shfl_xor_sync(unsigned mask, V value, int bits, int width = emulate::kWarp, JAXQR_CALLER) {
  const char* name = "__shfl_xor_sync";
  const int first = emulate::segment(name, bits, width, file, line), own = emulate::block().lane();
  const int lane =
      (own ^ bits) >= first + width ? own : own ^ bits;  // earlier segments may be read
  return emulate::shuffle(name, mask, value, lane, width, file, line);
}

inline unsigned __umulhi(unsigned x, unsigned y) { return uint64_t{x} * y >> 32; }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
