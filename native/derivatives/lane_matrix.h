// Matrices whose entries are packs, one matrix in each lane, and their products and solves.
//
// Both work in tiles of a few rows and columns that stay in registers; the shapes that do not fill
// tiles are padded in memory, so that one kernel serves all. Padding is read, never written, and
// never meets an entry that is wanted.
#pragma once

#include <algorithm>

#include "batch/packing.h"
#include "common/workspace.h"

namespace jaxqr {

// Rows and columns of a tile. Its accumulators, twice as many if complex, take half the registers.
template <class S>
constexpr int kTileCols = kRegisters / kParts<S> >= 16 ? 4 : 2;
template <class S>
constexpr int kTileRows = kRegisters / kParts<S> == 32 ? 4 : 2;
constexpr long kMaxTile = 4;

enum class Fill { kFull, kUpper, kLower };

// A view. E is Pack<S>, or S where all lanes share the entry. `fill` tells products which entries
// of factors are zero, and which of the result are wanted.
template <class E>
struct LaneMatrix {
  E* data;
  long rows, cols;
  long row_step, col_step;
  Fill fill = Fill::kFull;

  E* at(long i, long j) const { return data + i * row_step + j * col_step; }
  E& operator()(long i, long j) const { return *at(i, j); }

  LaneMatrix transposed() const {
    const Fill swapped = fill == Fill::kFull    ? Fill::kFull
                         : fill == Fill::kUpper ? Fill::kLower
                                                : Fill::kUpper;
    return {data, cols, rows, col_step, row_step, swapped};
  }
  LaneMatrix leading_cols(long count) const {
    return {data, rows, count, row_step, col_step, fill};
  }
  LaneMatrix with(Fill other) const { return {data, rows, cols, row_step, col_step, other}; }
  // The columns in descending order.
  LaneMatrix mirrored() const {
    return {at(0, cols - 1), rows, cols, row_step, -col_step, Fill::kFull};
  }
};

// How a matrix lies in memory: by rows, which are padded to whole tiles, and to an odd number of
// these where columns would otherwise fall into few sets of the cache.
struct PackedShape {
  long rows, cols;

