// The operations of the pseudo-inverse, by the complete orthogonal decomposition.
#include <stdexcept>
#include <string>

#include "least_squares/row_space.h"

namespace jaxqr {
namespace {

// c := the leading n rows of Q^H v, for a batch of v (m x s); Q = Q0 diag(Q1, I) if there are two.
template <class S>
void project(const CodProblem<S>& cod, long s, const S* v, S* c, Pool& pool) {
  const long batch = cod.batch, m = cod.m, n = cod.n;
  Workspace workspace(bytes<S>(batch * m * s) + bytes<S>(cod.h1 ? batch * n * s : 0));
  S* full = workspace.take<S>(batch * m * s);
  multiply_q(batch, m, n, cod.h, cod.tau, s, true, v, full, pool);
  S* leading = cod.h1 ? workspace.take<S>(batch * n * s) : c;
  for (long b = 0; b < batch; ++b) std::copy_n(full + b * m * s, n * s, leading + b * n * s);
  if (cod.h1) multiply_q(batch, n, n, cod.h1, cod.tau1, s, true, leading, c, pool);
}

// v := Q [c; 0], for a batch of c (n x s).
template <class S>
void embed(const CodProblem<S>& cod, long s, const S* c, S* v, Pool& pool) {
  const long batch = cod.batch, m = cod.m, n = cod.n;
  Workspace workspace(bytes<S>(batch * m * s) + bytes<S>(cod.h1 ? batch * n * s : 0));
  S* full = workspace.take<S>(batch * m * s);
  if (cod.h1) {
    S* leading = workspace.take<S>(batch * n * s);
    multiply_q(batch, n, n, cod.h1, cod.tau1, s, false, c, leading, pool);
    c = leading;
  }
  for (long b = 0; b < batch; ++b) {
    std::copy_n(c + b * n * s, n * s, full + b * m * s);
    std::fill_n(full + b * m * s + n * s, (m - n) * s, S(0));
  }
  multiply_q(batch, m, n, cod.h, cod.tau, s, false, full, v, pool);
}

// A^+ v
template <class S>
void solve(const PseudoinverseProblem<S>& problem, Pool& pool) {
  const CodProblem<S>& cod = problem.cod;
  const long size = cod.n * problem.s;
  Workspace workspace(bytes<S>(cod.batch * size));
  S* c = workspace.take<S>(cod.batch * size);
  project(cod, problem.s, problem.v, c, pool);
  for_row_spaces(cod, problem.s, pool, [&](const RowSpace<S>& space, long b) {
    space.divide(pool, c + b * size, problem.s);
    space.permute_back(c + b * size, problem.s, problem.out + b * size);
  });
}

// A^{+H} v
template <class S>
void solve_adjoint(const PseudoinverseProblem<S>& problem, Pool& pool) {
  const CodProblem<S>& cod = problem.cod;
  const long size = cod.n * problem.s;
  Workspace workspace(bytes<S>(cod.batch * size));
  S* c = workspace.take<S>(cod.batch * size);
  for_row_spaces(cod, problem.s, pool, [&](const RowSpace<S>& space, long b) {
    space.permute(problem.v + b * size, problem.s, c + b * size);
    space.divide_adjoint(pool, c + b * size, problem.s);
  });
  embed(cod, problem.s, c, problem.out, pool);
}

// (A^H A)^+ v or (I - A^+ A) v.
template <class S>
void apply_in_row_space(const PseudoinverseProblem<S>& problem, Pool& pool) {
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
        throw std::invalid_argument("a rank must be from 0 to n = " + std::to_string(n) + ", got " +
                                    std::to_string(cod.rank[b]));
      }
      if (!is_permutation(cod.p + b * n, n, found)) {
        throw std::invalid_argument("p must be a permutation of 0, ..., n - 1 for n = " +
                                    std::to_string(n));
      }
    }
  });
}

}  // namespace

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
        return apply_in_row_space(piece, pool);
    }
  });
}

#define INSTANTIATE(S, NAME) \
  template void apply_pseudoinverse<S>(const PseudoinverseProblem<S>&, Pool&);
JAXQR_FOR_SCALARS(INSTANTIATE)

}  // namespace jaxqr
