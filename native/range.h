// The range of a matrix's entries, and what is done where it is extreme.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels.h"

namespace jaxqr {

// Below this, a sum of squares has lost digits to underflow.
template <class T>
constexpr T kLeastSquare = sizeof(T) == 8 ? T(0x1p-900) : T(0x1p-90);

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

// The power of two by which a matrix is multiplied whose largest entry this is: 1 unless squares
// might leave the range of the type, NaN if the entry is not finite.
template <class T>
inline T scale_for(T largest) {
  constexpr T safe = sizeof(T) == 8 ? T(0x1p200) : T(0x1p20);
  if (largest == 0 || (largest >= 1 / safe && largest <= safe)) return 1;
  if (!(largest <= std::numeric_limits<T>::max())) return std::numeric_limits<T>::quiet_NaN();
  constexpr int most = std::numeric_limits<T>::max_exponent - 2;
  return std::ldexp(T(1), std::max(-most, std::min(most, -std::ilogb(largest))));
}

// Fill the results of one matrix that is not finite.
template <class S>
void fill_nan(const QrProblem<S>& problem) {
  const long m = problem.m, n = problem.n, k = problem.k();
  S nan = std::numeric_limits<RealOf<S>>::quiet_NaN();
  if constexpr (kIsComplex<S>) nan = S(nan.real(), nan.real());
  if (problem.q) std::fill_n(problem.q, m * k, nan);
  if (problem.q_full) std::fill_n(problem.q_full, m * m, nan);
  if (problem.h) std::fill_n(problem.h, m * n, nan);
  if (problem.tau) std::fill_n(problem.tau, k, nan);
  if (problem.scale) *problem.scale = std::numeric_limits<RealOf<S>>::quiet_NaN();
  if (!problem.r) return;
  const bool by_rows = problem.order == Order::kRows;
  for (long i = 0; i < k; ++i) {
    for (long j = 0; j < n; ++j) problem.r[by_rows ? i * n + j : i + j * k] = j < i ? S(0) : nan;
  }
}

}  // namespace jaxqr
