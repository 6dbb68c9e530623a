// Vectors of the widest registers that the build's instruction set has, and the arithmetic of
// real and complex numbers spread over their lanes.
//
// Every build of the library is for one instruction set: the vector's width must follow it, as
// wider vectors would be split through memory.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "common/scalar_types.h"

// Tests may build with vectors that the machine has not, which compilers split.
#if defined(JAXQR_VECTOR_BYTES)
#elif defined(__AVX512F__)
#define JAXQR_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define JAXQR_VECTOR_BYTES 32
#else
#define JAXQR_VECTOR_BYTES 16  // SSE, NEON
#endif

#define JAXQR_INLINE inline __attribute__((always_inline))
#if defined(__clang__)
#define JAXQR_UNROLL _Pragma("unroll")
#else
#define JAXQR_UNROLL _Pragma("GCC unroll 16")
#endif

namespace jaxqr {

// How many lanes a vector of reals has.
template <class T>
constexpr int kWidth = JAXQR_VECTOR_BYTES / static_cast<int>(sizeof(T));

// How many vectors the processor's registers hold.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif

template <class T>
struct VectorType {
  typedef T type __attribute__((vector_size(JAXQR_VECTOR_BYTES)));
  typedef T unaligned __attribute__((vector_size(JAXQR_VECTOR_BYTES), aligned(sizeof(T))));
  using Integer = typename std::conditional<sizeof(T) == 4, int32_t, int64_t>::type;
  typedef Integer mask __attribute__((vector_size(JAXQR_VECTOR_BYTES)));
};
template <class T>
using Vector = typename VectorType<T>::type;
// What a comparison of vectors returns: all bits of a lane set, or none.
template <class T>
using Mask = typename VectorType<T>::mask;

// ------------------------------------------------------------------------- vectors of reals

template <class T>
JAXQR_INLINE Vector<T> broadcast(T x) {
  return x - Vector<T>{};  // not +, which would lose the sign of -0
}

template <class T>
JAXQR_INLINE Vector<T> load(const T* from) {
  return *reinterpret_cast<const Vector<T>*>(from);
}

template <class T>
JAXQR_INLINE void store(T* to, Vector<T> x) {
  *reinterpret_cast<Vector<T>*>(to) = x;
}

template <class T>
JAXQR_INLINE Vector<T> load_unaligned(const T* from) {
  return *reinterpret_cast<const typename VectorType<T>::unaligned*>(from);
}

template <class T>
JAXQR_INLINE void store_unaligned(T* to, Vector<T> x) {
  *reinterpret_cast<typename VectorType<T>::unaligned*>(to) = x;
}

template <class T>
JAXQR_INLINE Vector<T> select(Mask<T> keep, Vector<T> x, Vector<T> y) {
  return keep ? x : y;
}

template <class T>
JAXQR_INLINE Vector<T> square_root(Vector<T> x) {
  Vector<T> root;
  JAXQR_UNROLL
  for (int l = 0; l < kWidth<T>; ++l) root[l] = std::sqrt(x[l]);
  return root;
}

template <class T>
JAXQR_INLINE Vector<T> absolute(Vector<T> x) {
  return x < 0 ? -x : x;
}

template <class T>
JAXQR_INLINE Vector<T> maximum(Vector<T> x, Vector<T> y) {
  return x > y ? x : y;
}

// The vector with its lanes rotated by `Step`.
template <class T, int Step, class V, int... Lane>
JAXQR_INLINE V rotate(V x, std::integer_sequence<int, Lane...>) {
  return __builtin_shufflevector(x, x, ((Lane + Step) % kWidth<T>)...);
}

template <class T, int Step = kWidth<T> / 2>
JAXQR_INLINE T sum(Vector<T> x) {
  x += rotate<T, Step>(x, std::make_integer_sequence<int, kWidth<T>>{});
  if constexpr (Step > 1) {
    return sum<T, Step / 2>(x);
  } else {
    return x[0];
  }
}

template <class T, int Step = kWidth<T> / 2>
JAXQR_INLINE bool any(Mask<T> mask) {
  mask |= rotate<T, Step>(mask, std::make_integer_sequence<int, kWidth<T>>{});
  if constexpr (Step > 1) {
    return any<T, Step / 2>(mask);
  } else {
    return mask[0] != 0;
  }
}

// Exchange the off-diagonal blocks of side `Step` in every 2 Step x 2 Step block.
template <class T, int Step, int... Lane>
JAXQR_INLINE void exchange(Vector<T>* rows, std::integer_sequence<int, Lane...>) {
  constexpr int width = kWidth<T>;
  JAXQR_UNROLL
  for (int i = 0; i < width; ++i) {
    if (i & Step) continue;
    Vector<T> a = rows[i], b = rows[i + Step];
    rows[i] = __builtin_shufflevector(a, b, ((Lane & Step) ? width + Lane - Step : Lane)...);
    rows[i + Step] = __builtin_shufflevector(a, b, ((Lane & Step) ? width + Lane : Lane + Step)...);
  }
}

// Transpose a square of kWidth<T> vectors in registers.
template <class T, int Step = kWidth<T> / 2>
JAXQR_INLINE void transpose(Vector<T>* rows) {
  exchange<T, Step>(rows, std::make_integer_sequence<int, kWidth<T>>{});
  if constexpr (Step > 1) transpose<T, Step / 2>(rows);
}

// ------------------------------------------------------------- packs of real or complex numbers

// kWidth scalars. Complex ones keep real and imaginary parts in a vector each, so that every
// operation is on whole vectors.
template <class S>
struct Pack {
  using Scalar = S;
  using Real = S;
  Vector<S> re;

