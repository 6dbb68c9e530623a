// The tangent and the cotangent map of QR, of matrices of at most 32 columns: (8.5) to (8.8) of
// notebooks/derivations.md. A matrix is on a team of threads, in shared memory; of a deep one with
// many rows a range of them at a time.
//
// qr_jvp, data: 0 q (m, k), 1 r (k, n), 2 da (m, n), 3 dq (m, k), 4 dr (k, n).
// qr_vjp, data: 0 q (m, k), 1 r (k, n), 2 qbar (m, k), 3 rbar (k, n), 4 abar (m, n).
// sizes: 0 m, 1 n, 2 transposed, 3 pivoted, 4 threads of a team, 5 rows in shared memory at a time,
// a multiple of four, 6 bytes of shared memory for a team.
#pragma once

#include "gpu/derivative_matrices.cuh"

namespace jaxqr {

// ------------------------------------------------------------------------------------- tangents

// Psi = E_c - skw(E_c) of (8.5), upper triangular, in w, of E in e.
template <class T, int MOST>
JAXQR_FN void form_psi(const Derivative<T, MOST, true>& d) {
  d.team.for_groups(d.k, d.w.groups(), [&](int i, int g) {
    const Four<T> e = d.keep_counted(d.e.get(i, g), g);
    Four<T> psi;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int j = 4 * g + c;
      psi[c] = number<T>(i == j ? real_part(e[c]) : Real<T>(0));
      if (i < j) psi[c] = d.point.has(i) ? e[c] + conjugate(d.e.at(j, i)) : e[c];
    }
    d.w.put(i, g, psi);
  });
}

// dR = Psi R + E_{1-c} of (8.5) in e, of E there and Psi in w.
template <class T, int MOST>
JAXQR_FN void form_deep_dr(const Derivative<T, MOST, true>& d) {
  for_products<false, Kind::kUpper>(d.team, d.w, d.k, d.r, [&](Four<T> dr, int i, int g) {
    const Four<T> e = d.e.get(i, g);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      if (!d.point.has(4 * g + c)) dr[c] = dr[c] + e[c];
    }
    d.e.put(i, g, d.finish_tangent(dr, i, g));
  });
}

// Psi, and dR, from E, or from Q^H dA if that is in e.
template <class T, int MOST>
JAXQR_FN void finish_squares(const Derivative<T, MOST, true>& d, const Arguments& arguments) {
  T* const dr = static_cast<T*>(arguments.data[4]);
  if (!arguments.data[3]) {
    d.triangle.solve_right(d.e, d.e, d.k);
    d.team.synchronize();
  }
  if (dr && !d.triangle.all_count()) d.load_r(arguments, d.point.scale);
  form_psi(d);
  d.team.synchronize();
  if (!dr) return;
  form_deep_dr(d);
  d.team.synchronize();
  d.copies.store(d.e, d.all_of_r(), dr);
}

// (8.5). On the way there B = dA R_m^-1 is found, which waits in the place of dQ, and E. If dQ is
// not wanted, the solve is that of Q^H dA, which has fewer rows.
template <class T, int MOST>
JAXQR_FN void compute_deep_tangent(const Arguments& arguments) {
  Derivative<T, MOST, true> d(arguments);
  d.begin(arguments);
  d.triangle.restrict_rows();
  T* const dq = static_cast<T*>(arguments.data[3]);
  const int ranges = d.ranges();
#pragma unroll 1
  for (int visit = 0; visit < 2 * ranges; ++visit) {
    const bool back = visit >= ranges;
    const RowRange range = d.range(visit);
    if (visit != ranges) {
      d.load_rows(arguments, back ? dq : arguments.data[2], range, d.x, back ? 1 : d.point.scale);
    } else {
      finish_squares(d, arguments);
      if (!dq) return;
    }
    if (back) {  // dQ = B_c - Q Psi
      const auto subtract = [&](const Four<T>& product, int i, int g) {
        d.x.put(i, g, d.keep_counted(d.x.get(i, g), g) - product);
      };
      for_products<false, Kind::kUpper>(d.team, d.q, range.count, d.w, subtract);
      d.team.synchronize();
    } else {
      if (dq) d.triangle.solve_right(d.x, d.x, range.count);
      d.team.synchronize();
      InnerProducts<true, T, MOST>(d.team, d.q, d.x).add_to(d.e, range.count);
    }
    if (dq && visit != ranges - 1) {
      d.copies.store(d.x, range, dq);
      d.team.synchronize();
    }
  }
}

