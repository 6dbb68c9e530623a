// Matrices of few columns: Householder's method on a panel, or on row blocks whose triangles are
// stacked and factored in turn (TSQR).
#include <limits>

#include "panel.h"
#include "range.h"
#include "routines.h"
#include "workspace.h"

namespace jaxqr {
namespace {

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

// What a block of rows is factored into, and room for a product with its Q.
template <class S>
struct Factors {
  Panel<S> v, t;

  static long t_size(long n) { return Panel<S>::size(round_up(n, Panel<S>::kGroup), n); }
  static long c_size(long n) { return Panel<S>::size(round_up(n, kRowMultiple), n); }

  Factors(Pack<S>* v, Pack<S>* t, long rows, long n)
      : v(v, rows, n), t(t, round_up(n, Panel<S>::kGroup), n) {}

  // T, once v holds the vectors of the reflectors.
  void compute_t(const S* tau) const {
    gram(v, t);
    triangular_factor(tau, t);
  }

  // q := the leading rows of Q [C; 0], with C square and by rows in the columns of a panel that is
  // overwritten, but for C itself in the leading rows.
  void apply(Panel<S> c_by_rows, View<S> q) const {
    project(v, t, c_by_rows);
    store_product(v.first_rows(q.rows), c_by_rows, q);
  }
};

// --------------------------------------------------------------------------------- a single block

template <class S>
void factor_panel_matrix(const QrProblem<S>& problem) {
  using T = RealOf<S>;
  const long m = problem.m, n = problem.n;
  const long v_size = Panel<S>::size(m, n), r_size = Panel<S>::size(n, n);
  const long t_size = Factors<S>::t_size(n), c_size = Factors<S>::c_size(n);
  Workspace workspace(Workspace::size<Pack<S>>(v_size) + Workspace::size<Pack<S>>(r_size) +
                      Workspace::size<Pack<S>>(t_size) + Workspace::size<Pack<S>>(c_size));
  const Factors<S> factors(workspace.take<Pack<S>>(v_size), workspace.take<Pack<S>>(t_size), m, n);
  const Panel<S> r(workspace.take<Pack<S>>(r_size), n, n), v = factors.v;

  load_panel(dense(const_cast<S*>(problem.a), m, n, problem.order), v);
  const T scale = scale_for(largest_entry(v));
  if (scale != scale) return fill_nan(problem);
  if (scale != 1) multiply_by(scale, v);
  if (problem.scale) *problem.scale = scale;

  S some_tau[kTallColumns];
  S* tau = problem.tau ? problem.tau : some_tau;
  if (!factor_panel(v, tau, r)) return factor_lapack(problem);
  if (scale != 1) multiply_by(1 / scale, r);
  if (problem.r) copy_upper(r, dense(problem.r, n, n, problem.order), true);
  if (problem.h) {
    const View<S> h = dense(problem.h, m, n, problem.order);
    store_panel(v, h);
    copy_upper(r, h.block(0, 0, n, n), false);
  }
  if (!problem.q) return;
  factors.compute_t(tau);
  const Panel<S> c(workspace.take<Pack<S>>(c_size), round_up(n, kRowMultiple), n);
  std::fill_n(c.data, c_size, Pack<S>::zero());
  for (long i = 0; i < n; ++i) c.set(i, i, 1);
  const View<S> q = dense(problem.q, m, n, problem.order);
  factors.apply(c, q);
  for (long i = 0; i < n; ++i) q(i, i) += S(1);
}

// ------------------------------------------------------------------------------ blocks of rows

// All blocks have the same number of rows but the last, which has the rest and no fewer than n.
struct Partition {
  long blocks, rows, m;

  Partition(long m, long n) : m(m) {
    constexpr long wanted = 2048;
    blocks = std::max(1L, m / wanted);
    rows = round_up(ceil_divide(m, blocks), 16);
    blocks = ceil_divide(m, rows);
    if (m - (blocks - 1) * rows < n) blocks = std::max(1L, blocks - 1);
  }
  long rows_of(long i) const { return i < blocks - 1 ? rows : m - (blocks - 1) * rows; }
  long most_rows() const { return std::max(rows, rows_of(blocks - 1)); }
};

// A few matrices whose row blocks are factored on all threads, then the stacks of their triangles:
// A = diag(Q_1, ..., Q_p) [R_1; ...; R_p] = diag(Q_1, ..., Q_p) [S_1; ...; S_p] R.
template <class S>
class RowBlocks {
  using T = RealOf<S>;

