// The reflector of a column, as LAPACK's larfg has it. batch/panel_qr.h has that of one column in
// each lane, where nothing may branch on values.
#pragma once

#include <algorithm>
#include <cmath>
#include <complex>

#include "common/range.h"

namespace jaxqr {

// H = I - tau v v^H turns a column into beta on its diagonal and zeros below. v is one on the
// diagonal, and `inverse` times the column below it.
template <class S>
struct ScalarReflector {
  S tau, inverse;
  RealOf<S> beta;
};

// The reflector of a column with `alpha` on the diagonal. `rest`, which is not zero, is the sum of
// the squares that it annihilates: of the entries below the diagonal and of alpha's imaginary part.
template <class S>
inline ScalarReflector<S> make_reflector(S alpha, RealOf<S> rest) {
  const RealOf<S> re = std::real(alpha);
  const RealOf<S> beta = -std::copysign(std::sqrt(rest + re * re), re);
  const S difference = alpha - beta;  // of numbers of opposite sign
  if constexpr (kIsComplex<S>) {
    return {-difference / beta, std::conj(difference) / std::norm(difference), beta};
  } else {
    return {-difference / beta, 1 / difference, beta};
  }
}

// The same for a column of any size, which may be zero. `squares` is the sum of the squares below
// the diagonal, find_largest() returns the largest magnitude there, and rescale(power) multiplies
// the entries there by a power of two and returns the new sum. Where squares would be too small,
// the column is brought near one before its reflector is made; tau and v stay as they are.
template <class S, class FindLargest, class Rescale>
ScalarReflector<S> make_reflector_safely(S alpha, RealOf<S> squares,
                                         const FindLargest& find_largest, const Rescale& rescale) {
  using T = RealOf<S>;
  const auto rest = [&] { return squares + std::imag(alpha) * std::imag(alpha); };
  const auto square_of_norm = [&] { return rest() + std::real(alpha) * std::real(alpha); };
  T power = 1;
  if (rest() == 0 || square_of_norm() < kLeastSquare<T>) {
    const T below = find_largest();
    if (below == 0 && std::imag(alpha) == 0) return {0, 0, std::real(alpha)};
    if (square_of_norm() < kLeastSquare<T>) {
      const T largest = std::max({below, std::abs(std::real(alpha)), std::abs(std::imag(alpha))});
      power = power_for(largest);
      squares = rescale(power);
      alpha *= power;
    }
  }
  ScalarReflector<S> reflector = make_reflector(alpha, rest());
  reflector.beta /= power;
  return reflector;
}

}  // namespace jaxqr