  long stride() const {
    const long tiles = ceil_divide(cols, kMaxTile);
    return (tiles > 2 ? tiles | 1 : tiles) * kMaxTile;
  }
  // Views in reversed order run over the edge before the first entry.
  long front() const { return kMaxTile * (stride() + 1); }
  long body() const { return round_up(rows, kMaxTile) * stride(); }
  // The last is a spare entry, for what a triangle does not have: see triangle_places.
  long size() const { return front() + body() + 1; }
  long slot(long i, long j) const { return i * stride() + j; }
  long spare() const { return body(); }
};

template <class E>
size_t matrix_bytes(PackedShape shape) {
  return Workspace::size<E>(shape.size());
}

// A matrix in new memory. All that is read of it but never written is zero: the padding, the spare
// entry, and in an upper triangle what tiles on its diagonal have below it, and the imaginary parts
// on it.
template <class E>
[[gnu::noinline]] LaneMatrix<E> take_matrix(Workspace& workspace, PackedShape shape,
                                            Fill fill = Fill::kFull) {
  E* const memory = workspace.take<E>(shape.size());
  const LaneMatrix<E> x{memory + shape.front(), shape.rows, shape.cols, shape.stride(), 1, fill};
  std::fill(memory, x.data, E());
  for (long i = 0; i < x.rows; ++i) {
    const long tile = i / kMaxTile * kMaxTile;
    if (fill == Fill::kUpper && i < x.cols) std::fill(x.at(i, tile), x.at(i, i + 1), E());
    std::fill(x.at(i, x.cols), x.at(i + 1, 0), E());
  }
  std::fill(x.at(x.rows, 0), memory + shape.size(), E());
  return x;
}

template <class E>
[[gnu::noinline]] void clear(const LaneMatrix<E>& x) {
  for (long i = 0; i < x.rows; ++i) std::fill(x.at(i, 0), x.at(i, x.cols), E());
}

// ------------------------------------------------------------------------------------- products

template <class S>
JAXQR_INLINE Pack<S> coefficient(const Pack<S>& x) {
  return x;
}
template <class S>
JAXQR_INLINE Pack<S> coefficient(const S& shared) {
  return spread(shared);
}

template <class T>
JAXQR_INLINE Vector<T> as_vector(Vector<T> x) {
  return x;
}
template <class T>
JAXQR_INLINE Vector<T> as_vector(T shared) {
  return broadcast(shared);
}

template <class S>
struct Tile {
  Pack<S> entry[kTileRows<S>][kTileCols<S>];
};

// tile += A B, or conj(A) B, over `terms` columns of A.
template <bool kConjugate, class S, class E>
JAXQR_INLINE void accumulate(Tile<S>& tile, const Pack<S>* a, long a_row, long a_col, const E* b,
                             long b_row, long b_col, long terms) {
  for (; terms > 0; --terms, a += a_col, b += b_row) {
    Pack<S> right[kTileCols<S>];
    JAXQR_UNROLL
    for (int q = 0; q < kTileCols<S>; ++q) right[q] = coefficient<S>(b[q * b_col]);
    JAXQR_UNROLL
    for (int p = 0; p < kTileRows<S>; ++p) {
      const Pack<S> left = a[p * a_row];
      JAXQR_UNROLL
      for (int q = 0; q < kTileCols<S>; ++q) {
        if constexpr (kConjugate) {
          add_adjoint_product(tile.entry[p][q], left, right[q]);
        } else {
          add_product(tile.entry[p][q], left, right[q]);
        }
      }
    }
  }
}

// tile := factor C, for the tile of C at (i, j).
template <class S>
JAXQR_INLINE void load_tile(const LaneMatrix<Pack<S>>& c, long i, long j, Vector<RealOf<S>> factor,
                            Tile<S>& tile) {
  JAXQR_UNROLL
  for (int p = 0; p < kTileRows<S>; ++p) {
    JAXQR_UNROLL
    for (int q = 0; q < kTileCols<S>; ++q) tile.entry[p][q] = scale(c(i + p, j + q), factor);
  }
}

// C := factor tile, where the tile at (i, j) is inside the matrix.
template <class S>
JAXQR_INLINE void store_tile(const Tile<S>& tile, Vector<RealOf<S>> factor,
                             const LaneMatrix<Pack<S>>& c, long i, long j) {
  const bool inside = i + kTileRows<S> <= c.rows && j + kTileCols<S> <= c.cols;
  JAXQR_UNROLL
  for (int p = 0; p < kTileRows<S>; ++p) {
    JAXQR_UNROLL
    for (int q = 0; q < kTileCols<S>; ++q) {
      if (inside || (i + p < c.rows && j + q < c.cols)) {
        c(i + p, j + q) = scale(tile.entry[p][q], factor);
      }
    }
  }
}

enum class Update { kSet, kAdd, kSubtract };

// C := A B, C + A B or C - A B; with conj(A) for A if `kConjugate`.
template <bool kConjugate, class S, class E>
[[gnu::noinline]] void multiply_tiles(Update update, const LaneMatrix<Pack<S>>& c,
                                      const LaneMatrix<Pack<S>>& a, const LaneMatrix<E>& b) {
  constexpr long rows = kTileRows<S>, cols = kTileCols<S>;
  const Vector<RealOf<S>> sign = broadcast(RealOf<S>(update == Update::kSubtract ? -1 : 1));
  for (long j = 0; j < c.cols; j += cols) {
    for (long i = 0; i < c.rows; i += rows) {
      if (c.fill == Fill::kUpper && i >= j + cols) continue;
      if (c.fill == Fill::kLower && j >= i + rows) continue;
      long first = 0, last = a.cols;
      if (a.fill == Fill::kUpper) first = std::max(first, i);
      if (a.fill == Fill::kLower) last = std::min(last, i + rows);
      if (b.fill == Fill::kLower) first = std::max(first, j);
      if (b.fill == Fill::kUpper) last = std::min(last, j + cols);
      Tile<S> tile = {};
      if (update != Update::kSet) load_tile<S>(c, i, j, sign, tile);
      accumulate<kConjugate>(tile, a.at(i, first), a.row_step, a.col_step, b.at(first, j),
                             b.row_step, b.col_step, last - first);
      store_tile<S>(tile, sign, c, i, j);
    }
  }
}

template <class S, class E>
void multiply(Update update, const LaneMatrix<Pack<S>>& c, const LaneMatrix<Pack<S>>& a,
              const LaneMatrix<E>& b) {
  multiply_tiles<false, S>(update, c, a, b);
}

// With conj(A) for A.
template <class S, class E>
void multiply_conj(Update update, const LaneMatrix<Pack<S>>& c, const LaneMatrix<Pack<S>>& a,
                   const LaneMatrix<E>& b) {
  multiply_tiles<kIsComplex<S>, S>(update, c, a, b);
}

// --------------------------------------------------------------------------------------- solves

// An upper triangle with a real diagonal, given by its reciprocals. R is a vector or a shared real.
template <class E, class R>
struct Triangle {
  LaneMatrix<E> entries;
  const R* reciprocals;
  long step;

