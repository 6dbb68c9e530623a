// Sums and extremes over the threads of a warp and of a block.
#pragma once

#include "gpu/numbers.cuh"

namespace jaxqr {

template <class T>
JAXQR_FN T add_up_warp(T x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) x = x + take_across(x, mask);
  return x;
}

template <class R>
JAXQR_FN R find_largest_of_warp(R x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) x = larger(x, take_across(x, mask));
  return x;
}

// Let each warp bring a value, and give every thread combine(all of them). `memory` has room for a
// value of each warp and is free again when all threads have returned.
template <class V, class Combine>
JAXQR_FN V combine_warps(V value, void* memory, const Combine& combine) {
  V* const values = static_cast<V*>(memory);
  if (threadIdx.x % 32 == 0) values[threadIdx.x / 32] = value;
  __syncthreads();
  V found = values[0];
  for (unsigned warp = 1; warp < blockDim.x / 32; ++warp) found = combine(found, values[warp]);
  __syncthreads();
  return found;
}

template <class T>
JAXQR_FN T add_up(T x, void* memory) {
  return combine_warps(add_up_warp(x), memory, [](T x, T y) { return x + y; });
}

template <class R>
JAXQR_FN R find_largest(R x, void* memory) {
  return combine_warps(find_largest_of_warp(x), memory, [](R x, R y) { return larger(x, y); });
}

// The index that goes with the largest value; of equal ones, the one with the first place.
template <class R>
JAXQR_FN int find_first_largest(R value, int place, int index, void* memory) {
  struct Candidate {
    R value;
    int place, index;
  };
  const auto choose = [](Candidate x, Candidate y) {
    const bool other = y.value > x.value || (y.value == x.value && y.place < x.place);
    return other ? y : x;
  };
  Candidate best{value, place, index};
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    const Candidate other{take_across(best.value, mask), __shfl_xor_sync(kWarp, best.place, mask),
                          __shfl_xor_sync(kWarp, best.index, mask)};
    best = choose(best, other);
  }
  return combine_warps(best, memory, choose).index;
}

}  // namespace jaxqr
