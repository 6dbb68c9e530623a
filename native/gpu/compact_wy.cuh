// The compact form Q = I - V T V^H of reflectors, from V^H V: the inverse of T is upper triangular,
// has 1/tau on its diagonal and what V^H V has above it (Puglisi, SIAM J. Sci. Stat. Comput. 13,
// 1992).
//
// There are NP columns, of which the first `offset` do not exist, and squares of NP columns in
// shared memory, each column kLead entries from the one before it.
#pragma once

#include "gpu/row_data.cuh"

namespace jaxqr {

template <class T, int NP>
struct Square {
  // Sixteen bytes more than a column has: then the lanes of a warp read or write sixteen bytes of a
  // column each without meeting in a bank.
  static constexpr int kLead = NP + Words<T>::kCount;
  static constexpr int kBytes = NP * kLead * static_cast<int>(sizeof(T));
};

// Subtract a multiple of a column in shared memory from the first `count` entries of x.
template <class T, int SIZE>
JAXQR_FN void subtract_multiple(const T* column, T factor, int count, T (&x)[SIZE]) {
  constexpr int kWords = Words<T>::kCount;
#pragma unroll
  for (int i = 0; i < SIZE; i += kWords) {
    if (i < count) {
      T words[kWords];
      read_words<kWords>(column + i, words);
#pragma unroll
      for (int v = 0; v < kWords; ++v) {
        if (i + v < count) x[i + v] = subtract_product(x[i + v], words[v], factor);
      }
    }
  }
}

// Solve T^{-1} X = B for the columns of an upper triangular B, one on each lane of a warp: right(l)
// is entry l of the lane's column, which is number lane + offset. X may take the place of V^H V.
//
// The products with rows that are known come in blocks, whose loops need not be unrolled.
template <class T, int NP, class Right>
JAXQR_FN void solve_with_inverse_of_t(const T* products, const T* taus, int offset,
                                      const Right& right, T* solution) {
  constexpr int kBlock = RowPiece<T>::kCols, kLead = Square<T, NP>::kLead,
                kWords = Words<T>::kCount;
  const int column = lane_of_warp() + offset;
  const bool exists = column < NP;
  T* const own = solution + (exists ? column : NP - 1) * kLead;
#pragma unroll
  for (int begin = NP - kBlock; begin >= 0; begin -= kBlock) {
    T x[kBlock];
#pragma unroll
    for (int i = 0; i < kBlock; ++i) x[i] = right(begin + i);
#pragma unroll 1
    for (int l = begin + kBlock; l < NP; l += kWords) {
      T known[kWords] = {};
      if (exists) read_words<kWords>(own + l, known);
#pragma unroll
      for (int u = 0; u < kWords; ++u) {
        subtract_multiple(products + (l + u) * kLead + begin, known[u], kBlock, x);
      }
    }
#pragma unroll
    for (int l = kBlock - 1; l >= 0; --l) {
      // rows that do not exist: their products are not known
      x[l] = begin + l < offset ? number<T>(0) : taus[begin + l] * x[l];
      subtract_multiple(products + (begin + l) * kLead + begin, x[l], l, x);
    }
    __syncwarp();  // what is overwritten now has been read by all
    if (exists) write_words<kBlock>(x, own + begin);
  }
}

// Row i of I - V W, in the place of row i of V, for each of a thread's rows: W is upper triangular,
// so the last column needs the place of none before it. (I has its ones in the columns i + offset.)
//
// LAST columns are left. Some are computed at a time, so that enough sums are under way.
// (Recursive, as NVRTC does not unroll loops whose length depends on that of another.)
template <int LAST, class T, int NP, int RP>
JAXQR_FN void subtract_from_identity(const T* w, int offset, T (&x)[RP][NP]) {
  constexpr int kLead = Square<T, NP>::kLead, kWords = Words<T>::kCount;
  constexpr int kTogether = RP < 4 ? 4 / RP : 1, kBegin = LAST - kTogether;
  if (LAST <= offset) return;
  T sum[kTogether][RP];
#pragma unroll
  for (int u = 0; u < kTogether; ++u) {
#pragma unroll
    for (int s = 0; s < RP; ++s) sum[u][s] = number<T>(row_of(s) + offset == kBegin + u);
  }
#pragma unroll
  for (int l = 0; l < LAST; l += kWords) {
#pragma unroll
    for (int u = 0; u < kTogether; ++u) {
      if (l > kBegin + u) continue;
      T words[kWords];
      read_words<kWords>(w + (kBegin + u) * kLead + l, words);
#pragma unroll
      for (int v = 0; v < kWords; ++v) {
        if (l + v > kBegin + u) continue;
#pragma unroll
        for (int s = 0; s < RP; ++s) {
          sum[u][s] = subtract_product(sum[u][s], x[s][l + v], words[v]);
        }
      }
    }
  }
#pragma unroll
  for (int u = 0; u < kTogether; ++u) {
#pragma unroll
    for (int s = 0; s < RP; ++s) x[s][kBegin + u] = sum[u][s];
  }
  if constexpr (kBegin > 0) subtract_from_identity<kBegin>(w, offset, x);
}

}  // namespace jaxqr
