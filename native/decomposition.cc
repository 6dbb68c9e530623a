// The complete orthogonal decomposition, and the operations of the pseudo-inverse.
#include "decomposition.h"
#include "independent.h"
#include "range.h"

#include <stdexcept>
#include <string>

namespace jaxqr {
namespace {

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

// A^+ v: Q^H v, its leading rows, Q1^H, and the row space's part.
template <class S>
void solve(const PseudoinverseProblem<S>& problem, Pool& pool) {
  const CodProblem<S>& cod = problem.cod;
  const long batch = cod.batch, m = cod.m, n = cod.n, s = problem.s;
  Workspace workspace(bytes<S>(batch * m * s) + 2 * bytes<S>(batch * n * s));
  S* full = workspace.take<S>(batch * m * s);
  S* c = workspace.take<S>(batch * n * s);
  S* other = workspace.take<S>(batch * n * s);
  multiply_q(batch, m, n, cod.h, cod.tau, s, true, problem.v, full, pool);
  for (long b = 0; b < batch; ++b) {
    std::copy(full + b * m * s, full + b * m * s + n * s, c + b * n * s);
  }
  if (cod.h1) {
    multiply_q(batch, n, n, cod.h1, cod.tau1, s, true, c, other, pool);
    std::swap(c, other);
  }
  for_row_spaces(cod, s, pool, [&](const RowSpace<S>& space, long b) {
    space.divide(pool, c + b * n * s, s);
    space.permute_back(c + b * n * s, s, problem.out + b * n * s);
  });
}

// (A^H A)^+ v or (I - A^+ A) v.
template <class S>
void in_row_space(const PseudoinverseProblem<S>& problem, Pool& pool) {
  const CodProblem<S>& cod = problem.cod;
  const long size = cod.n * problem.s;
  for_row_spaces(cod, problem.s, pool, [&](const RowSpace<S>& space, long b) {
    Workspace workspace(bytes<S>(size));
    S* c = workspace.take<S>(size);
    space.permute(problem.v + b * size, problem.s, c);
    if (problem.operation == Operation::kGram) {
      space.divide_adjoint(pool, c, problem.s);
      space.divide(pool, c, problem.s);
    } else {
      space.null(pool, c, problem.s);
    }
    space.permute_back(c, problem.s, problem.out + b * size);
  });
}

template <class S>
void solve_adjoint(const PseudoinverseProblem<S>& problem, Pool& pool) {
  const CodProblem<S>& cod = problem.cod;
  const long batch = cod.batch, m = cod.m, n = cod.n, s = problem.s;
  Workspace workspace(bytes<S>(batch * m * s) + 2 * bytes<S>(batch * n * s));
  S* full = workspace.take<S>(batch * m * s);
  S* c = workspace.take<S>(batch * n * s);
  S* other = workspace.take<S>(batch * n * s);
  for_row_spaces(cod, s, pool, [&](const RowSpace<S>& space, long b) {
    space.permute(problem.v + b * n * s, s, c + b * n * s);
    space.divide_adjoint(pool, c + b * n * s, s);
  });
  if (cod.h1) {
    multiply_q(batch, n, n, cod.h1, cod.tau1, s, false, c, other, pool);
    std::swap(c, other);
  }
  for (long b = 0; b < batch; ++b) {
    S* to = full + b * m * s;
    std::copy(c + b * n * s, c + (b + 1) * n * s, to);
    std::fill(to + n * s, to + m * s, S(0));
  }
  multiply_q(batch, m, n, cod.h, cod.tau, s, false, full, problem.out, pool);
}

// Whether the n entries are a permutation. `found` is memory for as many flags.
bool is_permutation(const int32_t* p, long n, bool* found) {
  std::fill(found, found + n, false);
  for (long j = 0; j < n; ++j) {
    if (p[j] < 0 || p[j] >= n || found[p[j]]) return false;
    found[p[j]] = true;
  }
  return true;
}

// What comes from a caller as values is an index here: it must be one.
template <class S>
void check_indices(const CodProblem<S>& cod, Pool& pool) {
  if (!cod.p) return;
  const long n = cod.n;
  for_ranges(pool, cod.batch, 2 * n, [&](long begin, long end) {
    Workspace workspace(bytes<bool>(n));
    bool* found = workspace.take<bool>(n);
    for (long b = begin; b < end; ++b) {
      if (cod.rank[b] < 0 || cod.rank[b] > n) {
        throw std::invalid_argument("a rank must be from 0 to n = " + std::to_string(n) +
                                    ", got " + std::to_string(cod.rank[b]));
      }
      if (!is_permutation(cod.p + b * n, n, found)) {
        throw std::invalid_argument("p must be a permutation of 0, ..., n - 1 for n = " +
                                    std::to_string(n));
      }
    }
  });
}

// A QR without pivoting takes the columns as they come. The large ones should come first: rounding
// errors of the small ones would grow with them.
template <class S>
void factor_twice(const CodProblem<S>& problem, Pool& pool) {
  const long batch = problem.batch, m = problem.m, n = problem.n;
  Workspace orders(bytes<int32_t>(batch * n));
  int32_t* order = orders.take<int32_t>(batch * n);
  bool any = false;
  for (long b = 0; b < batch; ++b) {
    any |= sort_columns(problem.a + b * m * n, m, n, order + b * n, pool);
  }
  {
    Workspace workspace(any ? bytes<S>(batch * m * n) : 0);
    QrProblem<S> outer{batch, m, n, Order::kRows, Pivoting::kNone};
    outer.a = problem.a;
    if (any) {
      S* sorted = workspace.take<S>(batch * m * n);
      for_ranges(pool, batch * m, n, [&](long begin, long end) {
        for (long i = begin; i < end; ++i) {
          const int32_t* own = order + i / m * n;
          for (long j = 0; j < n; ++j) sorted[i * n + j] = problem.a[i * n + own[j]];
        }
      });
      outer.a = sorted;
    }
    outer.h = problem.h;
    outer.tau = problem.tau;
    factor(outer, pool);
  }
  for (long b = 0; b < batch; ++b) {  // R0 waits where Z will be
    copy_upper(problem.h + b * m * n, n, n, problem.hz + b * n * n);
  }
  QrProblem<S> inner{batch, n, n, Order::kRows, Pivoting::kExact};
  inner.a = problem.hz;
  inner.h = problem.h1;
  inner.tau = problem.tau1;
  inner.p = problem.p;
  factor(inner, pool);
  for (long b = 0; b < batch; ++b) {
    for (long j = 0; j < n; ++j) problem.p[b * n + j] = order[b * n + problem.p[b * n + j]];
  }
}

template <class S>
void factor_once(const CodProblem<S>& problem, Pool& pool) {
  QrProblem<S> outer{problem.batch, problem.m, problem.n, Order::kRows,
                     problem.p ? Pivoting::kExact : Pivoting::kNone};
  outer.a = problem.a;
  outer.h = problem.h;
  outer.tau = problem.tau;
  outer.p = problem.p;
  factor(outer, pool);
}

template <class S>
void factor_columns(const CodProblem<S>& problem, Pool& pool) {
  problem.h1 ? factor_twice(problem, pool) : factor_once(problem, pool);
}

template <class S>
S* triangle_of(const CodProblem<S>& one) {
  return one.h1 ? one.h1 : one.h;
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

}  // namespace

template <class S>
bool sort_columns(const S* a, long m, long n, int32_t* order, Pool& pool) {
  using T = RealOf<S>;
  const long parts = n * kParts<S>;
  const long chunks = std::max(1L, std::min(16L, m * parts >> 16));
  Workspace workspace(bytes<T>(chunks * parts));
  T* sums = workspace.take<T>(chunks * parts);
  const T* x = reinterpret_cast<const T*>(a);
  parallel_for(pool, chunks, [&](long chunk) {
    T* to = sums + chunk * parts;
    std::fill(to, to + parts, T(0));
    for (long i = m * chunk / chunks; i < m * (chunk + 1) / chunks; ++i) {
      long j = 0;
      for (; j + kWidth<T> <= parts; j += kWidth<T>) {
        store_unaligned(to + j, load_unaligned(to + j) +
                                    absolute<T>(load_unaligned(x + i * parts + j)));
      }
      for (; j < parts; ++j) to[j] += std::abs(x[i * parts + j]);
    }
  });
  for (long j = 0; j < n; ++j) {
    T total = 0;
    for (long c = 0; c < chunks; ++c) {
      for (long l = 0; l < kParts<S>; ++l) total += sums[c * parts + j * kParts<S> + l];
    }
    sums[j] = total;  // of the first chunk, whose entries before are used up
    order[j] = static_cast<int32_t>(j);
  }
  const auto range = std::minmax_element(sums, sums + n);
  constexpr T similar = 8;
  if (!(*range.second > similar * *range.first) || *range.second != *range.second) return false;
  const auto larger_first = [&](int32_t i, int32_t j) { return sums[i] > sums[j]; };
  if (std::is_sorted(order, order + n, larger_first)) return false;
  std::stable_sort(order, order + n, larger_first);
  return true;
}

template <class S>
void decompose(const CodProblem<S>& problem, Pool& pool) {
  const long batch = problem.batch, n = problem.n;
  factor_columns(problem, pool);
  if (!problem.p) return std::fill(problem.rank, problem.rank + batch, static_cast<int32_t>(n));
  for (long b = 0; b < batch; ++b) find_rank(problem.slice(b, 1), pool);
}

template <class S>
void pseudoinverse(const PseudoinverseProblem<S>& problem, Pool& pool) {
  const CodProblem<S>& cod = problem.cod;
  if (cod.m == 0 || cod.n == 0 || problem.s == 0) {
    return std::fill(problem.out, problem.out + cod.batch * problem.rows_out() * problem.s, S(0));
  }
  check_indices(cod, pool);
  for_pieces(cod.batch, (cod.m + 2 * cod.n) * problem.s * sizeof(S), [&](long first, long count) {
    const PseudoinverseProblem<S> piece = problem.slice(first, count);
    switch (problem.operation) {
      case Operation::kSolve:
        return solve(piece, pool);
      case Operation::kSolveAdjoint:
        return solve_adjoint(piece, pool);
      default:
        return in_row_space(piece, pool);
    }
  });
}

#define INSTANTIATE(S)                                                     \
  template bool sort_columns<S>(const S*, long, long, int32_t*, Pool&);     \
  template void decompose<S>(const CodProblem<S>&, Pool&);                  \
  template void pseudoinverse<S>(const PseudoinverseProblem<S>&, Pool&);
JAXQR_FOR_SCALARS(INSTANTIATE)

}  // namespace jaxqr
