// The scalar types that the library computes with. JAXQR_FOR_SCALARS is the one list of them.
#pragma once

#include <complex>
#include <type_traits>

namespace jaxqr {

// The real type behind a scalar: T for T and for std::complex<T>.
template <class S>
struct RealType {
  using type = S;
};
template <class T>
struct RealType<std::complex<T>> {
  using type = T;
};
template <class S>
using RealOf = typename RealType<S>::type;

template <class S>
constexpr bool kIsComplex = !std::is_same<S, RealOf<S>>::value;

// How many reals make a scalar.
template <class S>
constexpr int kParts = kIsComplex<S> ? 2 : 1;

// Repeat something for every scalar type, given with the name that XLA has for it. The order is
// that in which Python passes the addresses of BLAS routines.
#define JAXQR_FOR_SCALARS(REPEAT)  \
  REPEAT(float, F32)               \
  REPEAT(double, F64)              \
  REPEAT(std::complex<float>, C64) \
  REPEAT(std::complex<double>, C128)

}  // namespace jaxqr