// Omega = skw(E_c) of (8.7) in `square`, of E in w. Behind its rows are zeros, as are in w.
template <class T, int MOST>
JAXQR_FN void form_omega(const Derivative<T, MOST, false>& d) {
  d.team.for_groups(d.padded_k(), d.w.groups(), [&](int i, int g) {
    const bool counted = d.point.has(i);
    Four<T> omega = d.keep_counted(d.w.get(i, g), g);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int j = 4 * g + c;
      if (i == j) omega[c] = omega[c] - number<T>(real_part(omega[c]));
      if (i < j) omega[c] = counted ? -conjugate(d.w.at(j, i)) : number<T>(0);
    }
    d.square.put(i, g, omega);
  });
}

// (8.7)
template <class T, int MOST>
JAXQR_FN void compute_wide_tangent(const Arguments& arguments) {
  Derivative<T, MOST, false> d(arguments);
  d.begin(arguments);
  d.triangle.restrict_rows();
  T *const dq = static_cast<T*>(arguments.data[3]), *const dr = static_cast<T*>(arguments.data[4]);
  d.load_rows(arguments, arguments.data[2], d.range(0), d.x, d.point.scale);
  InnerProducts<true, T, MOST>(d.team, d.q, d.x).add_to(d.e, d.m);
  d.triangle.solve_right(d.e, d.w, d.k);
  d.team.synchronize();
  if (dr && !d.triangle.all_count()) d.load_r(arguments, d.point.scale);
  form_omega(d);
  d.team.synchronize();
  if (dr) {
    const auto subtract = [&](const Four<T>& product, int i, int g) {
      d.e.put(i, g, d.finish_tangent(d.e.get(i, g) - product, i, g));
    };
    for_products<false, Kind::kUpper>(d.team, d.square, d.k, d.r, subtract);
  }
  if (dq) {
    const auto put = [&](const Four<T>& product, int i, int g) { d.w.put(i, g, product); };
    for_products<false, Kind::kAny>(d.team, d.q, d.k, d.square, put);
  }
  d.team.synchronize();
  if (dr) d.copies.store(d.e, d.all_of_r(), dr);
  if (dq) d.copies.store(d.w, d.range(0), dq);
}

template <class T, int MOST>
JAXQR_FN void qr_jvp(const Arguments& arguments) {
  if (arguments.sizes[0] >= arguments.sizes[1]) {
    compute_deep_tangent<T, MOST>(arguments);
  } else {
    compute_wide_tangent<T, MOST>(arguments);
  }
}

// ----------------------------------------------------------------------------------- cotangents
//
// JAX pairs cotangents without conjugation: Qbar and Rbar come conjugated, and the conjugate of
// Abar is wanted. That is the rules with conj(Q) and conj(R) for Q and R. So Qbar, R_b, Ebar, X and
// Abar stand here for their conjugates.

// Ebar of (8.6) in e, of R_b there and Qbar^H Q in w, which becomes -M = Qbar^H Q - R R_b^H.
template <class T, int MOST>
JAXQR_FN void form_ebar(const Derivative<T, MOST, true>& d, bool with_rbar) {
  if (with_rbar) {
    const auto subtract = [&](const Four<T>& product, int i, int g) {
      d.w.put(i, g, d.w.get(i, g) - product);
    };
    for_transposed_products(d.team, d.r, d.k, d.e, d.w.groups(), subtract);
    d.team.synchronize();
  }
  d.team.for_groups(d.k, d.w.groups(), [&](int i, int g) {
    const Four<T> w = d.w.get(i, g);
    Four<T> e = d.e.get(i, g);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int j = 4 * g + c;
      if (!d.point.has(j)) continue;
      e[c] = i > j ? -conjugate(w[c]) : i < j ? -d.w.at(j, i) : number<T>(-real_part(w[c]));
    }
    d.e.put(i, g, e);
  });
}