 public:
  static size_t workspace(const QrProblem<S>& problem, const Partition& parts) {
    const Sizes size(problem, parts);
    return Workspace::size<Pack<S>>(size.kept * size.v) +
           Workspace::size<Pack<S>>(size.kept * size.t) + 2 * Workspace::size<S>(size.stacks) +
           Workspace::size<S>(size.triangles) + Workspace::size<char>(size.blocks);
  }

  RowBlocks(const QrProblem<S>& problem, const Partition& parts, Workspace& workspace)
      : problem_(problem), parts_(parts), size_(problem, parts) {
    v_ = workspace.take<Pack<S>>(size_.kept * size_.v);
    t_ = workspace.take<Pack<S>>(size_.kept * size_.t);
    stacks_ = workspace.take<S>(size_.stacks);
    stacks_q_ = workspace.take<S>(size_.stacks);
    triangles_ = workspace.take<S>(size_.triangles);
    plain_ = workspace.take<char>(size_.blocks);
  }

  void run(Pool& pool) {
    parallel_for(pool, size_.blocks, [this](long unit) { factor_block(unit); });
    QrProblem<S> stacked{problem_.batch, parts_.blocks * problem_.n, problem_.n, Order::kRows,
                         false, stacks_, stacks_q_, nullptr, triangles_, nullptr, nullptr,
                         nullptr, nullptr};
    factor_tall(stacked, pool);
    parallel_for(pool, problem_.batch, [this](long b) { plain(b, 0) = finish_r(b); });
    if (problem_.q) {
      parallel_for(pool, size_.blocks, [this](long unit) { form_block(unit); });
    }
    for (long b = 0; b < problem_.batch; ++b) {
      if (!plain(b, 0)) factor_blocked(problem_.slice(b, 1), pool);
    }
  }

 private:
  struct Sizes {
    long blocks, kept, v, t, stacks, triangles;

    Sizes(const QrProblem<S>& problem, const Partition& parts) {
      const long n = problem.n;
      blocks = problem.batch * parts.blocks;
      kept = problem.q ? blocks : problem.batch;
      v = Panel<S>::size(parts.most_rows(), n);
      t = Factors<S>::t_size(n);
      stacks = blocks * n * n;
      triangles = problem.batch * n * n;
    }
  };

  // Without Q, the signs still need every matrix's first block.
  Factors<S> factors(long b, long i) const {
    const long slot = problem_.q ? b * parts_.blocks + i : b;
    return {v_ + slot * size_.v, t_ + slot * size_.t, parts_.rows_of(i), problem_.n};
  }
  View<S> rows_of_matrix(S* data, long b, long i) const {
    View<S> all = dense(data + b * problem_.m * problem_.n, problem_.m, problem_.n, problem_.order);
    return all.block(i * parts_.rows, 0, parts_.rows_of(i), problem_.n);
  }
  View<S> square(S* stacks, long b, long i) const {
    const long n = problem_.n;
    return dense(stacks + (b * parts_.blocks + i) * n * n, n, n, Order::kRows);
  }
  // Whether nothing out of the ordinary has happened in a block.
  char& plain(long b, long i) { return plain_[b * parts_.blocks + i]; }

  void factor_block(long unit) {
    const long b = unit / parts_.blocks, i = unit % parts_.blocks, n = problem_.n;
    const long r_size = Panel<S>::size(n, n);
    Workspace workspace(Workspace::size<Pack<S>>(r_size) + Workspace::size<Pack<S>>(size_.v));
    const Panel<S> r(workspace.take<Pack<S>>(r_size), n, n);
    Factors<S> block = factors(b, i);
    const bool keep = problem_.q || i == 0;
    if (!keep) block.v.data = workspace.take<Pack<S>>(size_.v);
    S tau[kTallColumns];
    load_panel(rows_of_matrix(const_cast<S*>(problem_.a), b, i), block.v);
    plain(b, i) = scale_for(largest_entry(block.v)) == 1 && factor_panel(block.v, tau, r);
    if (keep) block.compute_t(tau);
    copy_upper(r, square(stacks_, b, i), true);
  }

