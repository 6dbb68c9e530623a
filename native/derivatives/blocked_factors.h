// The fixed operands of the derivatives of a large matrix: Q, R, and which columns of R count.
#pragma once

#include <cmath>
#include <limits>

#include "common/independent_columns.h"
#include "common/passes.h"
#include "common/range.h"
#include "common/workspace.h"

namespace jaxqr {

// (8.3): mark which of the leading columns of R count. `norms` is memory for k reals.
template <class S>
void find_independent(const DerivativeProblem<S>& problem, const View<S>& r, RealOf<S>* norms,
                      bool* counts) {
  using T = RealOf<S>;
  const long k = problem.k();
  const bool by_rows = problem.order == Order::kRows;
  std::fill(norms, norms + k, T(0));
  for (long l = 0; l < k; ++l) {
    const S* x = line(r, l);
    if (by_rows) {
      for (long j = l; j < k; ++j) norms[j] += modulus(x[j]);
      continue;
    }
    constexpr int kSums = 16;  // a single sum would be a chain of dependent additions
    T sums[kSums] = {};
    long i = 0;
    for (; i + kSums <= l + 1; i += kSums) {
      for (int s = 0; s < kSums; ++s) sums[s] += modulus(x[i + s]);
    }
    for (; i <= l; ++i) sums[0] += modulus(x[i]);
    for (int s = 0; s < kSums; ++s) norms[l] += sums[s];
  }
  for (long j = 0; j < k; ++j) {
    // not a number counts, so that it comes through
    counts[j] = !(modulus(r(j, j)) <= kTolerance<T> * norms[j]);
    if (problem.pivoted && j) counts[j] = counts[j] && counts[j - 1];
  }
}

// The fixed operands of a rule, R and its triangle times the scale (8.8). They are the problem's
// own arrays, save for matrices that are scaled or have columns that do not count.
template <class S>
struct Factors {
  using T = RealOf<S>;

  Factors(const DerivativeProblem<S>& problem, Pool& pool, Workspace& workspace)
      : q(dense(problem.q, problem.m, problem.k(), problem.order)),
        r(dense(problem.r, problem.k(), problem.n, problem.order)),
        counts(workspace.take<bool>(problem.k())),
        norms(workspace.take<T>(problem.k())),
        all(judge(problem)),
        scale(find_scale()),
        copies(copied_bytes(problem)) {
    const long k = problem.k(), n = problem.n;
    if (scale != 1) {
      const View<S> scaled = dense(copies.take<S>(k * n), k, n, problem.order);
      copy_triangle(pool, scale, r, k, scaled);
      r = scaled;
      all = judge(problem);
    }
    live = k;
    while (problem.pivoted && live && !counts[live - 1]) --live;
    triangle = r.block(0, 0, k, k);
    if (all) return;
    const View<S> restricted = dense(copies.take<S>(k * k), k, k, problem.order);
    copy_triangle(pool, T(1), triangle, k, restricted);
    for (long i = 0; i < k; ++i) {
      for (long j = 0; !counts[i] && j < k; ++j) restricted(i, j) = i == j ? 1 : 0;
    }
    triangle = restricted;
  }

  // Of the workspace that the constructor takes from.
  static size_t bytes(long k) { return Workspace::size<bool>(k) + Workspace::size<T>(k); }

  View<S> q;         // m x k
  View<S> r;         // k x n
  bool* counts;      // which columns count, (8.3)
  T* norms;          // of the leading columns
  bool all;          // whether all columns count
  T scale;           // a power of two
  long live;         // rows of R that have a derivative: if pivoted, those of columns that count
  View<S> triangle;  // R_m of (8.5), k x k

 private:
  bool judge(const DerivativeProblem<S>& problem) {
    find_independent(problem, r, norms, counts);
    return std::all_of(counts, counts + problem.k(), [](bool c) { return c; });
  }

  // It brings the largest and the smallest column to the two sides of 1, where one is extreme.
  T find_scale() const {
    const long k = r.rows;
    if (std::all_of(norms, norms + k, [](T norm) { return scale_for(norm) == 1; })) return 1;
    T least = std::numeric_limits<T>::max(), most = 0;
    for (long j = 0; j < r.cols; ++j) {
      T largest = 0;
      for (long i = 0; i < std::min(j + 1, k); ++i) {
        const S x = r(i, j);
        largest = std::max({largest, std::abs(std::real(x)), std::abs(std::imag(x))});
      }
      if (largest > 0) least = std::min(least, largest);
      most = std::max(most, largest);
    }
    return middle_scale(least, most);
  }

  size_t copied_bytes(const DerivativeProblem<S>& problem) const {
    const long k = problem.k();
    return (scale == 1 ? 0 : Workspace::size<S>(k * problem.n)) +
           (scale == 1 && all ? 0 : Workspace::size<S>(k * k));
  }

  Workspace copies;
};

}  // namespace jaxqr
