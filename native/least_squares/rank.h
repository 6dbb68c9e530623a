// The rank of a matrix that is factored with pivoting, and what follows from it: another order of
// the columns, and the second factorization.
#pragma once

#include <limits>
#include <numeric>

#include "common/independent_columns.h"
#include "common/range.h"
#include "least_squares/row_space.h"

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
void factor_row_space(const S* r, long ld, long n, long rank, const RealOf<S>* sums, S* hz, S* tauz,
                      Pool& pool) {
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

// The columns of a triangle brought to the same size by powers of two: what rounding leaves of any
// is as small then beside all others as beside itself.
template <class S>
struct EvenColumns {
  using T = RealOf<S>;

  S* columns;  // n x n
  T* powers;   // by which they are multiplied

  static size_t workspace(long n) { return bytes<S>(n * n) + bytes<T>(n); }

  // Given are the sums of the columns.
  EvenColumns(const S* r, const T* sums, long n, Workspace& workspace)
      : columns(workspace.take<S>(n * n)), powers(workspace.take<T>(n)) {
    for (long j = 0; j < n; ++j) powers[j] = sums[j] > 0 ? power_for(sums[j]) : T(1);
    for (long i = 0; i < n; ++i) {
      for (long j = 0; j < n; ++j) columns[i * n + j] = j < i ? S(0) : r[i * n + j] * powers[j];
    }
  }

  // Whether columns are so unlike in size that the order matters in which they are found to count.
  static bool needed(const T* sums, long n) {
    constexpr T kAlike = 16;
    T least = std::numeric_limits<T>::max(), most = 0;
    for (long j = 0; j < n; ++j) {
      if (!(sums[j] <= std::numeric_limits<T>::max())) return false;  // nor is anything else
      if (sums[j] > 0) least = std::min(least, sums[j]);
      most = std::max(most, sums[j]);
    }
    return most / kAlike > least;
  }

  // How many columns count: dependent ones come last in the order of pivoting.
  long find_rank(long n, Pool& pool) const {
    Workspace workspace(bytes<S>(n * n) + bytes<int32_t>(n) + bytes<T>(n));
    QrProblem<S> problem{1, n, n, Order::kRows, Pivoting::kExact};
    problem.a = columns;
    problem.r = workspace.take<S>(n * n);
    problem.p = workspace.take<int32_t>(n);
    factor(problem, pool);
    T* sums = workspace.take<T>(n);
    sum_columns(problem.r, n, n, sums);
    return leading_run(problem.r, n, n, T(-1), sums);
  }

  // Choose `rank` columns that count, the largest of what is left first, and put them at the front
  // of `order`. It takes the columns apart (Gram and Schmidt): only the order is wanted.
  void choose_largest(long n, long rank, int32_t* order) {
    Workspace workspace(2 * bytes<T>(n) + 2 * bytes<S>(n));
    T *own = workspace.take<T>(n), *left = workspace.take<T>(n);
    S *w = workspace.take<S>(n), *v = workspace.take<S>(n);
    std::iota(order, order + n, 0);
    find_squares(n, own);
    for (long step = 0; step < rank; ++step) {
      find_squares(n, left);
      int32_t* best = order + step;
      for (int32_t* j = best + 1; j < order + n; ++j) {
        if (is_better(*j, *best, own, left)) best = j;
      }
      std::rotate(order + step, best, best + 1);
      const long pivot = order[step];
      const T inverse = left[pivot] > 0 ? 1 / std::sqrt(left[pivot]) : T(0);
      std::fill(w, w + n, S(0));
      for (long i = 0; i < n; ++i) {
        v[i] = columns[i * n + pivot] * inverse;
        subtract_multiple<false>(columns + i * n, -conjugate(v[i]), w, n);
      }
      for (long i = 0; i < n; ++i) subtract_multiple<false>(w, v[i], columns + i * n, n);
    }
  }

 private:
  void find_squares(long n, T* squares) const {
    std::fill(squares, squares + n, T(0));
    for (long i = 0; i < n; ++i) {
      for (long j = 0; j < n; ++j) squares[j] += std::norm(columns[i * n + j]);
    }
  }

  // Whether column i is to be chosen rather than column j: because more than rounding is left of
  // it, or more than of the other as they are by themselves.
  bool is_better(long i, long j, const T* own, const T* left) const {
    constexpr T kLeast = kTolerance<T> * kTolerance<T>;
    const bool counts = left[i] > kLeast * own[i], other_counts = left[j] > kLeast * own[j];
    if (counts != other_counts) return counts;
    return ScaledSquare<T>(left[j], powers[j], 1).is_less_than({left[i], powers[i], 1});
  }
};

// Factor one matrix anew, without pivoting, its columns in an order of those that it has.
template <class S>
void factor_in_order(const CodProblem<S>& one, const int32_t* order, Pool& pool) {
  const long m = one.m, n = one.n;
  Workspace workspace(bytes<int32_t>(n) + bytes<S>(m * n));
  int32_t* p = workspace.take<int32_t>(n);
  gather(one.p, order, n, p);
  std::copy(p, p + n, one.p);
  S* permuted = workspace.take<S>(m * n);
  for (long i = 0; i < m; ++i) {
    gather(one.a + i * n, p, n, permuted + i * n);
  }
  QrProblem<S> plain{1, m, n, Order::kRows, Pivoting::kNone};
  plain.a = permuted;
  plain.h = one.h;
  plain.tau = one.tau;
  factor(plain, pool);
  if (!one.h1) return;
  copy_upper_triangle(one.h, n, n, one.h1);
  std::fill(one.tau1, one.tau1 + n, S(0));
}

// The rank of one matrix whose columns are judged by their own size. Where a large column depends
// on others, what rounding leaves of it may be larger than all of a small column that is
// independent, and what is left of a small one that depends on large ones is rounding of theirs: so
// the rank is found among columns of one size. If it is not full, the matrix is factored anew, the
// columns that count first, of those that could the largest.
template <class S>
long find_own_rank(const CodProblem<S>& one, RealOf<S>* sums, Pool& pool) {
  const long n = one.n;
  const S* r = triangle_of(one);
  if (!EvenColumns<S>::needed(sums, n)) return leading_run(r, n, n, RealOf<S>(-1), sums);
  Workspace workspace(EvenColumns<S>::workspace(n) + bytes<int32_t>(n));
  EvenColumns<S> even(r, sums, n, workspace);
  const long rank = even.find_rank(n, pool);
  if (rank == n) return n;
  int32_t* order = workspace.take<int32_t>(n);
  even.choose_largest(n, rank, order);
  factor_in_order(one, order, pool);
  sum_columns(r, n, n, sums);
  return rank;
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
  const bool own = rcond < 0;
  const long rank = own ? find_own_rank(one, sums, pool) : leading_run(r, n, n, rcond, sums);
  *one.rank = static_cast<int32_t>(rank);
  factor_row_space(r, n, n, rank, own ? sums : nullptr, one.hz, one.tauz, pool);
}

}  // namespace jaxqr
