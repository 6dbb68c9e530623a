// Householder's method with Businger and Golub's pivoting: the pivot of each step is the column
// with the largest norm of what is left of it, as in LAPACK's geqp3.
//
// LAPACK keeps the norms of all columns up to date, and so reads all of the matrix for each
// reflector. But norms only shrink: one that was known some steps ago is a bound. So the reflectors
// of a panel meet only those columns that may be the pivot: that of the largest bound is brought
// up to date until the largest bound is exact. It is then the pivot, and most columns have not
// been touched. They meet all reflectors of the panel together.
//
// In the panel, reflector i subtracts v_i w_i from a column, with w_i = conj(tau_i) v_i^H (what the
// reflectors before i left of it). These weights follow from the products v_i^H a_j of the column
// as it was before the panel, and from V^H V. They give the column's new entries of R, and so its
// norm, with no need to write the column.
#pragma once

#include <algorithm>
#include <atomic>

#include "common/workspace.h"
#include "pivoted/column_norms.h"
#include "rows/reflector_groups.h"

namespace jaxqr {

template <class S>
class PivotedFactorization {
 public:
  using T = RealOf<S>;

  // How many Packs the matrix takes: it has some columns of zeros more than n.
  static long matrix_size(long m, long n) { return RowPanel<S>::size(m, n + kGroupColumns); }

  static size_t workspace(long m, long n) {
    const long most = most_reflectors(m, n);
    return ColumnNorms<S>::workspace(n) + 2 * Workspace::size<int32_t>(n) +
           Workspace::size<S>(n * most) + 2 * Workspace::size<S>(most * most) +
           Workspace::size<Pack<S>>(RowPanel<S>::size(most + kLanes, most));
  }

  // In the place of `a` come R and the vectors of the reflectors. The powers of two of the columns
  // in `scales` are permuted as they are.
  PivotedFactorization(RowPanel<S> a, S* tau, int32_t* p, T* scales, const Scaling& scaling,
                       Workspace& workspace)
      : a_(a),
        tau_(tau),
        p_(p),
        most_(most_reflectors(a.rows, a.cols)),
        norms_(a, scales, scaling, workspace),
        seen_(workspace.take<int32_t>(a.cols)),
        candidates_(workspace.take<int32_t>(a.cols)),
        weights_(workspace.take<S>(a.cols * most_)),
        gram_(workspace.take<S>(most_ * most_)),
        head_(workspace.take<S>(most_ * most_)),
        above_(workspace.take<Pack<S>>(RowPanel<S>::size(most_ + kLanes, most_)), most_ + kLanes,
               most_) {}

  // Make k reflectors, at most as many as there are rows and columns.
  void run(Pool& pool, long k) {
    const long n = a_.cols;
    for (long j = 0; j < n; ++j) p_[j] = static_cast<int32_t>(j);
    done_ = made_ = 0;
    while (true) {
      finish_panel(pool);  // the first, which is empty, computes all norms
      done_ += made_;
      if (done_ == k) return;
      factor_panel(std::min(most_, k - done_), pool);
    }
  }

 private:
  static constexpr long kLanes = RowPanel<S>::kLanes;
  static constexpr long kMost = ReflectorGroups<S>::kMost;

  // With more reflectors in a panel, the matrix is read less often and more columns may be a pivot.
  static long most_reflectors(long m, long n) { return std::min(m, n) <= 512 ? 8 : 16; }

  // The first pack of rows that the panel changes.
  long first_pack() const { return done_ / kLanes; }
  // Reflector i of the panel, and the first pack in which it is not zero.
  Pack<S>* reflector(long i) const { return a_.column(done_ + i); }
  long first_pack_of(long i) const { return (done_ + i) / kLanes; }

  // Make up to `most` reflectors. It ends early if the norm of a column that may be the pivot has
  // to be computed anew.
  void factor_panel(long most, Pool& pool) {
    std::fill(seen_ + done_, seen_ + a_.cols, 0);
    for (made_ = 0; made_ < most; ++made_) {
      const long pivot = find_pivot(pool);
      if (pivot < 0) break;
      exchange(done_ + made_, pivot);
      update_column(done_ + made_);
      make_reflector(done_ + made_);
    }
  }

  // ---------------------------------------------------------------------------------- pivots

  // The column of the largest norm, the first if there are several; -1 if a norm is in doubt.
  long find_pivot(Pool& pool) {
    constexpr int kSingly = 4;
    for (int tries = 0;; ++tries) {
      const long top = norms_.find_largest(done_ + made_);
      if (seen_[top] == made_) return top;
      if (tries < kSingly ? !update_norm(top) : !update_norms(pool)) return -1;
    }
  }

  // Bring all columns up to date whose bounds reach the largest norm that is known: where many are
  // close together, finding them one by one would take longer.
  bool update_norms(Pool& pool) {
    const long first = done_ + made_;
    long largest = -1;
    for (long j = first; j < a_.cols; ++j) {
      if (seen_[j] == made_ && (largest < 0 || norms_.is_smaller(largest, j))) largest = j;
    }
    long count = 0;
    for (long j = first; j < a_.cols; ++j) {
      if (seen_[j] < made_ && (largest < 0 || !norms_.is_smaller(j, largest))) {
        candidates_[count++] = static_cast<int32_t>(j);
      }
    }
    std::atomic<bool> trusted{true};
    for_ranges(pool, count, a_.rows - done_, [&](long begin, long end) {
      for (long i = begin; i < end; ++i) {
        if (!update_norm(candidates_[i])) trusted = false;
      }
    });
    return trusted;
  }

  // w_0, w_1, ... of column j, as far as it has seen the panel's reflectors.
  S* weights_of(long j) const { return weights_ + j * most_; }

