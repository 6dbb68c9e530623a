// Householder reflectors, as LAPACK's larfg makes them.
#pragma once

#include "gpu/numbers.cuh"

namespace jaxqr {

// H = I - tau v v^H with v = (1, scale x) for the vector (alpha, x) that H^H turns into (beta, 0).
template <class T>
struct Reflector {
  T tau, scale;
  Real<T> beta;
};

// Make it from alpha and the sum of squares of x. It is trivial, the identity, where x is exactly
// zero and alpha is real: the sum cannot tell, as it may underflow.
template <class T>
JAXQR_FN Reflector<T> make_reflector(T alpha, Real<T> below, bool trivial) {
  using R = Real<T>;
  if (trivial) return {number<T>(0), number<T>(0), real_part(alpha)};
  const R norm = square_root(add_square(below, alpha));
  const R beta = is_negative(real_part(alpha)) ? norm : -norm;
  const T difference = alpha - number<T>(beta);
  return {scale_by(-difference, R(1) / beta), invert(difference), beta};
}

}  // namespace jaxqr
