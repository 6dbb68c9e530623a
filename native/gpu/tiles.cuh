// Shared memory: small matrices pass through it, so that global memory is read and written in
// the order in which it lies, whatever thread wants which entry.
#pragma once

#include "gpu/numbers.cuh"

namespace jaxqr {

// The dynamic shared memory of the block, of which every warp has an equal part.
template <class T>
JAXQR_FN T* warp_memory(int bytes_per_warp) {
#ifdef __CUDACC__
  extern __shared__ __align__(16) unsigned char shared[];
#else
  unsigned char* const shared = emulate::shared_memory();
#endif
  return reinterpret_cast<T*>(shared + threadIdx.x / 32 * bytes_per_warp);
}

// Divides numbers below 2^16 by a number that is the same for all: a product in place of a division.
class Divisor {
 public:
  JAXQR_FN explicit Divisor(unsigned by) : by_(by), inverse_(0xffffffffu / by + 1) {}
  JAXQR_FN unsigned divide(unsigned x) const { return by_ == 1 ? x : __umulhi(x, inverse_); }
  JAXQR_FN unsigned by() const { return by_; }

 private:
  unsigned by_, inverse_;
};

// Matrices of one shape, one after another, in the shared memory of a warp. Rows are an odd number
// of entries apart, so that neither rows nor columns meet in one bank.
//
// In global memory a matrix lies by rows or, if `transposed`, by columns.
template <class T>
class Tiles {
 public:
  JAXQR_FN Tiles(T* data, int rows, int cols, bool transposed)
      : data_(data), outer_(transposed ? cols : rows), inner_(transposed ? rows : cols),
        transposed_(transposed), lead_(inner_ | 1) {}

  JAXQR_FN T& at(int which, int i, int j) const {
    const int outer = transposed_ ? j : i, inner = transposed_ ? i : j;
    return data_[(which * outer_ + outer) * lead_ + inner];
  }

  // Copy `count` matrices, which lie at `from`, here. Threads of the warp take turns.
  JAXQR_FN void load(const T* from, int count) const {
    for_entries(count, [&](unsigned here, unsigned there) { data_[here] = from[there]; });
  }
  // Copy `count` matrices to `to`.
  JAXQR_FN void store(T* to, int count) const {
    for_entries(count, [&](unsigned here, unsigned there) { to[there] = data_[here]; });
  }

 private:
  template <class Use>
  JAXQR_FN void for_entries(int count, const Use& use) const {
    const Divisor row(inner_);
    for (unsigned e = threadIdx.x % 32; e < unsigned(count * outer_ * inner_); e += 32) {
      use(e + row.divide(e) * (lead_ - inner_), e);
    }
  }

  T* data_;
  int outer_, inner_;
  bool transposed_;
  int lead_;
};

// How many entries such matrices take.
JAXQR_FN int tile_entries(int rows, int cols) {
  const int by_rows = rows * (cols | 1), by_columns = cols * (rows | 1);
  return by_rows > by_columns ? by_rows : by_columns;
}

}  // namespace jaxqr
