// Passes over the entries of large matrices of either order: O(n^2) work between products.
#pragma once

#include <algorithm>

#include "common/matrix_view.h"
#include "common/parallel.h"
#include "common/scalars.h"

namespace jaxqr {

// The entries [begin, end) of a line that are on or above the diagonal.
struct Span {
  long begin, end;
};

template <class S>
Span upper_span(const View<S>& x, long l) {
  const long length = line_length(x);
  return x.order == Order::kRows ? Span{std::min(l, length), length}
                                 : Span{0, std::min(l + 1, length)};
}

// to := factor conj(from), `count` scalars.
template <class S>
void copy_conjugate(Pool& pool, RealOf<S> factor, const S* from, long count, S* to) {
  for_ranges(pool, count, 1, [=](long begin, long end) {
    const auto* x = reinterpret_cast<const RealOf<S>*>(from);
    auto* y = reinterpret_cast<RealOf<S>*>(to);
    if constexpr (kIsComplex<S>) {
      for (long i = begin; i < end; ++i) {
        y[2 * i] = factor * x[2 * i];
        y[2 * i + 1] = -factor * x[2 * i + 1];
      }
    } else {
      for (long i = begin; i < end; ++i) y[i] = factor * x[i];
    }
  });
}

template <class S>
void copy(Pool& pool, const S* from, long count, S* to) {
  for_ranges(pool, count, 1,
             [=](long begin, long end) { std::copy(from + begin, from + end, to + begin); });
}

// to := factor triu(from), with a real diagonal, and zero in rows from `live` on. `from` may be
// `to`.
template <class S>
void copy_triangle(Pool& pool, RealOf<S> factor, const View<S>& from, long live,
                   const View<S>& to) {
  const bool by_rows = to.order == Order::kRows;
  for_ranges(pool, line_count(to), line_length(to), [&](long first, long last) {
    for (long l = first; l < last; ++l) {
      Span span = upper_span(to, l);
      if (by_rows && l >= live) span.begin = span.end;
      if (!by_rows) span.end = std::min(span.end, live);
      const S* x = line(from, l);
      S* y = line(to, l);
      std::fill(y, y + span.begin, S(0));
      if (factor != 1) {
        for (long i = span.begin; i < span.end; ++i) y[i] = factor * x[i];
      } else if (y != x) {
        std::copy(x + span.begin, x + span.end, y + span.begin);
      }
      std::fill(y + span.end, y + line_length(to), S(0));
      if (l >= span.begin && l < span.end) y[l] = real_part(y[l]);
    }
  });
}

// Visit a square matrix in place: on_pair(X_ij, X_ji) for i > j, and on_diagonal(X_ii). It goes by
// small tiles, as one of the two strides through memory.
template <class S, class OnPair, class OnDiagonal>
void for_pairs(Pool& pool, const View<S>& x, const OnPair& on_pair, const OnDiagonal& on_diagonal) {
  constexpr long kTile = 16;
  const long n = x.rows, tiles = ceil_divide(n, kTile);
  const long row = x.order == Order::kRows ? x.ld : 1, column = x.order == Order::kRows ? 1 : x.ld;
  for_ranges(pool, tiles, kTile * n, [&](long first, long last) {
    for (long t = first; t < last; ++t) {
      const long begin = t * kTile, end = std::min(n, begin + kTile);
      for (long left = 0; left < end; left += kTile) {
        for (long i = begin; i < end; ++i) {
          for (long j = left; j < std::min(i, left + kTile); ++j) {
            on_pair(x.data[i * row + j * column], x.data[j * row + i * column]);
          }
        }
      }
      for (long i = begin; i < end; ++i) on_diagonal(x.data[i * (row + column)]);
    }
  });
}

// Multiply column j by factor(j).
template <class S, class Factor>
void multiply_columns(const View<S>& x, const Factor& factor) {
  for (long l = 0; l < line_count(x); ++l) {
    S* entries = line(x, l);
    for (long i = 0; i < line_length(x); ++i) {
      entries[i] *= factor(x.order == Order::kRows ? i : l);
    }
  }
}

// Divide the columns of the upper triangle by powers of two.
template <class S>
void divide_upper(Pool& pool, View<S> a, const RealOf<S>* by) {
  for_ranges(pool, a.rows, a.cols, [=](long begin, long end) {
    for (long i = begin; i < end; ++i) {
      for (long j = i; j < a.cols; ++j) a(i, j) *= 1 / by[j];
    }
  });
}

// Set to zero the columns that do not count.
template <class S>
void drop_columns(const bool* counts, const View<S>& x) {
  for (long j = 0; j < x.cols; ++j) {
    if (counts[j]) continue;
    for (long i = 0; i < x.rows; ++i) x(i, j) = 0;
  }
}

}  // namespace jaxqr
