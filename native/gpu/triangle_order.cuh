// Which columns of a pivoted triangle count towards its rank, each judged by its own size or all by the
// first, and an order of the columns in which those that count come first.
#pragma once

#include "gpu/lanes.cuh"

namespace jaxqr {

template <class T, int SIZE>
class TriangleOrder {
 public:
  using R = Real<T>;

  // Of the triangles in the tiles `r`; `scratch` has tiles of the same shape.
  JAXQR_FN TriangleOrder(const Tiles<T>& r, const Tiles<T>& scratch, int n)
      : n_(n), r_(r), scratch_(scratch), own_(measure(r)) {
    diagonal_ = own_.diagonal * power_of_two<R>(-own_.exponent);
  }

  // How many leading columns have a diagonal entry above rcond times the first.
  JAXQR_FN int find_rank(R rcond) const {
    return find_run(!(diagonal_ <= rcond * take_from(diagonal_, 0, SIZE)));
  }

  // How many columns count, each judged by its own size. Where a large column depends on others, what
  // rounding leaves of it may be larger than all of a small column that is independent: so columns of
  // unlike sizes are judged among columns that were brought to one size.
  JAXQR_FN int find_own_rank() {
    const R first = take_from(diagonal_, 0, SIZE), last = take_from(diagonal_, n_ - 1, SIZE);
    // No entry is larger than the first, and none on the diagonal is smaller than the last.
    const bool certain = !(last <= 4 * n_ * kTolerance<R> * first);
    if (!__any_sync(kWarp, !certain)) return n_;
    const int run = find_run(counts(own_));
    const bool alike = are_alike();
    int rank = certain ? n_ : run;
    if (__any_sync(kWarp, !certain && !alike)) {
      const int among_even = find_even_rank();
      if (!certain && !alike) rank = among_even;
    }
    moves_ = !certain && !alike && rank < n_;
    needed_ = __any_sync(kWarp, moves_);
    if (needed_) choose_order();
    return rank;
  }

  // Whether a team of the warp has columns to move.
  JAXQR_FN bool is_needed() const { return needed_; }

  // Put the columns in their new order into the scratch tiles; the number of the column that comes to
  // the lane's place, given that of the lane's.
  JAXQR_FN int move(int column) const {
    __syncwarp();
    int found = column;
    for (int i = 0; i < n_; ++i) {
      if (lane_ < n_) scratch_.at(team_, i, place_) = r_.at(team_, i, lane_);
      const int place = take_from(place_, i, SIZE), other = take_from(column, i, SIZE);
      if (place == lane_) found = other;
    }
    __syncwarp();
    return found;
  }

 private:
  // The lane's column, multiplied by a power of two that brings its largest entry near one.
  struct Column {
    R diagonal = 0, sum = 0;  // of the scaled column: its diagonal entry, and all magnitudes
    int exponent = 0;
  };

  JAXQR_FN Column measure(const Tiles<T>& tiles) const {
    Column found;
    R largest = 0;
    const int rows = lane_ < n_ ? lane_ + 1 : 0;
    for (int i = 0; i < rows; ++i) largest = larger(largest, magnitude(tiles.at(team_, i, lane_)));
    found.exponent = inverse_exponent(largest);
    const R scale = power_of_two<R>(found.exponent);
    for (int i = 0; i < rows; ++i) {
      const T entry = scale_by(tiles.at(team_, i, lane_), scale);
      found.sum += absolute_value(entry);
      found.diagonal = magnitude(real_part(entry));  // in the end it is the last
    }
    return found;
  }

  JAXQR_FN static bool counts(const Column& column) {
    return !(column.diagonal <= kTolerance<R> * column.sum);
  }

  // The leading run of lanes for which something is true.
  JAXQR_FN int find_run(bool good) const {
    const unsigned bad = __ballot_sync(kWarp, lane_ < n_ && !good) >> (team_ * SIZE);
    for (int i = 0; i < n_; ++i) {
      if (bad >> i & 1) return i;
    }
    return n_;
  }

  // Whether the columns are so much alike in size that the order does not matter in which they are
  // found to count.
  JAXQR_FN bool are_alike() const {
    constexpr R kAlike = 16;
    const R sum = own_.sum * power_of_two<R>(-own_.exponent);
    const bool some = lane_ < n_ && sum > 0;
    R least = some ? sum : -1, most = some ? sum : 0;  // -1: none
#pragma unroll
    for (int mask = SIZE / 2; mask > 0; mask /= 2) {
      const R other = take_across(least, mask);
      least = least < 0 || (other >= 0 && other < least) ? other : least;
      most = larger(most, take_across(most, mask));
    }
    return !(most / kAlike > least);
  }

  // The rank among columns that are brought to one size: dependent ones come last when pivoted.
  JAXQR_FN int find_even_rank() const {
    __syncwarp();
    for (int i = 0; i < n_ && lane_ < n_; ++i) scratch_.at(team_, i, lane_) = even_entry(i);
    __syncwarp();
    LaneQr<T, SIZE, true> even(n_, n_, n_);
    even.take(scratch_, team_);
    even.factor(false, false);
    __syncwarp();
    even.put_r(scratch_, team_);
    __syncwarp();
    return find_run(counts(measure(scratch_)));
  }

  JAXQR_FN T even_entry(int i) const {
    const bool inside = i <= lane_ && lane_ < n_;
    const T entry = inside ? r_.at(team_, i, lane_) : number<T>(0);
    return scale_by(entry, power_of_two<R>(own_.exponent));
  }

  // Order the columns, those of which more than rounding is left first and by what is left. They are
  // taken apart by Gram and Schmidt's method, as only the order is wanted. Teams that move nothing keep
  // their order.
  JAXQR_FN void choose_order() {
    T column[SIZE];
    R own = 0;
#pragma unroll
    for (int i = 0; i < SIZE; ++i) {
      column[i] = even_entry(i);
      own = add_square(own, column[i]);
    }
    bool done = false;
    int chosen_place = lane_;
#pragma unroll 1
    for (int step = 0; step < n_; ++step) {
      R left = 0;
#pragma unroll
      for (int i = 0; i < SIZE; ++i) left = add_square(left, column[i]);
      ColumnSize<R> size = ColumnSize<R>::none();
      if (!done && lane_ < n_) {
        const bool independent = left > kTolerance<R> * kTolerance<R> * own;
        size = independent ? ColumnSize<R>::of_square(left, -2 * own_.exponent)
                           : ColumnSize<R>::zero();
      }
      int pivot = lane_, place = lane_;
      choose_largest<SIZE>(size, pivot, place);
      const R square = take_from(left, pivot, SIZE);
      const R inverse = square > 0 ? R(1) / square_root(square) : R(0);
      T v[SIZE], product = number<T>(0);
#pragma unroll
      for (int i = 0; i < SIZE; ++i) {
        v[i] = scale_by(take_from(column[i], pivot, SIZE), inverse);
        product = add_conjugate_product(product, v[i], column[i]);
      }
#pragma unroll
      for (int i = 0; i < SIZE; ++i) column[i] = subtract_product(column[i], v[i], product);
      if (lane_ == pivot) done = true, chosen_place = step;
    }
    place_ = moves_ ? chosen_place : lane_;
  }

  const int lane_ = threadIdx.x % SIZE, team_ = threadIdx.x % 32 / SIZE;
  const int n_;
  const Tiles<T> r_, scratch_;
  const Column own_;
  R diagonal_;  // as it is
  int place_ = lane_;
  bool moves_ = false, needed_ = false;
};

}  // namespace jaxqr
