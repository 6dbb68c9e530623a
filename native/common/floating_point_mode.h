// The floating-point mode in which the kernels compute.
#pragma once

#if defined(__x86_64__)
#include <xmmintrin.h>
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
  static constexpr unsigned long kFlush = 1ul << 24;  // FZ
  unsigned long saved_;
#else
  ExactDenormals() {}
#endif
  ExactDenormals(const ExactDenormals&) = delete;
  ExactDenormals& operator=(const ExactDenormals&) = delete;
};

}  // namespace jaxqr
