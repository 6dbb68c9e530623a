// The rank of a matrix that is factored with pivoting, and what follows from it: another order of the
// columns, and the second factorization.
#pragma once

#include <limits>

#include "decomposition.h"
#include "independent.h"
#include "range.h"

namespace jaxqr {

template <class S>
S* triangle_of(const CodProblem<S>& one) {
  return one.h1 ? one.h1 : one.h;
}

// The sums of the magnitudes in the columns of an upper triangle.
template <class S>
void sum_columns(const S* r, long ld, long n, RealOf<S>* sums) {
  std::fill(sums, sums + n, RealOf<S>(0));
  for (long i = 0; i < n; ++i) {
    for (long j = i; j < n; ++j) sums[j] += modulus(r[i * ld + j]);
  }
}

// How many leading columns count: those whose diagonal entry is above rcond times the first or, if
// rcond is negative, not small beside their own column, (8.3). What is not a number counts.
template <class S>
long leading_run(const S* r, long ld, long n, RealOf<S> rcond, const RealOf<S>* sums) {
  using T = RealOf<S>;
  const bool own = rcond < 0;
  const T least = n && !own ? rcond * std::abs(real_part(r[0])) : 0;
  long rank = 0;
  for (; rank < n; ++rank) {
    const T bound = own ? kTolerance<T> * sums[rank] : least;
    if (std::abs(real_part(r[rank * (ld + 1)])) <= bound) break;
  }
  return rank;
}

// [R11 R12]^H = Z T of one matrix whose rank is not full; zeros behind the rank. Given the sums of
// R's columns, what is small in a column that does not count is taken for rounding in all rows: a
// small column that counts may be smaller still.
template <class S>
void factor_row_space(const S* r, long ld, long n, long rank, const RealOf<S>* sums, S* hz,
                      S* tauz, Pool& pool) {
  std::fill(hz, hz + n * n, S(0));
  std::fill(tauz, tauz + n, S(0));
  if (rank == 0 || rank == n) return;
  Workspace workspace(2 * bytes<S>(n * rank));
  S* rows = workspace.take<S>(n * rank);  // the adjoint of the leading rows
  S* h = workspace.take<S>(n * rank);
  for (long i = 0; i < n; ++i) {
    const RealOf<S> least = sums && i >= rank ? kTolerance<RealOf<S>> * sums[i] : -1;
    for (long j = 0; j < rank; ++j) {
      const S x = j <= i ? r[j * ld + i] : S(0);
      rows[i * rank + j] = modulus(x) <= least ? S(0) : conjugate(x);
    }
  }
  QrProblem<S> problem{1, n, rank, Order::kRows, Pivoting::kNone};
  problem.a = rows;
  problem.h = h;
  problem.tau = tauz;
  factor(problem, pool);
  for (long i = 0; i < n; ++i) std::copy(h + i * rank, h + (i + 1) * rank, hz + i * n);
}

// The order of one matrix's columns, and its rank, if columns are brought to the same size before
// they are pivoted. False if they are of the same size already. Given are the sums of R's columns.
template <class S>
bool pivot_evenly(const CodProblem<S>& one, const RealOf<S>* sums, int32_t* order, long* rank,
                  Pool& pool) {
  using T = RealOf<S>;
  const long m = one.m, n = one.n;
  Workspace workspace(2 * bytes<T>(n) + bytes<S>(m * n) + bytes<S>(n * n));
  T *powers = workspace.take<T>(n), *sizes = workspace.take<T>(n);
  T least = std::numeric_limits<T>::max(), most = 0;
  for (long j = 0; j < n; ++j) {
    T& power = powers[one.p[j]];
    power = 1;
    sizes[one.p[j]] = sums[j];
    if (!(sums[j] > 0 && sums[j] <= std::numeric_limits<T>::max())) continue;
    power = power_for(sums[j]);
    least = std::min(least, power);
    most = std::max(most, power);
  }
  if (most <= least) return false;
  S *even = workspace.take<S>(m * n), *r = workspace.take<S>(n * n);
  for (long i = 0; i < m; ++i) {
    for (long j = 0; j < n; ++j) even[i * n + j] = one.a[i * n + j] * powers[j];
  }
  QrProblem<S> problem{1, m, n, Order::kRows, Pivoting::kExact};
  problem.a = even;
  problem.r = r;
  problem.p = order;
  factor(problem, pool);
  sum_columns(r, n, n, powers);
  *rank = leading_run(r, n, n, T(-1), powers);
  std::stable_sort(order, order + *rank, [&](int32_t i, int32_t j) { return sizes[i] > sizes[j]; });
  return true;
}

// Factor one matrix anew whose columns are judged by their own size. Where a large one depends on
// others, what rounding leaves of it may be larger than all of a small column that is independent;
// but that one has to come first. So the columns that count are found among columns of one size, and
// then come first, the large ones before the small ones. False, and nothing is done, if all columns
// are of one size.
template <class S>
bool factor_evenly(const CodProblem<S>& one, const RealOf<S>* sums, long* rank, Pool& pool) {
  const long m = one.m, n = one.n;
  Workspace workspace(bytes<int32_t>(n) + bytes<S>(m * n));
  int32_t* order = workspace.take<int32_t>(n);
  if (!pivot_evenly(one, sums, order, rank, pool)) return false;
  S* permuted = workspace.take<S>(m * n);
  for (long i = 0; i < m; ++i) {
    for (long j = 0; j < n; ++j) permuted[i * n + j] = one.a[i * n + order[j]];
  }
  std::copy(order, order + n, one.p);
  QrProblem<S> plain{1, m, n, Order::kRows, Pivoting::kNone};
  plain.a = permuted;
  plain.h = one.h;
  plain.tau = one.tau;
  factor(plain, pool);
  if (!one.h1) return true;
  copy_upper(one.h, n, n, one.h1);
  std::fill(one.tau1, one.tau1 + n, S(0));
  return true;
}

// Whether all columns count for certain: no entry is larger than the first one and none on the
// diagonal is smaller than the last, as the columns are pivoted.
template <class S>
bool has_full_rank(const S* r, long n) {
  using T = RealOf<S>;
  constexpr T kSafe = 4 * kTolerance<T>;
  const T first = std::abs(real_part(r[0])), last = std::abs(real_part(r[n * n - 1]));
  return last > kSafe * static_cast<T>(n) * first;
}

// The rank of one matrix that is factored, and the second factorization where it is not full.
template <class S>
void find_rank(const CodProblem<S>& one, Pool& pool) {
  using T = RealOf<S>;
  const long n = one.n;
  const T rcond = static_cast<T>(one.rcond);
  const S* r = triangle_of(one);
  if (rcond < 0 && has_full_rank(r, n)) {
    *one.rank = static_cast<int32_t>(n);
    return factor_row_space<S>(r, n, n, n, nullptr, one.hz, one.tauz, pool);
  }
  Workspace workspace(bytes<T>(n));
  T* sums = workspace.take<T>(n);
  sum_columns(r, n, n, sums);
  long rank = leading_run(r, n, n, rcond, sums);
  if (rank < n && rcond < 0 && factor_evenly(one, sums, &rank, pool)) sum_columns(r, n, n, sums);
  *one.rank = static_cast<int32_t>(rank);
  factor_row_space(r, n, n, rank, rcond < 0 ? sums : nullptr, one.hz, one.tauz, pool);
}

}  // namespace jaxqr
