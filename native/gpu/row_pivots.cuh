// The choice of pivots for a matrix whose rows lie on the threads of a block: the norms of what is
// left of its columns. Lane c of every warp has column c, and all warps know the same.
//
// The square of a norm is brought up to date by taking off that of a new entry of R. Where little
// is left of it, it is to be computed anew (Drmac and Bujanovic, LAPACK Working Note 176).
#pragma once

#include "gpu/column_size.cuh"
#include "gpu/threads.cuh"

namespace jaxqr {

// Half of the digits of a square: the square root of the rounding unit.
template <class R>
constexpr R kLeastPart = 0;
template <>
constexpr float kLeastPart<float> = 0x1p-12f;
template <>
constexpr double kLeastPart<double> = 0x1.6a09e667f3bcdp-27;

template <class R>
class RowPivots {
 public:
  // Of n columns only the first `free` may change places.
  JAXQR_FN RowPivots(int n, int free) : n_(n), free_(free) {}

  // The lane's column is multiplied by 2^exponent.
  JAXQR_FN void set_exponent(int exponent) { exponent_ = exponent; }
  JAXQR_FN int exponent() const { return exponent_; }

  // Where the lane's column is: in steps that are done, the one in which it was chosen.
  JAXQR_FN int place() const { return place_; }
  // Its number among the columns from step j on, or 0 if it is not among them.
  JAXQR_FN int slot(int j) const { return is_left(j) ? place_ - j : 0; }

  // Take a square that was computed from the lane's column times 2^exponent.
  JAXQR_FN void set(R square, int exponent) {
    square_ = reference_ = square;
    norm_exponent_ = exponent;
  }

  // Exchange column j with that of the largest norm from there on, the first of them; tell where it
  // was.
  JAXQR_FN int exchange_with_largest(int j) {
    ColumnSize<R> size = ColumnSize<R>::none();
    if (may_be_chosen(j)) {
      size = square_ > 0 ? ColumnSize<R>::of_square(square_, -2 * (exponent_ + norm_exponent_))
                         : ColumnSize<R>::zero();
    }
    const int lane = lane_of_warp();
    int chosen = lane, chosen_place = place_;
    choose_largest<32>(size, chosen, chosen_place);
    if (lane == chosen) {
      place_ = j;
    } else if (place_ == j) {
      place_ = chosen_place;
    }
    return chosen_place;
  }

  // Take off an entry of R, which is the lane's column's.
  template <class T>
  JAXQR_FN void take_off(T entry) {
    square_ -= add_square(R(0), scale_by(entry, power_of_two<R>(norm_exponent_)));
  }

  // Whether too few digits are left of a norm from step j on: less than half of its square's.
  JAXQR_FN bool any_in_doubt(int j) const {
    return __any_sync(kWarp, may_be_chosen(j) && square_ < kLeastPart<R> * reference_);
  }

 private:
  JAXQR_FN bool is_left(int j) const { return lane_of_warp() < n_ && place_ >= j; }
  JAXQR_FN bool may_be_chosen(int j) const {
    return is_left(j) && (j < free_ ? place_ < free_ : place_ == j);
  }

  int n_, free_;
  R square_ = 0, reference_ = 0;  // as it is now, and as it was last computed
  int exponent_ = 0, norm_exponent_ = 0;
  int place_ = lane_of_warp();
};

}  // namespace jaxqr
