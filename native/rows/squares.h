// Row panels that are small squares, triangles in them, and the scaling of a panel's columns.
#pragma once

#include "common/range.h"
#include "common/workspace.h"
#include "rows/row_panel.h"

namespace jaxqr {

// What a triangle leaves below its diagonal: zeros, or what is there.
enum class Below { kZero, kUntouched };

template <class S>
void store_upper_triangle(RowPanel<S> r, View<S> to, Below below) {
  for (long i = 0; i < to.rows; ++i) {
    for (long j = below == Below::kZero ? 0 : i; j < to.cols; ++j) {
      to(i, j) = j < i ? S(0) : r.get(i, j);
    }
  }
}

// The largest magnitude of the real numbers in column j.
template <class S>
RealOf<S> largest_in_column(RowPanel<S> panel, long j) {
  const auto* column = reinterpret_cast<const RealOf<S>*>(panel.column(j));
  return largest_magnitude(column, panel.packs() * panel.kLanes * kParts<S>);
}

// Multiply column j by factor(j).
template <class S, class Factor>
void multiply_columns(RowPanel<S> panel, const Factor& factor) {
  for (long j = 0; j < panel.cols; ++j) {
    const auto by = broadcast(factor(j));
    for (long i = 0; i < panel.packs(); ++i) panel.column(j)[i] = scale(panel.column(j)[i], by);
  }
}

// Multiply the columns of a panel by powers of two, where squares might leave the range of the
// type, and tell them.
template <class S>
Scaling scale_columns(RowPanel<S> panel, RealOf<S>* scales) {
  Scaling scaling;
  for (long j = 0; j < panel.cols; ++j) {
    scales[j] = scale_for(largest_in_column(panel, j));
    scaling.include(scales[j]);
  }
  if (scaling.finite && scaling.needed) {
    multiply_columns(panel, [&](long j) { return scales[j]; });
  }
  return scaling;
}

// Room for a square panel of side n, by rows or by columns, as `multiply_triangle` wants it.
template <class S>
RowPanel<S> take_square_panel(Workspace& workspace, long n) {
  const long side = round_up(n, kSmallMultiple);
  RowPanel<S> square(workspace.take<Pack<S>>(RowPanel<S>::size(side, side)), side, n);
  std::fill_n(square.data, RowPanel<S>::size(side, side), Pack<S>::zero());
  return square;
}
template <class S>
size_t square_panel_bytes(long n) {
  const long side = round_up(n, kSmallMultiple);
  return Workspace::size<Pack<S>>(RowPanel<S>::size(side, side));
}

}  // namespace jaxqr
