// One large matrix with column pivoting.
#include "pivoted_panel.h"
#include "randomized_factorization.h"
#include "routines.h"

namespace jaxqr {
namespace {

constexpr long kBlock = 64;  // columns that are copied together

// Call body(view's columns, panel's columns) for blocks of the columns that both have.
template <class S, class Body>
void for_blocks(Pool& pool, View<S> view, Panel<S> panel, const Body& body) {
  for_ranges(pool, ceil_divide(view.cols, kBlock), kBlock * view.rows, [&](long begin, long end) {
    for (long j = begin * kBlock; j < std::min(view.cols, end * kBlock); j += kBlock) {
      const long cols = std::min(kBlock, view.cols - j);
      Panel<S> columns = panel;
      columns.data = panel.column(j);
      columns.rows = view.rows;
      columns.cols = cols;
      body(view.block(0, j, view.rows, cols), columns);
    }
  });
}

template <class S>
void multiply_by(Pool& pool, RealOf<S> factor, View<S> a, bool only_upper) {
  for_ranges(pool, a.rows, a.cols, [=](long begin, long end) {
    for (long i = begin; i < end; ++i) {
      for (long j = only_upper ? i : 0; j < a.cols; ++j) a(i, j) *= factor;
    }
  });
}

// Overwrite the k reflectors in `a` by the leading `cols` columns of Q = H_1 ... H_k. It goes
// backwards: reflectors meet zeros and ones in the columns before their own.
template <class S>
void form_in_place(Pool& pool, Panel<S> a, const S* tau, long k, long cols) {
  constexpr long most = ReflectorGroups<S>::kMost, lanes = Panel<S>::kLanes;
  Workspace workspace(Workspace::size<Pack<S>>(Panel<S>::size(a.rows, most)));
  const Panel<S> v(workspace.take<Pack<S>>(Panel<S>::size(a.rows, most)), a.rows, most);
  const auto make_unit = [&](long j) {
    std::fill_n(a.column(j), a.packs(), Pack<S>::zero());
    a.set(j, j, 1);
  };
  for (long j = k; j < cols; ++j) make_unit(j);
  for (long start = round_up(k, most) - most; start >= 0; start -= most) {
    const long count = std::min(most, k - start), first = start / lanes;
    S adjoint_tau[most];
    for (long i = 0; i < count; ++i) {  // the last reflector is applied first
      const long j = start + i, place = count - 1 - i;
      std::copy(a.column(j) + first, a.column(j) + a.packs(), v.column(place) + first);
      for (long row = first * lanes; row < j; ++row) v.set(row, place, 0);
      v.set(j, place, 1);
      adjoint_tau[place] = conjugate(tau[j]);
      make_unit(j);
    }
    ReflectorGroups<S>(v, 0, count, adjoint_tau, first).apply(pool, a, start, cols, [](long) {});
  }
}

// A matrix that is not finite: its permutation is the identity.
template <class S>
void fill_pivoted_nan(const QrProblem<S>& problem) {
  fill_nan(problem);
  for (long j = 0; problem.p && j < problem.n; ++j) problem.p[j] = static_cast<int32_t>(j);
}

// `Factorization` chooses the pivots.
template <template <class> class FactorizationOf, class S>
void factor_with(const QrProblem<S>& problem, Pool& pool) {
  using T = RealOf<S>;
  const long m = problem.m, n = problem.n, k = problem.k();
  const Order order = problem.order;
  const T scale = scale_for(
      largest_magnitude(reinterpret_cast<const T*>(problem.a), m * n * kParts<S>));
  if (scale != scale) return fill_pivoted_nan(problem);

  using Factorization = FactorizationOf<S>;
  const long size = Factorization::matrix_size(m, problem.q_full ? std::max(m, n) : n);
  Workspace workspace(Workspace::size<Pack<S>>(size) + Workspace::size<S>(k) +
                      Workspace::size<int32_t>(n) + Factorization::workspace(m, n));
  const Panel<S> a(workspace.take<Pack<S>>(size), m, n);
  S* tau = problem.tau ? problem.tau : workspace.take<S>(k);
  int32_t* p = problem.p ? problem.p : workspace.take<int32_t>(n);
  const auto load = [](View<S> from, Panel<S> to) { load_panel(from, to); };
  const auto store = [](View<S> to, Panel<S> from) { store_panel(from, to); };
  for_blocks(pool, dense(problem.a, m, n, order), a, load);
  std::fill(a.column(n), a.data + size, Pack<S>::zero());
  if (scale != 1) {
    for (Pack<S>* x = a.data; x < a.column(n); ++x) *x = jaxqr::scale(*x, broadcast(scale));
  }
  if (!Factorization(a, tau, p, workspace).run(pool)) return factor_lapack(problem);

  if (problem.scale) *problem.scale = scale;
  if (problem.r) {
    const View<S> r = dense(problem.r, k, n, order);
    for_blocks(pool, r, a, store);
    copy_triangle(pool, 1 / scale, r, k, r);
  }
  if (problem.h) {
    const View<S> h = dense(problem.h, m, n, order);
    for_blocks(pool, h, a, store);
    if (scale != 1) multiply_by(pool, 1 / scale, h, true);
  }
  if (problem.q || problem.q_full) form_in_place(pool, a, tau, k, problem.q_full ? m : k);
  if (problem.q) for_blocks(pool, dense(problem.q, m, k, order), a, store);
  if (problem.q_full) for_blocks(pool, dense(problem.q_full, m, m, order), a, store);
}

}  // namespace

template <class S>
void factor_pivoted(const QrProblem<S>& problem, Pool& pool) {
  factor_with<PivotedFactorization>(problem, pool);
}

template <class S>
void factor_randomized(const QrProblem<S>& problem, Pool& pool) {
  factor_with<RandomizedFactorization>(problem, pool);
}

#define INSTANTIATE(S)                                            \
  template void factor_pivoted<S>(const QrProblem<S>&, Pool&);    \
  template void factor_randomized<S>(const QrProblem<S>&, Pool&);
JAXQR_FOR_SCALARS(INSTANTIATE)

}  // namespace jaxqr
