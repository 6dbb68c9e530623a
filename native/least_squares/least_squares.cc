// Least squares of deep matrices: the solution as a whole.
#include "kernels.h"
#include "least_squares/row_space.h"

namespace jaxqr {
namespace {

// The sum of |x|^2 over a column of `count` rows of `s` entries, added to `to`.
template <class S>
void add_squares(const S* x, long count, long s, RealOf<S>* to) {
  for (long i = 0; i < count; ++i) {
    for (long l = 0; l < s; ++l) to[l] += std::norm(x[i * s + l]);
  }
}

// Add 0 to the residual of each column whose x is finite, else NaN: where the matrix has no rows
// but those of R, nothing else of what is not finite comes to its residual.
template <class S>
void mark_not_finite(const LstsqProblem<S>& one) {
  for (long i = 0; i < one.n; ++i) {
    for (long l = 0; l < one.s; ++l) {
      one.residuals[l] += 0 * std::abs(std::real(one.x[i * one.s + l])) +
                          0 * std::abs(std::imag(one.x[i * one.s + l]));
    }
  }
}

// x from c = Q^H b and the triangle of one matrix, and the squares of what R22 leaves of c.
template <class S>
void find_x(const LstsqProblem<S>& one, const RowSpace<S>& space, const S* r, long ld, S* c,
            Pool& pool) {
  const long n = one.n, s = one.s, rank = *one.rank;
  if (rank == n) {
    space.divide(pool, c, s);
    return space.permute_back(c, s, one.x);
  }
  Workspace workspace(2 * bytes<S>(n * s));
  S* w = workspace.take<S>(n * s);
  S* rest = workspace.take<S>(n * s);
  std::copy(c, c + n * s, w);
  space.divide(pool, w, s);
  space.permute_back(w, s, one.x);
  std::copy(c + rank * s, c + n * s, rest);
  for (long i = rank; i < n; ++i) {
    for (long j = i; j < n; ++j) {
      subtract_multiple<false>(w + j * s, r[i * ld + j], rest + (i - rank) * s, s);
    }
  }
  add_squares(rest, n - rank, s, one.residuals);
}

template <class S>
void finish_matrix(const LstsqProblem<S>& one, const RowSpace<S>& space, const S* r, long ld, S* c,
                   Pool& pool) {
  find_x(one, space, r, ld, c, pool);
  mark_not_finite(one);
}

// No columns: nothing of b is taken off.
template <class S>
void solve_empty(const LstsqProblem<S>& problem) {
  const long s = problem.s;
  std::fill(problem.rank, problem.rank + problem.batch, 0);
  std::fill(problem.residuals, problem.residuals + problem.batch * s, RealOf<S>(0));
  for (long b = 0; s && b < problem.batch; ++b) {
    add_squares(problem.b + b * problem.m * s, problem.m, s, problem.residuals + b * s);
  }
}

// Memory for what pivoting finds.
template <class S>
void take_row_spaces(CodProblem<S>& cod, Workspace& workspace) {
  cod.p = workspace.take<int32_t>(cod.batch * cod.n);
  cod.hz = workspace.take<S>(cod.batch * cod.n * cod.n);
  cod.tauz = workspace.take<S>(cod.batch * cod.n);
}

// By the decomposition: pivoting is as quick as its absence unless columns are few.
template <class S>
void solve_decomposed(const LstsqProblem<S>& problem, Pool& pool) {
  const long batch = problem.batch, m = problem.m, n = problem.n, s = problem.s;
  Workspace workspace(bytes<S>(batch * m * n) + 2 * bytes<S>(batch * n) +
                      bytes<int32_t>(batch * n) + bytes<S>(batch * n * n) +
                      bytes<S>(batch * m * s));
  CodProblem<S> cod{batch, m, n, problem.rcond};
  cod.a = problem.a;
  cod.h = workspace.take<S>(batch * m * n);
  cod.tau = workspace.take<S>(batch * n);
  cod.rank = problem.rank;
  if (problem.pivoting) take_row_spaces(cod, workspace);
  decompose(cod, pool);
  S* c = workspace.take<S>(batch * m * s);
  multiply_q(batch, m, n, cod.h, cod.tau, s, true, problem.b, c, pool);
  for_row_spaces(cod, s, pool, [&](const RowSpace<S>& space, long b) {
    const LstsqProblem<S> one = problem.slice(b, 1);
    S* mine = c + b * m * s;
    std::fill(one.residuals, one.residuals + s, RealOf<S>(0));
    add_squares(mine + n * s, m - n, s, one.residuals);
    finish_matrix(one, space, cod.h + b * m * n, n, mine, pool);
  });
}

// [A b], the columns of A in the given order if there is one.
template <class S>
void join_sides(const LstsqProblem<S>& problem, const int32_t* order, S* both, Pool& pool) {
  const long m = problem.m, n = problem.n, s = problem.s, k = n + s;
  for_ranges(pool, problem.batch * m, k, [&](long begin, long end) {
    for (long i = begin; i < end; ++i) {
      const S *row = problem.a + i * n, *rhs = problem.b + i * s;
      S* to = both + i * k;
      if (order) {
        gather(row, order + i / m * n, n, to);
      } else {
        std::copy(row, row + n, to);
      }
      std::copy(rhs, rhs + s, to + n);
    }
  });
}

// The triangle of [A b] in parts: that of A, Q^H b, and the squares of what is left of b.
template <class S>
void take_apart(const LstsqProblem<S>& problem, const S* both, S* r, S* c) {
  const long n = problem.n, s = problem.s, k = n + s;
  for (long b = 0; b < problem.batch; ++b, both += k * k) {
    copy_upper_triangle(both, k, n, r + b * n * n);
    for (long i = 0; i < n; ++i) {
      std::copy(both + i * k + n, both + (i + 1) * k, c + (b * n + i) * s);
    }
    RealOf<S>* residuals = problem.residuals + b * s;
    std::fill(residuals, residuals + s, RealOf<S>(0));
    for (long i = 0; i < s; ++i) {
      add_squares(both + (n + i) * (k + 1), 1, s - i, residuals + i);
    }
  }
}

// Whether there is a NaN on the diagonal of a triangle.
template <class S>
bool has_nan(const S* r, long k) {
  for (long i = 0; i < k; ++i) {
    if (real_part(r[i * (k + 1)]) != real_part(r[i * (k + 1)])) return true;
  }
  return false;
}

// By the triangle of [A b]: it holds Q^H b, and nothing of Q is kept. The large columns come first,
// as in `factor_twice`. What is not finite in one column of b would spoil all: such a matrix is
// solved again, where columns are apart.
template <class S>
void solve_beside(const LstsqProblem<S>& problem, Pool& pool) {
  const long batch = problem.batch, m = problem.m, n = problem.n, s = problem.s, k = n + s;
  Workspace workspace(bytes<S>(batch * m * k) + bytes<S>(batch * k * k) +
                      3 * bytes<S>(batch * n * n) + 2 * bytes<S>(batch * n * s) +
                      2 * bytes<S>(batch * n) + 2 * bytes<int32_t>(batch * n));
  int32_t* order = workspace.take<int32_t>(batch * n);
  const bool sorted = !problem.pivoting || !sort_columns(problem.a, batch, m, n, order, pool);
  S* both = workspace.take<S>(batch * m * k);
  join_sides(problem, sorted ? nullptr : order, both, pool);
  QrProblem<S> plain{batch, m, k, Order::kRows, Pivoting::kNone};
  plain.a = both;
  plain.r = workspace.take<S>(batch * k * k);
  factor(plain, pool);
  CodProblem<S> cod{batch, n, n, problem.rcond};
  cod.rank = problem.rank;
  cod.h = workspace.take<S>(batch * n * n);
  S* c = workspace.take<S>(batch * n * s);
  take_apart(problem, plain.r, cod.h, c);
  if (problem.pivoting) {
    cod.a = cod.h;
    cod.h = workspace.take<S>(batch * n * n);
    cod.tau = workspace.take<S>(batch * n);
    take_row_spaces(cod, workspace);
    decompose(cod, pool);
    for (long i = 0; i < batch * n; ++i) cod.p[i] = order[i / n * n + cod.p[i]];
    S* product = workspace.take<S>(batch * n * s);
    multiply_q(batch, n, n, cod.h, cod.tau, s, true, c, product, pool);
    c = product;
  } else {
    std::fill(cod.rank, cod.rank + batch, static_cast<int32_t>(n));
  }
  for_row_spaces(cod, s, pool, [&](const RowSpace<S>& space, long b) {
    finish_matrix(problem.slice(b, 1), space, cod.h + b * n * n, n, c + b * n * s, pool);
  });
  for (long b = 0; b < batch; ++b) {
    if (has_nan(plain.r + b * k * k, k)) solve_decomposed(problem.slice(b, 1), pool);
  }
}

}  // namespace

template <class S>
void solve_least_squares(const LstsqProblem<S>& problem, Pool& pool) {
  const long m = problem.m, n = problem.n, s = problem.s;
  if (n == 0) return solve_empty(problem);
  const bool beside = m >= 2 * n && m >= n + s && n + s <= kTallColumns;
  for_pieces(problem.batch, m * (n + s) * sizeof(S), [&](long first, long count) {
    const LstsqProblem<S> piece = problem.slice(first, count);
    return beside ? solve_beside(piece, pool) : solve_decomposed(piece, pool);
  });
}

#define INSTANTIATE(S, NAME) template void solve_least_squares<S>(const LstsqProblem<S>&, Pool&);
JAXQR_FOR_SCALARS(INSTANTIATE)

}  // namespace jaxqr
