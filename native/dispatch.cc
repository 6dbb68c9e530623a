// Which kernel computes a problem: the one place where shape decides.
#include <algorithm>

#include "common/scalars.h"
#include "common/workspace.h"
#include "kernels.h"

// Tests may build with less.
#ifndef JAXQR_LEAST_RANDOMIZED
#define JAXQR_LEAST_RANDOMIZED 513
#endif

namespace jaxqr {
namespace {

// Whether one matrix per lane beats one matrix at a time. A group costs the same however many of
// its lanes are filled, so small batches of larger matrices do not pay; beyond some side the
// group's matrices leave the cache.
template <class S>
bool batch_kernel_pays(long batch, long m, long n) {
  constexpr long width = kWidth<RealOf<S>>;
  if (batch == 0) return false;
  const long larger = std::max(m, n), smaller = std::min(m, n);
  if (larger > 160 && m * n > 12800) return false;
  if (batch == 1) return smaller == 1 && larger <= 16;
  const long filled = batch / ceil_divide(batch, width);  // matrices in a group, on average
  if (larger <= 16) return smaller <= 8 || filled >= 2;
  return filled >= (larger <= 48 ? 3 : 4);
}

// Whether columns chosen by a sketch take less time than exact pivots, which are a valid answer as
// well. No kernel for batches takes such matrices, so the pivots do not depend on the batch.
bool randomized_pays(long m, long n) { return std::min(m, n) >= JAXQR_LEAST_RANDOMIZED; }

// Whether a derivative's passes over the rows are better done by own kernels than by BLAS.
bool few_columns(long m, long n) { return n <= kTallColumns && m >= 8 * n; }

template <class Problem, class Kernel>
void one_by_one(const Problem& problem, Pool& pool, Kernel kernel) {
  for (long b = 0; b < problem.batch; ++b) kernel(problem.slice(b, 1), pool);
}

// No entries to factor: what is left of the results is an identity.
template <class S>
void factor_empty(const QrProblem<S>& problem) {
  const bool any = (problem.p && problem.n) || (problem.q_full && problem.m);
  if (!any) return;  // however large the batch is
  for (long b = 0; b < problem.batch; ++b) {
    const QrProblem<S> one = problem.slice(b, 1);
    for (long j = 0; one.p && j < one.n; ++j) one.p[j] = static_cast<int32_t>(j);
    if (!one.q_full) continue;
    std::fill(one.q_full, one.q_full + one.m * one.m, S(0));
    for (long i = 0; i < one.m; ++i) one.q_full[i * (one.m + 1)] = 1;
  }
}

// The large results, which XLA may just have got from the system.
template <class S>
void expect_results(const QrProblem<S>& problem) {
  const long m = problem.m, n = problem.n, k = problem.k();
  const auto expect = [&](S* data, long entries) {
    prefer_huge_pages(data, static_cast<size_t>(problem.batch * entries) * sizeof(S));
  };
  if (problem.q) expect(problem.q, m * k);
  if (problem.q_full) expect(problem.q_full, m * m);
  if (problem.r) expect(problem.r, k * n);
  if (problem.h) expect(problem.h, m * n);
}

}  // namespace

template <class S>
void factor(const QrProblem<S>& problem, Pool& pool) {
  const long m = problem.m, n = problem.n;
  if (problem.batch == 0) return;
  if (m == 0 || n == 0) return factor_empty(problem);
  expect_results(problem);
  if (batch_kernel_pays<S>(problem.batch, m, n)) return factor_batch(problem, pool);
  if (problem.pivoting == Pivoting::kRandomized && randomized_pays(m, n)) {
    return one_by_one(problem, pool, factor_randomized<S>);
  }
  if (problem.pivoted()) return one_by_one(problem, pool, factor_pivoted<S>);
  if (m >= n && n <= kTallColumns && !problem.q_full) return factor_tall(problem, pool);
  one_by_one(problem, pool, factor_blocked<S>);
}

template <class S>
void form(const FormProblem<S>& problem, Pool& pool) {
  if (problem.batch == 0 || problem.m == 0 || problem.n == 0) return;
  if (batch_kernel_pays<S>(problem.batch, problem.m, problem.n)) return form_batch(problem, pool);
  one_by_one(problem, pool, form_blocked<S>);
}

template <class S>
void apply(const ApplyProblem<S>& problem, Pool& pool) {
  if (problem.batch == 0 || problem.rows == 0 || problem.cols == 0) return;
  const long other = problem.left ? problem.cols : problem.rows;
  if (other <= 160 && batch_kernel_pays<S>(problem.batch, problem.m, problem.k)) {
    return apply_batch(problem, pool);
  }
  if (problem.left && other <= kFewColumns && problem.order == Order::kRows) {
    return one_by_one(problem, pool, apply_few_columns<S>);
  }
  one_by_one(problem, pool, apply_blocked<S>);
}

template <class S>
void compute_tangent(const DerivativeProblem<S>& problem, Pool& pool) {
  const long m = problem.m, n = problem.n;
  if (problem.batch == 0 || m == 0 || n == 0) return;
  if (!problem.dq && !problem.dr) return;  // no result is wanted
  if (batch_kernel_pays<S>(problem.batch, m, n)) return compute_tangent_batch(problem, pool);
  if (few_columns(m, n)) return compute_tangent_tall(problem, pool);
  one_by_one(problem, pool, compute_tangent_blocked<S>);
}

template <class S>
void compute_cotangent(const DerivativeProblem<S>& problem, Pool& pool) {
  const long m = problem.m, n = problem.n;
  if (problem.batch == 0 || m == 0 || n == 0) return;
  if (!problem.dq && !problem.dr) {
    return std::fill(problem.da, problem.da + problem.batch * m * n, S(0));
  }
  if (batch_kernel_pays<S>(problem.batch, m, n)) return compute_cotangent_batch(problem, pool);
  if (few_columns(m, n)) return compute_cotangent_tall(problem, pool);
  one_by_one(problem, pool, compute_cotangent_blocked<S>);
}

#define INSTANTIATE(S, NAME)                                            \
  template void factor<S>(const QrProblem<S>&, Pool&);                  \
  template void form<S>(const FormProblem<S>&, Pool&);                  \
  template void apply<S>(const ApplyProblem<S>&, Pool&);                \
  template void compute_tangent<S>(const DerivativeProblem<S>&, Pool&); \
  template void compute_cotangent<S>(const DerivativeProblem<S>&, Pool&);
JAXQR_FOR_SCALARS(INSTANTIATE)

}  // namespace jaxqr
