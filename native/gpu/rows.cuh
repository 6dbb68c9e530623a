// QR of matrices of n <= NP <= 32 columns and m >= n rows, plain or pivoted, and of panels of
// larger matrices: a matrix on a block of 32 to 256 threads, each of which has RP rows in registers
// (thread t rows t, t + blockDim.x, ...).
//
// T of the compact form costs little: the products of a new reflector with those before it come
// with those with the columns that are left. Then Q = I - V T V^H takes one product more for each
// row, without any exchange.
//
// data: 0 a (m, n), 1 q (m, n), 2 r (n, n), 3 h (m, n), 4 tau (n), 5 p (n), 6 t (n, n), 7 first.
// sizes: 0 m, 1 n, 2 transposed, 3 panel, 4 how many columns, the first ones, are pivoted.
//
// A panel is n columns of a larger matrix, which lie by columns, though T lies by rows. The
// diagonal begins in row `first`, and the rows before are left as they are; reflectors that would
// begin behind the last row are trivial. Of a panel, only h, tau and t are computed.
#pragma once

#include "gpu/arguments.h"
#include "gpu/row_elimination.cuh"

namespace jaxqr {

// What is computed from a matrix whose columns are eliminated, and how it gets to global memory.
template <class T, int NP, int RP>
class RowResults {
 public:
  JAXQR_FN RowResults(RowMatrix<T, NP, RP>& a, const RowMemory<T, NP>& memory, bool transposed)
      : a_(a), memory_(memory), transposed_(transposed) {}

  // Multiply R by what the columns were divided by. Only V and tau may be of use afterwards.
  JAXQR_FN void scale_r() {
#pragma unroll
    for (int c = 0; c < NP; ++c) {
      const Real<T> inverse = memory_.inverses()[c];
#pragma unroll
      for (int s = 0; s < RP; ++s) {
        if (row_of(s) <= a_.first + column(c)) a_.x[s][c] = scale_by(a_.x[s][c], inverse);
      }
    }
  }

  // Copy the rows before `first`.
  JAXQR_FN void copy_rows_before(const T* from, T* to) const {
#pragma unroll 1
    for (int i = thread_of_block(); i < a_.first; i += threads_of_block()) {
#pragma unroll 4
      for (int c = 0; c < a_.n; ++c) to[c * a_.m + i] = from[c * a_.m + i];
    }
  }

  JAXQR_FN void put_all_rows(T* to) const { put(a_.x, a_.m, to); }

  JAXQR_FN void put_r(T* r) const {
    T row[1][NP];
#pragma unroll
    for (int c = 0; c < NP; ++c) {
      row[0][c] = row_of(0) <= column(c) ? a_.x[0][c] : number<T>(0);
    }
    put(row, a_.n, r);
  }

  JAXQR_FN void put_tau(T* tau) const {
    const int j = thread_of_block();
    if (j < a_.n) tau[j] = memory_.taus()[j + a_.offset()];
  }

  // From here on the registers hold V, with its ones and zeros, and not R.
  JAXQR_FN void keep_reflectors() {
#pragma unroll
    for (int c = 0; c < NP; ++c) {
      if (row_of(0) <= column(c)) a_.x[0][c] = number<T>(row_of(0) == column(c));
    }
  }

  // Compute T for put_t(), or W = T V_1^H with the leading square V_1 of V for compute_q().
  JAXQR_FN void compute_t(bool times_v) {
    __syncthreads();
    if (warp_of_block() == 0) {
      const auto right = [&](int l) {
        return times_v ? conjugate(a_.x[0][l]) : number<T>(lane_of_warp() == column(l));
      };
      T* const solution = times_v ? memory_.square() : memory_.t();
      solve_with_inverse_of_t<T, NP>(memory_.square(), memory_.taus(), a_.offset(), right,
                                     solution);
    }
    __syncthreads();
  }

  JAXQR_FN void put_t(T* t, bool transposed) const {
    const int lane = lane_of_warp();
    if (lane >= a_.n) return;
    for (int other = warp_of_block(); other < a_.n; other += warps_of_block()) {
      const int i = transposed ? lane : other, c = transposed ? other : lane;
      const T entry = memory_.t()[(c + a_.offset()) * Square<T, NP>::kLead + i + a_.offset()];
      t[other * a_.n + lane] = i <= c ? entry : number<T>(0);
    }
  }

  // Turn the rows of V into rows of Q.
  JAXQR_FN void compute_q() { subtract_from_identity<NP>(memory_.square(), a_.offset(), a_.x); }

 private:
  // Which column is in register c.
  JAXQR_FN int column(int c) const { return c - a_.offset(); }

  template <int COUNT>
  JAXQR_FN void put(const T (&x)[COUNT][NP], int rows, T* to) const {
    if (transposed_) {
      store_by_columns(x, a_.first, rows, a_.offset(), to);
    } else {
      store_by_rows(x, rows, a_.offset(), memory_.piece(), to);
    }
  }

  RowMatrix<T, NP, RP>& a_;
  RowMemory<T, NP> memory_;
  bool transposed_;
};

template <class T, int NP, int RP, bool PIVOTED>
JAXQR_FN void rows(const Arguments& arguments) {
  constexpr int kA = 0, kQ = 1, kR = 2, kH = 3, kTau = 4, kP = 5, kT = 6, kFirst = 7;
  const int m = arguments.sizes[0], n = arguments.sizes[1];
  const bool transposed = arguments.sizes[2], panel = arguments.sizes[3];
  const long long which = blockIdx.x;
  const bool with_q = arguments.data[kQ], with_t = arguments.data[kT], with_h = arguments.data[kH];
  // Addresses are computed where they are needed: until then, the registers have better uses.
  const auto data = [&](int slot, int entries) {
    return static_cast<T*>(arguments.data[slot]) + which * entries;
  };
  const int first = panel ? static_cast<const int*>(arguments.data[kFirst])[which] : 0;

  RowMatrix<T, NP, RP> a(m, n, first);
  const RowMemory<T, NP> memory;
  RowElimination<T, NP, RP, PIVOTED> elimination(a, memory, arguments.sizes[4], with_q || with_t);
  elimination.take(data(kA, m * n), transposed);
  elimination.factor();
  if (PIVOTED && arguments.data[kP] && thread_of_block() < n) {
    static_cast<int*>(arguments.data[kP])[which * n + elimination.place()] = thread_of_block();
  }
  RowResults<T, NP, RP> results(a, memory, transposed);
  if (arguments.data[kTau]) results.put_tau(data(kTau, n));
  if (with_h || arguments.data[kR]) results.scale_r();
  if (arguments.data[kR]) results.put_r(data(kR, n * n));
  if (with_h) {
    results.copy_rows_before(data(kA, m * n), data(kH, m * n));
    results.put_all_rows(data(kH, m * n));
  }
  if (with_q) results.keep_reflectors();
  // A loop, so that there is one copy of the code. W takes the place of what T is computed from.
#pragma unroll 1
  for (int for_q = with_t ? 0 : 1; for_q < (with_q ? 2 : 1); ++for_q) {
    results.compute_t(for_q);
    if (!for_q) results.put_t(data(kT, n * n), transposed && !panel);
  }
  if (with_q) {
    results.compute_q();
    results.put_all_rows(data(kQ, m * n));
  }
}

}  // namespace jaxqr
