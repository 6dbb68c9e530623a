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

// C := R^{-1} C or, if `Adjoint`, R^{-H} C, for the upper triangle R of n rows, `ld` apart, with a
// real diagonal, and a dense C (n x s).
template <bool Adjoint, class S>
void solve_upper(const S* r, long ld, long n, S* c, long s) {
  if (n * s > 256 && s >= 4) {
    const View<S> t = {const_cast<S*>(r), n, n, ld, Order::kRows};
    return solve_triangular(true, Adjoint ? Op::kAdjoint : Op::kPlain, t,
                            dense(c, n, s, Order::kRows));
  }
  for (long k = 0; k < n; ++k) {
    const long i = Adjoint ? k : n - 1 - k;
    const S* row = r + i * ld;
    S* x = c + i * s;
    if constexpr (!Adjoint) {
      if (s == 1) {
        *x -= inner_product<false>(row + i + 1, x + 1, n - 1 - i);
      } else {
        for (long j = i + 1; j < n; ++j) subtract_multiple<false>(c + j * s, row[j], x, s);
      }
    }
    for (long l = 0; l < s; ++l) x[l] /= real_part(row[i]);
    if constexpr (Adjoint) {
      if (s == 1) {
        subtract_multiple<true>(row + i + 1, *x, x + 1, n - 1 - i);
      } else {
        for (long j = i + 1; j < n; ++j) {
          subtract_multiple<false>(x, conjugate(row[j]), c + j * s, s);
        }
      }
    }
  }
}

}  // namespace jaxqr
