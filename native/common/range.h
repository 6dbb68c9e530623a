// The range of a matrix's entries, and what is done where it is extreme.
//
// Householder's method does not change when the columns of a matrix are multiplied by powers of
// two: Q and the reflectors stay as they are, and the columns of R are multiplied as those of A. So
// columns whose squares might leave the range of the type are brought near one first, each by a
// power of its own. What is left of a column when its turn comes may be small all the same; then
// that is brought near one before its reflector is made.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/simd.h"

namespace jaxqr {

// Below this, a sum of squares has lost digits to underflow.
template <class T>
constexpr T kLeastSquare = sizeof(T) == 8 ? T(0x1p-900) : T(0x1p-90);

// Columns whose largest entry is between the reciprocal of this and it are factored as they are.
template <class T>
constexpr T kOrdinary = sizeof(T) == 8 ? T(0x1p200) : T(0x1p40);

// The largest magnitude of `count` reals; infinite or NaN if one of them is: without its sign bit,
// the order of numbers is that of their bits as integers, infinity and NaN last.
template <class T>
inline T largest_magnitude(const T* x, long count) {
  constexpr int width = kWidth<T>;
  const Mask<T> magnitude = ~reinterpret_cast<Mask<T>>(broadcast(-T(0)));
  Mask<T> even{}, odd{};
  const auto include = [&](Mask<T>& largest, Vector<T> value) {
    const Mask<T> bits = reinterpret_cast<Mask<T>>(value) & magnitude;
    largest = bits > largest ? bits : largest;
  };
  long i = 0;
  for (; i + 2 * width <= count; i += 2 * width) {
    include(even, load_unaligned(x + i));
    include(odd, load_unaligned(x + i + width));
  }
  for (; i + width <= count; i += width) include(even, load_unaligned(x + i));
  if (i < count) {
    Vector<T> rest{};
    for (int l = 0; i + l < count; ++l) rest[l] = x[i + l];
    include(odd, rest);
  }
  even = even > odd ? even : odd;
  auto largest = even[0];
  for (int l = 1; l < width; ++l) largest = std::max(largest, even[l]);
  T value;
  std::memcpy(&value, &largest, sizeof(T));
  return value;
}

// The larger of two such magnitudes.
template <class T>
inline T larger(T x, T y) {
  return x > y || x != x ? x : y;
}

// largest[e] := the larger of it and |x[e]|, for `count` reals.
template <class T>
inline void include_magnitudes(const T* x, long count, T* largest) {
  constexpr int width = kWidth<T>;
  const Mask<T> magnitude = ~reinterpret_cast<Mask<T>>(broadcast(-T(0)));
  long e = 0;
  for (; e + width <= count; e += width) {
    const Mask<T> bits = reinterpret_cast<Mask<T>>(Vector<T>(load_unaligned(x + e))) & magnitude;
    const Mask<T> known = reinterpret_cast<Mask<T>>(Vector<T>(load_unaligned(largest + e)));
    store_unaligned(largest + e, reinterpret_cast<Vector<T>>(bits > known ? bits : known));
  }
  for (; e < count; ++e) largest[e] = larger(largest[e], std::abs(x[e]));
}

// The power of two that brings a magnitude between one and two, as far as it and its reciprocal are
// normal numbers. The magnitude is finite and not zero.
template <class T>
inline T power_for(T magnitude) {
  constexpr int most = std::numeric_limits<T>::max_exponent - 2;
  return std::ldexp(T(1), std::max(-most, std::min(most, -std::ilogb(magnitude))));
}

// The power of two by which a column is multiplied whose largest entry this is: 1 unless squares
// might leave the range of the type, NaN if the entry is not finite.
template <class T>
inline T scale_for(T largest) {
  if (largest == 0 || (largest >= 1 / kOrdinary<T> && largest <= kOrdinary<T>)) return 1;
  if (!(largest <= std::numeric_limits<T>::max())) return std::numeric_limits<T>::quiet_NaN();
  return power_for(largest);
}

// The index of the largest of `count` > 0 numbers, the first if there are several.
template <class T>
long first_largest(const T* x, long count) {
  constexpr int width = kWidth<T>;
  T largest = x[0];
  long i = 0;
  if (count >= width) {
    Vector<T> even = load_unaligned(x), odd = even;
    for (i = width; i + 2 * width <= count; i += 2 * width) {
      even = maximum<T>(even, load_unaligned(x + i));
      odd = maximum<T>(odd, load_unaligned(x + i + width));
    }
    even = maximum<T>(even, odd);
    for (int l = 0; l < width; ++l) largest = std::max(largest, even[l]);
  }
  for (; i < count; ++i) largest = std::max(largest, x[i]);
  for (i = 0; i + width <= count; i += width) {
    if (any<T>(load_unaligned(x + i) == broadcast(largest))) break;
  }
  while (x[i] != largest) ++i;
  return i;
}

// The square of a norm that was multiplied by two powers of two, for comparisons: the number itself
// may be out of the type's range.
template <class T>
struct ScaledSquare {
  int exponent;  // of the square; that of zero is less than all others
  T fraction;

  ScaledSquare(T square, T power, T other) {
    fraction = std::frexp(square, &exponent);
    exponent -= 2 * (std::ilogb(power) + std::ilogb(other));
    if (square == 0) exponent = std::numeric_limits<int>::min();
  }
  bool is_less_than(const ScaledSquare& other) const {
    return exponent != other.exponent ? exponent < other.exponent : fraction < other.fraction;
  }
};

// The power of two that brings numbers of these magnitudes to the two sides of 1; 1 if there are
// none, or none that are finite.
template <class T>
inline T middle_scale(T least, T most) {
  if (!(most > 0 && most <= std::numeric_limits<T>::max())) return 1;
  return std::ldexp(T(1), -((std::ilogb(least) + std::ilogb(most)) / 2));
}

// What is known of the powers of two for the columns of a matrix.
struct Scaling {
  bool finite = true;   // none is NaN
  bool needed = false;  // one is not 1

  template <class T>
  void include(T scale) {
    finite &= scale == scale;
    needed |= scale != 1;
  }
};

}  // namespace jaxqr
