// Memory for the time of a computation, kept between calls as page faults would cost more than
// many a factorization.
#pragma once

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
// a computation that holds one), up to a bound.
class Workspace {
 public:
  explicit Workspace(size_t bytes) : block_(nullptr), next_(nullptr), end_(nullptr) {
    Kept& kept = kept_();
    if (kept.depth < kDepths && bytes <= kKeptBytes) {
      Block& block = kept.blocks[kept.depth];
      if (block.bytes < bytes) {
        std::free(block.data);
        block = {};
        block.data = allocate(bytes);
        block.bytes = bytes;
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
    --kept_().depth;
    std::free(block_);
  }

  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  template <class T>
  static constexpr size_t size(long count) {
    return (static_cast<size_t>(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
  }

  template <class T>
  T* take(long count) {
    T* piece = reinterpret_cast<T*>(next_);
    next_ += size<T>(count);
    if (next_ > end_) throw std::bad_alloc();  // the sizes announced were too small
    return piece;
  }

 private:
  static constexpr size_t kAlignment = 64;
  static constexpr size_t kKeptBytes = size_t{64} << 20;  // by a thread, at one depth
  static constexpr int kDepths = 3;

  struct Block {
    void* data = nullptr;
    size_t bytes = 0;
  };
  struct Kept {
    Block blocks[kDepths];
    int depth = 0;
    ~Kept() {
      for (Block& block : blocks) std::free(block.data);
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
