// A matrix in the registers of a block, and the shared memory that its factorization needs.
#pragma once

#include "gpu/compact_wy.cuh"
#include "gpu/row_data.cuh"
#include "gpu/row_sums.cuh"
#include "gpu/tiles.cuh"

namespace jaxqr {

// Of m rows those from `first` on take part. There are n <= NP columns; when all are eliminated,
// the first is in register offset().
template <class T, int NP, int RP>
struct RowMatrix {
  int m, n, first;
  T x[RP][NP];

  JAXQR_FN RowMatrix(int m, int n, int first) : m(m), n(n), first(first) {}

  JAXQR_FN int offset() const { return NP - n; }
};

// The shared memory of a block.
template <class T, int NP>
class RowMemory {
 public:
  JAXQR_FN RowMemory() : memory_(warp_memory<unsigned char>(0)) {}

  // How many bytes it has.
  JAXQR_FN static constexpr int bytes(int warps) {
    const int eliminating = weights_begin(warps) + warps * NP * kSize;
    const int copying = kScratch + warps * RowPiece<T>::kBytes;
    const int solving = kScratch + Square<T, NP>::kBytes;
    const int more = eliminating > copying ? eliminating : copying;
    return more > solving ? more : solving;
  }

  // The products V^H V, then W, by columns.
  JAXQR_FN T* square() const { return reinterpret_cast<T*>(memory_); }
  // For each column, in order of the result, the inverse of what it was multiplied by.
  JAXQR_FN Real<T>* inverses() const { return reinterpret_cast<Real<T>*>(memory_ + kInverses); }
  JAXQR_FN T* taus() const { return reinterpret_cast<T*>(memory_ + kTaus); }

  // Three that have the same place, at different times: while columns are eliminated, how much of
  // the reflector's vector each is to get, the same in all warps, behind what warps exchange;
  JAXQR_FN ColumnExchange<T, NP> exchange() const {
    return ColumnExchange<T, NP>(memory_ + kScratch);
  }
  JAXQR_FN T* weights() const {
    return reinterpret_cast<T*>(memory_ + weights_begin(warps_of_block())) + warp_of_block() * NP;
  }
  // a piece of the matrix on its way from or to global memory;
  JAXQR_FN RowPiece<T> piece() const { return RowPiece<T>(memory_ + kScratch); }
  // and T, by columns.
  JAXQR_FN T* t() const { return reinterpret_cast<T*>(memory_ + kScratch); }

 private:
  static constexpr int kSize = static_cast<int>(sizeof(T));
  static constexpr int kInverses = Square<T, NP>::kBytes;
  static constexpr int kTaus = kInverses + NP * static_cast<int>(sizeof(Real<T>));
  static constexpr int kScratch = kTaus + NP * kSize;

  JAXQR_FN static constexpr int weights_begin(int warps) {
    return kScratch + ColumnExchange<T, NP>::bytes(warps);
  }

  unsigned char* memory_;
};

}  // namespace jaxqr
