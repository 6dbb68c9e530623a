// Matrices of few columns: Householder's method on a panel, or on many.
#include "tall/row_blocks.h"

namespace jaxqr {
namespace {

// Q = E - V Z with Z = T V_1^H.
template <class S>
void form_q(RowPanel<S> v, const S* tau, View<S> q, Workspace& workspace) {
  const long n = v.cols;
  const RowPanel<S> t = take_square_panel<S>(workspace, n), z = take_square_panel<S>(workspace, n);
  const RowPanel<S> top = take_square_panel<S>(workspace, n);  // V_1^H by rows: V_1 by columns
  compute_gram(v, t);
  compute_t_factor(tau, t);
  for (long j = 0; j < n; ++j) {
    for (long i = 0; i < std::min(top.packs(), v.packs()); ++i) {
      top.column(j)[i] = conj<S>(v.column(j)[i]);
    }
  }
  multiply_triangle(t, false, top, z);
  store_product(v, z, q);
  for (long i = 0; i < n; ++i) q(i, i) += S(1);
}

template <class S>
void factor_single(const QrProblem<S>& problem) {
  const long m = problem.m, n = problem.n;
  const long v_size = RowPanel<S>::size(m, n), r_size = RowPanel<S>::size(n, n);
  Workspace workspace(Workspace::size<Pack<S>>(v_size) + Workspace::size<Pack<S>>(r_size) +
                      (problem.q ? 3 * square_panel_bytes<S>(n) : 0));
  const RowPanel<S> v(workspace.take<Pack<S>>(v_size), m, n);
  const RowPanel<S> r(workspace.take<Pack<S>>(r_size), n, n);

  load_row_panel(dense(problem.a, m, n, problem.order), v);
  RealOf<S> scales[kTallColumns];
  const Scaling scaling = scale_columns(v, scales);
  if (!scaling.finite) return fill_nan(problem);

  S some_tau[kTallColumns];
  S* tau = problem.tau ? problem.tau : some_tau;
  factor_row_panel(v, tau, r);
  if (scaling.needed) multiply_columns(r, [&](long j) { return 1 / scales[j]; });
  if (problem.r) store_upper_triangle(r, dense(problem.r, n, n, problem.order), Below::kZero);
  if (problem.h) {
    const View<S> h = dense(problem.h, m, n, problem.order);
    store_row_panel(v, h);
    store_upper_triangle(r, h.block(0, 0, n, n), Below::kUntouched);
  }
  if (problem.q) form_q(v, tau, dense(problem.q, m, n, problem.order), workspace);
}

}  // namespace

template <class S>
void factor_tall(const QrProblem<S>& problem, Pool& pool) {
  // as many rows as a core's cache holds, unless threads would be idle in a large problem
  const bool idle = problem.batch * (problem.m / 2048) < thread_count(pool);
  const bool large = problem.m * problem.n >= 1 << 15;
  const Partition parts(problem.m, problem.n, idle && large ? 1024 : 2048);
  if (problem.q_full || (parts.blocks > 1 && (problem.h || problem.tau))) {
    for (long b = 0; b < problem.batch; ++b) factor_blocked(problem.slice(b, 1), pool);
  } else if (parts.blocks == 1) {
    parallel_for(pool, problem.batch, [&](long b) { factor_single(problem.slice(b, 1)); });
  } else {
    Workspace workspace(RowBlocks<S>::workspace(problem, parts));
    RowBlocks<S>(problem, parts, workspace).run(pool);
  }
}

#define INSTANTIATE(S, NAME) template void factor_tall<S>(const QrProblem<S>&, Pool&);
JAXQR_FOR_SCALARS(INSTANTIATE)

}  // namespace jaxqr
