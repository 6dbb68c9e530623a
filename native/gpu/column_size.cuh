// The sizes of columns that are scaled each by a power of two of its own, to choose pivots by.
#pragma once

#include "gpu/numbers.cuh"

namespace jaxqr {

JAXQR_FN int take_across_warp(int x, int mask) { return __shfl_xor_sync(kWarp, x, mask); }

// A squared norm as fraction 2^exponent, with the fraction in [1, 2): no norm leaves its range.
template <class R>
struct ColumnSize {
  R fraction;
  int exponent;

  // `square`, a normal number, times 2^exponent.
  JAXQR_FN static ColumnSize of_square(R square, int exponent) {
    const int own = biased_exponent(square) - Bits<R>::kBias;
    return {square * power_of_two<R>(-own), own + exponent};
  }
  JAXQR_FN static ColumnSize zero() { return {0, -(1 << 28)}; }
  // Of a column that is not to be chosen.
  JAXQR_FN static ColumnSize none() { return {0, -(1 << 29)}; }

  JAXQR_FN bool exceeds(ColumnSize other) const {
    // without branches, which && and || would be
    return (exponent > other.exponent) |
           ((exponent == other.exponent) & (fraction > other.fraction));
  }
  JAXQR_FN ColumnSize take_across(int mask) const {
    return {__shfl_xor_sync(kWarp, fraction, mask), take_across_warp(exponent, mask)};
  }
};

// The lane of a team of SIZE with the largest column, and the column's place: of several the one with
// the first place.
template <int SIZE, class R>
JAXQR_FN void choose_largest(ColumnSize<R> size, int& lane, int& place) {
  int packed = place * 32 + lane;
#pragma unroll
  for (int mask = SIZE / 2; mask > 0; mask /= 2) {
    const ColumnSize<R> other = size.take_across(mask);
    const int other_packed = take_across_warp(packed, mask);
    if (other.exceeds(size) | (!size.exceeds(other) & (other_packed < packed))) {
      size = other, packed = other_packed;
    }
  }
  lane = packed % 32, place = packed / 32;
}

}  // namespace jaxqr
