// What a kernel is given: the one type that host and device code share. It has no includes, as the
// compiler for the device (NVRTC) knows no standard headers.
#pragma once

namespace jaxqr {

constexpr int kMaxData = 12, kMaxSizes = 8;

struct Arguments {
  void* data[kMaxData];  // by the kernel's slots: operands, then results; null where none is asked for
  long long batch;       // how many matrices
  int sizes[kMaxSizes];  // of one matrix, and flags, in the kernel's order
};

}  // namespace jaxqr
