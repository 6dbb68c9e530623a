// The results of matrices that are not finite.
#pragma once

#include <algorithm>
#include <limits>

#include "common/problems.h"

namespace jaxqr {

// Fill the results of one matrix that is not finite; its permutation is the identity.
template <class S>
void fill_nan(const QrProblem<S>& problem) {
  const long m = problem.m, n = problem.n, k = problem.k();
  S nan = std::numeric_limits<RealOf<S>>::quiet_NaN();
  if constexpr (kIsComplex<S>) nan = S(nan.real(), nan.real());
  if (problem.q) std::fill_n(problem.q, m * k, nan);
  if (problem.q_full) std::fill_n(problem.q_full, m * m, nan);
  if (problem.h) std::fill_n(problem.h, m * n, nan);
  if (problem.tau) std::fill_n(problem.tau, k, nan);
  for (long j = 0; problem.p && j < n; ++j) problem.p[j] = static_cast<int32_t>(j);
  if (!problem.r) return;
  const bool by_rows = problem.order == Order::kRows;
  for (long i = 0; i < k; ++i) {
    for (long j = 0; j < n; ++j) problem.r[by_rows ? i * n + j : i + j * k] = j < i ? S(0) : nan;
  }
}

}  // namespace jaxqr
