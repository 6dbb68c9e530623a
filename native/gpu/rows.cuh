// QR of matrices of n <= NP <= 32 columns and m >= n rows, plain or pivoted, and of panels of larger
// matrices: a matrix on a block of 32 to 256 threads, each of which has RP rows in registers (thread t
// rows t, t + blockDim.x, ...).
//
// T of the compact form costs little: the products of a new reflector with those before it come with
// those with the columns that are left. Then Q = I - V T V^H takes one product more for each row, without
// any exchange.
//
// data: 0 a (m, n), 1 q (m, n), 2 r (n, n), 3 h (m, n), 4 tau (n), 5 p (n), 6 t (n, n), 7 first (1).
// sizes: 0 m, 1 n, 2 transposed, 3 panel, 4 how many columns, the first ones, are pivoted.
// A panel is n columns of a larger matrix, which lie by columns, though T lies by rows. The diagonal
// begins in row `first`, and the rows before are left as they are; reflectors that would begin behind
// the last row are trivial. Of a panel, only h, tau and t are computed.
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

  // The rows before `first` are those of `from`.
  JAXQR_FN void put_h(const T* from, T* h) const {
#pragma unroll 1
    for (int i = thread_of_block(); i < a_.first; i += threads_of_block()) {
      for (int c = 0; c < a_.n; ++c) h[c * a_.m + i] = from[c * a_.m + i];
    }
    put<RP>(h, a_.m, [&](int s, int c) {
      return row_of(s) <= a_.first + column(c) ? get_r(s, c) : a_.x[s][c];
    });
  }

  JAXQR_FN void put_r(T* r) const {
    put<1>(r, a_.n, [&](int s, int c) {
      return row_of(s) <= column(c) ? get_r(s, c) : number<T>(0);
    });
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

  // Compute T for put_t(), or W = T V_1^H with the leading square V_1 of V for put_q().
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

  JAXQR_FN void put_q(T* q) {
    subtract_from_identity<NP>(memory_.square(), a_.offset(), a_.x);
    put<RP>(q, a_.m, [&](int s, int c) { return a_.x[s][c]; });
  }

 private:
  // Which column is in register c.
  JAXQR_FN int column(int c) const { return c - a_.offset(); }
  JAXQR_FN T get_r(int s, int c) const { return scale_by(a_.x[s][c], memory_.inverses()[c]); }

  template <int COUNT, class Value>
  JAXQR_FN void put(T* to, int rows, const Value& value) const {
    if (transposed_) {
      store_by_columns<COUNT, NP>(to, a_.first, rows, a_.offset(), value);
    } else {
      store_by_rows<COUNT, NP>(to, rows, a_.offset(), memory_.piece(), value);
    }
  }

  RowMatrix<T, NP, RP>& a_;
  RowMemory<T, NP> memory_;
  bool transposed_;
};

template <class T, int NP, int RP, bool PIVOTED>
JAXQR_FN void rows(const Arguments& arguments) {
  const long long which = blockIdx.x;
  const int m = arguments.sizes[0], n = arguments.sizes[1];
  const bool transposed = arguments.sizes[2], panel = arguments.sizes[3];
  const auto data = [&](int slot, int entries) {
    T* const all = static_cast<T*>(arguments.data[slot]);
    return all ? all + which * entries : nullptr;
  };
  T *const from = data(0, m * n), *const q = data(1, m * n), *const r = data(2, n * n),
          *const h = data(3, m * n), *const tau = data(4, n), *const t = data(6, n * n);
  const int first = panel ? static_cast<const int*>(arguments.data[7])[which] : 0;

  RowMatrix<T, NP, RP> a(m, n, first);
  const RowMemory<T, NP> memory;
  RowElimination<T, NP, RP, PIVOTED> elimination(a, memory, arguments.sizes[4], q || t);
  elimination.take(from, transposed);
  elimination.factor();
  if (PIVOTED && arguments.data[5] && thread_of_block() < n) {
    static_cast<int*>(arguments.data[5])[which * n + elimination.place()] = thread_of_block();
  }
  RowResults<T, NP, RP> results(a, memory, transposed);
  if (h) results.put_h(from, h);
  if (r) results.put_r(r);
  if (tau) results.put_tau(tau);
  if (q) results.keep_reflectors();
  // A loop, so that there is one copy of the code. W takes the place of what T is computed from.
#pragma unroll 1
  for (int for_q = t ? 0 : 1; for_q < (q ? 2 : 1); ++for_q) {
    results.compute_t(for_q);
    if (!for_q) results.put_t(t, transposed && !panel);
  }
  if (q) results.put_q(q);
}

}  // namespace jaxqr
