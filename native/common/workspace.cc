// Memory for the time of a computation.
#include "common/workspace.h"

#include <atomic>
#include <cstdint>
#include <cstdlib>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace jaxqr {
namespace {

constexpr int kDepths = 3;
constexpr size_t kKeptBytes = size_t{64} << 20;  // by a thread, at one depth

std::atomic<size_t> in_blocks{0};

void* allocate(size_t bytes) {
  constexpr size_t alignment = Workspace::kAlignment;
  void* data = std::aligned_alloc(alignment, (bytes + alignment) / alignment * alignment);
  if (!data) throw std::bad_alloc();
  prefer_huge_pages(data, bytes);
  return data;
}

struct Block {
  void* data = nullptr;
  size_t bytes = 0;

  void free() {
    std::free(data);
    in_blocks -= bytes;
    *this = {};
  }
};

// What a thread keeps.
struct Kept {
  Block blocks[kDepths];
  int depth = 0;
  ~Kept() {
    for (Block& block : blocks) block.free();
  }
};

Kept& kept_by_thread() {
  static thread_local Kept kept;
  return kept;
}

}  // namespace

void prefer_huge_pages(void* data, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr size_t kHugePage = size_t{2} << 20, kLeast = size_t{8} << 20;
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

Workspace::Workspace(size_t bytes) {
  Kept& kept = kept_by_thread();
  if (kept.depth < kDepths && bytes <= kKeptBytes) {
    Block& block = kept.blocks[kept.depth];
    if (block.bytes < bytes) {
      block.free();
      block.data = allocate(bytes);
      block.bytes = bytes;
      in_blocks += bytes;
    }
    next_ = static_cast<char*>(block.data);
  } else {
    own_ = allocate(bytes);
    next_ = static_cast<char*>(own_);
  }
  end_ = next_ + bytes;
  ++kept.depth;
}

Workspace::~Workspace() {
  Kept& kept = kept_by_thread();
  --kept.depth;
  if (own_) {
    std::free(own_);
  } else if (in_blocks > kKeptInAll) {
    kept.blocks[kept.depth].free();
  }
}

size_t Workspace::bytes_in_blocks() { return in_blocks; }

}  // namespace jaxqr
