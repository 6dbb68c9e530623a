// Column pivoting on a matrix of few rows, of which only the choice of columns is wanted.
#pragma once

#include "pivoted/exact_pivots.h"

namespace jaxqr {

// The columns lie in the lanes of vectors: pack i of strip c holds entry i of kLanes columns. So
// all of them meet a reflector without sums across lanes, and small sets stay in the cache.
template <class S>
class ColumnChoice {
 public:
  using T = RealOf<S>;

  static size_t workspace(long rows, long cols) {
    const long strips = strips_for(cols);
    return Workspace::size<Pack<S>>(strips * rows) + 2 * Workspace::size<Vector<T>>(strips) +
           Workspace::size<S>(rows);
  }

  ColumnChoice(long rows, long cols, Workspace& workspace)
      : rows_(rows),
        cols_(cols),
        strips_(strips_for(cols)),
        data_(workspace.take<Pack<S>>(strips_ * rows)),
        squares_(workspace.take<Vector<T>>(strips_)),
        free_(workspace.take<Vector<T>>(strips_)),
        v_(workspace.take<S>(rows)) {}

  // Take the columns index[0], index[1], ... of a panel.
  void load(RowPanel<S> from, const int32_t* index) {
    for (long c = 0; c < strips_; ++c) {
      const long cols = std::min(kLanes, cols_ - c * kLanes);
      Pack<S>* strip = data_ + c * rows_;
      std::fill_n(strip, rows_, Pack<S>::zero());
      free_[c] = Vector<T>{};
      for (long l = 0; l < cols; ++l) {
        T* to = reinterpret_cast<T*>(strip) + l;
        for (long i = 0; i < rows_; ++i) {
          const T* x = from.entry(i, index[c * kLanes + l]);
          for (long part = 0; part < kParts<S>; ++part) {
            *to = x[part * kLanes];
            to += kLanes;
          }
        }
        free_[c][l] = 1;
      }
      Vector<T> sum{};
      for (long i = 0; i < rows_; ++i) sum += abs2(strip[i]);
      squares_[c] = select<T>(free_[c] > 0, sum, broadcast(T(-1)));
    }
  }

  // The square of a column's norm, below the rows that are done.
  T square(long column) const { return reinterpret_cast<const T*>(squares_)[column]; }

  // Choose up to `count` columns by their norms. It ends before the first that good(column, square)
  // rejects.
  template <class Good>
  long choose(long count, int32_t* chosen, const Good& good) {
    for (long step = 0; step < count; ++step) {
      const long pivot = first_largest(reinterpret_cast<const T*>(squares_), cols_);
      if (!good(pivot, square(pivot))) return step;
      chosen[step] = static_cast<int32_t>(pivot);
      reinterpret_cast<T*>(free_)[pivot] = 0;
      if (step + 1 < count) eliminate(step, pivot);
    }
    return count;
  }

 private:
  static constexpr long kLanes = kWidth<T>;
  static constexpr int kTogether = 4 / kParts<S>;  // strips: their sums stay in registers

  static long strips_for(long cols) { return round_up(ceil_divide(cols, kLanes), kTogether); }

  S entry(long i, long column) const {
    const T* x = reinterpret_cast<const T*>(data_ + column / kLanes * rows_ + i) + column % kLanes;
    if constexpr (kIsComplex<S>) {
      return S(x[0], x[kLanes]);
    } else {
      return x[0];
    }
  }

  // Annihilate a column below row `step`, and let the others meet its reflector.
  void eliminate(long step, long pivot) {
    T rest = 0;
    for (long i = step + 1; i < rows_; ++i) {
      v_[i] = entry(i, pivot);
      rest += std::norm(v_[i]);
    }
    const S alpha = entry(step, pivot);
    rest += std::imag(alpha) * std::imag(alpha);
    ScalarReflector<S> reflector{};
    if (rest > 0) reflector = make_reflector(alpha, rest);
    v_[step] = 1;
    for (long i = step + 1; i < rows_; ++i) v_[i] = product(v_[i], reflector.inverse);
    for (long c = 0; c < strips_; c += kTogether) reflect(step, conjugate(reflector.tau), c);
  }

  // C := C - v tau v^H C on the strips from `first` on; row `step` is of no use any more.
  void reflect(long step, S tau, long first) {
    Pack<S>* c = data_ + first * rows_;
    Pack<S> weights[kTogether];
    JAXQR_UNROLL
    for (int q = 0; q < kTogether; ++q) weights[q] = Pack<S>::zero();
    for (long i = step; i < rows_; ++i) {
      const Pack<S> v = spread(v_[i]);
      JAXQR_UNROLL
      for (int q = 0; q < kTogether; ++q) add_adjoint_product(weights[q], v, c[q * rows_ + i]);
    }
    Vector<T> sums[kTogether];
    JAXQR_UNROLL
    for (int q = 0; q < kTogether; ++q) {
      weights[q] = spread(tau) * weights[q];
      sums[q] = Vector<T>{};
    }
    for (long i = step + 1; i < rows_; ++i) {
      const Pack<S> v = spread(v_[i]);
      JAXQR_UNROLL
      for (int q = 0; q < kTogether; ++q) {
        Pack<S> x = c[q * rows_ + i];
        subtract_product(x, v, weights[q]);
        sums[q] += abs2(x);
        c[q * rows_ + i] = x;
      }
    }
    JAXQR_UNROLL
    for (int q = 0; q < kTogether; ++q) {
      squares_[first + q] = select<T>(free_[first + q] > 0, sums[q], broadcast(T(-1)));
    }
  }

  long rows_, cols_, strips_;
  Pack<S>* data_;
  Vector<T>* squares_;  // of norms; -1 for columns that are chosen or do not exist
  Vector<T>* free_;     // 1 for columns that may be chosen, else 0
  S* v_;
};

}  // namespace jaxqr
