// Rows of one matrix in lanes: Pack (g, j) of a block has entry j of kWidth rows in a row, those of
// group g.
#pragma once

#include "lanes_derivatives_matrix.h"

namespace jaxqr {

// A dense matrix.
template <class S>
struct TallMatrix {
  S* data;
  long rows, cols;
  Order order;
};

// ----------------------------------------- packs of numbers that are side by side in memory

template <class T, int... Lane>
JAXQR_INLINE Pack<std::complex<T>> deinterleave(Vector<T> a, Vector<T> b,
                                                std::integer_sequence<int, Lane...>) {
  return {__builtin_shufflevector(a, b, (2 * Lane)...),
          __builtin_shufflevector(a, b, (2 * Lane + 1)...)};
}

// Vector `Half`, 0 or 1, of the numbers of a pack in memory.
template <int Half, class T, int... Lane>
JAXQR_INLINE Vector<T> interleave(Pack<std::complex<T>> x, std::integer_sequence<int, Lane...>) {
  constexpr int width = kWidth<T>;
  return __builtin_shufflevector(
      x.re, x.im, ((Half * width + Lane) / 2 + (Lane % 2 ? width : 0))...);
}

template <class S>
JAXQR_INLINE Pack<S> load_pack(const S* from) {
  using T = RealOf<S>;
  if constexpr (kIsComplex<S>) {
    return deinterleave<T>(load_unaligned(reals(from)), load_unaligned(reals(from) + kWidth<T>),
                           std::make_integer_sequence<int, kWidth<T>>{});
  } else {
    return {load_unaligned(from)};
  }
}

template <class S>
JAXQR_INLINE void store_pack(S* to, Pack<S> x) {
  using T = RealOf<S>;
  if constexpr (kIsComplex<S>) {
    const auto lanes = std::make_integer_sequence<int, kWidth<T>>{};
    store_unaligned(reals(to), interleave<0, T>(x, lanes));
    store_unaligned(reals(to) + kWidth<T>, interleave<1, T>(x, lanes));
  } else {
    store_unaligned(to, x.re);
  }
}

// ------------------------------------------------------------------------------- blocks of rows

// The packed places of the reals of a row: one after the other.
template <class S>
const Place* row_places(Workspace& workspace, long cols) {
  Place* const places = workspace.take<Place>(cols * kParts<S>);
  for (long e = 0; e < cols * kParts<S>; ++e) places[e] = static_cast<Place>(e);
  return places;
}

// Rows [first, first + count) of a matrix. Lanes beyond them are zero.
template <class S>
void load_rows(const TallMatrix<const S>& from, long first, long count, const Place* places,
               const LaneMatrix<Pack<S>>& to) {
  using T = RealOf<S>;
  constexpr long width = kWidth<T>;
  const long length = from.cols * kParts<S>;
  for (long row = first; row < first + count; row += width) {
    const long g = (row - first) / width, used = std::min(width, first + count - row);
    if (from.order == Order::kRows) {
      pack<T>(reals(from.data) + row * length, length, static_cast<int>(used), places,
              (from.rows - row) * length, vectors(to.at(g, 0)));
      continue;
    }
    for (long j = 0; j < from.cols; ++j) {
      const S* column = from.data + j * from.rows + row;
      if (used == width) {
        to(g, j) = load_pack<S>(column);
      } else {
        S rest[width] = {};
        std::copy(column, column + used, rest);
        to(g, j) = load_pack<S>(rest);
      }
    }
  }
}

// Rows [first, first + count) of a matrix.
template <class S>
void store_rows(const LaneMatrix<Pack<S>>& from, long first, long count, const Place* places,
                const TallMatrix<S>& to) {
  using T = RealOf<S>;
  constexpr long width = kWidth<T>;
  const long length = to.cols * kParts<S>;
  for (long row = first; row < first + count; row += width) {
    const long g = (row - first) / width, used = std::min(width, first + count - row);
    if (to.order == Order::kRows) {
      unpack<T>(vectors(from.at(g, 0)), length, static_cast<int>(used), places,
                (first + count - row) * length, reals(to.data) + row * length);
      continue;
    }
    for (long j = 0; j < to.cols; ++j) {
      S* const column = to.data + j * to.rows + row;
      if (used == width) {
        store_pack<S>(column, from(g, j));
      } else {
        S rest[width];
        store_pack<S>(rest, from(g, j));
        std::copy(rest, rest + used, column);
      }
    }
  }
}

}  // namespace jaxqr
