// Arithmetic of single numbers: what the standard library lacks, or does too carefully.
#pragma once

#include <cmath>
#include <complex>

#include "common/simd.h"

namespace jaxqr {

constexpr long ceil_divide(long x, long y) { return (x + y - 1) / y; }
constexpr long round_up(long x, long y) { return ceil_divide(x, y) * y; }

template <class S>
inline S conjugate(S a) {
  if constexpr (kIsComplex<S>) {
    return std::conj(a);
  } else {
    return a;
  }
}

template <class S>
inline S real_part(S x) {
  if constexpr (kIsComplex<S>) {
    return x.real();
  } else {
    return x;
  }
}

// Terms that are added up one after the other. The rounding error of such a sum may grow with their
// number, where all have one sign; so longer sums are made of the sums of so many terms each.
constexpr long kSumTerms = 128;

// total += part, and `lost` keeps what rounding took off the total (Kahan).
template <class X>
JAXQR_INLINE void add_compensated(X& total, X& lost, X part) {
  const X exact = part - lost;
  const X next = total + exact;
  lost = (next - total) - exact;
  total = next;
}

// a b, where neither overflows: the operator of std::complex looks for infinities.
template <class S>
JAXQR_INLINE S product(S a, S b) {
  if constexpr (kIsComplex<S>) {
    return S(a.real() * b.real() - a.imag() * b.imag(), a.real() * b.imag() + a.imag() * b.real());
  } else {
    return a * b;
  }
}

// The reflector, as LAPACK's larfg has it, of a column with `alpha` on the diagonal. v = inverse x
// below it.
template <class S>
struct ScalarReflector {
  S tau, inverse;
  RealOf<S> beta;
};

// `rest`, which is not zero, is the sum of the squares that it annihilates: of the entries below
// the diagonal and of alpha's imaginary part.
template <class S>
inline ScalarReflector<S> reflector_of(S alpha, RealOf<S> rest) {
  const RealOf<S> re = std::real(alpha);
  const RealOf<S> beta = -std::copysign(std::sqrt(rest + re * re), re);
  const S difference = alpha - beta;  // of numbers of opposite sign
  if constexpr (kIsComplex<S>) {
    return {-difference / beta, std::conj(difference) / std::norm(difference), beta};
  } else {
    return {-difference / beta, 1 / difference, beta};
  }
}

}  // namespace jaxqr
