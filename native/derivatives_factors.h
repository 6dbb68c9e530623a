// The fixed operands of the derivatives of a large matrix: Q, R, and which columns of R count.
#pragma once

#include <cmath>
#include <limits>

#include "passes.h"
#include "workspace.h"

namespace jaxqr {

// |x|, whatever its exponent; NaN if a part is.
template <class S>
JAXQR_INLINE RealOf<S> modulus(S x) {
  if constexpr (kIsComplex<S>) {
    const RealOf<S> a = std::abs(x.real()), b = std::abs(x.imag());
    const RealOf<S> large = a > b ? a : b, small = a > b ? b : a, ratio = small / large;
    return large == 0 ? small : large * std::sqrt(1 + ratio * ratio);
  } else {
    return std::abs(x);
  }
}

// (8.3): mark which of the leading columns of R count. `norms` is memory for k reals.
template <class S>
void find_independent(const DerivativeProblem<S>& problem, RealOf<S>* norms, bool* counts) {
  using T = RealOf<S>;
  const long k = problem.k();
  const bool by_rows = problem.order == Order::kRows;
  const View<S> r = dense(problem.r, k, problem.n, problem.order);
  // The weight keeps sums from overflow; it is well if the diagonal over the tolerance overflows.
  const T weight = T(1) / (1 << 16);
  const T tolerance = static_cast<T>(std::max(problem.m, problem.n)) *
                      std::numeric_limits<T>::epsilon();
  std::fill(norms, norms + k, T(0));
  for (long l = 0; l < k; ++l) {
    const S* x = line(r, l);
    if (by_rows) {
      for (long j = l; j < k; ++j) norms[j] += weight * modulus(x[j]);
      continue;
    }
    constexpr int kSums = 16;  // a single sum would be a chain of dependent additions
    T sums[kSums] = {};
    long i = 0;
    for (; i + kSums <= l + 1; i += kSums) {
      for (int s = 0; s < kSums; ++s) sums[s] += weight * modulus(x[i + s]);
    }
    for (; i <= l; ++i) sums[0] += weight * modulus(x[i]);
    for (int s = 0; s < kSums; ++s) norms[l] += sums[s];
  }
  for (long j = 0; j < k; ++j) {
    counts[j] = weight / tolerance * modulus(r(j, j)) > norms[j];
    if (problem.pivoted && j) counts[j] = counts[j] && counts[j - 1];
  }
}

// The fixed operands of a rule, R and its triangle times the scale (8.8). They are the problem's
// own arrays, save for matrices that are scaled or have columns that do not count.
template <class S>
struct Factors {
  Factors(const DerivativeProblem<S>& problem, Pool& pool, Workspace& workspace)
      : scale(*problem.scale),
        counts(workspace.take<bool>(problem.k())),
        all(judge(problem, workspace.take<RealOf<S>>(problem.k()), counts)),
        copies(copied_bytes(problem)) {
    const long k = problem.k(), n = problem.n;
    live = k;
    while (problem.pivoted && live && !counts[live - 1]) --live;
    q = dense(problem.q, problem.m, k, problem.order);
    r = dense(problem.r, k, n, problem.order);
    if (scale != 1) {
      const View<S> scaled = dense(copies.take<S>(k * n), k, n, problem.order);
      copy_triangle(pool, scale, r, k, scaled);
      r = scaled;
    }
    triangle = r.block(0, 0, k, k);
    if (all) return;
    const View<S> restricted = dense(copies.take<S>(k * k), k, k, problem.order);
    copy_triangle(pool, RealOf<S>(1), triangle, k, restricted);
    for (long i = 0; i < k; ++i) {
      for (long j = 0; !counts[i] && j < k; ++j) restricted(i, j) = i == j ? 1 : 0;
    }
    triangle = restricted;
  }

  // Of the workspace that the constructor takes from.
  static size_t bytes(long k) {
    return Workspace::size<bool>(k) + Workspace::size<RealOf<S>>(k);
  }

  RealOf<S> scale;
  bool* counts;      // which columns count, (8.3)
  bool all;          // whether all do
  long live;         // rows of R that have a derivative: if pivoted, those of columns that count
  View<S> q;         // m x k
  View<S> r;         // k x n
  View<S> triangle;  // R_m of (8.5), k x k

 private:
  static bool judge(const DerivativeProblem<S>& problem, RealOf<S>* norms, bool* counts) {
    find_independent(problem, norms, counts);
    return std::all_of(counts, counts + problem.k(), [](bool c) { return c; });
  }
  size_t copied_bytes(const DerivativeProblem<S>& problem) const {
    const long k = problem.k();
    return (scale == 1 ? 0 : Workspace::size<S>(k * problem.n)) +
           (all ? 0 : Workspace::size<S>(k * k));
  }

  Workspace copies;
};

}  // namespace jaxqr
