// Tangents and cotangents of one large matrix: the rules (8.5) to (8.8) of notebooks/derivations.md
// as products and one solve with the triangle.
//
// Products with a triangular factor or result run over blocks of rows or columns, which leaves
// out the zeros. JAX pairs cotangents without conjugation: the rules hold for Qbar = conj(dq),
// Rbar = conj(dr), and conj(Abar) is wanted.
#include "common/blas.h"
#include "derivatives/blocked_factors.h"
#include "kernels.h"

namespace jaxqr {
namespace {

// Rows or columns in a block of a triangular product.
long block_size(long n) { return n <= 512 ? 128 : 256; }

// Distance of lines of a square workspace: an odd number of cache lines, so that entries of a
// column do not all fall into the same set of the cache.
template <class S>
long padded(long n) {
  constexpr long entries = 64 / sizeof(S);
  return (ceil_divide(n, entries) | 1) * entries;
}

template <class S>
View<S> take_padded_square(Workspace& workspace, long n, Order order) {
  return {workspace.take<S>(n * padded<S>(n)), n, n, padded<S>(n), order};
}

template <class S>
size_t padded_square_bytes(long n) {
  return Workspace::size<S>(n * padded<S>(n));
}

// ------------------------------------------------------------------------------------ tangents

// In place: Psi = upp(E_c) of (8.5), E - skw(E) in columns that count.
template <class S>
void take_upper_part(Pool& pool, const View<S>& e) {
  for_pairs(
      pool, e,
      [](S& below, S& above) {
        above += conjugate(below);
        below = 0;
      },
      [](S& diagonal) { diagonal = real_part(diagonal); });
}

// In place: skw(E), (0.1).
template <class S>
void take_skew_part(Pool& pool, const View<S>& e) {
  for_pairs(
      pool, e, [](S& below, S& above) { above = -conjugate(below); },
      [](S& diagonal) { diagonal -= real_part(diagonal); });
}

// dR is done but for the scale, the zeros below the diagonal and rows that have no derivative.
template <class S>
void finish_dr(Pool& pool, const Factors<S>& factors, const View<S>& dr) {
  copy_triangle(pool, 1 / factors.scale, dr, factors.live, dr);
}

// (8.5)
template <class S>
void compute_tangent_deep(const DerivativeProblem<S>& problem, Pool& pool) {
  const long m = problem.m, n = problem.n;
  Workspace workspace(Factors<S>::bytes(n) + padded_square_bytes<S>(n));
  const Factors<S> factors(problem, pool, workspace);
  const View<S> e = take_padded_square<S>(workspace, n, problem.order);
  const View<S> da = dense(problem.da, m, n, problem.order);
  const View<S> dq = dense(problem.dq, m, n, problem.order);
  const View<S> dr = dense(problem.dr, n, n, problem.order);
  if (problem.dq) {
    copy(pool, problem.da, m * n, problem.dq);
    solve_triangular(false, Op::kPlain, factors.triangle, dq, S(factors.scale));
    multiply(S(1), Op::kAdjoint, factors.q, Op::kPlain, dq, S(0), e);
  } else {  // a solve with n rows instead of m
    multiply(S(factors.scale), Op::kAdjoint, factors.q, Op::kPlain, da, S(0), e);
    solve_triangular(false, Op::kPlain, factors.triangle, e);
  }
  if (!factors.all) {
    for (long j = 0; problem.dr && j < n; ++j) {
      for (long i = 0; i < n; ++i) dr(i, j) = factors.counts[j] ? S(0) : e(i, j);
    }
    drop_columns(factors.counts, e);
    if (problem.dq) drop_columns(factors.counts, dq);
  }
  take_upper_part(pool, e);
  const long width = block_size(n);
  for (long j = 0; problem.dq && j < n; j += width) {
    const long cols = std::min(width, n - j), end = j + cols;
    multiply(S(-1), Op::kPlain, factors.q.block(0, 0, m, end), Op::kPlain, e.block(0, j, end, cols),
             S(1), dq.block(0, j, m, cols));
  }
  if (!problem.dr) return;
  for (long i = 0; i < n; i += width) {
    const long rows = std::min(width, n - i), rest = n - i;
    multiply(S(1), Op::kPlain, e.block(i, i, rows, rest), Op::kPlain,
             factors.r.block(i, i, rest, rest), S(factors.all ? 0 : 1), dr.block(i, i, rows, rest));
  }
  finish_dr(pool, factors, dr);
}

// (8.7)
template <class S>
void compute_tangent_wide(const DerivativeProblem<S>& problem, Pool& pool) {
  const long m = problem.m, n = problem.n;
  Workspace workspace(Factors<S>::bytes(m) + padded_square_bytes<S>(m));
  const Factors<S> factors(problem, pool, workspace);
  const View<S> omega = take_padded_square<S>(workspace, m, problem.order);
  const View<S> da = dense(problem.da, m, n, problem.order);
  const View<S> dr = dense(problem.dr, m, n, problem.order);
  if (problem.dr) {
    multiply(S(factors.scale), Op::kAdjoint, factors.q, Op::kPlain, da, S(0), dr);
    for (long l = 0; l < m; ++l) {
      const S* c = line(dr, l);
      std::copy(c, c + m, line(omega, l));
    }
  } else {
    multiply(S(factors.scale), Op::kAdjoint, factors.q, Op::kPlain, da.block(0, 0, m, m), S(0),
             omega);
  }
  solve_triangular(false, Op::kPlain, factors.triangle, omega);
  if (!factors.all) drop_columns(factors.counts, omega);
  take_skew_part(pool, omega);
  if (problem.dq) {
    multiply(S(1), Op::kPlain, factors.q, Op::kPlain, omega, S(0),
             dense(problem.dq, m, m, problem.order));
  }
  if (!problem.dr) return;
  const long width = block_size(m);
  for (long j = 0; j < m; j += width) {
    const long cols = std::min(width, m - j), end = j + cols;
    multiply(S(-1), Op::kPlain, omega.block(0, 0, end, end), Op::kPlain,
             factors.r.block(0, j, end, cols), S(1), dr.block(0, j, end, cols));
  }
  multiply(S(-1), Op::kPlain, omega, Op::kPlain, factors.r.block(0, m, m, n - m), S(1),
           dr.block(0, m, m, n - m));
  finish_dr(pool, factors, dr);
}

// ---------------------------------------------------------------------------------- cotangents

// M = R R_b^H - Qbar^H Q of (8.6), times the scale, on and below the diagonal. `strip` is memory
// for a block of rows of R_b: those on the diagonal of the factorization's zeros.
template <class S>
void compute_lower_m(const DerivativeProblem<S>& problem, Pool& pool, const Factors<S>& factors,
                     S* strip, const View<S>& big_m) {
  const long m = problem.m, n = problem.n, width = block_size(n);
  const View<S> qbar = dense(problem.dq, m, n, problem.order);
  const View<S> rbar = dense(problem.dr, n, n, problem.order);
  for (long i = 0; i < n; i += width) {
    const long rows = std::min(width, n - i), rest = n - i, end = i + rows;
    if (problem.dr) {
      const View<S> r = factors.r.block(i, i, rows, rest);
      const View<S> upper = dense(strip, rows, rest, problem.order);
      copy_triangle(pool, RealOf<S>(1), rbar.block(i, i, rows, rest), rows, upper);
      multiply(S(1), Op::kPlain, r, Op::kTranspose, upper, S(0), big_m.block(i, i, rows, rows));
      multiply(S(1), Op::kPlain, r, Op::kTranspose, rbar.block(0, i, i, rest), S(0),
               big_m.block(i, 0, rows, i));
    }
    if (problem.dq) {
      multiply(S(-factors.scale), Op::kTranspose, qbar.block(0, i, m, rows), Op::kPlain,
               factors.q.block(0, 0, m, end), S(problem.dr ? 1 : 0), big_m.block(i, 0, rows, end));
    }
  }
}

// In place: Ebar = cpl(M)_c + (R_b)_{1-c} of (8.6).
template <class S>
void complete_m(const DerivativeProblem<S>& problem, Pool& pool, const Factors<S>& factors,
                const View<S>& big_m) {
  for_pairs(
      pool, big_m, [](S& below, S& above) { above = conjugate(below); },
      [](S& diagonal) { diagonal = real_part(diagonal); });
  if (factors.all) return;
  drop_columns(factors.counts, big_m);
  if (!problem.dr) return;
  const View<S> rbar = dense(problem.dr, problem.n, problem.n, problem.order);
  for (long j = 0; j < problem.n; ++j) {
    if (factors.counts[j]) continue;
    for (long i = 0; i < std::min(j, factors.live); ++i) big_m(i, j) = conjugate(rbar(i, j));
    if (j < factors.live) big_m(j, j) = real_part(rbar(j, j));
  }
}

// (8.6)
template <class S>
void compute_cotangent_deep(const DerivativeProblem<S>& problem, Pool& pool) {
  const long m = problem.m, n = problem.n, width = std::min(block_size(n), n);
  Workspace workspace(Factors<S>::bytes(n) + padded_square_bytes<S>(n) +
                      (problem.dr ? Workspace::size<S>(width * n) : 0));
  const Factors<S> factors(problem, pool, workspace);
  const View<S> ebar = take_padded_square<S>(workspace, n, problem.order);
  const View<S> abar = dense(problem.da, m, n, problem.order);
  compute_lower_m(problem, pool, factors, problem.dr ? workspace.take<S>(width * n) : nullptr,
                  ebar);
  complete_m(problem, pool, factors, ebar);
  if (problem.dq) {
    copy_conjugate(pool, factors.scale, problem.dq, m * n, problem.da);
    if (!factors.all) drop_columns(factors.counts, abar);
    multiply(S(1), Op::kPlain, factors.q, Op::kPlain, ebar, S(1), abar);
    solve_triangular(false, Op::kAdjoint, factors.triangle, abar);
  } else {  // a solve with n rows instead of m
    solve_triangular(false, Op::kAdjoint, factors.triangle, ebar);
    multiply(S(1), Op::kPlain, factors.q, Op::kPlain, ebar, S(0), abar);
  }
  if (kIsComplex<S>) copy_conjugate(pool, RealOf<S>(1), problem.da, m * n, problem.da);
}

// The conjugate of Y = skw*(X)_c of (8.7), X = Q^H Qbar - R_b R^H times the scale. `leading` are
// the first m columns of the conjugate of R_b.
template <class S>
void make_y(const DerivativeProblem<S>& problem, Pool& pool, const Factors<S>& factors,
            const View<S>& leading, const View<S>& y) {
  const long m = problem.m, n = problem.n, live = factors.live, width = block_size(m);
  const View<S> qbar = dense(problem.dq, m, m, problem.order);
  const View<S> rbar = dense(problem.dr, m, n, problem.order);
  if (problem.dr) {
    multiply(S(-1), Op::kPlain, rbar.block(0, m, live, n - m), Op::kTranspose,
             factors.r.block(0, m, m, n - m), S(0), y.block(0, 0, live, m));
    for (long i = live; i < m; ++i) {
      for (long j = 0; j < m; ++j) y(i, j) = 0;
    }
    for (long i = 0; i < live; i += width) {
      const long rows = std::min(width, live - i);
      multiply(S(-1), Op::kPlain, leading.block(i, i, rows, m - i), Op::kTranspose,
               factors.r.block(0, i, m, m - i), S(1), y.block(i, 0, rows, m));
    }
  }
  if (problem.dq) {
    multiply(S(factors.scale), Op::kTranspose, factors.q, Op::kPlain, qbar, S(problem.dr ? 1 : 0),
             y);
  }
  for_pairs(
      pool, y,
      [](S& below, S& above) {
        below -= conjugate(above);
        above = 0;
      },
      [](S& diagonal) { diagonal -= real_part(diagonal); });
  if (!factors.all) drop_columns(factors.counts, y);
}

// The conjugate of Q, which is Q itself if real.
template <class S>
View<S> form_conjugate_q(const Factors<S>& factors, Pool& pool, Workspace& workspace) {
  if (!kIsComplex<S>) return factors.q;
  const long m = factors.q.rows;
  const View<S> conjugated = dense(workspace.take<S>(m * m), m, m, factors.q.order);
  copy_conjugate(pool, RealOf<S>(1), factors.q.data, m * m, conjugated.data);
  return conjugated;
}

// (8.7)
template <class S>
void compute_cotangent_wide(const DerivativeProblem<S>& problem, Pool& pool) {
  const long m = problem.m, n = problem.n;
  const Order order = problem.order;
  Workspace workspace(Factors<S>::bytes(m) + 2 * padded_square_bytes<S>(m) +
                      (kIsComplex<S> ? Workspace::size<S>(m * m) : 0));
  const Factors<S> factors(problem, pool, workspace);
  const View<S> y = take_padded_square<S>(workspace, m, order);
  const View<S> leading = take_padded_square<S>(workspace, m, order);
  const View<S> rbar = dense(problem.dr, m, n, order), abar = dense(problem.da, m, n, order);
  if (problem.dr) {
    copy_triangle(pool, RealOf<S>(1), rbar.block(0, 0, m, m), factors.live, leading);
  }
  make_y(problem, pool, factors, leading, y);
  solve_triangular(false, Op::kTranspose, factors.triangle, y);
  for (long l = 0; problem.dr && l < m; ++l) {
    const S* from = line(leading, l);
    S* to = line(y, l);
    for (long i = 0; i < m; ++i) to[i] += from[i];
  }
  const View<S> q = form_conjugate_q(factors, pool, workspace), rest = abar.block(0, m, m, n - m);
  multiply(S(1), Op::kPlain, q, Op::kPlain, y, S(0), abar.block(0, 0, m, m));
  if (problem.dr) {
    multiply(S(1), Op::kPlain, q.block(0, 0, m, factors.live), Op::kPlain,
             rbar.block(0, m, factors.live, n - m), S(0), rest);
  } else {
    const S zero = S(0) * factors.r(0, 0);  // NaN if the matrix is
    for (long l = 0; l < line_count(rest); ++l) {
      std::fill(line(rest, l), line(rest, l) + line_length(rest), zero);
    }
  }
}

}  // namespace

template <class S>
void compute_tangent_blocked(const DerivativeProblem<S>& problem, Pool& pool) {
  problem.m < problem.n ? compute_tangent_wide(problem, pool) : compute_tangent_deep(problem, pool);
}

template <class S>
void compute_cotangent_blocked(const DerivativeProblem<S>& problem, Pool& pool) {
  problem.m < problem.n ? compute_cotangent_wide(problem, pool)
                        : compute_cotangent_deep(problem, pool);
}

#define INSTANTIATE(S, NAME)                                                    \
  template void compute_tangent_blocked<S>(const DerivativeProblem<S>&, Pool&); \
  template void compute_cotangent_blocked<S>(const DerivativeProblem<S>&, Pool&);
JAXQR_FOR_SCALARS(INSTANTIATE)

}  // namespace jaxqr
