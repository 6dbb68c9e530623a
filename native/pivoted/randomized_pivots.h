// Householder's method with randomized column pivoting: HQRRP of Martinsson, Quintana-Orti, Heavner
// and van de Geijn (2017), BQRRP of Melnichenko et al. (2025).
//
// The columns of a block are chosen all at once, by a random sketch of what is left of the matrix:
// exact pivoting needs the norms of all columns after each reflector. Within the block the columns
// are put into the order of exact pivoting. The rest meets all reflectors of the block together.
#pragma once

#include "pivoted/sketch.h"

namespace jaxqr {

template <class S>
class RandomizedFactorization {
 public:
  using T = RealOf<S>;

  static size_t workspace(long m, long n) {
    return Sketch<S>::workspace(m, n) + Workspace::size<S>(kMost * kMost) +
           Workspace::size<Pack<S>>(RowPanel<S>::size(kMost + kLanes, kMost));
  }

  // In the place of `a` come R and the vectors of the reflectors, of which there are k.
  RandomizedFactorization(RowPanel<S> a, long k, S* tau, int32_t* p, Workspace& workspace)
      : a_(a),
        k_(k),
        tau_(tau),
        p_(p),
        sketch_(a.rows, a.cols, workspace),
        products_(workspace.take<S>(kMost * kMost)),
        above_(workspace.take<Pack<S>>(RowPanel<S>::size(kMost + kLanes, kMost)), kMost + kLanes,
               kMost) {}

  // False if what is left is zero to the sketch and is not zero.
  bool run(Pool& pool) {
    std::iota(p_, p_ + a_.cols, 0);
    for (done_ = 0; done_ < k_; done_ += width_) {
      int32_t chosen[kMost];
      choose(pool, chosen);
      if (width_ == 0) return finish_zero();
      arrange(chosen);
      lift();
      find_products();
      sort(chosen);
      arrange(chosen);
      factor_block();
      update(pool);
    }
    return true;
  }

 private:
  static constexpr long kLanes = RowPanel<S>::kLanes;
  static constexpr long kMost = Sketch<S>::kMostChosen;

  // The first pack of rows that the block changes, and its first row.
  long first_pack() const { return done_ / kLanes; }
  long top() const { return first_pack() * kLanes; }

  // ---------------------------------------------------------------------------------- columns

  // The columns of the next block. None if what is left is zero to the sketch.
  void choose(Pool& pool, int32_t* chosen) {
    // the blocks begin with a pack of rows where they can
    const long most = std::min(kMost - done_ % kLanes, k_ - done_);
    width_ = stale_ ? 0 : sketch_.choose(pool, done_, most, chosen);
    if (width_ > 0) return;
    sketch_.draw(pool, a_, done_);
    stale_ = false;
    width_ = sketch_.choose(pool, done_, most, chosen);
  }

  // Bring the chosen columns to the front, by exchanges.
  void arrange(const int32_t* chosen) {
    int32_t places[kMost];
    for (long i = 0; i < width_; ++i) {
      long from = chosen[i];
      while (from < done_ + i) from = places[from - done_];  // where it went before
      places[i] = static_cast<int32_t>(from);
      const long to = done_ + i;
      if (from == to) continue;
      std::swap_ranges(a_.column(to), a_.column(to) + a_.packs(), a_.column(from));
      std::swap(p_[to], p_[from]);
      sketch_.exchange(to, from);
      if (from >= done_ + width_) continue;
      std::swap_ranges(above_.column(i), above_.column(i) + above_.packs(),
                       above_.column(from - done_));
    }
  }

  // Move the rows above the block, in its first pack of rows, to above_.
  void lift() {
    for (long c = 0; c < width_; ++c) {
      for (long i = top(); i < done_; ++i) move_above(i, c);
    }
  }

  void move_above(long i, long c) {
    above_.set(i - top(), c, a_.get(i, done_ + c));
    a_.set(i, done_ + c, 0);
  }

