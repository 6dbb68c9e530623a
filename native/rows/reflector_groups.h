// Many reflectors applied to the columns of a large row panel: a few columns at a time meet all of
// them while they are in the cache. So the large panel is read and written once; products of
// matrices with as few reflectors would read it twice and copy it.
//
// Columns that are too long for the first-level cache would come from the second level once for
// every group of reflectors. They are worked on by chunks of rows instead, in three steps:
//
//   1. W_g = V_g^H C for all groups g, with the columns C as they are: one pass over the chunks;
//   2. W_g := T_g^H (W_g - sum over h < g of (V_g^H V_h) W_h), which is what group g would have
//   found if
//      those before it had been applied;
//   3. C -= V_g W_g for all groups: another pass over the chunks.
#pragma once

#include <algorithm>

#include "common/passes.h"
#include "rows/column_kernels.h"

// The bytes that a chunk of the columns takes in the first-level cache. Tests may build with less.
#ifndef JAXQR_CHUNK_BYTES
#define JAXQR_CHUNK_BYTES (1 << 14)
#endif

namespace jaxqr {

template <class S>
class ReflectorGroups {
 public:
  static constexpr long kMost = 32;

  // The reflectors are `count` columns of `v` from `start` on, zero above their ones from the pack
  // of rows `first` on.
  ReflectorGroups(RowPanel<S> v, long start, long count, const S* tau, long first)
      : v_(v.column(start)),
        stride_(v.stride),
        first_(first),
        last_(v.packs()),
        count_(count),
        tau_(tau) {
    for (long g = 0; g + kGroupColumns <= count; g += kGroupColumns)
      find_factor(g, t_[g / kGroupColumns]);
    chunked_ = count >= 2 * kGroupColumns && last_ - first_ > 2 * kChunk;
  }

  // Apply H_count^H ... H_1^H to the columns of `c` in [begin, end), and call after(j) for each. It
  // works on whole groups of columns, so some behind the last may change.
  template <class After>
  void apply(Pool& pool, RowPanel<S> c, long begin, long end, const After& after) const {
    constexpr long cols = kTargetColumns<S>;
    Products products[kGroups][kGroups];
    if (chunked_) find_products(pool, products);
    const long cost = cols * (last_ - first_) * RowPanel<S>::kLanes * (1 + count_ / 4);
    for_ranges(pool, ceil_divide(end - begin, cols), cost, [&](long from, long to) {
      for (long j = begin + from * cols; j < begin + to * cols; j += cols) {
        chunked_ ? apply_chunked(products, c.column(j)) : apply_from(0, c.column(j));
        for (long i = j; i < std::min(j + cols, end); ++i) after(i);
      }
    });
  }

 private:
  static constexpr long kGroups = kMost / kGroupColumns;
  // packs of rows
  static constexpr long kChunk = JAXQR_CHUNK_BYTES / (kTargetColumns<S> * sizeof(Pack<S>));

  using Products = S[kGroupColumns][kGroupColumns];     // v_a^H v_b at [b][a]
  using Weights = S[kTargetColumns<S>][kGroupColumns];  // of column p with vector a at [p][a]

  const Pack<S>* reflector(long i) const { return v_ + i * stride_; }

  void find_factor(long g, S (&t)[kGroupColumns][kGroupColumns]) const {
    S products[kGroupColumns][kGroupColumns];
    for (long p = 0; p < kGroupColumns; ++p) {
      S(&row)[1][kGroupColumns] = reinterpret_cast<S(&)[1][kGroupColumns]>(products[p]);
      inner_products(reflector(g), reflector(g + p), stride_, first_, last_, row);
    }
    compute_group_t(tau_ + g, products, t);
  }

  // products[g][h] := V_g^H V_h for h < g.
  void find_products(Pool& pool, Products (&products)[kGroups][kGroups]) const {
    const long groups = count_ / kGroupColumns;
    for_ranges(pool, groups, kGroupColumns * count_ * (last_ - first_), [&](long begin, long end) {
      for (long g = begin; g < end; ++g) {
        for (long h = 0; h < g; ++h) {
          for (long b = 0; b < kGroupColumns; b += kTargetColumns<S>) {
            S part[kTargetColumns<S>][kGroupColumns];
            inner_products(reflector(g * kGroupColumns), reflector(h * kGroupColumns + b), stride_,
                           first_, last_, part);
            std::copy(&part[0][0], &part[0][0] + kTargetColumns<S> * kGroupColumns,
                      &products[g][h][b][0]);
          }
        }
      }
    });
  }

  // All reflectors on kTargetColumns columns, by chunks of rows.
  void apply_chunked(const Products (&products)[kGroups][kGroups], Pack<S>* c) const {
    const long groups = count_ / kGroupColumns;
    Weights w[kGroups]{};
    multiply_chunks(groups, c, w);
    correct_weights(groups, products, w);
    for (long i = first_; i < last_; i += kChunk) {
      for (long g = 0; g < groups; ++g) {
        subtract_combinations(reflector(g * kGroupColumns), w[g], c, stride_, i,
                              std::min(last_, i + kChunk));
      }
    }
    apply_from(groups * kGroupColumns, c);
  }

  // Step 1: w[g] += V_g^H C.
  void multiply_chunks(long groups, const Pack<S>* c, Weights (&w)[kGroups]) const {
    Weights lost[kGroups]{};
    for (long i = first_; i < last_; i += kChunk) {
      for (long g = 0; g < groups; ++g) {
        Weights part;
        inner_products(reflector(g * kGroupColumns), c, stride_, i, std::min(last_, i + kChunk),
                       part);
        for (long e = 0; e < kTargetColumns<S> * kGroupColumns; ++e) {
          add_compensated((&w[g][0][0])[e], (&lost[g][0][0])[e], (&part[0][0])[e]);
        }
      }
    }
  }

  // Step 2.
  void correct_weights(long groups, const Products (&products)[kGroups][kGroups],
                       Weights (&w)[kGroups]) const {
    for (long g = 0; g < groups; ++g) {
      for (long p = 0; p < kTargetColumns<S>; ++p) {
        for (long h = 0; h < g; ++h) {
          for (long b = 0; b < kGroupColumns; ++b) {
            for (long a = 0; a < kGroupColumns; ++a) {
              w[g][p][a] -= product(products[g][h][b][a], w[h][p][b]);
            }
          }
        }
        apply_factor(t_[g], w[g][p]);
      }
    }
  }

  // w := T^H w
  static void apply_factor(const S (&t)[kGroupColumns][kGroupColumns], S (&w)[kGroupColumns]) {
    for (long a = kGroupColumns - 1; a >= 0; --a) {
      S sum = 0;
      for (long b = 0; b <= a; ++b) sum += product(conjugate(t[a][b]), w[b]);
      w[a] = sum;
    }
  }

  // The reflectors from number g on, on kTargetColumns columns.
  void apply_from(long g, Pack<S>* c) const {
    for (; g + kGroupColumns <= count_; g += kGroupColumns) {
      reflect<kGroupColumns, kTargetColumns<S>>(reflector(g), t_[g / kGroupColumns], c, stride_,
                                                first_, last_);
    }
    for (; g < count_; ++g) {
      const S one[1][1] = {{tau_[g]}};
      reflect<1, kTargetColumns<S>>(reflector(g), one, c, stride_, first_, last_);
    }
  }

  const Pack<S>* v_;
  long stride_, first_, last_, count_;
  const S* tau_;
  bool chunked_;
  S t_[kGroups][kGroupColumns][kGroupColumns];
};

}  // namespace jaxqr
