// Which columns of a triangle count: (8.3) of notebooks/derivations.md.
#pragma once

#include <cmath>
#include <limits>

#include "common/scalars.h"

namespace jaxqr {

// A column does not count whose diagonal entry is at most so many times the sum of the magnitudes in
// the column: that of `tolerance` in jaxqr/_tangents.py.
template <class T>
constexpr T kTolerance = 64 * std::numeric_limits<T>::epsilon();

// |x|, whatever its exponent; NaN if a part is.
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

}  // namespace jaxqr
