// Matrices of few columns by blocks of rows, whose triangles are stacked and factored in turn
// (TSQR):
//
//   [A_1]   [Q_1    ] [R_1]         [R_1]   [S_1]
//   [...] = [  ...  ] [...]   and   [...] = [...] R,   so that the rows of block i of Q are Q_i
//   S_i. [A_p]   [    Q_p] [R_p]         [R_p]   [S_p]
//
// Q_i = I - V T V^H with the reflectors V of block i, whose first n rows are V_1: so
// Q_i S_i = [S_i; 0] - V T V_1^H S_i.
//
// Householder's method on all of A would give other signs, and LAPACK's signs are promised: they
// are found from Q (find_signs), or the matrix is factored again where rounding may have decided
// them.
#pragma once

#include <limits>

#include "common/fill_nan.h"
#include "common/parallel.h"
#include "kernels.h"
#include "rows/squares.h"

namespace jaxqr {

// All blocks have the same number of rows but the last, which has the rest and no fewer than n.
struct Partition {
  long blocks, rows, m;

  // Blocks of at least `wanted` rows.
  Partition(long m, long n, long wanted) : m(m) {
    blocks = std::max(1L, m / wanted);
    rows = round_up(ceil_divide(m, blocks), 16);
    blocks = ceil_divide(m, rows);
    if (m - (blocks - 1) * rows < n) blocks = std::max(1L, blocks - 1);
  }
  long rows_of(long i) const { return i < blocks - 1 ? rows : m - (blocks - 1) * rows; }
  long most_rows() const { return std::max(rows, rows_of(blocks - 1)); }
};

// The signs of LAPACK's R = D R, and thereby those of its Q = Q D, from the first n rows of Q. By
// (4.1) these are D + L U with L unit lower and U upper triangular, diag(U) = -D tau and Re tau_j
// >= 1: that gives the signs as elimination, in place, proceeds, and pivots that are not small.
// False if rounding may have decided, or if tau_j may have to be zero, as for columns that are
// zero.
template <class S>
bool find_signs(View<S> top, View<S> r, RealOf<S>* signs) {
  using T = RealOf<S>;
  constexpr T close = 10 * std::numeric_limits<T>::epsilon();
  for (long j = 0; j < top.cols; ++j) {
    const T pivot = std::real(top(j, j));
    const T size = std::abs(pivot);
    if (!(size > close && size < 1 - close) || r(j, j) == S(0)) return false;
    signs[j] = -std::copysign(T(1), pivot);
    const S inverse = S(1) / (top(j, j) - signs[j]);
    for (long i = j + 1; i < top.rows; ++i) {
      const S multiple = top(i, j) * inverse;
      for (long l = j + 1; l < top.cols; ++l) top(i, l) -= product(multiple, top(j, l));
    }
  }
  return true;
}

// Factors a batch. Blocks of all its matrices are numbered through: block i of matrix b is
// b * parts.blocks + i.
template <class S>
class RowBlocks {
  using T = RealOf<S>;

 public:
  static size_t workspace(const QrProblem<S>& problem, const Partition& parts) {
    const Sizes size(problem, parts);
    return size.kept * square_panel_bytes<S>(problem.n) +
           Workspace::size<S>(size.kept * size.square) + Workspace::size<Pack<S>>(size.panels) +
           2 * Workspace::size<S>(size.blocks * size.square) +
           Workspace::size<S>(problem.batch * size.square) +
           Workspace::size<T>(size.blocks * problem.n) + Workspace::size<Scaling>(size.blocks) +
           Workspace::size<Outcome>(problem.batch);
  }

  RowBlocks(const QrProblem<S>& problem, const Partition& parts, Workspace& workspace)
      : problem_(problem), parts_(parts), size_(problem, parts) {
    t_ = workspace.take<char>(size_.kept * square_panel_bytes<S>(problem.n));
    tops_ = workspace.take<S>(size_.kept * size_.square);
    panels_ = workspace.take<Pack<S>>(size_.panels);
    stacks_ = workspace.take<S>(size_.blocks * size_.square);
    stacks_q_ = workspace.take<S>(size_.blocks * size_.square);
    triangles_ = workspace.take<S>(problem.batch * size_.square);
    scales_ = workspace.take<T>(size_.blocks * problem.n);
    scalings_ = workspace.take<Scaling>(size_.blocks);
    outcomes_ = workspace.take<Outcome>(problem.batch);
  }