  // R with LAPACK's signs. False if the matrix is one for `factor_blocked`.
  bool finish_r(long b) {
    for (long i = 0; i < parts_.blocks; ++i) {
      if (!plain(b, i)) return false;
    }
    const long n = problem_.n;
    Workspace workspace(Workspace::size<S>(n * n) +
                        Workspace::size<Pack<S>>(Factors<S>::c_size(n)));
    const View<S> top = dense(workspace.take<S>(n * n), n, n, Order::kRows);
    form(b, 0, top, workspace.take<Pack<S>>(Factors<S>::c_size(n)));
    const View<S> r = dense(triangles_ + b * n * n, n, n, Order::kRows);
    T signs[kTallColumns];
    if (!find_signs(top, r, signs)) return false;
    View<S> stack_q = dense(stacks_q_ + b * parts_.blocks * n * n, parts_.blocks * n, n, Order::kRows);
    for (long i = 0; i < stack_q.rows; ++i) {
      for (long j = 0; j < n; ++j) stack_q(i, j) *= signs[j];
    }
    if (problem_.scale) problem_.scale[b] = 1;
    if (!problem_.r) return true;
    const View<S> to = dense(problem_.r + b * n * n, n, n, problem_.order);
    for (long i = 0; i < n; ++i) {
      for (long j = 0; j < n; ++j) to(i, j) = j < i ? S(0) : signs[i] * r(i, j);
    }
    return true;
  }

  // The leading rows of Q_i S_i; `space` is for c_size() packs.
  void form(long b, long i, View<S> q, Pack<S>* space) const {
    const long n = problem_.n;
    const View<S> c = square(stacks_q_, b, i);
    const View<S> transposed{c.data, n, n, n, Order::kColumns};
    const Panel<S> by_rows(space, round_up(n, kRowMultiple), n);
    std::fill_n(space, Factors<S>::c_size(n), Pack<S>::zero());
    load_panel(transposed, by_rows.first_rows(n));
    factors(b, i).apply(by_rows, q);
    for (long p = 0; p < n; ++p) {
      for (long j = 0; j < n; ++j) q(p, j) += c(p, j);
    }
  }

  void form_block(long unit) {
    const long b = unit / parts_.blocks, i = unit % parts_.blocks;
    if (!plain(b, 0)) return;
    const long size = Factors<S>::c_size(problem_.n);
    Workspace workspace(Workspace::size<Pack<S>>(size));
    form(b, i, rows_of_matrix(problem_.q, b, i), workspace.take<Pack<S>>(size));
  }

  // LAPACK's R is D R with signs D, and its Q is Q D = I - V T V^H: so the top of Q is D + L U with
  // L unit lower triangular and U = -T V_1^H D. Its diagonal is -d_j tau_j with 1 <= Re tau_j, which
  // gives the signs as elimination proceeds; the pivots p_j + |p_j| cannot be small. False if
  // rounding may have decided, or tau_j may have to be zero, as in columns that are zero.
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
  Pack<S>*v_, *t_;
  S *stacks_, *stacks_q_, *triangles_;
  char* plain_;
};

}  // namespace

template <class S>
void factor_tall(const QrProblem<S>& problem, Pool& pool) {
  const Partition parts(problem.m, problem.n);
  if (problem.q_full || (parts.blocks > 1 && (problem.h || problem.tau))) {
    for (long b = 0; b < problem.batch; ++b) factor_blocked(problem.slice(b, 1), pool);
  } else if (parts.blocks == 1) {
    parallel_for(pool, problem.batch, [&](long b) { factor_panel_matrix(problem.slice(b, 1)); });
  } else {
    constexpr long most_bytes = 1 << 25;  // of the input, at a time
    const long each = problem.m * problem.n * long(sizeof(S));
    const long count = std::max(1L, most_bytes / each);
    for (long b = 0; b < problem.batch; b += count) {
      const QrProblem<S> some = problem.slice(b, std::min(count, problem.batch - b));
      Workspace workspace(RowBlocks<S>::workspace(some, parts));
      RowBlocks<S>(some, parts, workspace).run(pool);
    }
  }
}

#define INSTANTIATE(S) template void factor_tall<S>(const QrProblem<S>&, Pool&);
JAXQR_FOR_SCALARS(INSTANTIATE)

}  // namespace jaxqr
