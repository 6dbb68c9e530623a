// Row panels: tall blocks of columns with consecutive rows in the lanes of vectors, and
// Householder's method on them. That is the part of a factorization that products of large matrices
// cannot do.
#pragma once

#include "common/matrix_view.h"
#include "common/scalars.h"
#include "common/simd.h"

namespace jaxqr {

// Columns that are worked on together. Their reflectors are applied together, too.
constexpr int kGroupColumns = 4;

// Column j is packs() Packs from data + j * stride on; entry i is lane i % kLanes of pack
// i / kLanes. Rows past the last are zero, and so are the columns that fill up a group.
template <class S>
struct RowPanel {
  using T = RealOf<S>;
  static constexpr long kLanes = kWidth<T>;
  static constexpr long kMostColumns = 64;  // of a panel that is factored

  Pack<S>* data;
  long rows, cols, stride;

  // Odd: the columns of a group must not meet in the same places of a cache.
  static long stride_for(long rows) { return ceil_divide(rows, kLanes) | 1; }
  static long size(long rows, long cols) {
    return stride_for(rows) * round_up(cols, kGroupColumns);
  }

  RowPanel(Pack<S>* data, long rows, long cols)
      : data(data), rows(rows), cols(cols), stride(stride_for(rows)) {}

  long packs() const { return ceil_divide(rows, kLanes); }
  Pack<S>* column(long j) const { return data + j * stride; }

  // The real part of an entry; the imaginary part, if any, is kLanes behind.
  T* entry(long i, long j) const {
    return reinterpret_cast<T*>(column(j) + i / kLanes) + i % kLanes;
  }
  S get(long i, long j) const {
    const T* x = entry(i, j);
    if constexpr (kIsComplex<S>) {
      return S(x[0], x[kLanes]);
    } else {
      return x[0];
    }
  }
  void set(long i, long j, S value) const {
    T* x = entry(i, j);
    x[0] = std::real(value);
    if constexpr (kIsComplex<S>) x[kLanes] = std::imag(value);
  }
  RowPanel first_rows(long count) const {
    RowPanel top = *this;
    top.rows = count;
    return top;
  }
};

template <class S>
void load_row_panel(View<S> from, RowPanel<S> to);
template <class S>
void store_row_panel(RowPanel<S> from, View<S> to);

// Householder's method with LAPACK's conventions, for at least as many rows as columns. On return
// the panel holds V, the vectors of the reflectors with their ones and zeros, and the upper
// triangle of `r` is R's. The squares of a whole column must not leave the range of the type; what
// is left of it in its turn may be of any size.
template <class S>
void factor_row_panel(RowPanel<S> panel, S* tau, RowPanel<S> r);

// T of H_1 ... H_n = I - V T V^H by columns, (4.2), from tau and the products V^H V, of which `t`
// holds those above its diagonal. The rows of `t` are rounded up to a group, too.
constexpr long kMostReflectors = 128;
template <class S>
void compute_gram(RowPanel<S> v, RowPanel<S> t);
template <class S>
void compute_t_factor(const S* tau, RowPanel<S> t);

// A small matrix by rows is a panel whose column p is the matrix's row p. There is room for this
// multiple of columns and rows of it.
constexpr long kSmallMultiple = 16;

// TO := U X, both by rows, with an upper triangular matrix U by columns, or its conjugate. The
// panel of U is square.
template <class S>
void multiply_triangle(RowPanel<S> u, bool conjugated, RowPanel<S> x_by_rows,
                       RowPanel<S> to_by_rows);

// Q := -V Z.
template <class S>
void store_product(RowPanel<S> v, RowPanel<S> z_by_rows, View<S> q);

}  // namespace jaxqr
