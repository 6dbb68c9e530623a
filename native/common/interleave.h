// Numbers that lie side by side in memory, as packs: complex ones with their parts in turn.
#pragma once

#include "common/simd.h"

namespace jaxqr {

template <class T, int... Lane>
JAXQR_INLINE Pack<std::complex<T>> deinterleave(Vector<T> a, Vector<T> b,
                                                std::integer_sequence<int, Lane...>) {
  return {__builtin_shufflevector(a, b, (2 * Lane)...),
          __builtin_shufflevector(a, b, (2 * Lane + 1)...)};
}

// The reals from `First` on of the numbers in a pack.
template <int First, class T, int... Lane>
JAXQR_INLINE Vector<T> interleave(Pack<std::complex<T>> x, std::integer_sequence<int, Lane...>) {
  return __builtin_shufflevector(x.re, x.im, ((First + Lane) / 2 + Lane % 2 * kWidth<T>)...);
}

template <class S>
JAXQR_INLINE Pack<S> load_numbers(const S* from) {
  using T = RealOf<S>;
  if constexpr (kIsComplex<S>) {
    const T* parts = reinterpret_cast<const T*>(from);
    return deinterleave<T>(load_unaligned(parts), load_unaligned(parts + kWidth<T>),
                           std::make_integer_sequence<int, kWidth<T>>{});
  } else {
    return {load_unaligned(from)};
  }
}

template <class S>
JAXQR_INLINE void store_numbers(Pack<S> x, S* to) {
  using T = RealOf<S>;
  if constexpr (kIsComplex<S>) {
    constexpr std::make_integer_sequence<int, kWidth<T>> lanes{};
    T* parts = reinterpret_cast<T*>(to);
    store_unaligned(parts, interleave<0, T>(x, lanes));
    store_unaligned(parts + kWidth<T>, interleave<kWidth<T>, T>(x, lanes));
  } else {
    store_unaligned(to, x.re);
  }
}

}  // namespace jaxqr
