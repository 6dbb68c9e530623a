// Inner products, combinations and reflectors of columns in panels, with the sums of several
// columns in registers.
#pragma once

#include <algorithm>

#include "common/range.h"
#include "common/reflector.h"
#include "rows/row_panel.h"

namespace jaxqr {

// The columns that a group of reflectors is applied to at a time: their products take half of the
// registers.
template <class S>
constexpr int kTargetColumns = kRegisters / (2 * kGroupColumns * kParts<S>);

// ------------------------------------------------------------------------------- inner products

template <class T, int Step, int... Lane>
JAXQR_INLINE Vector<T> fold(Vector<T> a, Vector<T> b, std::integer_sequence<int, Lane...>) {
  constexpr int width = kWidth<T>;
  return __builtin_shufflevector(a, b, ((Lane & Step) ? width + Lane - Step : Lane)...) +
         __builtin_shufflevector(a, b, ((Lane & Step) ? width + Lane : Lane + Step)...);
}

// Lane l of the result is the sum of rows[l].
template <class T, int Step = kWidth<T> / 2>
JAXQR_INLINE Vector<T> sums(Vector<T>* rows) {
  JAXQR_UNROLL
  for (int i = 0; i < Step; ++i) {
    rows[i] = fold<T, Step>(rows[i], rows[i + Step], std::make_integer_sequence<int, kWidth<T>>{});
  }
  if constexpr (Step > 1) {
    return sums<T, Step / 2>(rows);
  } else {
    return rows[0];
  }
}

// w[p][a] = v_a^H c_p over the packs from `first` on, of columns `stride` apart.
template <int K, int P, class S>
JAXQR_INLINE void inner_products(const Pack<S>* v, const Pack<S>* c, long stride, long first,
                                 long last, S (&w)[P][K]) {
  using T = RealOf<S>;
  constexpr int count = P * K * kParts<S>, width = kWidth<T>;
  Pack<S> sums_of[P][K], totals[P][K], lost[P][K];
  const bool is_long = last - first > kSumTerms;
  for (int e = 0; is_long && e < P * K; ++e) {
    totals[e / K][e % K] = lost[e / K][e % K] = Pack<S>::zero();
  }
  for (long i = first;;) {
    const long end = std::min(last, i + kSumTerms);
    JAXQR_UNROLL
    for (int e = 0; e < P * K; ++e) sums_of[e / K][e % K] = Pack<S>::zero();
    for (; i < end; ++i) {
      Pack<S> x[K];
      JAXQR_UNROLL
      for (int a = 0; a < K; ++a) x[a] = v[a * stride + i];
      JAXQR_UNROLL
      for (int p = 0; p < P; ++p) {
        const Pack<S> y = c[p * stride + i];
        JAXQR_UNROLL
        for (int a = 0; a < K; ++a) add_adjoint_product(sums_of[p][a], x[a], y);
      }
    }
    if (!is_long) break;
    for (int e = 0; e < P * K; ++e) {
      add_compensated(totals[e / K][e % K], lost[e / K][e % K], sums_of[e / K][e % K]);
    }
    if (i < last) continue;
    std::copy(&totals[0][0], &totals[0][0] + P * K, &sums_of[0][0]);
    break;
  }
  Vector<T>* parts = reinterpret_cast<Vector<T>*>(sums_of);
  T* to = reinterpret_cast<T*>(w);
  if constexpr (count % width == 0) {
    JAXQR_UNROLL
    for (int e = 0; e < count; e += width) store_unaligned(to + e, sums<T>(parts + e));
  } else {
    JAXQR_UNROLL
    for (int e = 0; e < count; ++e) to[e] = sum<T>(parts[e]);
  }
}

// c_p -= sum of z[p][a] v_a
template <int K, int P, class S>
JAXQR_INLINE void subtract_combinations(const Pack<S>* v, const S (&z)[P][K], Pack<S>* c,
                                        long stride, long first, long last) {
  Pack<S> factor[P][K];
  JAXQR_UNROLL
  for (int e = 0; e < P * K; ++e) factor[e / K][e % K] = spread(z[e / K][e % K]);
  for (long i = first; i < last; ++i) {
    Pack<S> x[K];
    JAXQR_UNROLL
    for (int a = 0; a < K; ++a) x[a] = v[a * stride + i];
    JAXQR_UNROLL
    for (int p = 0; p < P; ++p) {
      Pack<S> y = c[p * stride + i];
      JAXQR_UNROLL
      for (int a = 0; a < K; ++a) subtract_product(y, x[a], factor[p][a]);
      c[p * stride + i] = y;
    }
  }
}

// C := (I - V T V^H)^H C, on P columns; T by columns.
template <int K, int P, class S>
JAXQR_INLINE void reflect(const Pack<S>* v, const S (&t)[K][K], Pack<S>* c, long stride, long first,
                          long last) {
  S w[P][K], z[P][K];
  inner_products(v, c, stride, first, last, w);
  JAXQR_UNROLL
  for (int p = 0; p < P; ++p) {
    JAXQR_UNROLL
    for (int a = 0; a < K; ++a) {
      z[p][a] = 0;
      JAXQR_UNROLL
      for (int b = 0; b <= a; ++b) z[p][a] += product(conjugate(t[a][b]), w[p][b]);
    }
  }
  subtract_combinations(v, z, c, stride, first, last);
}

// T of a group of up to kGroupColumns reflectors by columns, (4.2), from tau and the products
// v_l^H v_p at [p][l].
template <class S>
inline void compute_group_t(const S* tau, const S (&products)[kGroupColumns][kGroupColumns],
                            S (&t)[kGroupColumns][kGroupColumns], long count = kGroupColumns) {
  for (long p = 0; p < count; ++p) {
    for (long q = 0; q < p; ++q) {
      S sum = 0;
      for (long l = q; l < p; ++l) sum += product(t[l][q], products[p][l]);
      t[p][q] = -product(tau[p], sum);
    }
    t[p][p] = tau[p];
  }
}

// The largest magnitude of the real numbers in the packs from `first` on.
template <class S>
RealOf<S> largest_in_packs(const Pack<S>* x, long first, long last) {
  const RealOf<S>* parts = reinterpret_cast<const RealOf<S>*>(x + first);
  return largest_magnitude(parts, (last - first) * kParts<S> * kWidth<RealOf<S>>);
}

template <class S>
void scale_packs(Pack<S>* x, long first, long last, RealOf<S> by) {
  for (long i = first; i < last; ++i) x[i] = scale(x[i], broadcast(by));
}

template <class S>
RealOf<S> squares_of_packs(const Pack<S>* x, long first, long last) {
  using T = RealOf<S>;
  Vector<T> total{}, lost{};
  for (long i = first; i < last;) {
    const long end = std::min(last, i + 2 * kSumTerms);
    Vector<T> even{}, odd{};
    for (; i + 2 <= end; i += 2) {
      even += abs2(x[i]);
      odd += abs2(x[i + 1]);
    }
    if (i < end) even += abs2(x[i++]);
    add_compensated<Vector<T>>(total, lost, even + odd);
  }
  return sum<T>(total);
}

// The reflector that annihilates column j below its entry j; the column becomes its vector.
template <class S>
ScalarReflector<S> eliminate(RowPanel<S> panel, long j) {
  Pack<S>* x = panel.column(j);
  const long first = j / RowPanel<S>::kLanes, last = panel.packs();
  const S alpha = panel.get(j, j);
  panel.set(j, j, 0);
  const ScalarReflector<S> reflector = make_reflector_safely(
      alpha, squares_of_packs(x, first, last), [&] { return largest_in_packs(x, first, last); },
      [&](RealOf<S> power) {
        scale_packs(x, first, last, power);
        return squares_of_packs(x, first, last);
      });
  const Pack<S> factor = spread(reflector.inverse);
  for (long i = first; i < last; ++i) x[i] = x[i] * factor;
  panel.set(j, j, 1);
  return reflector;
}

}  // namespace jaxqr
