// The complete orthogonal decomposition, and the order in which columns are factored.
#include <numeric>

#include "least_squares/rank.h"

namespace jaxqr {
namespace {

// sums[j] := the sum of the magnitudes of the real numbers in column j. It is made of sums over
// `chunks` of rows, for each of which `sums` has room for the reals of a row.
template <class S>
void sum_magnitudes(const S* a, long m, long n, long chunks, RealOf<S>* sums, Pool& pool) {
  using T = RealOf<S>;
  const long parts = n * kParts<S>;
  const T* x = reinterpret_cast<const T*>(a);
  parallel_for(pool, chunks, [&](long chunk) {
    T* to = sums + chunk * parts;
    std::fill(to, to + parts, T(0));
    for (long i = m * chunk / chunks; i < m * (chunk + 1) / chunks; ++i) {
      long j = 0;
      for (; j + kWidth<T> <= parts; j += kWidth<T>) {
        store_unaligned(to + j,
                        load_unaligned(to + j) + absolute<T>(load_unaligned(x + i * parts + j)));
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
  }
}

// The same as `sort_columns`, of one matrix.
template <class S>
bool sort_columns_of_one(const S* a, long m, long n, int32_t* order, Pool& pool) {
  using T = RealOf<S>;
  const long parts = n * kParts<S>;
  const long chunks = std::max(1L, std::min(16L, m * parts >> 16));
  Workspace workspace(bytes<T>(chunks * parts));
  T* sums = workspace.take<T>(chunks * parts);
  sum_magnitudes(a, m, n, chunks, sums, pool);
  std::iota(order, order + n, 0);
  const auto range = std::minmax_element(sums, sums + n);
  constexpr T similar = 8;
  if (!(*range.second > similar * *range.first) || *range.second != *range.second) return false;
  const auto larger_first = [&](int32_t i, int32_t j) { return sums[i] > sums[j]; };
  if (std::is_sorted(order, order + n, larger_first)) return false;
  std::stable_sort(order, order + n, larger_first);
  return true;
}

// A QR without pivoting takes the columns as they come. The large ones should come first: rounding
// errors of the small ones would grow with them.
template <class S>
void factor_twice(const CodProblem<S>& problem, Pool& pool) {
  const long batch = problem.batch, m = problem.m, n = problem.n;
  Workspace orders(bytes<int32_t>(batch * n));
  int32_t* order = orders.take<int32_t>(batch * n);
  const bool sorted = !sort_columns(problem.a, batch, m, n, order, pool);
  {
    Workspace workspace(sorted ? 0 : bytes<S>(batch * m * n));
    QrProblem<S> outer{batch, m, n, Order::kRows, Pivoting::kNone};
    outer.a = problem.a;
    if (!sorted) {
      S* columns = workspace.take<S>(batch * m * n);
      for_ranges(pool, batch * m, n, [&](long begin, long end) {
        for (long i = begin; i < end; ++i) {
          gather(problem.a + i * n, order + i / m * n, n, columns + i * n);
        }
      });
      outer.a = columns;
    }
    outer.h = problem.h;
    outer.tau = problem.tau;
    factor(outer, pool);
  }
  for (long b = 0; b < batch; ++b) {  // R0 waits where Z will be
    copy_upper_triangle(problem.h + b * m * n, n, n, problem.hz + b * n * n);
  }
  QrProblem<S> inner{batch, n, n, Order::kRows, Pivoting::kExact};
  inner.a = problem.hz;
  inner.h = problem.h1;
  inner.tau = problem.tau1;
  inner.p = problem.p;
  factor(inner, pool);
  for (long i = 0; i < batch * n; ++i) problem.p[i] = order[i / n * n + problem.p[i]];
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

}  // namespace

template <class S>
bool sort_columns(const S* a, long batch, long m, long n, int32_t* order, Pool& pool) {
  bool any = false;
  for (long b = 0; b < batch; ++b) {
    any |= sort_columns_of_one(a + b * m * n, m, n, order + b * n, pool);
  }
  return any;
}

template <class S>
void decompose(const CodProblem<S>& problem, Pool& pool) {
  const long batch = problem.batch, n = problem.n;
  factor_columns(problem, pool);
  if (!problem.p) {
    if (problem.rank) std::fill(problem.rank, problem.rank + batch, static_cast<int32_t>(n));
    return;
  }
  for (long b = 0; b < batch; ++b) find_rank(problem.slice(b, 1), pool);
}

#define INSTANTIATE(S, NAME)                                                  \
  template bool sort_columns<S>(const S*, long, long, long, int32_t*, Pool&); \
  template void decompose<S>(const CodProblem<S>&, Pool&);
JAXQR_FOR_SCALARS(INSTANTIATE)

}  // namespace jaxqr
