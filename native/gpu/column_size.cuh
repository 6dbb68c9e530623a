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
    return exponent > other.exponent || (exponent == other.exponent && fraction > other.fraction);
  }
  JAXQR_FN ColumnSize take_across(int mask) const {
    return {__shfl_xor_sync(kWarp, fraction, mask), take_across_warp(exponent, mask)};
  }
};

// The largest size in a group of LANES lanes; of several that with the smallest `label`. Returns its
// label, on all lanes.
template <int LANES, class R>
JAXQR_FN int find_largest(ColumnSize<R> size, int label) {
#pragma unroll
  for (int mask = LANES / 2; mask > 0; mask /= 2) {
    const ColumnSize<R> other = size.take_across(mask);
    const int other_label = take_across_warp(label, mask);
    if (other.exceeds(size) || (!size.exceeds(other) && other_label < label)) {
      size = other, label = other_label;
    }
  }
  return label;
}

}  // namespace jaxqr
