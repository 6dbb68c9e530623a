// The signs that make a tall QR LAPACK's, from the leading square of a Q with any signs.
//
// Householder's method, applied to a matrix with orthonormal columns Q, leaves R = S of signs, and
// Q - S = -V T V_1^H S has the LU decomposition with L = V_1 (Ballard and others, IPDPS 2014). So the
// signs come out of that elimination, one by one: each is opposite to the pivot, as larfg's beta is to
// alpha, and no pivot is less than one.
//
// data: 0 q (n, n), 1 below (n): whether Q has entries other than zero under the square; 2 signs (n).
// sizes: 0 n, 1 bytes of shared memory for a warp. One warp for a matrix.
#pragma once

#include "gpu/arguments.h"
#include "gpu/tiles.cuh"

namespace jaxqr {

template <class T>
JAXQR_FN void signs(const Arguments& arguments) {
  using R = Real<T>;
  const int n = arguments.sizes[0], lane = threadIdx.x % 32;
  const long long which = static_cast<long long>(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
  if (which >= arguments.batch) return;
  const Tiles<T> q(warp_memory<T>(arguments.sizes[1]), n, n, false);
  const int* const below = static_cast<const int*>(arguments.data[1]) + which * n;
  q.load(static_cast<const T*>(arguments.data[0]) + which * n * n, 1);
  __syncwarp();
  for (int j = 0; j < n; ++j) {
    const T pivot = q.at(0, j, j);
    bool zero = !below[j];
    for (int i = j + 1 + lane; i < n; i += 32) {
      const T entry = q.at(0, i, j);
      zero = zero && real_part(entry) == 0 && imaginary_part(entry) == 0;
    }
    // LAPACK takes the identity for a reflector with nothing to annihilate, and keeps the sign.
    const bool trivial = __all_sync(kWarp, zero);
    const R opposite = is_negative(real_part(pivot)) ? R(1) : R(-1), sign = trivial ? -opposite : opposite;
    if (lane == 0) static_cast<T*>(arguments.data[2])[which * n + j] = number<T>(sign);
    if (trivial) continue;  // the same for the whole warp
    const T inverse = invert(pivot - number<T>(sign));
    for (int i = j + 1 + lane; i < n; i += 32) {
      const T factor = q.at(0, i, j) * inverse;
      for (int c = j + 1; c < n; ++c) {
        q.at(0, i, c) = subtract_product(q.at(0, i, c), factor, q.at(0, j, c));
      }
    }
    __syncwarp();
  }
}

}  // namespace jaxqr
