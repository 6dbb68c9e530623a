// The norms of what is left of a matrix's columns, which pivots are chosen by.
//
// The squares of the norms are kept. A norm is brought up to date by taking off the square of a new
// entry of R; where little is left of it, it is computed anew from the column (Drmac and Bujanovic,
// LAPACK Working Note 176).
//
// Columns may have been multiplied by powers of two, and so may be norms whose squares would leave
// the range of the type; pivots are chosen by the true norms.
#pragma once

#include <algorithm>
#include <atomic>
#include <limits>

#include "common/workspace.h"
#include "rows/column_kernels.h"

namespace jaxqr {

template <class S>
class ColumnNorms {
 public:
  using T = RealOf<S>;

  static size_t workspace(long n) { return 3 * Workspace::size<T>(n); }

  // `scales` are the powers of two that the columns of `a` were multiplied by; they are permuted
  // with the columns. No norm is known until compute() is called.
  ColumnNorms(RowPanel<S> a, T* scales, const Scaling& scaling, Workspace& workspace)
      : a_(a),
        scales_(scales),
        uneven_(scaling.needed),
        squares_(workspace.take<T>(a.cols)),
        references_(workspace.take<T>(a.cols)),
        powers_(workspace.take<T>(a.cols)) {
    std::fill_n(squares_, a.cols, T(0));
    std::fill_n(powers_, a.cols, T(1));
    std::fill_n(references_, a.cols, std::numeric_limits<T>::infinity());  // nothing is trusted
  }

  // Whether column i has a smaller norm than column j.
  bool is_smaller(long i, long j) const {
    if (!uneven_) return squares_[i] < squares_[j];
    const ScaledSquare<T> square(squares_[i], powers_[i], scales_[i]);
    return square.is_less_than({squares_[j], powers_[j], scales_[j]});
  }

  // The column of the largest norm from `first` on; of several the first.
  long find_largest(long first) const {
    if (!uneven_) return first + first_largest(squares_ + first, a_.cols - first);
    long best = first;
    for (long j = first + 1; j < a_.cols; ++j) {
      if (is_smaller(best, j)) best = j;
    }
    return best;
  }

  // Take a new entry of R off the norm of its column.
  void take_off(long j, S entry) { squares_[j] -= std::norm(entry * powers_[j]); }

  // Whether enough digits are left of the norm of a column: half of those of its square.
  bool is_trusted(long j) const {
    return squares_[j] > kLeastPart * references_[j] || references_[j] == 0;
  }

  // Compute a norm from the column, below its first `row` entries.
  void compute(long j, long row) {
    constexpr long lanes = RowPanel<S>::kLanes;
    const long whole = ceil_divide(row, lanes);  // the first pack whose rows all count
    powers_[j] = 1;
    T square = squares_of_packs(a_.column(j), whole, a_.packs());
    for (long i = row; i < std::min(whole * lanes, a_.rows); ++i) square += std::norm(a_.get(i, j));
    if (square < kLeastSquare<T>) square = compute_scaled(j, row);
    squares_[j] = references_[j] = square;
  }

  void exchange(long i, long j) {
    for (T* x : {squares_, references_, powers_, scales_}) std::swap(x[i], x[j]);
  }

 private:
  // The same for a norm whose square is too small: it is multiplied by a power of two.
  T compute_scaled(long j, long row) {
    T largest = 0, square = 0;
    for (long i = row; i < a_.rows; ++i) {
      const S x = a_.get(i, j);
      largest = std::max({largest, std::abs(std::real(x)), std::abs(std::imag(x))});
    }
    if (largest == 0) return 0;
    powers_[j] = power_for(largest);
    for (long i = row; i < a_.rows; ++i) square += std::norm(a_.get(i, j) * powers_[j]);
    uneven_ = true;
    return square;
  }

  RowPanel<S> a_;
  T* scales_;
  std::atomic<bool> uneven_;  // whether a power of two, of a column or of a norm, is not 1
  T* squares_;                // of norms, which are multiplied by `powers_`
  T* references_;             // the same, when they were last computed from the column
  T* powers_;
  const T kLeastPart = std::sqrt(std::numeric_limits<T>::epsilon() / 2);
};

}  // namespace jaxqr
