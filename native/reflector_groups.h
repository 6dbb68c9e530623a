// Reflectors of a panel applied to the columns of a large one: a small group of columns meets all
// of them while it is in the cache. That reads and writes the large panel once; products of
// matrices with as few reflectors would read it twice and copy it.
#pragma once

#include <algorithm>

#include "panel_kernels.h"
#include "passes.h"

namespace jaxqr {

template <class S>
class ReflectorGroups {
 public:
  static constexpr long kMost = 32;

  // The reflectors are `count` columns of `v` from `start` on, zero above their ones from the pack
  // of rows `first` on.
  ReflectorGroups(Panel<S> v, long start, long count, const S* tau, long first)
      : v_(v.column(start)), stride_(v.stride), first_(first), last_(v.packs()), count_(count),
        tau_(tau) {
    for (long g = 0; g + kGroup <= count; g += kGroup) find_factor(g, t_[g / kGroup]);
  }

  // Apply H_count^H ... H_1^H to the columns of `c` in [begin, end), and call after(j) for each. It
  // works on whole groups of columns, so some behind the last may change.
  template <class After>
  void apply(Pool& pool, Panel<S> c, long begin, long end, const After& after) const {
    constexpr long cols = kColumns<S>;
    const long cost = cols * (last_ - first_) * Panel<S>::kLanes * (1 + count_ / 4);
    for_ranges(pool, ceil_divide(end - begin, cols), cost, [&](long from, long to) {
      for (long j = begin + from * cols; j < begin + to * cols; j += cols) {
        apply(c.column(j));
        for (long i = j; i < std::min(j + cols, end); ++i) after(i);
      }
    });
  }

 private:
  const Pack<S>* reflector(long i) const { return v_ + i * stride_; }

  void find_factor(long g, S (&t)[kGroup][kGroup]) const {
    S products[kGroup][kGroup];
    for (long p = 0; p < kGroup; ++p) {
      S(&row)[1][kGroup] = reinterpret_cast<S(&)[1][kGroup]>(products[p]);
      inner_products(reflector(g), reflector(g + p), stride_, first_, last_, row);
    }
    group_factor(tau_ + g, products, t);
  }

  // On kColumns columns.
  void apply(Pack<S>* c) const {
    long g = 0;
    for (; g + kGroup <= count_; g += kGroup) {
      reflect<kGroup, kColumns<S>>(reflector(g), t_[g / kGroup], c, stride_, first_, last_);
    }
    for (; g < count_; ++g) {
      const S one[1][1] = {{tau_[g]}};
      reflect<1, kColumns<S>>(reflector(g), one, c, stride_, first_, last_);
    }
  }

  const Pack<S>* v_;
  long stride_, first_, last_, count_;
  const S* tau_;
  S t_[kMost / kGroup][kGroup][kGroup];
};

}  // namespace jaxqr
