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

}  // namespace jaxqr
