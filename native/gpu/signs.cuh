// The signs that make the QR of a tall matrix LAPACK's, from the leading square of a Q with any signs,
// and the triangles of which Householder's vectors are reconstructed.
//
// Where S are the signs that LAPACK's R has more, Q S - I = L U holds V_1 = L and U = -T V_1^H, as
// Q S = I - V T V^H (Ballard and others, IPDPS 2014). Each sign is found with its column of L: LAPACK's R
// has the sign that its column's first entry, the pivot times beta, has not.
//
// data: 0 q (n, n), 1 beta (n), real: the diagonal of R, zero where there was nothing to eliminate;
// 2 signs (n), real; 3 L and U (n, n), packed. As long as beta is zero from the first column on, there
// are no reflectors. sizes: 0 n, 1 bytes of shared memory. One warp for a matrix.
#pragma once

#include "gpu/arguments.h"
#include "gpu/tiles.cuh"

namespace jaxqr {

template <class T>
JAXQR_FN void signs(const Arguments& arguments) {
  using R = Real<T>;
  const int n = arguments.sizes[0], lane = threadIdx.x % 32;
  const long long which = blockIdx.x;
  const Tiles<T> x(warp_memory<T>(arguments.sizes[1]), n, n, false);
  const R* const beta = static_cast<const R*>(arguments.data[1]) + which * n;
  R* const signs = static_cast<R*>(arguments.data[2]) + which * n;
  x.load(static_cast<const T*>(arguments.data[0]) + which * n * n, 1);
  __syncwarp();
  bool trivial = true;
  for (int j = 0; j < n; ++j) {
    trivial = trivial && beta[j] == 0;
    const T pivot = x.at(0, j, j);
    const R real = real_part(pivot), sense = real == 0 ? beta[j] : real;
    const bool negative = !trivial && sense > 0;
    const T u = (negative ? -pivot : pivot) - number<T>(1);
    const T factor = trivial ? number<T>(0) : invert(negative ? -u : u);
    __syncwarp();  // all have read the pivot
    for (int i = lane; i < n; i += 32) {
      T& entry = x.at(0, i, j);
      if (i > j) entry = entry * factor;
      if (i < j && negative) entry = -entry;
      if (i == j) entry = trivial ? number<T>(0) : u;
    }
    if (lane == 0) signs[j] = negative ? R(-1) : R(1);
    __syncwarp();
    for (int i = j + 1 + lane; i < n; i += 32) {
      for (int c = j + 1; c < n; ++c) {
        x.at(0, i, c) = subtract_product(x.at(0, i, c), x.at(0, i, j), x.at(0, j, c));
      }
    }
    __syncwarp();
  }
  x.store(static_cast<T*>(arguments.data[3]) + which * n * n, 1);
}

}  // namespace jaxqr
