// Which columns of a triangle count: (8.3) of notebooks/derivations.md.
#pragma once

#include <cmath>
#include <limits>

#include "common/scalars.h"
#include "common/simd.h"

namespace jaxqr {

// A column does not count whose diagonal entry is at most so many times the sum of the magnitudes
// in the column: that of `tolerance` in jaxqr/_tangents.py.
template <class T>
constexpr T kTolerance = 64 * std::numeric_limits<T>::epsilon();

// |x|, by no squares that could leave the range; NaN if a part is.
template <class S>
JAXQR_INLINE RealOf<S> modulus(S x) {
  if constexpr (kIsComplex<S>) {
    const RealOf<S> a = std::abs(x.real()), b = std::abs(x.imag());
    const RealOf<S> large = a > b ? a : b, small = a > b ? b : a, ratio = small / large;
    return large == 0 ? small : large * std::sqrt(1 + ratio * ratio);
  } else {
    return std::abs(x);
  }
}

// The same in every lane.
template <class S>
Vector<RealOf<S>> modulus(Pack<S> z) {
  using T = RealOf<S>;
  if constexpr (kIsComplex<S>) {
    const Vector<T> re = absolute<T>(z.re), im = absolute<T>(z.im), one = broadcast(T(1));
    const Vector<T> larger = maximum<T>(re, im), smaller = re < im ? re : im;
    const Vector<T> ratio = smaller / (larger == 0 ? one : larger);
    return larger * square_root<T>(one + ratio * ratio);
  } else {
    return absolute<T>(z.re);
  }
}

// At least |z|, and |z| where z is real.
template <class S>
JAXQR_INLINE Vector<RealOf<S>> modulus_bound(Pack<S> z) {
  Vector<RealOf<S>> bound = absolute<RealOf<S>>(z.re);
  if constexpr (kIsComplex<S>) bound += absolute<RealOf<S>>(z.im);
  return bound;
}

}  // namespace jaxqr
