// Panels from and to matrices in memory, which lie by rows or by columns.
#pragma once

#include <algorithm>

#include "common/interleave.h"
#include "rows/row_panel.h"

namespace jaxqr {

// The vector of real part e of the rows in a pack; a complex entry has two parts.
template <class S>
JAXQR_INLINE Vector<RealOf<S>>& part_of_rows(RowPanel<S> panel, long pack, long e) {
  Pack<S>* entry = panel.data + e / kParts<S> * panel.stride + pack;
  return reinterpret_cast<Vector<RealOf<S>>*>(entry)[e % kParts<S>];
}

// ------------------------------------------------------------------------------ rows in memory

// The rows of a pack go through squares of vectors, transposed in registers. The last square
// overlaps the one before; rows shorter than a square are read on into the next ones, and written
// on in ascending order, so that what runs over is overwritten. `reach` reals from the first row
// on may be touched; false if that is not enough.

template <class T>
JAXQR_INLINE bool squares_fit(long length, long step, long reach) {
  return length >= kWidth<T> || (kWidth<T> - 1) * step + kWidth<T> <= reach;
}

template <class S>
JAXQR_INLINE bool load_rows_by_squares(const RealOf<S>* from, long step, long reach, RowPanel<S> to,
                                       long pack) {
  using T = RealOf<S>;
  constexpr int width = kWidth<T>;
  const long length = to.cols * kParts<S>;
  if (!squares_fit<T>(length, step, reach)) return false;
  for (long e = 0; e < length; e += width) {
    const long start = std::max(0L, std::min(e, length - width));
    Vector<T> square[width];
    JAXQR_UNROLL
    for (int l = 0; l < width; ++l) square[l] = load_unaligned(from + l * step + start);
    transpose<T>(square);
    if (length >= width) {
      JAXQR_UNROLL
      for (int l = 0; l < width; ++l) part_of_rows(to, pack, start + l) = square[l];
    } else {
      for (int l = 0; l < length; ++l) part_of_rows(to, pack, l) = square[l];
    }
  }
  return true;
}

template <class S>
JAXQR_INLINE bool store_rows_by_squares(RowPanel<S> from, long pack, RealOf<S>* to, long step,
                                        long reach) {
  using T = RealOf<S>;
  constexpr int width = kWidth<T>;
  const long length = from.cols * kParts<S>;
  if (!squares_fit<T>(length, step, reach)) return false;
  for (long e = 0; e < length; e += width) {
    const long start = std::max(0L, std::min(e, length - width));
    Vector<T> square[width]{};
    if (length >= width) {
      JAXQR_UNROLL
      for (int l = 0; l < width; ++l) square[l] = part_of_rows(from, pack, start + l);
    } else {
      for (int l = 0; l < length; ++l) square[l] = part_of_rows(from, pack, l);
    }
    transpose<T>(square);
    JAXQR_UNROLL
    for (int l = 0; l < width; ++l) store_unaligned(to + l * step + start, square[l]);
  }
  return true;
}

// -------------------------------------------------------------------------------- either order

// Store one pack's rows at the rows of `to` from `first` on, as many of them as it has.
template <class S>
JAXQR_INLINE void store_pack_rows(RowPanel<S> from, long pack, View<S> to, long first) {
  using T = RealOf<S>;
  constexpr long width = kWidth<T>;
  const long rows = std::min(width, to.rows - first);
  if (rows == width && to.order == Order::kRows) {
    const bool dense = to.ld == to.cols;
    const long reach = dense ? (to.rows - first) * to.cols * kParts<S> : 0;
    T* start = reinterpret_cast<T*>(&to(first, 0));
    if (store_rows_by_squares(from, pack, start, to.ld * kParts<S>, reach)) return;
  }
  for (long j = 0; j < from.cols; ++j) {
    if (rows == width && to.order == Order::kColumns) {
      store_numbers<S>(from.column(j)[pack], &to(first, j));
    } else {
      for (long l = 0; l < rows; ++l) to(first + l, j) = from.get(pack * width + l, j);
    }
  }
}

template <class S>
JAXQR_INLINE void load_pack_rows(View<S> from, long first, RowPanel<S> to, long pack) {
  using T = RealOf<S>;
  constexpr long width = kWidth<T>;
  const long rows = std::min(width, from.rows - first);
  if (rows == width && from.order == Order::kRows) {
    const long reach = ((from.rows - first - 1) * from.ld + from.cols) * kParts<S>;
    const T* start = reinterpret_cast<const T*>(&from(first, 0));
    if (load_rows_by_squares(start, from.ld * kParts<S>, reach, to, pack)) return;
  }
  for (long j = 0; j < from.cols; ++j) {
    if (rows == width && from.order == Order::kColumns) {
      to.column(j)[pack] = load_numbers<S>(&from(first, j));
    } else {
      to.column(j)[pack] = Pack<S>::zero();
      for (long l = 0; l < rows; ++l) to.set(pack * width + l, j, from(first + l, j));
    }
  }
}

}  // namespace jaxqr
