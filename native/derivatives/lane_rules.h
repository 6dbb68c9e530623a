// The parts of the rules (8.5)-(8.8) that concern k x k matrices and triangles, in lanes.
#pragma once

#include "derivatives/lane_triangles.h"

namespace jaxqr {

// X := X_c
template <class S>
[[gnu::noinline]] void keep_columns(const LaneView<S>& x, const Mask<RealOf<S>>* counts) {
  for (long i = 0; i < x.rows; ++i) {
    for (long j = 0; j < x.cols; ++j) x(i, j) = select(counts[j], x(i, j), Pack<S>::zero());
  }
}

// X := D X
template <class S>
[[gnu::noinline]] void keep_rows(const LaneView<S>& x, const Mask<RealOf<S>>* counts) {
  for (long i = 0; i < x.rows; ++i) {
    for (long j = 0; j < x.cols; ++j) x(i, j) = select(counts[i], x(i, j), Pack<S>::zero());
  }
}

// ------------------------------------------------------------------------------------- tangents

// Psi = E_c - skw(E_c) of (8.5): upper triangular.
template <class S>
void form_psi(const LaneView<S>& e, const TriangleGroup<S>& triangle, const LaneView<S>& psi) {
  const Pack<S> zero = Pack<S>::zero();
  const Mask<RealOf<S>>* counts = triangle.counts();
  for (long i = 0; i < e.rows; ++i) {
    psi(i, i) = select(counts[i], from_real<S>(e(i, i).re), zero);
    for (long j = i + 1; j < e.cols; ++j) {
      psi(i, j) = select(counts[j], e(i, j), zero) + select(counts[i], conj(e(j, i)), zero);
    }
  }
}

// dR = Psi R + E_{1-c} of (8.5).
template <class S>
void form_dr(const LaneView<S>& e, const LaneView<S>& psi, const TriangleGroup<S>& triangle,
             const LaneView<S>& dr) {
  multiply<S>(Update::kSet, dr, psi, triangle.r());
  if (triangle.all_count()) return;
  for (long i = 0; i < e.rows; ++i) {
    for (long j = i; j < e.cols; ++j) {
      dr(i, j) = dr(i, j) + select(triangle.counts()[j], Pack<S>::zero(), e(i, j));
    }
  }
}

// What comes after (8.5) and (8.7).
template <class S>
void finish_dr(const TriangleGroup<S>& triangle, bool pivoted, const LaneView<S>& dr) {
  using T = RealOf<S>;
  if (triangle.scaled()) scale_entries<S>(dr, broadcast(T(1)) / triangle.scale());
  if (pivoted && !triangle.all_count()) keep_rows<S>(dr, triangle.counts());
}

// E := skw(E_c), the Omega of (8.7).
template <class S>
void form_omega(const LaneView<S>& e, const TriangleGroup<S>& triangle) {
  const Pack<S> zero = Pack<S>::zero();
  const Mask<RealOf<S>>* counts = triangle.counts();
  for (long i = 0; i < e.rows; ++i) {
    e(i, i) = select(counts[i], e(i, i) - from_real<S>(e(i, i).re), zero);
    for (long j = 0; j < i; ++j) {
      e(i, j) = select(counts[j], e(i, j), zero);
      e(j, i) = -conj(e(i, j));
    }
  }
}

// ----------------------------------------------------------------------------------- cotangents

// R_b of (8.6).
template <class S>
void load_rbar(const DerivativeProblem<S>& problem, Lanes lanes, const Place* places,
               const TriangleGroup<S>& triangle, const LaneView<S>& rbar) {
  load_lanes<S>(problem.dr, lanes, problem.batch, places, rbar);
  if (problem.pivoted && !triangle.all_count()) keep_rows<S>(rbar, triangle.counts());
}

// Ebar of (8.6), conjugated, from M in the lower triangle of `m`, in place. `rbar` may be null.
template <class S>
void form_ebar(const LaneView<S>& m, const LaneView<S>* rbar, const TriangleGroup<S>& triangle) {
  for (long i = 0; i < m.rows; ++i) {
    for (long j = 0; j < i; ++j) {
      m(j, i) = m(i, j);
      m(i, j) = conj(m(i, j));
    }
    m(i, i) = from_real<S>(m(i, i).re);
  }
  if (triangle.all_count()) return;
  for (long i = 0; i < m.rows; ++i) {
    for (long j = 0; j < m.cols; ++j) {
      const Pack<S> other = rbar && i <= j ? (*rbar)(i, j) : Pack<S>::zero();
      m(i, j) = select(triangle.counts()[j], m(i, j), other);
    }
  }
}

// X := skw*(X)_c of (8.7): lower triangular.
template <class S>
void form_skw_adjoint(const LaneView<S>& x, const TriangleGroup<S>& triangle) {
  const Pack<S> zero = Pack<S>::zero();
  const Mask<RealOf<S>>* counts = triangle.counts();
  for (long i = 0; i < x.rows; ++i) {
    x(i, i) = select(counts[i], x(i, i) - from_real<S>(x(i, i).re), zero);
    for (long j = 0; j < i; ++j) {
      x(i, j) = select(counts[j], x(i, j) - conj(x(j, i)), zero);
      x(j, i) = zero;
    }
  }
}

}  // namespace jaxqr
