// The tangent and the cotangent map of QR, of matrices of at most 32 columns: (8.5) to (8.8) of
// notebooks/derivations.md. A matrix on a team of threads, in shared memory; of a deep one with many
// rows a range of them at a time.
//
// qr_jvp, data: 0 q (m, k), 1 r (k, n), 2 da (m, n), 3 dq (m, k), 4 dr (k, n).
// qr_vjp, data: 0 q (m, k), 1 r (k, n), 2 qbar (m, k), 3 rbar (k, n), 4 abar (m, n).
// sizes: 0 m, 1 n, 2 transposed, 3 pivoted, 4 threads of a team, 5 rows in shared memory at a time, a
// multiple of four, 6 bytes of shared memory for a team.
#pragma once

#include "gpu/arguments.h"
#include "gpu/triangles.cuh"

namespace jaxqr {

// What both maps have of a matrix. In shared memory are, one behind the other,
//   q     rows of Q,
//   x     rows of a matrix like A, or in `square` of one like Q,
//   r     R,
//   e     a matrix like R,
//   w     a k x k matrix,
// and the point with the reciprocals. Rows come in fours, too.
template <class T, int MOST, bool DEEP>
class Derivative {
 public:
  using Matrix = Tile<T, MOST>;
  using R = Real<T>;

  JAXQR_FN explicit Derivative(const Arguments& arguments)
      : m(arguments.sizes[0]), n(arguments.sizes[1]), k(DEEP ? n : m),
        pivoted(arguments.sizes[3]), rows(arguments.sizes[5]), team(arguments.sizes[4]),
        copies(team, arguments.batch, arguments.sizes[2]),
        q(team.number() * (arguments.sizes[6] / int(sizeof(T))), Matrix::find_lead(n), k),
        x(begin_behind(q, rows), q.lead(), n), square(x.begin(), q.lead(), k),
        r(begin_behind(x, rows), q.lead(), n), e(begin_behind(r, padded_k()), q.lead(), n),
        w(begin_behind(e, padded_k()), q.lead(), k),
        triangle(team, r, k, &w.at(padded_k(), 0)) {}

  JAXQR_FN int padded_k() const { return MOST == 4 ? 4 : (k + 3) / 4 * 4; }
  JAXQR_FN int ranges() const { return DEEP && MOST > 4 ? (m + rows - 1) / rows : 1; }
  // All rows of a deep matrix are visited twice, there and back: the last are still in memory then.
  JAXQR_FN RowRange range(int visit) const {
    const int first = rows * (visit < ranges() ? visit : 2 * ranges() - 1 - visit);
    return {first, m - first < rows ? m - first : rows, m};
  }
  JAXQR_FN RowRange all_of_r() const { return {0, k, k}; }

  // Load R and find the point.
  JAXQR_FN void begin(const Arguments& arguments) {
    clear();
    load_r(arguments, 1);
    team.synchronize();
    triangle.find_point(pivoted);
    point = *triangle.point();
  }
  JAXQR_FN void load_r(const Arguments& arguments, R scale) const {
    const auto change = [&](const Four<T>& entries, int, int) { return scale_by(entries, scale); };
    copies.load(static_cast<const T*>(arguments.data[1]), all_of_r(), r, padded_k(), change);
  }

  // Load rows of Q, and of a matrix, if there is one, times `scale`.
  JAXQR_FN void load_rows(const Arguments& arguments, const void* from, RowRange those,
                          const Matrix& to, R scale) const {
    const auto change = [&](const Four<T>& entries, int, int) { return scale_by(entries, scale); };
    copies.load(static_cast<const T*>(arguments.data[0]), those, q);
    if (from) copies.load(static_cast<const T*>(from), those, to, those.count, change);
    team.synchronize();
  }

  // R_b of (8.6) in e: what of a cotangent pairs with a triangle with a real diagonal.
  JAXQR_FN void load_rbar(const void* from) const {
    const auto prepare = [&](const Four<T>& entries, int i, int g) {
      return keep_triangle(entries, i, g);
    };
    copies.load(static_cast<const T*>(from), all_of_r(), e, k, prepare);
  }

  // Turn the tangent of the scaled R into that of R.
  JAXQR_FN Four<T> finish_tangent(const Four<T>& entries, int i, int g) const {
    return scale_by(keep_triangle(entries, i, g), point.inverse);
  }

  // Make row i that of a triangle with a real diagonal, or zero if it does not count and, pivoted,
  // comes after all that do.
  JAXQR_FN Four<T> keep_triangle(Four<T> entries, int i, int g) const {
    const bool kept = !pivoted || point.has(i);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int j = 4 * g + c;
      if (i == j) entries[c] = number<T>(real_part(entries[c]));
      if (i > j || !kept) entries[c] = number<T>(0);
    }
    return entries;
  }

  // The columns of group g that count.
  JAXQR_FN Four<T> keep_counted(Four<T> entries, int g) const {
    if ((~point.counts >> 4 * g & 15) == 0) return entries;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      if (!point.has(4 * g + c)) entries[c] = number<T>(0);
    }
    return entries;
  }

  const int m, n, k;
  const bool pivoted;
  const int rows;
  const Team<MOST> team;
  const Copies<T, MOST> copies;
  const Matrix q, x, square, r, e, w;
  const Triangle<T, MOST> triangle;
  Point<R> point;

 private:
  static JAXQR_FN int begin_behind(const Matrix& tile, int rows) {
    return tile.begin() + rows * tile.lead();
  }

  // Let e and w be zero.
  JAXQR_FN void clear() const {
    struct alignas(16) Unit {
      T entry[16 / sizeof(T)];
    };
    Unit zeros;
#pragma unroll
    for (int c = 0; c < int(16 / sizeof(T)); ++c) zeros.entry[c] = number<T>(0);
    const int entries = 2 * padded_k() * e.lead();
    for (int u = team.rank(); u < entries / int(16 / sizeof(T)); u += team.size()) {
      reinterpret_cast<Unit*>(&e.at(0, 0))[u] = zeros;
    }
  }
};

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

// (8.5). On the way there B = dA R_m^-1 is found, which waits in the place of dQ, and E. If dQ is not
// wanted, the solve is that of Q^H dA, which has less rows.
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
// Abar is wanted. That is the rules with conj(Q) and conj(R) for Q and R. Here are conjugated what
// the names say, but for M.

// Ebar of (8.6) in e, of R_b there and Qbar^H Q in w.
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

// (8.6). On the way there Qbar^H Q is found; without Qbar there is only the way back, and Ebar R_m^-H
// takes the place of Ebar: a solve with less rows.
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
