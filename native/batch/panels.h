// Columns of packed matrices, one matrix in each lane: their squares, and what is done where these
// leave the range of the type.
#pragma once

#include <algorithm>

#include "common/range.h"
#include "common/scalars.h"

namespace jaxqr {

// How many columns a panel has.
template <class S>
constexpr int kPanelColumns = kIsComplex<S> ? 2 : 4;

// A packed matrix: panels of kPanelColumns columns, each stored row by row. What is read together
// lies together; by rows or by columns the strides would often be powers of two, bad for the cache.
template <class S>
struct BatchPanels {
  Pack<S>* data;
  long rows;

  static long size(long rows, long cols) { return rows * round_up(cols, kPanelColumns<S>); }
  long index(long i, long j) const {
    return (j / kPanelColumns<S> * rows + i) * kPanelColumns<S> + j % kPanelColumns<S>;
  }
  Pack<S>* at(long i, long j) const { return data + index(i, j); }
};

// The reflectors H_1, ..., H_k of a group of matrices. Their vectors lie below the diagonal of `v`;
// the ones on the diagonal are implied.
template <class S>
struct BatchReflectors {
  BatchPanels<S> v;
  long count;
  Pack<S>* tau;
  // For i < j in the same panel v_j^H v_i is at gram[j * kPanelColumns + i % kPanelColumns].
  Pack<S>* gram;

  const Pack<S>* gram_from(long j) const {
    return gram + j * kPanelColumns<S> + j % kPanelColumns<S>;
  }
};

// In each lane the sum of the squares of a column.
template <class S>
inline Vector<RealOf<S>> sum_of_squares(const Pack<S>* x, long rows) {
  Vector<RealOf<S>> total{};
  for (long i = 0; i < rows;) {
    const long end = std::min(rows, i + 2 * kSumTerms);
    Vector<RealOf<S>> even{}, odd{};
    for (; i + 2 <= end; i += 2) {
      even += abs2(x[i * kPanelColumns<S>]);
      odd += abs2(x[(i + 1) * kPanelColumns<S>]);
    }
    if (i < end) even += abs2(x[i++ * kPanelColumns<S>]);
    total += even + odd;
  }
  return total;
}

// The lanes in which a sum of squares is too small to be trusted, as squares may have underflowed.
template <class T>
JAXQR_INLINE Mask<T> small_squares(Vector<T> squares) {
  return squares < kLeastSquare<T>;
}

// The lanes in which a column has an entry that is not zero.
template <class S>
__attribute__((noinline)) Mask<RealOf<S>> nonzero(const Pack<S>* x, long rows) {
  Mask<RealOf<S>> found{};
  for (long i = 0; i < rows; ++i) {
    const Pack<S> entry = x[i * kPanelColumns<S>];
    found |= entry.re != 0;
    if constexpr (kIsComplex<S>) found |= entry.im != 0;
  }
  return found;
}

// In each lane the largest magnitude of a column's real numbers.
template <class S>
__attribute__((noinline)) Vector<RealOf<S>> largest_entry(const Pack<S>* x, long rows) {
  using T = RealOf<S>;
  const Mask<T> magnitude = ~reinterpret_cast<Mask<T>>(broadcast(-T(0)));
  Mask<T> largest{};
  const auto include = [&](Vector<T> part) {
    const Mask<T> bits = reinterpret_cast<Mask<T>>(part) & magnitude;
    largest = bits > largest ? bits : largest;
  };
  for (long i = 0; i < rows; ++i) {
    include(x[i * kPanelColumns<S>].re);
    if constexpr (kIsComplex<S>) include(x[i * kPanelColumns<S>].im);
  }
  return reinterpret_cast<Vector<T>>(largest);
}

template <class S>
inline void scale_column(Pack<S>* x, long rows, Vector<RealOf<S>> by) {
  for (long i = 0; i < rows; ++i) x[i * kPanelColumns<S>] = scale(x[i * kPanelColumns<S>], by);
}

// Where sums of squares are too small to be trusted: a first attempt only marks the lanes, and its
// results are thrown away; the second, on columns that are brought near one, finds such lanes only
// where columns nearly depend on each other, and brings what is left near one as well.
template <class T>
struct Rescue {
  bool careful = false;  // the second attempt
  Mask<T> lost{};        // the first one's lanes
};

// What is found of a column whose squares are zero or too small in some lanes.
template <class S>
struct Inspection {
  Mask<RealOf<S>> trivial;            // there is nothing to annihilate
  Vector<RealOf<S>> square, inverse;  // of its norm; of what it was multiplied by
};

// Look at a column from its diagonal on, given the square of its norm. That of lanes in which there
// is nothing to do comes back as it is: their results must not depend on other lanes.
template <class S>
__attribute__((noinline)) Inspection<S> inspect_column(Pack<S>* x, long rows,
                                                       Vector<RealOf<S>> square,
                                                       Rescue<RealOf<S>>& rescue) {
  using T = RealOf<S>;
  Mask<T> found = nonzero<S>(x + kPanelColumns<S>, rows - 1);
  if constexpr (kIsComplex<S>) found |= x->im != 0;
  const Mask<T> small = found & small_squares<T>(square);
  const Vector<T> one = broadcast(T(1));
  if (!any<T>(small)) return {~found, square, one};
  if (!rescue.careful) {
    rescue.lost |= small;
    return {~found, square, one};
  }
  const Vector<T> largest = largest_entry<S>(x, rows);
  Vector<T> factor = one;
  for (int l = 0; l < kWidth<T>; ++l) {
    if (small[l]) factor[l] = power_for<T>(largest[l]);
  }
  scale_column<S>(x, rows, factor);
  const Vector<T> anew = sum_of_squares<S>(x, rows);
  return {~found, small ? anew : square, 1 / factor};
}

}  // namespace jaxqr
