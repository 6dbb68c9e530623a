// Memory for the time of a computation, kept between calls as page faults would cost more than
// many a factorization.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace jaxqr {

constexpr size_t kHugePage = size_t{2} << 20;

// Ask for large pages where memory is large, as NumPy does: a page fault for each 4 KiB of a fresh
// 2048 x 2048 result takes a tenth of the time of its factorization.
inline void prefer_huge_pages(void* data, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr size_t kLeast = size_t{8} << 20;
  if (!data || bytes < kLeast) return;
  const auto address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = (address + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (address + bytes) / kHugePage * kHugePage;
  // it is a hint: no matter if it is refused
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

// A block of bytes, handed out in aligned pieces and taken back when the object dies.
//
//   Workspace workspace(Workspace::size<double>(m * n) + Workspace::size<int>(n));
//   double* v = workspace.take<double>(m * n);
//
// Each thread keeps one block for every depth of nesting (a parallel loop's body may run inside
// a computation that holds one), up to a bound; and all threads of the process, who may be many and
// idle for long, keep no more than another.
class Workspace {
 public:
  explicit Workspace(size_t bytes) : block_(nullptr), next_(nullptr), end_(nullptr) {
    Kept& kept = kept_();
    if (kept.depth < kDepths && bytes <= kKeptBytes) {
      Block& block = kept.blocks[kept.depth];
      if (block.bytes < bytes) {
        block.free();
        block.data = allocate(bytes);
        block.bytes = bytes;
        in_blocks_ += bytes;
      }
      next_ = static_cast<char*>(block.data);
    } else {
      block_ = allocate(bytes);
      next_ = static_cast<char*>(block_);
    }
    end_ = next_ + bytes;
    ++kept.depth;
  }

  ~Workspace() {
    Kept& kept = kept_();
    --kept.depth;
    if (block_) {
      std::free(block_);
    } else if (in_blocks_ > kKeptInAll) {
      kept.blocks[kept.depth].free();
    }
  }

  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // Of an array of `count` entries. No sum of a few such sizes overflows.
  template <class T>
  static constexpr size_t size(long count) {
    if (static_cast<size_t>(count) > kMostBytes / sizeof(T)) throw std::bad_alloc();
    return (static_cast<size_t>(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
  }

  template <class T>
  T* take(long count) {
    T* piece = reinterpret_cast<T*>(next_);
    next_ += size<T>(count);
    if (next_ > end_) throw std::bad_alloc();  // the sizes announced were too small
    return piece;
  }

  // The bytes that all threads keep, used or idle; when they are idle, at most kKeptInAll.
  static size_t in_blocks() { return in_blocks_; }
  static constexpr size_t kKeptInAll = size_t{256} << 20;

 private:
  static constexpr size_t kAlignment = 64;
  static constexpr size_t kMostBytes = size_t{1} << 56;   // more than any machine has
  static constexpr size_t kKeptBytes = size_t{64} << 20;  // by a thread, at one depth
  static constexpr int kDepths = 3;

  static inline std::atomic<size_t> in_blocks_{0};

  struct Block {
    void* data = nullptr;
    size_t bytes = 0;

    void free() {
      std::free(data);
      in_blocks_ -= bytes;
      *this = {};
    }
  };
  struct Kept {
    Block blocks[kDepths];
    int depth = 0;
    ~Kept() {
      for (Block& block : blocks) block.free();
    }
  };

  static Kept& kept_() {
    static thread_local Kept kept;
    return kept;
  }

  static void* allocate(size_t bytes) {
    void* data = std::aligned_alloc(kAlignment, (bytes + kAlignment) / kAlignment * kAlignment);
    if (!data) throw std::bad_alloc();
    prefer_huge_pages(data, bytes);
    return data;
  }

  void* block_;  // owned, where no kept block served
  char *next_, *end_;
};

}  // namespace jaxqr
