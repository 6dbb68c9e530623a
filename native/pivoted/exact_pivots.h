// Householder's method with Businger and Golub's pivoting: the pivot of each step is the column
// with the largest norm of what is left of it, as in LAPACK's geqp3.
//
// LAPACK keeps the norms of all columns up to date, and so reads all of the matrix for each
// reflector. But norms only shrink: one that was known some steps ago is a bound. So the reflectors
// of a panel meet only those columns that may be the pivot: that of the largest bound is brought
// up to date until the largest bound is exact. It is then the pivot, and most columns have not
// been touched. They meet all reflectors of the panel together.
//
// A norm is brought up to date by taking off the square of the new entry of R. Where little is left
// of it, it is computed anew (Drmac and Bujanovic, LAPACK Working Note 176).
//
// Columns may have been multiplied by powers of two, and so may be norms whose squares would leave
// the range of the type; pivots are chosen by the true norms.
#pragma once

#include <algorithm>
#include <atomic>
#include <limits>

#include "rows/reflector_groups.h"
#include "common/workspace.h"

namespace jaxqr {

template <class S>
class PivotedFactorization {
 public:
  using T = RealOf<S>;

  // Of the matrix, which has some columns of zeros more than n.
  static long matrix_size(long m, long n) { return Panel<S>::size(m, n + kGroup); }

  static size_t workspace(long m, long n) {
    const long most = most_reflectors(m, n);
    return 3 * Workspace::size<T>(n) + 2 * Workspace::size<int32_t>(n) +
           Workspace::size<S>(n * most) + 2 * Workspace::size<S>(most * most) +
           Workspace::size<Pack<S>>(Panel<S>::size(most + kLanes, most));
  }

  // In the place of `a` come R and the vectors of the reflectors. The powers of two of the columns
  // in `scales` are permuted as they are.
  PivotedFactorization(Panel<S> a, S* tau, int32_t* p, T* scales, const Scaling& scaling,
                       Workspace& workspace)
      : a_(a),
        tau_(tau),
        p_(p),
        scales_(scales),
        uneven_(scaling.needed),
        powers_(workspace.take<T>(a.cols)),
        most_(most_reflectors(a.rows, a.cols)),
        bounds_(workspace.take<T>(a.cols)),
        references_(workspace.take<T>(a.cols)),
        seen_(workspace.take<int32_t>(a.cols)),
        candidates_(workspace.take<int32_t>(a.cols)),
        weights_(workspace.take<S>(a.cols * most_)),
        gram_(workspace.take<S>(most_ * most_)),
        head_(workspace.take<S>(most_ * most_)),
        above_(workspace.take<Pack<S>>(Panel<S>::size(most_ + kLanes, most_)), most_ + kLanes,
               most_) {}

  void run(Pool& pool) {
    const long n = a_.cols, k = std::min(a_.rows, n);
    for (long j = 0; j < n; ++j) {
      p_[j] = static_cast<int32_t>(j);
      bounds_[j] = 0;
      powers_[j] = 1;
      references_[j] = std::numeric_limits<T>::infinity();  // compute all of them
    }
    for (done_ = made_ = 0;;) {
      finish_panel(pool);
      done_ += made_;
      if (done_ == k) return;
      factor_panel(std::min(most_, k - done_), pool);
    }
  }

 private:
  static constexpr long kLanes = Panel<S>::kLanes;
  static constexpr long kMost = ReflectorGroups<S>::kMost;

  // With more reflectors in a panel, the matrix is read less often and more columns may be a pivot.
  static long most_reflectors(long m, long n) {
    return std::min(m, n) <= 512 ? 8 : 16;
  }