  // Let a column see the reflectors that it has not seen, as far as its norm needs it. False if too
  // few digits of the norm are left.
  bool update_norm(long j) {
    const long from = seen_[j];
    find_weights(j, from);
    S r[kMost];  // the column's entries of R in the rows of reflectors `from` to made_ - 1
    const S* w = weights_of(j);
    for (long l = from; l < made_; ++l) r[l] = a_.get(done_ + l, j);
    for (long i = 0; i < made_; ++i) {
      for (long l = std::max(from, i); l < made_; ++l) {
        r[l] -= product(head_[i * most_ + l], w[i]);
      }
    }
    for (long l = from; l < made_; ++l) norms_.take_off(j, r[l]);
    seen_[j] = static_cast<int32_t>(made_);
    return norms_.is_trusted(j);
  }

  // The weights of column j from `from` on; those before are known.
  void find_weights(long j, long from) const {
    S* w = weights_of(j);
    S products[kMost];
    multiply_reflectors(from, made_, a_.column(j), products);
    for (long h = 0; h < made_; ++h) {
      if (h >= from) w[h] = product(conjugate(tau_[done_ + h]), products[h]);
      for (long i = std::max(from, h + 1); i < made_; ++i) {
        products[i] -= product(gram_[h * most_ + i], w[h]);
      }
    }
  }

  // products[i] = v_i^H x for i in [from, to).
  void multiply_reflectors(long from, long to, const Pack<S>* x, S* products) const {
    long i = from;
    for (; i + kGroupColumns <= to; i += kGroupColumns) {
      S group[1][kGroupColumns];
      inner_products(reflector(i), x, a_.stride, first_pack_of(i), a_.packs(), group);
      std::copy(group[0], group[0] + kGroupColumns, products + i);
    }
    for (; i < to; ++i) {
      S one[1][1];
      inner_products(reflector(i), x, a_.stride, first_pack_of(i), a_.packs(), one);
      products[i] = one[0][0];
    }
  }

  void exchange(long i, long j) {
    if (i == j) return;
    std::swap_ranges(a_.column(i), a_.column(i) + a_.packs(), a_.column(j));
    std::swap_ranges(weights_of(i), weights_of(i) + made_, weights_of(j));
    norms_.exchange(i, j);
    std::swap(p_[i], p_[j]);
    std::swap(seen_[i], seen_[j]);
  }

  // ------------------------------------------------------------------------------ reflectors

  // Apply the panel's reflectors to a column whose weights are all known.
  void update_column(long j) {
    const S* w = weights_of(j);
    long i = 0;
    for (; i + kGroupColumns <= made_; i += kGroupColumns) {
      S group[1][kGroupColumns];
      std::copy(w + i, w + i + kGroupColumns, group[0]);
      subtract_combinations(reflector(i), group, a_.column(j), a_.stride, first_pack_of(i),
                            a_.packs());
    }
    for (; i < made_; ++i) {
      const S one[1][1] = {{w[i]}};
      subtract_combinations(reflector(i), one, a_.column(j), a_.stride, first_pack_of(i),
                            a_.packs());
    }
  }

  // Turn column j into the vector of its reflector, with its one and zeros above: those of the
  // rows that reflectors of the panel work on. What was there is kept in above_.
  void make_reflector(long j) {
    const long top = first_pack() * kLanes;
    for (long i = top; i < j; ++i) {
      above_.set(i - top, made_, a_.get(i, j));
      a_.set(i, j, 0);
    }
    const ScalarReflector<S> step = eliminate(a_, j);
    tau_[j] = step.tau;
    above_.set(j - top, made_, step.beta);
    for (long l = made_; l < std::min(most_, a_.rows - done_); ++l) {
      head_[made_ * most_ + l] = a_.get(done_ + l, j);
    }
    S products[kMost];
    multiply_reflectors(0, made_, a_.column(j), products);
    for (long h = 0; h < made_; ++h) gram_[h * most_ + made_] = conjugate(products[h]);
  }

  // Apply the panel's reflectors to the columns behind it, bring their norms up to date, and put R
  // in its place.
  void finish_panel(Pool& pool) {
    const long first = done_ + made_;
    const ReflectorGroups<S> reflectors(a_, done_, made_, tau_ + done_, first_pack());
    reflectors.apply(pool, a_, first, a_.cols, [this](long j) { refresh_norm(j); });
    const long top = first_pack() * kLanes;
    for (long c = 0; c < made_; ++c) {
      for (long i = top; i <= done_ + c; ++i) a_.set(i, done_ + c, above_.get(i - top, c));
    }
  }

  // Take off the squares of the entries of R that are new, or compute the norm anew.
  void refresh_norm(long j) {
    for (long l = made_ ? seen_[j] : 0; l < made_; ++l) norms_.take_off(j, a_.get(done_ + l, j));
    if (!norms_.is_trusted(j)) norms_.compute(j, done_ + made_);
  }

  RowPanel<S> a_;
  S* tau_;
  int32_t* p_;
  long most_;             // reflectors in a panel
  long done_ = 0;         // reflectors in finished panels
  long made_ = 0;         // reflectors in this panel
  ColumnNorms<S> norms_;  // of columns as far as they have seen the panel: bounds of the true ones
  int32_t* seen_;         // how many reflectors of the panel a column's norm includes
  int32_t* candidates_;
  S* weights_;
  S* gram_;            // by columns: v_i^H v_h at (i, h), i > h
  S* head_;            // by columns: the panel's rows of V
  RowPanel<S> above_;  // what was above the diagonal of V
};

}  // namespace jaxqr