  void run(Pool& pool) {
    parallel_for(pool, size_.blocks, [this](long block) { factor_block(block); });
    parallel_for(pool, problem_.batch, [this](long b) { unify_scales(b); });
    factor_tall(stacked_problem(), pool);
    parallel_for(pool, problem_.batch, [this](long b) { finish_r(b); });
    if (problem_.q) {
      parallel_for(pool, size_.blocks, [this](long block) { form_block(block); });
    }
    for (long b = 0; b < problem_.batch; ++b) {
      if (outcomes_[b] == Outcome::kNotFinite) fill_nan(problem_.slice(b, 1));
      if (outcomes_[b] == Outcome::kUndecided) factor_blocked(problem_.slice(b, 1), pool);
    }
  }

 private:
  // Of a matrix: whether Q and R are found, are NaN, or have signs that are not certain.
  enum class Outcome : char { kFound, kNotFinite, kUndecided };

  struct Sizes {
    long blocks;  // in all matrices together
    long kept;    // blocks whose T and V_1 are kept: for signs, every matrix's first one is enough
    long square;  // scalars in an n x n matrix
    long panel;   // Packs in a block
    long panels;  // Packs in all blocks together, if they fit in the cache until Q is formed; or 0

    Sizes(const QrProblem<S>& problem, const Partition& parts) {
      blocks = problem.batch * parts.blocks;
      kept = problem.q ? blocks : problem.batch;
      square = problem.n * problem.n;
      panel = RowPanel<S>::size(parts.most_rows(), problem.n);
      constexpr long cache = 1 << 23;
      const bool fit = blocks * panel * long(sizeof(Pack<S>)) <= cache;
      panels = problem.q && fit ? blocks * panel : 0;
    }
  };

  // ---------------------------------------------------------------------- where things lie

  long matrix_of(long block) const { return block / parts_.blocks; }
  long first_block(long b) const { return b * parts_.blocks; }
  bool is_first(long block) const { return block % parts_.blocks == 0; }

  // The place of a block among those that are kept.
  long kept_place(long block) const { return problem_.q ? block : matrix_of(block); }

  T* scales(long block) { return scales_ + block * problem_.n; }
  View<S> square(S* squares, long index) const {
    return dense(squares + index * size_.square, problem_.n, problem_.n, Order::kRows);
  }
  View<S> triangle(long block) const { return square(stacks_, block); }       // R_i
  View<S> factor(long block) const { return square(stacks_q_, block); }       // S_i
  View<S> top(long block) const { return square(tops_, kept_place(block)); }  // V_1
  RowPanel<S> t(long block) const {
    char* place = t_ + kept_place(block) * square_panel_bytes<S>(problem_.n);
    return {reinterpret_cast<Pack<S>*>(place), round_up(problem_.n, kSmallMultiple), problem_.n};
  }

  // The rows of a block in A or Q.
  View<S> rows_of(S* matrices, long block) const {
    const long b = matrix_of(block), i = block - first_block(b);
    const View<S> all =
        dense(matrices + b * problem_.m * problem_.n, problem_.m, problem_.n, problem_.order);
    return all.block(i * parts_.rows, 0, parts_.rows_of(i), problem_.n);
  }

  // The panel of a block, in `place` unless all panels are kept.
  RowPanel<S> panel(long block, Pack<S>* place) const {
    if (size_.panels) place = panels_ + block * size_.panel;
    return {place, parts_.rows_of(block % parts_.blocks), problem_.n};
  }

  // -------------------------------------------------------------------------------------- R

  // R_i, and of what Q_i consists of. Until Q is formed V stays as a panel, if all panels fit in
  // the cache, or else where Q will be.
  void factor_block(long block) {
    const long n = problem_.n, r_size = RowPanel<S>::size(n, n);
    Workspace workspace(Workspace::size<Pack<S>>(size_.panel) + Workspace::size<Pack<S>>(r_size));
    const RowPanel<S> v = panel(block, workspace.take<Pack<S>>(size_.panel));
    const RowPanel<S> r(workspace.take<Pack<S>>(r_size), n, n);
    S tau[kTallColumns];
    load_row_panel(rows_of(const_cast<S*>(problem_.a), block), v);
    scalings_[block] = scale_columns(v, scales(block));
    if (!scalings_[block].finite) {  // nothing of it is looked at
      fill_zero(triangle(block));
      return;
    }
    factor_row_panel(v, tau, r);
    store_upper_triangle(r, triangle(block), Below::kZero);
    if (problem_.q && !size_.panels) store_row_panel(v, rows_of(problem_.q, block));
    if (problem_.q || is_first(block)) {
      store_row_panel(v.first_rows(n), top(block));
      compute_gram(v, t(block));
      compute_t_factor(tau, t(block));
    }
  }

