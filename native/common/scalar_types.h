// The scalar types that the library computes with. A new one is added in JAXQR_FOR_SCALARS, and in
// the list of data types in ffi/call.h.
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

// Reals in one scalar.
template <class S>
constexpr int kParts = kIsComplex<S> ? 2 : 1;

// Instantiate a function template for every scalar type.
#define JAXQR_FOR_SCALARS(INSTANTIATE) \
  INSTANTIATE(float)                   \
  INSTANTIATE(double)                  \
  INSTANTIATE(std::complex<float>)     \
  INSTANTIATE(std::complex<double>)

}  // namespace jaxqr
