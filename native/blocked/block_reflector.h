// Reflectors in blocks, H_1 ... H_w = I - V T V^H: what turns a factorization into products of
// large matrices.
#pragma once

#include "common/blas.h"
#include "common/workspace.h"
#include "rows/row_panel.h"

namespace jaxqr {

// V has the rows from the first reflector's diagonal on, with the ones and zeros above: products
// need no special case for its triangle. It has the order of the data, so that either factor of a
// product can be conjugated.
template <class S>
struct BlockReflector {
  View<S> v, t;

  long width() const { return v.cols; }
};

// C := (I - V T V^H) C, or its adjoint times C. `space` holds 2 width C.cols.
template <class S>
void apply_left(const BlockReflector<S>& block, bool adjoint, View<S> c, S* space) {
  const View<S> products = dense(space, block.width(), c.cols, c.order);
  const View<S> combined = dense(space + block.width() * c.cols, block.width(), c.cols, c.order);
  multiply(S(1), Op::kAdjoint, block.v, Op::kPlain, c, S(0), products);
  multiply(S(1), adjoint ? Op::kAdjoint : Op::kPlain, block.t, Op::kPlain, products, S(0),
           combined);
  multiply(S(-1), Op::kPlain, block.v, Op::kPlain, combined, S(1), c);
}

// C := C (I - V T V^H), or C times its adjoint. `space` holds 2 width C.rows.
template <class S>
void apply_right(const BlockReflector<S>& block, bool adjoint, View<S> c, S* space) {
  const View<S> products = dense(space, c.rows, block.width(), c.order);
  const View<S> combined = dense(space + block.width() * c.rows, c.rows, block.width(), c.order);
  multiply(S(1), Op::kPlain, c, Op::kPlain, block.v, S(0), products);
  multiply(S(1), Op::kPlain, products, adjoint ? Op::kAdjoint : Op::kPlain, block.t, S(0),
           combined);
  multiply(S(-1), Op::kPlain, combined, Op::kAdjoint, block.v, S(1), c);
}

// Compute T from tau and V.
template <class S>
void compute_t(const BlockReflector<S>& block, const S* tau) {
  multiply(S(1), Op::kAdjoint, block.v, Op::kPlain, block.v, S(0), block.t);
  const long width = block.width(), rows = round_up(width, kGroupColumns);
  Workspace workspace(Workspace::size<Pack<S>>(RowPanel<S>::size(rows, width)));
  RowPanel<S> t(workspace.take<Pack<S>>(RowPanel<S>::size(rows, width)), rows, width);
  load_row_panel(block.t, t);
  compute_t_factor(tau, t);
  store_row_panel(t, block.t);
}

// Fill in V, from the reflectors below the diagonal of h, and T.
template <class S>
void unpack_reflectors(View<S> h, const S* tau, const BlockReflector<S>& block) {
  const View<S> v = block.v;
  for (long i = 0; i < line_count(v); ++i) std::copy_n(line(h, i), line_length(v), line(v, i));
  for (long j = 0; j < v.cols; ++j) {
    for (long i = 0; i < j; ++i) v(i, j) = 0;
    v(j, j) = 1;
  }
  compute_t(block, tau);
}

// The columns of Q = H_1 ... H_k that `q` has room for, backwards: a block meets zeros and ones in
// the rows and columns before its own. `block_at(first)` is the block of the reflectors from
// `first` on, `most` wide at most; `space` holds 2 most q.cols.
template <class S, class BlockAt>
void form_columns(View<S> q, long k, long most, BlockAt block_at, S* space) {
  for (long i = k; i < q.cols; ++i) q(i, i) = 1;
  for (long first = round_up(k, most) - most; first >= 0; first -= most) {
    const BlockReflector<S> block = block_at(first);
    const long width = block.width(), below = q.rows - first - width;
    const long cols = q.cols - first, rest = cols - width;
    const View<S> products = dense(space, width, cols, q.order);
    const View<S> combined = dense(space + width * cols, width, cols, q.order);
    for (long i = 0; i < width; ++i) {
      for (long j = 0; j < width; ++j) products(i, j) = conjugate(block.v(j, i));
    }
    multiply(S(1), Op::kAdjoint, block.v.block(width, 0, below, width), Op::kPlain,
             q.block(first + width, first + width, below, rest), S(0),
             products.block(0, width, width, rest));
    multiply(S(1), Op::kPlain, block.t, Op::kPlain, products, S(0), combined);
    multiply(S(-1), Op::kPlain, block.v, Op::kPlain, combined, S(1),
             q.block(first, first, q.rows - first, cols));
    for (long i = 0; i < width; ++i) q(first + i, first + i) += S(1);
  }
}

}  // namespace jaxqr