  // The products of the block's columns.
  void find_products() {
    constexpr long cols = kTargetColumns<S>;
    for (long p = 0; p < width_; p += cols) {
      for (long g = 0; g < p + cols; g += kGroupColumns) {
        S products[cols][kGroupColumns];
        inner_products(a_.column(done_ + g), a_.column(done_ + p), a_.stride, first_pack(),
                       a_.packs(), products);
        for (long e = 0; e < cols * kGroupColumns; ++e) {
          const long i = g + e % kGroupColumns, j = p + e / kGroupColumns;
          if (i > j || j >= width_) continue;
          products_[i * kMost + j] = products[e / kGroupColumns][e % kGroupColumns];
          products_[j * kMost + i] = conjugate(products_[i * kMost + j]);
        }
      }
    }
  }

  // Put the columns of the block into the order of exact pivoting, that of Cholesky's method with
  // pivoting on their products. These hold half the digits only, but more than that is left of the
  // columns: the sketch saw to it.
  void sort(int32_t* order) const {
    S factor[kMost][kMost];  // a row for each step, over the columns where they were
    T squares[kMost];
    for (long i = 0; i < width_; ++i) {
      order[i] = static_cast<int32_t>(i);
      squares[i] = std::real(products_[i * (kMost + 1)]);
    }
    const auto less = [&](int32_t i, int32_t j) { return squares[i] < squares[j]; };
    for (long step = 0; step < width_; ++step) {
      int32_t* best = std::max_element(order + step, order + width_, less);
      const long pivot = *best;
      if (!(squares[pivot] > 0)) break;
      std::rotate(order + step, best, best + 1);
      const T inverse = 1 / std::sqrt(squares[pivot]);
      for (long i = step + 1; i < width_; ++i) {
        const long j = order[i];
        S sum = products_[pivot * kMost + j];
        for (long l = 0; l < step; ++l) {
          sum -= product(conjugate(factor[l][pivot]), factor[l][j]);
        }
        factor[step][j] = sum * inverse;
        squares[j] -= std::norm(sum * inverse);
      }
    }
    for (long i = 0; i < width_; ++i) order[i] += static_cast<int32_t>(done_);
  }

  // ------------------------------------------------------------------------------- reflectors

  // The block's columns become the vectors of its reflectors, and R comes to above_.
  void factor_block() {
    if (done_ % kLanes == 0 && width_ % kGroupColumns == 0) {
      RowPanel<S> block = a_;
      block.data = a_.column(done_) + first_pack();
      block.rows = a_.rows - done_;
      block.cols = width_;
      return factor_row_panel(block, tau_ + done_, above_);
    }
    for (long c = 0; c < width_; ++c) {
      const long j = done_ + c;
      for (long i = done_; i < j; ++i) move_above(i, c);
      const ScalarReflector<S> step = eliminate(a_, j);
      tau_[j] = step.tau;
      above_.set(j - top(), c, step.beta);
      const S one[1][1] = {{step.tau}};
      for (long l = j + 1; l < done_ + width_; ++l) {
        reflect<1, 1>(a_.column(j), one, a_.column(l), a_.stride, first_pack(), a_.packs());
      }
    }
  }

  // Let the rest and its sketch meet the reflectors, and put R in its place.
  void update(Pool& pool) {
    const long next = done_ + width_;
    stale_ = next == k_ || !sketch_.eliminate(above_, done_ - top(), done_, width_);
    ReflectorGroups<S>(a_, done_, width_, tau_ + done_, first_pack())
        .apply(pool, a_, next, a_.cols, [&](long j) {
          if (!stale_) sketch_.follow(a_, done_, width_, j);
        });
    for (long c = 0; c < width_; ++c) {
      for (long i = top(); i <= done_ + c; ++i) a_.set(i, done_ + c, above_.get(i - top(), c));
    }
  }

  // What is left is zero to the sketch: it needs no reflectors. False if it is not zero.
  bool finish_zero() {
    for (long j = done_; j < a_.cols; ++j) {
      for (long i = done_; i < a_.rows; ++i) {
        if (a_.get(i, j) != S(0)) return false;
      }
    }
    std::fill(tau_ + done_, tau_ + k_, S(0));
    return true;
  }

  RowPanel<S> a_;
  long k_;
  long done_ = 0;      // reflectors in finished blocks
  long width_ = 0;     // of the block
  bool stale_ = true;  // the sketch is not that of what is left
  S* tau_;
  int32_t* p_;
  Sketch<S> sketch_;
  S* products_;        // by rows: of columns i and j at (i, j)
  RowPanel<S> above_;  // what was above the diagonal of V
};

}  // namespace jaxqr
