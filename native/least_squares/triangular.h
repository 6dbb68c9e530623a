// Triangular systems with few right-hand sides, by rows.
#pragma once

#include "common/blas.h"
#include "common/scalars.h"
#include "common/simd.h"

namespace jaxqr {

// sum_i op(a_i) b_i over `count` scalars; op is the conjugate if `Adjoint`.
template <bool Adjoint, class S>
inline S inner_product(const S* a, const S* b, long count) {
  using T = RealOf<S>;
  if constexpr (!kIsComplex<S>) {
    constexpr int width = kWidth<T>;
    Vector<T> even{}, odd{};
    long i = 0;
    for (; i + 2 * width <= count; i += 2 * width) {
      even += load_unaligned(a + i) * load_unaligned(b + i);
      odd += load_unaligned(a + i + width) * load_unaligned(b + i + width);
    }
    T total = i ? sum<T>(even + odd) : T(0);
    for (; i < count; ++i) total += a[i] * b[i];
    return total;
  } else {
    S even = 0, odd = 0;  // two chains of additions
    const auto factor = [&](long i) { return Adjoint ? std::conj(a[i]) : a[i]; };
    long i = 0;
    for (; i + 2 <= count; i += 2) {
      even += product(factor(i), b[i]);
      odd += product(factor(i + 1), b[i + 1]);
    }
    if (i < count) even += product(factor(i), b[i]);
    return even + odd;
  }
}

// y_i -= op(a_i) x over `count` scalars.
template <bool Adjoint, class S>
inline void subtract_multiple(const S* a, S x, S* y, long count) {
  using T = RealOf<S>;
  long i = 0;
  if constexpr (!kIsComplex<S>) {
    const Vector<T> factor = broadcast(x);
    for (; i + kWidth<T> <= count; i += kWidth<T>) {
      store_unaligned(y + i, load_unaligned(y + i) - factor * load_unaligned(a + i));
    }
  }
  for (; i < count; ++i) y[i] -= product(Adjoint ? conjugate(a[i]) : a[i], x);
}

// op(T) X = B in the place of B (n x s), by rows, for a triangle T whose rows are `ld` apart; op
// transposes or not, and conjugates if `Conjugate`. divide(x, d) divides a row of X by what is on
// T's diagonal, if anything has to be divided.
template <bool Conjugate, class S, class Divide>
void substitute(const S* t, long ld, long n, bool lower, bool transpose, S* x, long s,
                const Divide& divide) {
  const bool ascending = lower != transpose;
  for (long step = 0; step < n; ++step) {
    const long i = ascending ? step : n - 1 - step;
    const S* row = t + i * ld;
    S* target = x + i * s;
    const long begin = lower ? 0 : i + 1, end = lower ? i : n;
    const auto entry = [&](long j) { return Conjugate ? conjugate(row[j]) : row[j]; };
    if (!transpose && s == 1) {
      *target -= inner_product<Conjugate>(row + begin, x + begin, end - begin);
    } else if (!transpose) {
      for (long j = begin; j < end; ++j) subtract_multiple<false>(x + j * s, entry(j), target, s);
    }
    divide(target, row[i]);
    if (transpose && s == 1) {
      subtract_multiple<Conjugate>(row + begin, *target, x + begin, end - begin);
    } else if (transpose) {
      for (long j = begin; j < end; ++j) subtract_multiple<false>(target, entry(j), x + j * s, s);
    }
  }
}

// C := R^{-1} C or, if `Adjoint`, R^{-H} C, for the upper triangle R of n rows, `ld` apart, with a
// real diagonal, and a dense C (n x s).
template <bool Adjoint, class S>
void solve_upper(const S* r, long ld, long n, S* c, long s) {
  if (n * s > 256 && s >= 4) {
    const View<S> t = {const_cast<S*>(r), n, n, ld, Order::kRows};
    return solve_triangular(true, Adjoint ? Op::kAdjoint : Op::kPlain, t,
                            dense(c, n, s, Order::kRows));
  }
  substitute<Adjoint>(r, ld, n, false, Adjoint, c, s, [s](S* x, const S& diagonal) {
    for (long l = 0; l < s; ++l) x[l] /= real_part(diagonal);
  });
}

}  // namespace jaxqr
