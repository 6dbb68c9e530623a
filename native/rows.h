// Rows of one matrix in lanes: Pack (g, j) of a block has entry j of kWidth consecutive rows, those
// of group g.
#pragma once

#include "lanes_derivatives_matrix.h"

namespace jaxqr {

// Rows [first, first + count) of a dense matrix.
template <class S>
struct RowRange {
  S* matrix;
  long rows, cols;  // of the matrix
  Order order;
  long first, count;
};

template <class S>
constexpr long group_total(long rows) {
  return (rows + kWidth<RealOf<S>> - 1) / kWidth<RealOf<S>>;
}

// ------------------------------------------------------ numbers that are side by side in memory

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
    return deinterleave<T>(load_unaligned(reals(from)), load_unaligned(reals(from) + kWidth<T>),
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
    store_unaligned(reals(to), interleave<0, T>(x, lanes));
    store_unaligned(reals(to) + kWidth<T>, interleave<kWidth<T>, T>(x, lanes));
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

// Lanes beyond the last row are zero.
template <class S>
[[gnu::noinline]] void load_rows(const RowRange<const S>& from, const Place* places,
                                 const LaneMatrix<Pack<S>>& to) {
  using T = RealOf<S>;
  constexpr long width = kWidth<T>;
  const long length = from.cols * kParts<S>, groups = group_total<S>(from.count);
  if (from.order == Order::kRows) {
    for (long g = 0; g < groups; ++g) {
      const long row = from.first + g * width;
      pack<T>(reals(from.matrix) + row * length, length, group_count<T>(from.count - g * width),
              places, (from.rows - row) * length, vectors(to.at(g, 0)));
    }
    return;
  }
  for (long j = 0; j < from.cols; ++j) {
    const S* const column = from.matrix + j * from.rows + from.first;
    const long whole = from.count / width;
    for (long g = 0; g < whole; ++g) to(g, j) = load_numbers<S>(column + g * width);
    if (whole == groups) continue;
    S rest[width] = {};
    std::copy(column + whole * width, column + from.count, rest);
    to(whole, j) = load_numbers<S>(rest);
  }
}

template <class S>
[[gnu::noinline]] void store_rows(const LaneMatrix<Pack<S>>& from, const Place* places,
                                  const RowRange<S>& to) {
  using T = RealOf<S>;
  constexpr long width = kWidth<T>;
  const long length = to.cols * kParts<S>, groups = group_total<S>(to.count);
  if (to.order == Order::kRows) {
    for (long g = 0; g < groups; ++g) {
      const long rest = to.count - g * width;
      unpack<T>(vectors(from.at(g, 0)), length, group_count<T>(rest), places, rest * length,
                reals(to.matrix) + (to.first + g * width) * length);
    }
    return;
  }
  for (long j = 0; j < to.cols; ++j) {
    S* const column = to.matrix + j * to.rows + to.first;
    const long whole = to.count / width;
    for (long g = 0; g < whole; ++g) store_numbers<S>(from(g, j), column + g * width);
    if (whole == groups) continue;
    S rest[width];
    store_numbers<S>(from(whole, j), rest);
    std::copy(rest, rest + to.count - whole * width, column + whole * width);
  }
}

}  // namespace jaxqr
