// Rows of one matrix in lanes: Pack (g, j) of a block has entry j of kWidth consecutive rows, those
// of group g.
#pragma once

#include "common/interleave.h"
#include "derivatives/lane_matrix.h"

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
constexpr long packs_for(long rows) {
  return ceil_divide(rows, kWidth<RealOf<S>>);
}

// ------------------------------------------------------------------------------- blocks of rows

// The packed places of the reals of a row: one after the other.
template <class S>
const Place* row_places(Workspace& workspace, long cols) {
  Place* const places = workspace.take<Place>(cols * kParts<S>);
  for (long e = 0; e < cols * kParts<S>; ++e) places[e] = static_cast<Place>(e);
  return places;
}

// Lanes beyond the last row are zero. Short rows are read on into the next ones, but not beyond the
// last: those may be another thread's, which writes them.
template <class S>
[[gnu::noinline]] void load_row_packs(const RowRange<const S>& from, const Place* places,
                                      const LaneMatrix<Pack<S>>& to) {
  using T = RealOf<S>;
  constexpr long width = kWidth<T>;
  const long length = from.cols * kParts<S>, groups = packs_for<S>(from.count);
  if (from.order == Order::kRows) {
    for (long g = 0; g < groups; ++g) {
      const long rest = from.count - g * width;
      pack<T>(reals(from.matrix) + (from.first + g * width) * length, length, filled_lanes<T>(rest),
              places, rest * length, vectors(to.at(g, 0)));
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
[[gnu::noinline]] void store_row_packs(const LaneMatrix<Pack<S>>& from, const Place* places,
                                       const RowRange<S>& to) {
  using T = RealOf<S>;
  constexpr long width = kWidth<T>;
  const long length = to.cols * kParts<S>, groups = packs_for<S>(to.count);
  if (to.order == Order::kRows) {
    for (long g = 0; g < groups; ++g) {
      const long rest = to.count - g * width;
      unpack<T>(vectors(from.at(g, 0)), length, filled_lanes<T>(rest), places, rest * length,
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
