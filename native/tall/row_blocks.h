// Matrices of few columns by blocks of rows, whose triangles are stacked and factored in turn
// (TSQR).
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

// Matrices whose row blocks are factored on all threads, then the stacks of their triangles:
// A = diag(Q_1, ..., Q_p) [R_1; ...; R_p] = diag(Q_1, ..., Q_p) [S_1; ...; S_p] R. Until Q is
// formed, V stays as a panel, if all these fit in the cache, or else where Q will be.
template <class S>
class RowBlocks {
  using T = RealOf<S>;

 public:
  static size_t workspace(const QrProblem<S>& problem, const Partition& parts) {
    const Sizes size(problem, parts);
    return size.kept * square_bytes<S>(problem.n) + Workspace::size<S>(size.kept * size.square) +
           Workspace::size<Pack<S>>(size.panels) +
           2 * Workspace::size<S>(size.units * size.square) +
           Workspace::size<S>(problem.batch * size.square) +
           Workspace::size<T>(size.units * problem.n) + Workspace::size<State>(size.units);
  }

  RowBlocks(const QrProblem<S>& problem, const Partition& parts, Workspace& workspace)
      : problem_(problem), parts_(parts), size_(problem, parts) {
    t_ = workspace.take<char>(size_.kept * square_bytes<S>(problem.n));
    tops_ = workspace.take<S>(size_.kept * size_.square);
    panels_ = workspace.take<Pack<S>>(size_.panels);
    stacks_ = workspace.take<S>(size_.units * size_.square);
    stacks_q_ = workspace.take<S>(size_.units * size_.square);
    triangles_ = workspace.take<S>(problem.batch * size_.square);
    scales_ = workspace.take<T>(size_.units * problem.n);
    states_ = workspace.take<State>(size_.units);
  }

  void run(Pool& pool) {
    parallel_for(pool, size_.units, [this](long unit) { factor_block(unit); });
    parallel_for(pool, problem_.batch, [this](long b) { share_scales(b); });
    QrProblem<S> stacked{problem_.batch, parts_.blocks * problem_.n, problem_.n, Order::kRows,
                         Pivoting::kNone, stacks_, stacks_q_, nullptr, triangles_};
    factor_tall(stacked, pool);
    parallel_for(pool, problem_.batch, [this](long b) { finish_r(b); });
    if (problem_.q) {
      parallel_for(pool, size_.units, [this](long unit) { form_block(unit); });
    }
    for (long b = 0; b < problem_.batch; ++b) {
      if (state(b, 0) == State::kNotFinite) fill_nan(problem_.slice(b, 1));
      if (state(b, 0) == State::kUndecided) factor_blocked(problem_.slice(b, 1), pool);
    }
  }

 private:
  // Of a block: whether its columns were multiplied by powers of two, or hold a NaN or an infinity.
  // In the end the first block's is the matrix's: whether Q and R are found, or signs are undecided.
  enum class State : char { kPlain, kScaled, kNotFinite, kUndecided };

  struct Sizes {
    long units, kept, square, panel, panels;

    Sizes(const QrProblem<S>& problem, const Partition& parts) {
      units = problem.batch * parts.blocks;
      kept = problem.q ? units : problem.batch;  // for signs, every matrix's first block is enough
      square = problem.n * problem.n;
      panel = Panel<S>::size(parts.most_rows(), problem.n);
      constexpr long cache = 1 << 23;
      const bool fit = units * panel * long(sizeof(Pack<S>)) <= cache;
      panels = problem.q && fit ? units * panel : 0;
    }
  };

  long slot(long b, long i) const { return problem_.q ? b * parts_.blocks + i : b; }
  State& state(long b, long i) { return states_[b * parts_.blocks + i]; }
  T* scales(long b, long i) { return scales_ + (b * parts_.blocks + i) * problem_.n; }

  Panel<S> t(long b, long i) const {
    char* place = t_ + slot(b, i) * square_bytes<S>(problem_.n);
    return {reinterpret_cast<Pack<S>*>(place), round_up(problem_.n, kSmallMultiple), problem_.n};
  }
  View<S> rows_of_matrix(S* data, long b, long i) const {
    View<S> all = dense(data + b * problem_.m * problem_.n, problem_.m, problem_.n, problem_.order);
    return all.block(i * parts_.rows, 0, parts_.rows_of(i), problem_.n);
  }
  View<S> square(S* squares, long index) const {
    return dense(squares + index * size_.square, problem_.n, problem_.n, Order::kRows);
  }

  // The panel of a block, in `place` unless all panels are kept.
  Panel<S> panel(long unit, Pack<S>* place) const {
    if (size_.panels) place = panels_ + unit * size_.panel;
    return {place, parts_.rows_of(unit % parts_.blocks), problem_.n};
  }

  void factor_block(long unit) {
    const long b = unit / parts_.blocks, i = unit % parts_.blocks, n = problem_.n;
    const long r_size = Panel<S>::size(n, n);
    Workspace workspace(Workspace::size<Pack<S>>(size_.panel) + Workspace::size<Pack<S>>(r_size));
    const Panel<S> v = panel(unit, workspace.take<Pack<S>>(size_.panel));
    const Panel<S> r(workspace.take<Pack<S>>(r_size), n, n);
    S tau[kTallColumns];
    load_panel(rows_of_matrix(const_cast<S*>(problem_.a), b, i), v);
    const Scaling scaling = scale_columns(v, scales(b, i));
    state(b, i) = !scaling.finite   ? State::kNotFinite
                  : scaling.needed ? State::kScaled
                                   : State::kPlain;
    if (!scaling.finite) {  // zeros instead of its triangle, and nothing of it is looked at
      std::fill_n(stacks_ + unit * size_.square, size_.square, S(0));
      return;
    }
    factor_panel(v, tau, r);
    copy_upper(r, square(stacks_, unit), true);
    if (problem_.q && !size_.panels) store_panel(v, rows_of_matrix(problem_.q, b, i));
    if (problem_.q || i == 0) {
      store_panel(v.first_rows(n), square(tops_, slot(b, i)));
      gram(v, t(b, i));
      triangular_factor(tau, t(b, i));
    }
  }

