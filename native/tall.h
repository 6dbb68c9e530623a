// What the kernels for matrices of few columns share.
#pragma once

#include "panel.h"
#include "range.h"
#include "workspace.h"

namespace jaxqr {

// The upper triangle of a square, with or without zeros below it.
template <class S>
void copy_upper(Panel<S> r, View<S> to, bool zeros) {
  for (long i = 0; i < to.rows; ++i) {
    for (long j = zeros ? 0 : i; j < to.cols; ++j) to(i, j) = j < i ? S(0) : r.get(i, j);
  }
}

template <class S>
RealOf<S> largest_entry(Panel<S> panel) {
  using T = RealOf<S>;
  const long parts = panel.packs() * panel.kLanes * kParts<S>;
  T largest = 0;
  for (long j = 0; j < panel.cols; ++j) {
    const T* column = reinterpret_cast<const T*>(panel.column(j));
    largest = larger(largest, largest_magnitude(column, parts));
  }
  return largest;
}

template <class S>
void multiply_by(RealOf<S> factor, Panel<S> panel) {
  for (long j = 0; j < panel.cols; ++j) {
    for (long i = 0; i < panel.packs(); ++i) {
      Pack<S>& x = panel.column(j)[i];
      x = scale<S>(x, broadcast(factor));
    }
  }
}

// Room for a square panel of side n, by rows or by columns, as `multiply_triangle` wants it.
template <class S>
Panel<S> take_square(Workspace& workspace, long n) {
  const long side = round_up(n, kSmallMultiple);
  Panel<S> square(workspace.take<Pack<S>>(Panel<S>::size(side, side)), side, n);
  std::fill_n(square.data, Panel<S>::size(side, side), Pack<S>::zero());
  return square;
}
template <class S>
size_t square_bytes(long n) {
  const long side = round_up(n, kSmallMultiple);
  return Workspace::size<Pack<S>>(Panel<S>::size(side, side));
}

}  // namespace jaxqr
