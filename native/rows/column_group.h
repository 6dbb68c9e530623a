// The columns of a panel that are eliminated together, before their reflectors are applied to
// others.
#pragma once

#include "rows/column_kernels.h"

namespace jaxqr {

template <class T, int... Lane>
JAXQR_INLINE Mask<T> lane_numbers(std::integer_sequence<int, Lane...>) {
  return Mask<T>{Lane...};
}

// Every reflector takes one pass over the group. While it is applied, the products of the next
// column to eliminate with all others are gathered: those with later columns make their
// projections, and those with earlier ones V^H V.
template <class S>
class PanelGroup {
  using T = RealOf<S>;
  static constexpr int kColumns = Panel<S>::kGroup;
  static constexpr long kLanes = Panel<S>::kLanes;

 public:
  // The columns from `first` on, which have received the reflectors before.
  PanelGroup(Panel<S> panel, long first, S* tau, Panel<S> r)
      : panel_(panel), first_(first), packs_(panel.packs()), tau_(tau + first), r_(r) {
    for (int c = 0; c < kColumns; ++c) x_[c] = panel.column(first + c);
  }

  // Eliminate `count` of them.
  void eliminate(long count) {
    for (long c = 0; c < count; ++c) move_above(c);
    gather();
    eliminate_from<0>(count);
  }

  // T of the group by columns, as in `triangular_factor`.
  void triangular_factor(S (&t)[kColumns][kColumns]) const { group_factor(tau_, gram_, t); }

 private:
  using Sums = Pack<S>[kColumns];

  // Move the rows above the group to R.
  void move_above(long c) {
    const long full = first_ / kLanes;
    Pack<S>* to = r_.column(first_ + c);
    for (long i = 0; i < full; ++i) {
      to[i] = x_[c][i];
      x_[c][i] = Pack<S>::zero();
    }
    for (long i = full * kLanes; i < first_; ++i) {
      r_.set(i, first_ + c, panel_.get(i, first_ + c));
      panel_.set(i, first_ + c, 0);
    }
  }

  // The lanes of pack i that hold rows below row j.
  static JAXQR_INLINE Mask<T> rows_below(long j, long i) {
    using Integer = typename VectorType<T>::Integer;
    return lane_numbers<T>(std::make_integer_sequence<int, kWidth<T>>{}) >
           static_cast<Integer>(j - i * kLanes);
  }

  // Add conj(y) times the columns' packs i; y is column C's pack, or a part of it.
  template <int C>
  JAXQR_INLINE void add_products(Sums& sums, Pack<S> y, long i) const {
    JAXQR_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      if (c == C) {
        sums[c].re += abs2(y);
      } else {
        add_adjoint_product(sums[c], y, x_[c][i]);
      }
    }
  }

  JAXQR_INLINE void clear(Sums& sums) const {
    JAXQR_UNROLL
    for (int c = 0; c < kColumns; ++c) sums[c] = Pack<S>::zero();
  }

  JAXQR_INLINE void finish(const Sums& sums) {
    JAXQR_UNROLL
    for (int c = 0; c < kColumns; ++c) products_[c] = sum(sums[c]);
  }

  // Call add(i), which adds to `sums`, for the packs from i on: of many, sums are made of sums.
  template <class Add>
  JAXQR_INLINE void add_packs(Sums& sums, long i, const Add& add) const {
    if (packs_ - i <= kSumTerms) {
      for (; i < packs_; ++i) add(i);
      return;
    }
    Sums totals, lost;
    clear(totals);
    clear(lost);
    while (i < packs_) {
      const long end = std::min(packs_, i + kSumTerms);
      for (; i < end; ++i) add(i);
      for (int c = 0; c < kColumns; ++c) add_compensated(totals[c], lost[c], sums[c]);
      clear(sums);
    }
    std::copy(totals, totals + kColumns, sums);
  }

  // The products of the first column, below its diagonal.
  void gather() {
    Sums sums;
    clear(sums);
    long i = first_ / kLanes;
    const Pack<S> zero = Pack<S>::zero();
    add_products<0>(sums, select(rows_below(first_, i), x_[0][i], zero), i);
    add_packs(sums, i + 1, [&](long at) { add_products<0>(sums, x_[0][at], at); });
    finish(sums);
  }

