// The complete orthogonal decomposition, and the operations of the pseudo-inverse.
#include "least_squares/rank.h"

#include <stdexcept>
#include <string>

namespace jaxqr {
namespace {

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
void apply_pseudoinverse(const PseudoinverseProblem<S>& problem, Pool& pool) {
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

#define INSTANTIATE(S, NAME)                                            \
  template bool sort_columns<S>(const S*, long, long, int32_t*, Pool&); \
  template void decompose<S>(const CodProblem<S>&, Pool&);              \
  template void apply_pseudoinverse<S>(const PseudoinverseProblem<S>&, Pool&);
JAXQR_FOR_SCALARS(INSTANTIATE)

}  // namespace jaxqr
