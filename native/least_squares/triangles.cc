// Triangular systems of a batch. LAPACK's own, as jaxlib calls them for a batch, wait for tasks of
// XLA's pool on a thread of that pool, which can wait forever; for_ranges cannot.
#include <algorithm>

#include "common/problems.h"
#include "least_squares/triangular.h"

namespace jaxqr {
namespace {

// op(T) X = B for one triangle in the place of B (n x s), by rows; `Conjugate` is that of op.
template <bool Conjugate, class S>
void solve_in_place(const SolveProblem<S>& problem, const S* t, bool transpose, S* x, long s) {
  const long n = problem.n;
  const bool ascending = problem.lower != transpose;
  for (long step = 0; step < n; ++step) {
    const long i = ascending ? step : n - 1 - step;
    const S* row = t + i * n;
    S* target = x + i * s;
    const long begin = problem.lower ? 0 : i + 1, end = problem.lower ? i : n;
    if (!transpose && s == 1) {
      *target -= inner_product<Conjugate>(row + begin, x + begin, end - begin);
    } else if (!transpose) {
      for (long j = begin; j < end; ++j) {
        subtract_multiple<false>(x + j * s, Conjugate ? conjugate(row[j]) : row[j], target, s);
      }
    }
    if (!problem.unit) {
      const S diagonal = Conjugate ? conjugate(row[i]) : row[i];
      for (long l = 0; l < s; ++l) target[l] /= diagonal;
    }
    if (transpose && s == 1) {
      subtract_multiple<Conjugate>(row + begin, *target, x + begin, end - begin);
    } else if (transpose) {
      for (long j = begin; j < end; ++j) {
        subtract_multiple<false>(target, Conjugate ? conjugate(row[j]) : row[j], x + j * s, s);
      }
    }
  }
}

// A system from the right is one from the left for each row of X, with op(T) transposed.
template <bool Conjugate, class S>
void solve_one(const SolveProblem<S>& problem, const S* t, S* x) {
  if (problem.left) {
    return solve_in_place<Conjugate>(problem, t, problem.transpose, x, problem.cols);
  }
  for (long i = 0; i < problem.rows; ++i) {
    solve_in_place<Conjugate>(problem, t, !problem.transpose, x + i * problem.n, 1);
  }
}

}  // namespace

template <class S>
void solve_triangles(const SolveProblem<S>& problem, Pool& pool) {
  const long n = problem.n, size = problem.rows * problem.cols;
  if (size == 0) return;
  for_ranges(pool, problem.batch, (kIsComplex<S> ? 4 : 1) * n * size, [&](long begin, long end) {
    std::copy(problem.b + begin * size, problem.b + end * size, problem.x + begin * size);
    for (long i = begin; i < end; ++i) {
      const S* t = problem.t + i * n * n;
      S* x = problem.x + i * size;
      if (problem.conjugate && kIsComplex<S>) {
        solve_one<true>(problem, t, x);
      } else {
        solve_one<false>(problem, t, x);
      }
    }
  });
}

#define INSTANTIATE(S, NAME) template void solve_triangles<S>(const SolveProblem<S>&, Pool&);
JAXQR_FOR_SCALARS(INSTANTIATE)

}  // namespace jaxqr