  // The first pack of rows that the panel changes.
  long first_pack() const { return done_ / kLanes; }
  Pack<S>* reflector(long i) const { return a_.column(done_ + i); }

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
      const long top = find_largest(done_ + made_);
      if (seen_[top] == made_) return top;
      if (tries < kSingly ? !update_norm(top) : !update_norms(pool)) return -1;
    }
  }

  // Whether column i has a smaller norm than column j.
  bool is_smaller(long i, long j) const {
    if (!uneven_) return bounds_[i] < bounds_[j];
    const ScaledSquare<T> square(bounds_[i], powers_[i], scales_[i]);
    return square.is_less_than({bounds_[j], powers_[j], scales_[j]});
  }

  // The column of the largest bound from `first` on.
  long find_largest(long first) const {
    if (!uneven_) return first + first_largest(bounds_ + first, a_.cols - first);
    long best = first;
    for (long j = first + 1; j < a_.cols; ++j) {
      if (is_smaller(best, j)) best = j;
    }
    return best;
  }

  // Bring all columns up to date whose bounds reach the largest norm that is known: where many are
  // close together, finding them one by one would take longer.
  bool update_norms(Pool& pool) {
    const long first = done_ + made_;
    long largest = -1;
    for (long j = first; j < a_.cols; ++j) {
      if (seen_[j] == made_ && (largest < 0 || is_smaller(largest, j))) largest = j;
    }
    long count = 0;
    for (long j = first; j < a_.cols; ++j) {
      if (seen_[j] < made_ && (largest < 0 || !is_smaller(j, largest))) {
        candidates_[count++] = static_cast<int>(j);
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

  // What the panel's reflectors subtract from column j: a_j - sum of v_i w_i.
  S* weights_of(long j) const { return weights_ + j * most_; }

  // Let a column meet the reflectors that it has not seen, as far as its norm needs it: of the
  // column only the new entries of R are computed. False if too few digits of the norm are left.
  bool update_norm(long j) {
    const long from = seen_[j];
    S* w = weights_of(j);
    S products[kMost], r[kMost];
    multiply_reflectors(from, made_, a_.column(j), products);
    for (long h = 0; h < made_; ++h) {
      if (h >= from) w[h] = product(conjugate(tau_[done_ + h]), products[h]);
      for (long i = std::max(from, h + 1); i < made_; ++i) {
        products[i] -= product(gram_[h * most_ + i], w[h]);
      }
    }
    for (long l = from; l < made_; ++l) r[l] = a_.get(done_ + l, j);
    for (long i = 0; i < made_; ++i) {
      for (long l = std::max(from, i); l < made_; ++l) {
        r[l] -= product(head_[i * most_ + l], w[i]);
      }
    }
    for (long l = from; l < made_; ++l) take_off(j, r[l]);
    seen_[j] = static_cast<int32_t>(made_);
    return trustworthy(j);
  }

  // products[i] = v_i^H x for i in [from, to).
  void multiply_reflectors(long from, long to, const Pack<S>* x, S* products) const {
    long i = from;
    for (; i + kGroup <= to; i += kGroup) {
      S group[1][kGroup];
      inner_products(reflector(i), x, a_.stride, (done_ + i) / kLanes, a_.packs(), group);
      std::copy(group[0], group[0] + kGroup, products + i);
    }
    for (; i < to; ++i) {
      S one[1][1];
      inner_products(reflector(i), x, a_.stride, (done_ + i) / kLanes, a_.packs(), one);
      products[i] = one[0][0];
    }
  }

  static T abs2(S x) {
    return std::real(x) * std::real(x) + std::imag(x) * std::imag(x);
  }

  // Take a new entry of R off the norm of its column.
  void take_off(long j, S entry) { bounds_[j] -= abs2(entry * powers_[j]); }

  // Whether enough digits are left of the norm of a column: half of those of its square.
  bool trustworthy(long j) const {
    return bounds_[j] > least_part_ * references_[j] || references_[j] == 0;
  }

  // Compute a norm from the column, below its first `row` entries.
  void compute_norm(long j, long row) {
    const Pack<S>* x = a_.column(j);
    const long whole = ceil_divide(row, kLanes);  // the first pack whose rows all count
    powers_[j] = 1;
    T square = squares_of_packs(x, whole, a_.packs());
    for (long i = row; i < std::min(whole * kLanes, a_.rows); ++i) square += abs2(a_.get(i, j));
    if (square < kLeastSquare<T>) square = compute_small_norm(j, row);
    bounds_[j] = references_[j] = square;
  }

  // The same for a norm whose square is too small: it is multiplied by a power of two.
  T compute_small_norm(long j, long row) {
    T largest = 0, square = 0;
    for (long i = row; i < a_.rows; ++i) {
      const S x = a_.get(i, j);
      largest = std::max({largest, std::abs(std::real(x)), std::abs(std::imag(x))});
    }
    if (largest == 0) return 0;
    powers_[j] = power_for(largest);
    for (long i = row; i < a_.rows; ++i) square += abs2(a_.get(i, j) * powers_[j]);
    uneven_ = true;
    return square;
  }

  void exchange(long i, long j) {
    if (i == j) return;
    std::swap_ranges(a_.column(i), a_.column(i) + a_.packs(), a_.column(j));
    std::swap_ranges(weights_of(i), weights_of(i) + made_, weights_of(j));
    std::swap(p_[i], p_[j]);
    std::swap(bounds_[i], bounds_[j]);
    std::swap(references_[i], references_[j]);
    std::swap(powers_[i], powers_[j]);
    std::swap(scales_[i], scales_[j]);
    std::swap(seen_[i], seen_[j]);
  }

  // ------------------------------------------------------------------------------ reflectors

  // Let a column meet the panel's reflectors, all of which its weights are known for.
  void update_column(long j) {
    const S* w = weights_of(j);
    long i = 0;
    for (; i + kGroup <= made_; i += kGroup) {
      S group[1][kGroup];
      std::copy(w + i, w + i + kGroup, group[0]);
      subtract_combinations(reflector(i), group, a_.column(j), a_.stride,
                            (done_ + i) / kLanes, a_.packs());
    }
    for (; i < made_; ++i) {
      const S one[1][1] = {{w[i]}};
      subtract_combinations(reflector(i), one, a_.column(j), a_.stride, (done_ + i) / kLanes,
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
    const Elimination<S> step = eliminate(a_, j);
    tau_[j] = step.tau;
    above_.set(j - top, made_, step.beta);
    for (long l = made_; l < std::min(most_, a_.rows - done_); ++l) {
      head_[made_ * most_ + l] = a_.get(done_ + l, j);
    }
    S products[kMost];
    multiply_reflectors(0, made_, a_.column(j), products);
    for (long h = 0; h < made_; ++h) gram_[h * most_ + made_] = conjugate(products[h]);
  }

  // Let the other columns meet the reflectors of the panel, and bring their norms up to date.
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
    for (long l = made_ ? seen_[j] : 0; l < made_; ++l) take_off(j, a_.get(done_ + l, j));
    if (!trustworthy(j)) compute_norm(j, done_ + made_);
  }

  Panel<S> a_;
  S* tau_;
  int32_t* p_;
  T* scales_;                 // powers of two that the columns were multiplied by
  std::atomic<bool> uneven_;  // whether such a power, or a norm's, is not 1
  T* powers_;                 // of two, by which the norms below are multiplied
  long most_;           // reflectors in a panel
  long done_ = 0;       // reflectors in finished panels
  long made_ = 0;       // reflectors in this panel
  T* bounds_;           // squares of norms, as far as a column has met the reflectors
  T* references_;       // the same, when they were last computed from the column
  int32_t* seen_;       // how many reflectors of the panel a column's bound includes
  int32_t* candidates_;
  S* weights_;
  S* gram_;             // by columns: v_i^H v_h at (i, h), i > h
  S* head_;             // by columns: the panel's rows of V
  Panel<S> above_;      // what was above the diagonal of V
  const T least_part_ = std::sqrt(std::numeric_limits<T>::epsilon() / 2);
};

}  // namespace jaxqr
