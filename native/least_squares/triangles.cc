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
  const auto divide = [&](S* target, const S& diagonal) {
    if (problem.unit) return;
    const S divisor = Conjugate ? conjugate(diagonal) : diagonal;
    for (long l = 0; l < s; ++l) target[l] /= divisor;
  };
  substitute<Conjugate>(t, problem.n, problem.n, problem.lower, transpose, x, s, divide);
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
