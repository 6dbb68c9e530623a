// Tangents and cotangents of batches of small matrices, one matrix in each lane: (8.5)-(8.8) of
// notebooks/derivations.md.
#include "derivatives/lane_rules.h"
#include "kernels.h"

namespace jaxqr {
namespace {

// What both maps need: Q, R, and memory for matrices like A and R and for two that are k x k.
template <class S>
struct MatrixGroup {
  MatrixGroup(Workspace& workspace, const DerivativeProblem<S>& problem,
              const DerivativePlaces<S>& places)
      : p(problem), places(places), triangle(workspace, problem, places.r) {
    const long m = p.m, n = p.n, k = p.k();
    q = take_matrix<Pack<S>>(workspace, {m, k});
    like_a = take_matrix<Pack<S>>(workspace, {m, n});
    like_r = take_matrix<Pack<S>>(workspace, {k, n}, Fill::kUpper);
    square = take_matrix<Pack<S>>(workspace, {k, k});
    // as an upper triangle, too, it is Psi of (8.5)
    other_square = take_matrix<Pack<S>>(workspace, {k, k}, Fill::kUpper);
  }

  static size_t bytes(const DerivativeProblem<S>& p) {
    const long m = p.m, n = p.n, k = p.k();
    return TriangleGroup<S>::bytes(p) + matrix_bytes<Pack<S>>({m, k}) +
           matrix_bytes<Pack<S>>({m, n}) + matrix_bytes<Pack<S>>({k, n}) +
           2 * matrix_bytes<Pack<S>>({k, k});
  }

  void load_point(Lanes lanes) {
    load_lanes<S>(p.q, lanes, p.batch, places.q, q);
    triangle.load(lanes);
  }