  template <int C>
  void eliminate_from(long count) {
    if (C >= count) return;
    const long j = first_ + C;
    S top[kColumns], z[kColumns];
    JAXQR_UNROLL
    for (int c = 0; c < kColumns; ++c) top[c] = panel_.get(j, first_ + c);
    const S inverse = make_reflector(C, top[C]);
    JAXQR_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      const S w = top[c] + product(conjugate(inverse), products_[c]);  // v^H times column c
      if (c < C) gram_[C][c] = conjugate(w);
      if (c > C) z[c] = product(conjugate(tau_[C]), w);
    }
    apply<C>(spread(inverse), z);
    if constexpr (C + 1 < kColumns) eliminate_from<C + 1>(count);
  }

  // tau and beta of column c with `alpha` on the diagonal. Returns what makes the rest of the
  // column the reflector's vector.
  S make_reflector(int c, S alpha) {
    const long j = first_ + c;
    for (long i = first_; i < j; ++i) {
      r_.set(i, j, panel_.get(i, j));
      if (i / kLanes < j / kLanes) panel_.set(i, j, 0);
    }
    const auto annihilated = [&] {
      return std::real(products_[c]) + std::imag(alpha) * std::imag(alpha);
    };
    const auto square_of_norm = [&] {
      return annihilated() + std::real(alpha) * std::real(alpha);
    };
    T power = 1;
    if (annihilated() == 0 || square_of_norm() < kLeastSquare<T>) {
      const T below = largest_below(c);
      if (below == 0 && std::imag(alpha) == 0) {
        tau_[c] = 0;
        r_.set(j, j, std::real(alpha));
        return 0;
      }
      if (square_of_norm() < kLeastSquare<T>) {  // what is left is brought near one
        const T largest = std::max({below, std::abs(std::real(alpha)), std::abs(std::imag(alpha))});
        power = power_for(largest);
        multiply_column(c, power);
        alpha *= power;
      }
    }
    const ScalarReflector<S> reflector = reflector_of(alpha, annihilated());
    tau_[c] = reflector.tau;
    r_.set(j, j, reflector.beta / power);
    return reflector.inverse;
  }

  // The entries of column c in pack i that are below its diagonal.
  Pack<S> below_diagonal(int c, long i) const {
    const long j = first_ + c;
    const Pack<S> x = x_[c][i];
    return i > j / kLanes ? x : select(rows_below(j, i), x, Pack<S>::zero());
  }

  // The largest magnitude of the real numbers of column c below its diagonal.
  T largest_below(int c) const {
    const long i = (first_ + c) / kLanes;
    const Pack<S> top = below_diagonal(c, i);
    return larger(largest_in_packs(&top, 0, 1), largest_in_packs(x_[c], i + 1, packs_));
  }

  // Multiply column c by a power of two, and find its products with the others anew.
  void multiply_column(int c, T power) {
    const long top = (first_ + c) / kLanes;
    scale_packs(x_[c], top, packs_, power);
    Sums sums;
    clear(sums);
    add_packs(sums, top, [&](long i) {
      for (int other = 0; other < kColumns; ++other) {
        add_adjoint_product(sums[other], below_diagonal(c, i), x_[other][i]);
      }
    });
    finish(sums);
  }

  // x_C := v, x_c -= v z_c, and the products of the column after C.
  template <int C>
  JAXQR_INLINE void apply(Pack<S> inverse, const S (&z)[kColumns]) {
    const long j = first_ + C, next = std::min(j + 1, panel_.rows - 1);
    Pack<S> factor[kColumns];
    JAXQR_UNROLL
    for (int c = C + 1; c < kColumns; ++c) factor[c] = spread(z[c]);
    Sums sums;
    clear(sums);
    const Pack<S> zero = Pack<S>::zero(), one = spread(S(1));
    long i = j / kLanes;
    for (; i <= next / kLanes; ++i) {  // the rows of the two diagonals
      const Pack<S> below = select(rows_below(j, i), x_[C][i] * inverse, zero);
      const Pack<S> v = select(rows_below(j, i) ^ rows_below(j - 1, i), one, below);
      apply_pack<C>(v, factor, i);
      if constexpr (C + 1 < kColumns) {
        add_products<C + 1>(sums, select(rows_below(next, i), x_[C + 1][i], zero), i);
      }
    }
    add_packs(sums, i, [&](long at) {
      apply_pack<C>(x_[C][at] * inverse, factor, at);
      if constexpr (C + 1 < kColumns) add_products<C + 1>(sums, x_[C + 1][at], at);
    });
    if constexpr (C + 1 < kColumns) finish(sums);
  }

  template <int C>
  JAXQR_INLINE void apply_pack(Pack<S> v, const Pack<S> (&factor)[kColumns], long i) const {
    x_[C][i] = v;
    JAXQR_UNROLL
    for (int c = C + 1; c < kColumns; ++c) {
      Pack<S> y = x_[c][i];
      subtract_product(y, v, factor[c]);
      x_[c][i] = y;
    }
  }

  Panel<S> panel_;
  long first_, packs_;
  S* tau_;
  Panel<S> r_;
  Pack<S>* x_[kColumns];
  S products_[kColumns];  // of the column to eliminate next with all, below its diagonal
  S gram_[kColumns][kColumns];  // v_l^H v_p at [p][l]
};

}  // namespace jaxqr