  // Let the triangles of a matrix have the same powers of two in their columns: the least ones, as
  // what is small in a block may be small beside the others. The first block's are the matrix's.
  void share_scales(long b) {
    State found = State::kPlain;
    for (long i = 0; i < parts_.blocks; ++i) found = std::max(found, state(b, i));
    state(b, 0) = found;
    if (found != State::kScaled) return;
    for (long j = 0; j < problem_.n; ++j) {
      constexpr T none = std::numeric_limits<T>::infinity();
      T least = none;
      for (long i = 0; i < parts_.blocks; ++i) {
        if (!is_zero_column(triangle(b, i), j)) least = std::min(least, scales(b, i)[j]);
      }
      if (least == none) least = 1;
      for (long i = 0; i < parts_.blocks; ++i) {
        const T change = least / scales(b, i)[j];
        for (long row = 0; row <= j; ++row) triangle(b, i)(row, j) *= change;
      }
      scales(b, 0)[j] = least;
    }
  }

  // A block's, in the stack.
  View<S> triangle(long b, long i) const { return square(stacks_, b * parts_.blocks + i); }

  static bool is_zero_column(View<S> upper, long j) {
    for (long i = 0; i <= j; ++i) {
      if (upper(i, j) != S(0)) return false;
    }
    return true;
  }

  // R with LAPACK's signs.
  void finish_r(long b) {
    if (state(b, 0) == State::kNotFinite) return;
    const long n = problem_.n, v_size = Panel<S>::size(n, n);
    Workspace workspace(Workspace::size<Pack<S>>(v_size) + Workspace::size<S>(size_.square));
    const Panel<S> v(workspace.take<Pack<S>>(v_size), n, n);
    load_panel(square(tops_, slot(b, 0)), v);
    const View<S> top = dense(workspace.take<S>(size_.square), n, n, Order::kRows);
    form(b, 0, v, top);
    const View<S> r = square(triangles_, b);
    T signs[kTallColumns];
    if (!find_signs(top, r, signs)) {
      state(b, 0) = State::kUndecided;
      return;
    }
    S* stack_q = stacks_q_ + b * parts_.blocks * size_.square;
    for (long i = 0; i < parts_.blocks * n; ++i) {
      for (long j = 0; j < n; ++j) stack_q[i * n + j] *= signs[j];
    }
    if (!problem_.r) return;
    const View<S> to = dense(problem_.r + b * size_.square, n, n, problem_.order);
    const bool scaled = state(b, 0) == State::kScaled;
    for (long j = 0; j < n; ++j) {
      const T inverse = scaled ? 1 / scales(b, 0)[j] : T(1);
      for (long i = 0; i < n; ++i) to(i, j) = j < i ? S(0) : signs[i] * r(i, j) * inverse;
    }
  }

  // q := the leading rows of Q_i S_i = [S_i; 0] - V T V_1^H S_i, those that `v` has.
  void form(long b, long i, Panel<S> v, View<S> q) const {
    const long n = problem_.n;
    Workspace workspace(3 * square_bytes<S>(n));
    const Panel<S> c = take_square<S>(workspace, n), top = take_square<S>(workspace, n);
    const Panel<S> projected = take_square<S>(workspace, n);
    const auto load_by_rows = [](View<S> from, Panel<S> to) {
      load_panel({from.data, from.cols, from.rows, from.ld, Order::kColumns}, to);
    };
    const View<S> s = square(stacks_q_, b * parts_.blocks + i);
    load_by_rows(s, c.first_rows(n));
    load_by_rows(square(tops_, slot(b, i)), top.first_rows(n));  // V_1^T by columns
    multiply_triangle(top, true, c, projected);
    multiply_triangle(t(b, i), false, projected, c);
    store_product(v, c, q);
    for (long p = 0; p < n; ++p) {
      for (long j = 0; j < n; ++j) q(p, j) += s(p, j);
    }
  }

  void form_block(long unit) {
    const long b = unit / parts_.blocks, i = unit % parts_.blocks;
    if (state(b, 0) > State::kScaled) return;
    Workspace workspace(Workspace::size<Pack<S>>(size_.panel));
    const Panel<S> v = panel(unit, workspace.take<Pack<S>>(size_.panel));
    const View<S> q = rows_of_matrix(problem_.q, b, i);
    if (!size_.panels) load_panel(q, v);
    form(b, i, v, q);
  }

  // LAPACK's R is D R with signs D, and its Q is Q D. By (4.1) the top of Q is D + L U with L unit
  // lower and U upper triangular, diag(U) = -D tau and Re tau_j >= 1: that gives the signs as
  // elimination proceeds, and pivots that are not small. False if rounding may have decided, or if
  // tau_j may have to be zero, as for columns that are zero.
  static bool find_signs(View<S> top, View<S> r, T* signs) {
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

  QrProblem<S> problem_;
  Partition parts_;
  Sizes size_;
  char* t_;
  Pack<S>* panels_;
  S *tops_, *stacks_, *stacks_q_, *triangles_;
  T* scales_;  // of the columns of each block
  State* states_;
};

}  // namespace jaxqr
