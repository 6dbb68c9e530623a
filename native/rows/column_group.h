// The columns of a row panel that are eliminated together, before their reflectors are applied to
// others.
#pragma once

#include "rows/column_kernels.h"

namespace jaxqr {

template <class T, int... Lane>
JAXQR_INLINE Mask<T> lane_numbers(std::integer_sequence<int, Lane...>) {
  return Mask<T>{Lane...};
}

// Columns first, ..., first + 3 of a panel, of which one after the other is eliminated.
//
// A reflector takes a single pass over the group. It needs the products of its column with all
// four, v^H x_c, before that pass begins. So each pass does two things to a pack of rows: it
// applies the reflector of column C, and it adds to the products of column C + 1, whose final
// entries it has just computed:
//
//   find_first_products            products of column 0
//   make_reflector, apply          reflector 0; products of column 1
//   make_reflector, apply          reflector 1; products of column 2
//   ...
//
// The products with later columns give what the reflector subtracts from them. Those with earlier
// columns, which hold vectors of reflectors by then, are the entries of V^H V that T is made of.
//
// C is a template's parameter, as the sums must stay in registers: which of four they are must be
// known when the code is compiled.
template <class S>
class ColumnGroup {
  using T = RealOf<S>;
  static constexpr int kColumns = kGroupColumns;
  static constexpr long kLanes = RowPanel<S>::kLanes;

 public:
  // The columns have received the reflectors of all columns before `first`.
  ColumnGroup(RowPanel<S> panel, long first, S* tau, RowPanel<S> r)
      : panel_(panel), first_(first), packs_(panel.packs()), tau_(tau + first), r_(r) {
    for (int c = 0; c < kColumns; ++c) columns_[c] = panel.column(first + c);
  }

  // Eliminate `count` of the columns. Their entries of R move to `r`, and the panel holds V.
  void eliminate(long count) {
    for (long c = 0; c < count; ++c) move_rows_above(c);
    find_first_products();
    eliminate_from<0>(count);
  }

  // T of the group, by columns.
  void compute_t(S (&t)[kColumns][kColumns]) const { compute_group_t(tau_, gram_, t); }

 private:
  // One sum for each column, its terms spread over lanes.
  using Sums = Pack<S>[kColumns];

  // ------------------------------------------------------------------- where a column begins

  // Move an entry of the panel to R, and leave a zero.
  void move_to_r(long i, long j) {
    r_.set(i, j, panel_.get(i, j));
    panel_.set(i, j, 0);
  }

  // Move the rows above the group to R: whole packs of them, then the rest.
  void move_rows_above(long c) {
    const long full = first_ / kLanes, j = first_ + c;
    std::copy_n(columns_[c], full, r_.column(j));
    std::fill_n(columns_[c], full, Pack<S>::zero());
    for (long i = full * kLanes; i < first_; ++i) move_to_r(i, j);
  }

  // The lanes of pack i that hold rows below row j.
  static JAXQR_INLINE Mask<T> rows_below(long j, long i) {
    using Integer = typename VectorType<T>::Integer;
    return lane_numbers<T>(std::make_integer_sequence<int, kWidth<T>>{}) >
           static_cast<Integer>(j - i * kLanes);
  }

  // The entries of column c in pack i that are below its diagonal, and zeros.
  JAXQR_INLINE Pack<S> below_diagonal(int c, long i) const {
    return select(rows_below(first_ + c, i), columns_[c][i], Pack<S>::zero());
  }

  // ------------------------------------------------------------------------------- products

  static JAXQR_INLINE void clear(Sums& sums) {
    JAXQR_UNROLL
    for (int c = 0; c < kColumns; ++c) sums[c] = Pack<S>::zero();
  }

