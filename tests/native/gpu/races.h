// What the thread sanitizer is told, to which the fibers of a block are threads: which of them wait
// for which, and that the emulation itself is to be left out. So it finds every pair of accesses to
// shared or global memory that no barrier orders, in whatever order they happened to run, also of
// different blocks. (Static shared memory, which is one for all blocks here, looks like a race.)
#pragma once

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>

extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace emulate {

#ifdef __SANITIZE_THREAD__
constexpr bool kSeesRaces = true;
#else
constexpr bool kSeesRaces = false;
#endif

// What was done before come() is before what is done after a leave() of the same token.
class Token {
 public:
#ifdef __SANITIZE_THREAD__
  void come() { __tsan_release(this); }
  void leave() { __tsan_acquire(this); }
#else
  void come() {}
  void leave() {}
#endif

 private:
  [[maybe_unused]] char address_ = 0;
};

// While an object of this class lives, the fiber's accesses are not the kernel's.
class Unseen {
 public:
#ifdef __SANITIZE_THREAD__
  Unseen() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Unseen() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
#else
  Unseen() {}  // not the default one: an object that is only there is no unused variable
#endif
  Unseen(const Unseen&) = delete;
  Unseen& operator=(const Unseen&) = delete;
};

}  // namespace emulate