// (8.6). On the way there Qbar^H Q is found; without Qbar there is only the way back, and
// Ebar R_m^-H takes the place of Ebar: a solve with fewer rows.
template <class T, int MOST>
JAXQR_FN void compute_deep_cotangent(const Arguments& arguments) {
  Derivative<T, MOST, true> d(arguments);
  d.begin(arguments);
  const void* const qbar = arguments.data[2];
  if (arguments.data[3]) d.load_rbar(arguments.data[3]);
  const int ranges = d.ranges();
#pragma unroll 1
  for (int visit = qbar ? 0 : ranges; visit < 2 * ranges; ++visit) {
    const RowRange range = d.range(visit);
    if (visit != ranges || !qbar) d.load_rows(arguments, qbar, range, d.x, d.point.scale);
    if (visit < ranges) {
      InnerProducts<false, T, MOST>(d.team, d.x, d.q).add_to(d.w, range.count);
      continue;
    }
    if (visit == ranges) {
      form_ebar(d, arguments.data[3]);
      d.team.synchronize();
    }
    if (visit == ranges && !qbar) {
      d.triangle.solve_right_transposed(d.e, d.k);
      d.team.synchronize();
    }
    const auto add = [&](const Four<T>& product, int i, int g) {
      d.x.put(i, g, qbar ? product + d.keep_counted(d.x.get(i, g), g) : product);
    };
    for_products<true, Kind::kAny>(d.team, d.q, range.count, d.e, add);
    d.team.synchronize();
    if (qbar) d.triangle.solve_right_transposed(d.x, range.count);
    d.team.synchronize();
    d.copies.store(d.x, range, static_cast<T*>(arguments.data[4]));
    d.team.synchronize();
  }
}

// skw*(X)_c of (8.7), lower triangular, in `square`, of X = Q^H Qbar - R_b R^H, whose first term is
// in w.
template <class T, int MOST>
JAXQR_FN void form_skw_adjoint(const Derivative<T, MOST, false>& d, bool with_rbar) {
  if (with_rbar) {
    const auto subtract = [&](const Four<T>& product, int i, int g) {
      d.w.put(i, g, d.w.get(i, g) - product);
    };
    for_transposed_products(d.team, d.e, d.k, d.r, d.w.groups(), subtract);
    d.team.synchronize();
  }
  d.team.for_groups(d.k, d.w.groups(), [&](int i, int g) {
    Four<T> x = d.w.get(i, g);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int j = 4 * g + c;
      if (i > j) x[c] = x[c] - conjugate(d.w.at(j, i));
      if (i == j) x[c] = x[c] - number<T>(real_part(x[c]));
      if (i < j) x[c] = number<T>(0);
    }
    d.square.put(i, g, d.keep_counted(x, g));
  });
}

// (8.7)
template <class T, int MOST>
JAXQR_FN void compute_wide_cotangent(const Arguments& arguments) {
  Derivative<T, MOST, false> d(arguments);
  d.begin(arguments);
  const void *const qbar = arguments.data[2], *const rbar = arguments.data[3];
  if (rbar) d.load_rbar(rbar);
  d.load_rows(arguments, qbar, d.range(0), d.square, d.point.scale);
  if (qbar) InnerProducts<false, T, MOST>(d.team, d.q, d.square).add_to(d.w, d.m);
  form_skw_adjoint(d, rbar);
  d.team.synchronize();
  d.triangle.solve_right_transposed(d.square, d.k);
  d.team.synchronize();
  d.team.for_groups(d.k, d.square.groups(), [&](int i, int g) {
    d.e.put(i, g, d.e.get(i, g) + d.square.get(i, g));
  });
  d.team.synchronize();
  const auto put = [&](const Four<T>& product, int i, int g) { d.x.put(i, g, product); };
  for_products<true, Kind::kAny>(d.team, d.q, d.m, d.e, put);
  d.team.synchronize();
  d.copies.store(d.x, d.range(0), static_cast<T*>(arguments.data[4]));
}

template <class T, int MOST>
JAXQR_FN void qr_vjp(const Arguments& arguments) {
  if (arguments.sizes[0] >= arguments.sizes[1]) {
    compute_deep_cotangent<T, MOST>(arguments);
  } else {
    compute_wide_cotangent<T, MOST>(arguments);
  }
}

}  // namespace jaxqr