  DerivativeProblem<S> p;
  DerivativePlaces<S> places;
  TriangleGroup<S> triangle;
  LaneView<S> q, like_a, like_r, square, other_square;
};

// ------------------------------------------------------------------------------------- tangents

// (8.5), of dA in `g.like_a`, where it leaves dQ.
template <class S>
void compute_deep_tangent(const MatrixGroup<S>& g) {
  const LaneView<S>&b = g.like_a, &e = g.square, &psi = g.other_square;
  if (g.p.dq) solve_right<S>(b, g.triangle.restricted());
  multiply_conj<S>(Update::kSet, e, g.q.transposed(), b);
  if (!g.p.dq) solve_right<S>(e, g.triangle.restricted());  // k rows instead of m
  form_psi<S>(e, g.triangle, psi);
  if (g.p.dr) form_dr<S>(e, psi, g.triangle, g.like_r);
  if (!g.p.dq) return;
  if (!g.triangle.all_count()) keep_columns<S>(b, g.triangle.counts());
  multiply<S>(Update::kSubtract, b, g.q, psi);
}

// (8.7), of dA in `g.like_a`. It leaves dQ in `g.other_square`.
template <class S>
void compute_wide_tangent(const MatrixGroup<S>& g) {
  const LaneView<S>&c = g.like_r, &omega = g.square;
  multiply_conj<S>(Update::kSet, c.with(Fill::kFull), g.q.transposed(), g.like_a);
  for (long i = 0; i < c.rows; ++i) std::copy(c.at(i, 0), c.at(i, c.rows), omega.at(i, 0));
  solve_right<S>(omega, g.triangle.restricted());
  form_omega<S>(omega, g.triangle);
  if (g.p.dr) multiply<S>(Update::kSubtract, c, omega, g.triangle.r());
  if (g.p.dq) multiply<S>(Update::kSet, g.other_square.with(Fill::kFull), g.q, omega);
}

template <class S>
void compute_tangent_group(MatrixGroup<S>& g, Lanes lanes) {
  const DerivativeProblem<S>& p = g.p;
  const bool deep = p.m >= p.n;
  g.load_point(lanes);
  load_lanes<S>(p.da, lanes, p.batch, g.places.a, g.like_a);
  if (g.triangle.scaled()) scale_entries<S>(g.like_a, g.triangle.scale());
  deep ? compute_deep_tangent(g) : compute_wide_tangent(g);
  if (p.dq) {
    store_lanes<S>(deep ? g.like_a : g.other_square, lanes, p.batch, g.places.q, p.dq);
  }
  if (!p.dr) return;
  finish_dr<S>(g.triangle, p.pivoted, g.like_r);
  store_lanes<S>(g.like_r, lanes, p.batch, g.places.r, p.dr);
}

// ----------------------------------------------------------------------------------- cotangents
//
// JAX pairs cotangents without conjugation: Qbar and Rbar come conjugated, and the conjugate of
// Abar is wanted. That is the rules with conj(Q) and conj(R) for Q and R.

// (8.6), of Qbar in `g.like_a` and R_b in `g.like_r`. It leaves Abar in `g.like_a`.
template <class S>
void compute_deep_cotangent(const MatrixGroup<S>& g) {
  const LaneView<S>&x = g.like_a, &rbar = g.like_r, &ebar = g.square;
  const LaneView<S> m = ebar.with(Fill::kLower);
  if (g.p.dr) {
    multiply<S>(Update::kSet, m, g.triangle.r(), rbar.transposed());
  } else {
    clear(m);
  }
  if (g.p.dq) multiply<S>(Update::kSubtract, m, x.transposed(), g.q);
  form_ebar<S>(ebar, g.p.dr ? &rbar : nullptr, g.triangle);
  if (g.p.dq) {
    if (!g.triangle.all_count()) keep_columns<S>(x, g.triangle.counts());
    multiply_conj<S>(Update::kAdd, x, g.q, ebar);
    solve_right_transposed<S>(x, g.triangle.restricted());
  } else {  // a solve with k rows instead of m
    solve_right_transposed<S>(ebar, g.triangle.restricted());
    multiply_conj<S>(Update::kSet, x, g.q, ebar);
  }
}

// (8.7), of Qbar in `g.other_square` and R_b in `g.like_r`. It leaves Abar in `g.like_a`.
template <class S>
void compute_wide_cotangent(const MatrixGroup<S>& g) {
  const LaneView<S>&x = g.square, &rbar = g.like_r;
  if (g.p.dq) {
    multiply<S>(Update::kSet, x, g.q.transposed(), g.other_square.with(Fill::kFull));
  } else {
    clear(x);
  }
  if (g.p.dr) {
    multiply<S>(Update::kSubtract, x, rbar, g.triangle.r().transposed());
  } else {
    clear(rbar);
  }
  form_skw_adjoint<S>(x, g.triangle);
  solve_right_transposed<S>(x, g.triangle.restricted());
  multiply_conj<S>(Update::kSet, g.like_a, g.q, rbar);
  multiply_conj<S>(Update::kAdd, g.like_a.leading_cols(g.p.m), g.q, x.with(Fill::kLower));
}

template <class S>
void compute_cotangent_group(MatrixGroup<S>& g, Lanes lanes) {
  const DerivativeProblem<S>& p = g.p;
  const bool deep = p.m >= p.n;
  g.load_point(lanes);
  if (p.dq) {
    const LaneView<S>& qbar = deep ? g.like_a : g.other_square;
    load_lanes<S>(p.dq, lanes, p.batch, g.places.q, qbar);
    if (g.triangle.scaled()) scale_entries<S>(qbar, g.triangle.scale());
  }
  if (p.dr) load_rbar<S>(p, lanes, g.places.r, g.triangle, g.like_r);
  deep ? compute_deep_cotangent(g) : compute_wide_cotangent(g);
  store_lanes<S>(g.like_a, lanes, p.batch, g.places.a, p.da);
}

template <class S>
void run_groups(const DerivativeProblem<S>& problem, Pool& pool, void run(MatrixGroup<S>&, Lanes)) {
  const double m = problem.m, n = problem.n, k = problem.k();
  const double cost = (kIsComplex<S> ? 20 : 5) * m * n * k + kParts<S> * 30 * (m + k) * n + 500;
  Workspace shared(DerivativePlaces<S>::bytes(problem));
  const DerivativePlaces<S> places(shared, problem);
  for_groups<RealOf<S>>(pool, problem.batch, cost, [&](long first, long count) {
    Workspace workspace(MatrixGroup<S>::bytes(problem));
    MatrixGroup<S> group(workspace, problem.slice(first, count), places);
    for (long b = 0; b < count; b += kWidth<RealOf<S>>) {
      run(group, {b, filled_lanes<RealOf<S>>(count - b)});
    }
  });
}

}  // namespace

template <class S>
void compute_tangent_batch(const DerivativeProblem<S>& problem, Pool& pool) {
  run_groups<S>(problem, pool, compute_tangent_group<S>);
}

template <class S>
void compute_cotangent_batch(const DerivativeProblem<S>& problem, Pool& pool) {
  run_groups<S>(problem, pool, compute_cotangent_group<S>);
}

#define INSTANTIATE(S, NAME)                                                  \
  template void compute_tangent_batch<S>(const DerivativeProblem<S>&, Pool&); \
  template void compute_cotangent_batch<S>(const DerivativeProblem<S>&, Pool&);
JAXQR_FOR_SCALARS(INSTANTIATE)

}  // namespace jaxqr
