// Memory for the time of a computation, kept between calls as page faults would cost more than
// many a factorization.
#pragma once

#include <cstddef>
#include <new>

namespace jaxqr {

// Ask for large pages where memory is large, as NumPy does: a page fault for each 4 KiB of a fresh
// 2048 x 2048 result takes a tenth of the time of its factorization.
void prefer_huge_pages(void* data, size_t bytes);

// A block of bytes, handed out in aligned pieces and taken back when the object dies.
//
//   Workspace workspace(Workspace::size<double>(m * n) + Workspace::size<int>(n));
//   double* v = workspace.take<double>(m * n);
//
// Each thread keeps one block for every depth of nesting (a parallel loop's body may run inside
// a computation that holds one), up to a bound. All threads of the process together, who may be
// many and idle for long, keep no more than kKeptInAll.
class Workspace {
 public:
  explicit Workspace(size_t bytes);
  ~Workspace();
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
  static size_t bytes_in_blocks();
  static constexpr size_t kKeptInAll = size_t{256} << 20;
  static constexpr size_t kAlignment = 64;

 private:
  static constexpr size_t kMostBytes = size_t{1} << 56;  // more than any machine has

  void* own_ = nullptr;  // the memory, where no kept block served
  char *next_, *end_;
};

}  // namespace jaxqr