  // Let the triangles of a matrix have the same powers of two in their columns: the least ones, as
  // what is small in a block may be small beside the others. The first block's are the matrix's,
  // and so is its Scaling.
  void unify_scales(long b) {
    const long first = first_block(b), end = first + parts_.blocks;
    Scaling& all = scalings_[first];
    for (long block = first; block < end; ++block) {
      all.finite &= scalings_[block].finite;
      all.needed |= scalings_[block].needed;
    }
    outcomes_[b] = all.finite ? Outcome::kFound : Outcome::kNotFinite;
    if (!all.finite || !all.needed) return;
    for (long j = 0; j < problem_.n; ++j) {
      constexpr T none = std::numeric_limits<T>::infinity();
      T least = none;
      for (long block = first; block < end; ++block) {
        if (!is_zero_column(triangle(block), j)) least = std::min(least, scales(block)[j]);
      }
      if (least == none) least = 1;
      for (long block = first; block < end; ++block) {
        const T change = least / scales(block)[j];
        for (long row = 0; row <= j; ++row) triangle(block)(row, j) *= change;
      }
      scales(first)[j] = least;
    }
  }

  static bool is_zero_column(View<S> upper, long j) {
    for (long i = 0; i <= j; ++i) {
      if (upper(i, j) != S(0)) return false;
    }
    return true;
  }

  QrProblem<S> stacked_problem() const {
    QrProblem<S> stacked{problem_.batch, parts_.blocks * problem_.n, problem_.n, Order::kRows,
                         Pivoting::kNone};
    stacked.a = stacks_;
    stacked.q = stacks_q_;
    stacked.r = triangles_;
    return stacked;
  }

  // R with LAPACK's signs; and S_i, which is multiplied by the signs, too.
  void finish_r(long b) {
    if (outcomes_[b] == Outcome::kNotFinite) return;
    const long n = problem_.n, first = first_block(b), v_size = RowPanel<S>::size(n, n);
    Workspace workspace(Workspace::size<Pack<S>>(v_size) + Workspace::size<S>(size_.square));
    const RowPanel<S> v(workspace.take<Pack<S>>(v_size), n, n);
    load_row_panel(top(first), v);
    const View<S> top_of_q = dense(workspace.take<S>(size_.square), n, n, Order::kRows);
    form_rows(first, v, top_of_q);
    const View<S> r = square(triangles_, b);
    T signs[kTallColumns];
    if (!find_signs(top_of_q, r, signs)) {
      outcomes_[b] = Outcome::kUndecided;
      return;
    }
    S* stack_q = factor(first).data;
    for (long i = 0; i < parts_.blocks * n; ++i) {
      for (long j = 0; j < n; ++j) stack_q[i * n + j] *= signs[j];
    }
    if (!problem_.r) return;
    const View<S> to = dense(problem_.r + b * size_.square, n, n, problem_.order);
    for (long j = 0; j < n; ++j) {
      const T inverse = scalings_[first].needed ? 1 / scales(first)[j] : T(1);
      for (long i = 0; i < n; ++i) to(i, j) = j < i ? S(0) : signs[i] * r(i, j) * inverse;
    }
  }

  // -------------------------------------------------------------------------------------- Q

  // q := the leading rows of [S_i; 0] - V T V_1^H S_i, those that `v` has.
  void form_rows(long block, RowPanel<S> v, View<S> q) const {
    const long n = problem_.n;
    Workspace workspace(3 * square_panel_bytes<S>(n));
    const RowPanel<S> c = take_square_panel<S>(workspace, n);
    const RowPanel<S> v1 = take_square_panel<S>(workspace, n);
    const RowPanel<S> projected = take_square_panel<S>(workspace, n);
    const auto load_by_rows = [](View<S> from, RowPanel<S> to) {
      load_row_panel({from.data, from.cols, from.rows, from.ld, Order::kColumns}, to);
    };
    const View<S> s = factor(block);
    load_by_rows(s, c.first_rows(n));
    load_by_rows(top(block), v1.first_rows(n));  // V_1^T by columns
    multiply_triangle(v1, true, c, projected);
    multiply_triangle(t(block), false, projected, c);
    store_product(v, c, q);
    for (long p = 0; p < n; ++p) {
      for (long j = 0; j < n; ++j) q(p, j) += s(p, j);
    }
  }

  void form_block(long block) {
    if (outcomes_[matrix_of(block)] != Outcome::kFound) return;
    Workspace workspace(Workspace::size<Pack<S>>(size_.panel));
    const RowPanel<S> v = panel(block, workspace.take<Pack<S>>(size_.panel));
    const View<S> q = rows_of(problem_.q, block);
    if (!size_.panels) load_row_panel(q, v);
    form_rows(block, v, q);
  }

  QrProblem<S> problem_;
  Partition parts_;
  Sizes size_;
  char* t_;
  Pack<S>* panels_;
  S *tops_, *stacks_, *stacks_q_, *triangles_;
  T* scales_;  // of the columns of each block
  Scaling* scalings_;
  Outcome* outcomes_;
};

}  // namespace jaxqr