  // The transposed triangle, upper again as both orders are reversed: X T^-T is, with its columns
  // mirrored, mirrored X times the inverse of this.
  Triangle mirrored_transposed() const {
    const LaneMatrix<E>& t = entries;
    const long last = t.cols - 1;
    return {{t.at(last, last), t.cols, t.cols, -t.col_step, -t.row_step, Fill::kFull},
            reciprocals + last * step,
            -step};
  }
};

template <class R>
size_t reciprocals_bytes(long count) {
  return Workspace::size<R>(count + 2 * kMaxTile);
}

// Zeros before and after are for tiles over the edge.
template <class R>
R* take_reciprocals(Workspace& workspace, long count) {
  R* const memory = workspace.take<R>(count + 2 * kMaxTile);
  std::fill(memory, memory + count + 2 * kMaxTile, R());
  return memory + kMaxTile;
}

// x := x T^-1 for the tile x, in the columns from `j` on.
template <class S, class E, class R>
JAXQR_INLINE void solve_tile(Tile<S>& x, const Triangle<E, R>& t, long j) {
  constexpr int cols = kTileCols<S>;
  const E* diagonal = t.entries.at(j, j);
  JAXQR_UNROLL
  for (int q = 0; q < cols; ++q) {
    const auto reciprocal = as_vector<RealOf<S>>(t.reciprocals[(j + q) * t.step]);
    JAXQR_UNROLL
    for (int p = 0; p < kTileRows<S>; ++p) x.entry[p][q] = scale(x.entry[p][q], reciprocal);
    JAXQR_UNROLL
    for (int z = q + 1; z < cols; ++z) {
      const Pack<S> above =
          coefficient<S>(diagonal[q * t.entries.row_step + z * t.entries.col_step]);
      JAXQR_UNROLL
      for (int p = 0; p < kTileRows<S>; ++p) {
        subtract_product(x.entry[p][z], x.entry[p][q], above);
      }
    }
  }
}

// X := X T^-1.
template <class S, class E, class R>
[[gnu::noinline]] void solve_right(const LaneMatrix<Pack<S>>& x, const Triangle<E, R>& t) {
  const Vector<RealOf<S>> minus = broadcast(RealOf<S>(-1));
  for (long j = 0; j < x.cols; j += kTileCols<S>) {
    for (long i = 0; i < x.rows; i += kTileRows<S>) {
      Tile<S> tile;  // of -X
      load_tile<S>(x, i, j, minus, tile);
      accumulate<false>(tile, x.at(i, 0), x.row_step, x.col_step, t.entries.at(0, j),
                        t.entries.row_step, t.entries.col_step, j);
      solve_tile<S>(tile, t, j);
      store_tile<S>(tile, minus, x, i, j);
    }
  }
}

// X := X T^-T.
template <class S, class E, class R>
void solve_right_transposed(const LaneMatrix<Pack<S>>& x, const Triangle<E, R>& t) {
  solve_right(x.mirrored(), t.mirrored_transposed());
}

}  // namespace jaxqr
