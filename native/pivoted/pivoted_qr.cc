// One large matrix with column pivoting.
#include "common/fill_nan.h"
#include "kernels.h"
#include "pivoted/exact_pivots.h"
#include "pivoted/randomized_pivots.h"
#include "rows/squares.h"

namespace jaxqr {
namespace {

constexpr long kBlock = 64;  // columns that are copied together

// Call body(view's columns, panel's columns) for blocks of the columns that both have.
template <class S, class Body>
void for_blocks(Pool& pool, View<S> view, RowPanel<S> panel, const Body& body) {
  for_ranges(pool, ceil_divide(view.cols, kBlock), kBlock * view.rows, [&](long begin, long end) {
    for (long j = begin * kBlock; j < std::min(view.cols, end * kBlock); j += kBlock) {
      const long cols = std::min(kBlock, view.cols - j);
      RowPanel<S> columns = panel;
      columns.data = panel.column(j);
      columns.rows = view.rows;
      columns.cols = cols;
      body(view.block(0, j, view.rows, cols), columns);
    }
  });
}

// Overwrite the k reflectors in `a` by the leading `cols` columns of Q = H_1 ... H_k. It goes
// backwards: reflectors meet zeros and ones in the columns before their own.
template <class S>
void form_in_place(Pool& pool, RowPanel<S> a, const S* tau, long k, long cols) {
  constexpr long most = ReflectorGroups<S>::kMost, lanes = RowPanel<S>::kLanes;
  Workspace workspace(Workspace::size<Pack<S>>(RowPanel<S>::size(a.rows, most)));
  const RowPanel<S> v(workspace.take<Pack<S>>(RowPanel<S>::size(a.rows, most)), a.rows, most);
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

// The arrays of a factorization, in memory that is large enough for either way to choose pivots.
template <class S>
struct PivotedArrays {
  using T = RealOf<S>;

  static long size(const QrProblem<S>& problem) {
    return PivotedFactorization<S>::matrix_size(
        problem.m, problem.q_full ? std::max(problem.m, problem.n) : problem.n);
  }
  static size_t bytes(const QrProblem<S>& problem) {
    return Workspace::size<Pack<S>>(size(problem)) + Workspace::size<S>(problem.k()) +
           Workspace::size<int32_t>(problem.n) + Workspace::size<T>(problem.n);
  }
  PivotedArrays(const QrProblem<S>& problem, Workspace& workspace)
      : a(workspace.take<Pack<S>>(size(problem)), problem.m, problem.n),
        tau(problem.tau ? problem.tau : workspace.take<S>(problem.k())),
        p(problem.p ? problem.p : workspace.take<int32_t>(problem.n)),
        scales(workspace.take<T>(problem.n)) {}

  // Load the matrix, its columns multiplied by powers of two where squares might leave the range.
  Scaling load(const QrProblem<S>& problem, Pool& pool) {
    for_blocks(pool, dense(problem.a, problem.m, problem.n, problem.order), a,
               [](View<S> from, RowPanel<S> to) { load_row_panel(from, to); });
    std::fill(a.column(problem.n), a.data + size(problem), Pack<S>::zero());
    return scale_columns(a, scales);
  }

  RowPanel<S> a;
  S* tau;
  int32_t* p;
  T* scales;
};

// Write what is wanted of a factorization; that of Q takes the place of the reflectors.
template <class S>
void write_results(const QrProblem<S>& problem, const PivotedArrays<S>& found, bool scaled,
                   Pool& pool) {
  const long m = problem.m, n = problem.n, k = problem.k();
  const Order order = problem.order;
  const RowPanel<S> a = found.a;
  const auto store = [](View<S> to, RowPanel<S> from) { store_row_panel(from, to); };
  if (problem.r) {
    const View<S> r = dense(problem.r, k, n, order);
    for_blocks(pool, r, a, store);
    copy_triangle(pool, RealOf<S>(1), r, k, r);
    if (scaled) divide_upper(pool, r, found.scales);
  }
  if (problem.h) {
    const View<S> h = dense(problem.h, m, n, order);
    for_blocks(pool, h, a, store);
    if (scaled) divide_upper(pool, h, found.scales);
  }
  if (problem.q || problem.q_full) {
    form_in_place(pool, a, found.tau, k, problem.q_full ? m : k);
  }
  if (problem.q) for_blocks(pool, dense(problem.q, m, k, order), a, store);
  if (problem.q_full) for_blocks(pool, dense(problem.q_full, m, m, order), a, store);
}

template <class S>
void factor_exactly(const QrProblem<S>& problem, Pool& pool) {
  Workspace workspace(PivotedArrays<S>::bytes(problem) +
                      PivotedFactorization<S>::workspace(problem.m, problem.n));
  PivotedArrays<S> arrays(problem, workspace);
  const Scaling scaling = arrays.load(problem, pool);
  if (!scaling.finite) return fill_nan(problem);
  PivotedFactorization<S>(arrays.a, arrays.tau, arrays.p, arrays.scales, scaling, workspace)
      .run(pool, problem.k());
  write_results(problem, arrays, scaling.needed, pool);
}

// False if exact pivots have to be taken: a sketch compares columns as they are, and sees nothing
// that is much smaller than them.
template <class S>
bool factor_by_sketches(const QrProblem<S>& problem, Pool& pool) {
  Workspace workspace(PivotedArrays<S>::bytes(problem) +
                      RandomizedFactorization<S>::workspace(problem.m, problem.n));
  PivotedArrays<S> arrays(problem, workspace);
  const Scaling scaling = arrays.load(problem, pool);
  if (scaling.needed) return false;
  RandomizedFactorization<S> factorization(arrays.a, problem.k(), arrays.tau, arrays.p, workspace);
  if (!factorization.run(pool)) return false;
  write_results(problem, arrays, false, pool);
  return true;
}

}  // namespace

template <class S>
void factor_pivoted(const QrProblem<S>& problem, Pool& pool) {
  factor_exactly(problem, pool);
}

template <class S>
void factor_randomized(const QrProblem<S>& problem, Pool& pool) {
  if (!factor_by_sketches(problem, pool)) factor_exactly(problem, pool);
}

#define INSTANTIATE(S, NAME)                                   \
  template void factor_pivoted<S>(const QrProblem<S>&, Pool&); \
  template void factor_randomized<S>(const QrProblem<S>&, Pool&);
JAXQR_FOR_SCALARS(INSTANTIATE)

}  // namespace jaxqr
