// Which thread of its block this is. Signed, as rows and columns are.
#pragma once

#include "gpu/numbers.cuh"

namespace jaxqr {

JAXQR_FN int thread_of_block() { return static_cast<int>(threadIdx.x); }
JAXQR_FN int threads_of_block() { return static_cast<int>(blockDim.x); }
JAXQR_FN int lane_of_warp() { return static_cast<int>(threadIdx.x % 32); }
JAXQR_FN int warp_of_block() { return static_cast<int>(threadIdx.x / 32); }
JAXQR_FN int warps_of_block() { return static_cast<int>(blockDim.x / 32); }

}  // namespace jaxqr