  static JAXQR_INLINE Pack zero() { return {Vector<S>{}}; }
};

template <class T>
struct Pack<std::complex<T>> {
  using Scalar = std::complex<T>;
  using Real = T;
  Vector<T> re, im;

  static JAXQR_INLINE Pack zero() { return {Vector<T>{}, Vector<T>{}}; }
};

template <class S>
JAXQR_INLINE Pack<S> spread(S x) {
  if constexpr (kIsComplex<S>) {
    return {broadcast(x.real()), broadcast(x.imag())};
  } else {
    return {broadcast(x)};
  }
}

template <class S>
JAXQR_INLINE Pack<S> operator+(Pack<S> a, Pack<S> b) {
  a.re += b.re;
  if constexpr (kIsComplex<S>) a.im += b.im;
  return a;
}

template <class S>
JAXQR_INLINE Pack<S> operator-(Pack<S> a, Pack<S> b) {
  a.re -= b.re;
  if constexpr (kIsComplex<S>) a.im -= b.im;
  return a;
}

template <class S>
JAXQR_INLINE Pack<S> operator-(Pack<S> a) {
  a.re = -a.re;
  if constexpr (kIsComplex<S>) a.im = -a.im;
  return a;
}

template <class S>
JAXQR_INLINE Pack<S> conj(Pack<S> a) {
  if constexpr (kIsComplex<S>) a.im = -a.im;
  return a;
}

// y += a b
template <class S>
JAXQR_INLINE void add_product(Pack<S>& y, Pack<S> a, Pack<S> b) {
  y.re += a.re * b.re;
  if constexpr (kIsComplex<S>) {
    y.re -= a.im * b.im;
    y.im += a.re * b.im;
    y.im += a.im * b.re;
  }
}

// y -= a b
template <class S>
JAXQR_INLINE void subtract_product(Pack<S>& y, Pack<S> a, Pack<S> b) {
  y.re -= a.re * b.re;
  if constexpr (kIsComplex<S>) {
    y.re += a.im * b.im;
    y.im -= a.re * b.im;
    y.im -= a.im * b.re;
  }
}

// y += conj(a) b
template <class S>
JAXQR_INLINE void add_adjoint_product(Pack<S>& y, Pack<S> a, Pack<S> b) {
  y.re += a.re * b.re;
  if constexpr (kIsComplex<S>) {
    y.re += a.im * b.im;
    y.im += a.re * b.im;
    y.im -= a.im * b.re;
  }
}

// y -= conj(a) b
template <class S>
JAXQR_INLINE void subtract_adjoint_product(Pack<S>& y, Pack<S> a, Pack<S> b) {
  y.re -= a.re * b.re;
  if constexpr (kIsComplex<S>) {
    y.re -= a.im * b.im;
    y.im -= a.re * b.im;
    y.im += a.im * b.re;
  }
}

template <class S>
JAXQR_INLINE Pack<S> operator*(Pack<S> a, Pack<S> b) {
  Pack<S> y = Pack<S>::zero();
  add_product(y, a, b);
  return y;
}

template <class S>
JAXQR_INLINE Pack<S> scale(Pack<S> a, Vector<RealOf<S>> by) {
  a.re *= by;
  if constexpr (kIsComplex<S>) a.im *= by;
  return a;
}

// |a|^2
template <class S>
JAXQR_INLINE Vector<RealOf<S>> abs2(Pack<S> a) {
  Vector<RealOf<S>> square = a.re * a.re;
  if constexpr (kIsComplex<S>) square += a.im * a.im;
  return square;
}

template <class S>
JAXQR_INLINE Pack<S> from_real(Vector<RealOf<S>> re) {
  Pack<S> a = Pack<S>::zero();
  a.re = re;
  return a;
}

template <class S>
JAXQR_INLINE Pack<S> select(Mask<RealOf<S>> keep, Pack<S> a, Pack<S> b) {
  a.re = keep ? a.re : b.re;
  if constexpr (kIsComplex<S>) a.im = keep ? a.im : b.im;
  return a;
}

// The scalar that is the sum of the lanes.
template <class S>
JAXQR_INLINE S sum(Pack<S> a) {
  if constexpr (kIsComplex<S>) {
    return S(sum<RealOf<S>>(a.re), sum<RealOf<S>>(a.im));
  } else {
    return sum<S>(a.re);
  }
}

}  // namespace jaxqr
