// Householder's method on one large matrix: narrow panels, and the rest in products of matrices.
#pragma once

#include "blocked/block_reflector.h"

namespace jaxqr {

// How many columns a panel has, and how many reflectors are applied to the rest at a time.
struct Widths {
  long panel, block;
};

inline Widths widths_for(long k) {
  if (k <= 128) return {16, 16};
  if (k <= 256) return {32, 32};
  return {32, k <= 512 ? 64L : 128L};
}

// The factorization of an m x n matrix in place: its upper triangle becomes R and, if wanted, what
// is below the vectors of the reflectors.
template <class S>
class Factorization {
 public:
  struct Keep {
    bool below_diagonal;  // the reflectors' vectors, in place
    bool blocks;          // all of block_at(), after run()
  };

  // Q will be formed with up to `q_cols` columns.
  static size_t workspace(long m, long n, long q_cols, Keep keep) {
    const Sizes size(m, n, q_cols, keep);
    return Workspace::size<S>(size.v) + Workspace::size<S>(size.t) +
           Workspace::size<S>(size.space) + Workspace::size<Pack<S>>(size.panel) +
           2 * Workspace::size<Pack<S>>(size.square);
  }

  Factorization(View<S> a, S* tau, long q_cols, Keep keep, Workspace& workspace)
      : a_(a), k_(std::min(a.rows, a.cols)), tau_(tau), keep_(keep), widths_(widths_for(k_)) {
    const Sizes size(a.rows, a.cols, q_cols, keep);
    v_ = workspace.take<S>(size.v);
    t_ = workspace.take<S>(size.t);
    space_ = workspace.take<S>(size.space);
    panel_ = workspace.take<Pack<S>>(size.panel);
    panel_r_ = workspace.take<Pack<S>>(size.square);
    panel_t_ = workspace.take<Pack<S>>(size.square);
  }

  void run() {
    for (long first = 0; first < k_; first += widths_.block) {
      const BlockReflector<S> block = block_at(first);
      factor_columns(first, block);
      const long rest = first + block.width();
      if (rest < a_.cols) {
        apply_left(block, true, a_.block(first, rest, a_.rows - first, a_.cols - rest), space_);
      }
    }
  }

  BlockReflector<S> block_at(long first) const {
    const long width = std::min(widths_.block, k_ - first), rows = a_.rows - first;
    S* v = keep_.blocks ? v_ + first * a_.rows : v_;
    S* t = keep_.blocks ? t_ + first * widths_.block : t_;
    return {dense(v, rows, width, a_.order), dense(t, width, width, a_.order)};
  }

  void form(View<S> q) const {
    form_columns(q, k_, widths_.block, [this](long first) { return block_at(first); }, space_);
  }

 private:
  struct Sizes {
    long v, t, space, panel, square;

    Sizes(long m, long n, long q_cols, Keep keep) {
      const long k = std::min(m, n);
      const Widths widths = widths_for(k);
      v = m * (keep.blocks ? k : widths.block);
      t = widths.block * (keep.blocks ? k : widths.block);
      space = 2 * widths.block * std::max(n, q_cols);
      panel = RowPanel<S>::size(m, widths.panel);
      square = RowPanel<S>::size(widths.panel, widths.panel);
    }
  };

  // The columns of `block`, which is filled in: by halves, until they are a panel.
  void factor_columns(long first, const BlockReflector<S>& block) {
    const long width = block.width(), rows = a_.rows - first;
    if (width <= widths_.panel) return factor_leaf(first, block);
    const long left = round_up(width / 2, kGroupColumns), right = width - left;
    const BlockReflector<S> one{block.v.block(0, 0, rows, left), block.t.block(0, 0, left, left)};
    const BlockReflector<S> two{block.v.block(left, left, rows - left, right),
                                block.t.block(left, left, right, right)};
    factor_columns(first, one);
    apply_left(one, true, a_.block(first, first + left, rows, right), space_);
    factor_columns(first + left, two);
    fill_zero(block.v.block(0, left, left, right));
    merge(one, two, block.t);
  }

  // T of two blocks in a row: T_12 = -T_1 V_1^H V_2 T_2.
  void merge(const BlockReflector<S>& one, const BlockReflector<S>& two, View<S> t) {
    const long left = one.width(), right = two.width();
    const View<S> products = dense(space_, left, right, t.order);
    const View<S> combined = dense(space_ + left * right, left, right, t.order);
    multiply(S(1), Op::kAdjoint, one.v.block(left, 0, two.v.rows, left), Op::kPlain, two.v, S(0),
             products);
    multiply(S(-1), Op::kPlain, one.t, Op::kPlain, products, S(0), combined);
    multiply(S(1), Op::kPlain, combined, Op::kPlain, two.t, S(0), t.block(0, left, left, right));
    fill_zero(t.block(left, 0, right, left));
  }

  void factor_leaf(long first, const BlockReflector<S>& block) {
    const long width = block.width(), rows = a_.rows - first;
    const View<S> columns = a_.block(first, first, rows, width);
    const RowPanel<S> panel(panel_, rows, width), r(panel_r_, width, width);
    const RowPanel<S> t(panel_t_, round_up(width, kGroupColumns), width);
    load_row_panel(columns, panel);
    factor_row_panel(panel, tau_ + first, r);
    store_row_panel(panel, block.v);
    if (keep_.below_diagonal) store_row_panel(panel, columns);
    for (long j = 0; j < width; ++j) {
      for (long i = 0; i <= j; ++i) columns(i, j) = r.get(i, j);
    }
    compute_gram(panel, t);
    compute_t_factor(tau_ + first, t);
    store_row_panel(t, block.t);
  }

  View<S> a_;
  long k_;
  S* tau_;
  Keep keep_;
  Widths widths_;
  S *v_, *t_, *space_;
  Pack<S>*panel_, *panel_r_, *panel_t_;
};

}  // namespace jaxqr