  // sums[c] += conj(x) x_c for the packs i of all columns. x is that of column C, or a part of it.
  template <int C>
  JAXQR_INLINE void add_products(Sums& sums, Pack<S> x, long i) const {
    JAXQR_UNROLL
    for (int c = 0; c < kColumns; ++c) {
      if (c == C) {
        sums[c].re += abs2(x);
      } else {
        add_adjoint_product(sums[c], x, columns_[c][i]);
      }
    }
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

  JAXQR_INLINE void keep_products(const Sums& sums) {
    JAXQR_UNROLL
    for (int c = 0; c < kColumns; ++c) products_[c] = sum(sums[c]);
  }

  void find_first_products() {
    Sums sums;
    clear(sums);
    const long top = first_ / kLanes;
    add_products<0>(sums, below_diagonal(0, top), top);
    add_packs(sums, top + 1, [&](long i) { add_products<0>(sums, columns_[0][i], i); });
    keep_products(sums);
  }

  // The products of column c anew, for any c.
  void find_products(int c) {
    Sums sums;
    clear(sums);
    const long top = (first_ + c) / kLanes;
    const auto add = [&](Pack<S> x, long i) {
      for (int other = 0; other < kColumns; ++other) {
        add_adjoint_product(sums[other], x, columns_[other][i]);
      }
    };
    add(below_diagonal(c, top), top);
    add_packs(sums, top + 1, [&](long i) { add(columns_[c][i], i); });
    keep_products(sums);
  }

  // ------------------------------------------------------------------------------ reflectors

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
    apply_reflector<C>(spread(inverse), z);
    if constexpr (C + 1 < kColumns) eliminate_from<C + 1>(count);
  }

  // The reflector of column c with `alpha` on the diagonal: tau, and R's entries of the column.
  // Returns what makes the rest of the column the reflector's vector.
  S make_reflector(int c, S alpha) {
    const long j = first_ + c, top = j / kLanes;
    for (long i = first_; i < j; ++i) {
      // rows in the pack of the diagonal are overwritten when the reflector is applied
      i / kLanes < top ? move_to_r(i, j) : r_.set(i, j, panel_.get(i, j));
    }
    const ScalarReflector<S> reflector = make_reflector_safely(
        alpha, std::real(products_[c]),
        [&] {
          const Pack<S> below = below_diagonal(c, top);
          return larger(largest_in_packs(&below, 0, 1),
                        largest_in_packs(columns_[c], top + 1, packs_));
        },
        [&](T power) {
          scale_packs(columns_[c], top, packs_, power);
          find_products(c);
          return std::real(products_[c]);
        });
    tau_[c] = reflector.tau;
    r_.set(j, j, reflector.beta);
    return reflector.inverse;
  }

  // One pass: x_C := v, x_c -= v z_c for the columns after C, and the products of the next one.
  template <int C>
  JAXQR_INLINE void apply_reflector(Pack<S> inverse, const S (&z)[kColumns]) {
    const long j = first_ + C, next = std::min(j + 1, panel_.rows - 1);
    Pack<S> factor[kColumns];
    JAXQR_UNROLL
    for (int c = C + 1; c < kColumns; ++c) factor[c] = spread(z[c]);
    Sums sums;
    clear(sums);
    const Pack<S> zero = Pack<S>::zero(), one = spread(S(1));
    long i = j / kLanes;
    for (; i <= next / kLanes; ++i) {  // the rows of the diagonals of C and of the next column
      const Pack<S> below = select(rows_below(j, i), columns_[C][i] * inverse, zero);
      const Pack<S> v = select(rows_below(j, i) ^ rows_below(j - 1, i), one, below);
      subtract_from_pack<C>(v, factor, i);
      if constexpr (C + 1 < kColumns) {
        add_products<C + 1>(sums, select(rows_below(next, i), columns_[C + 1][i], zero), i);
      }
    }
    add_packs(sums, i, [&](long at) {
      subtract_from_pack<C>(columns_[C][at] * inverse, factor, at);
      if constexpr (C + 1 < kColumns) add_products<C + 1>(sums, columns_[C + 1][at], at);
    });
    if constexpr (C + 1 < kColumns) keep_products(sums);
  }

  template <int C>
  JAXQR_INLINE void subtract_from_pack(Pack<S> v, const Pack<S> (&factor)[kColumns], long i) const {
    columns_[C][i] = v;
    JAXQR_UNROLL
    for (int c = C + 1; c < kColumns; ++c) {
      Pack<S> y = columns_[c][i];
      subtract_product(y, v, factor[c]);
      columns_[c][i] = y;
    }
  }

  RowPanel<S> panel_;
  long first_, packs_;
  S* tau_;
  RowPanel<S> r_;
  Pack<S>* columns_[kColumns];
  S products_[kColumns];        // of the column to eliminate next with all, below its diagonal
  S gram_[kColumns][kColumns];  // v_l^H v_p at [p][l]
};

}  // namespace jaxqr
