// Small kernels with which the emulation itself is tested, right ones and wrong ones.
#include "cuda_on_cpu.h"
#include "gpu/arguments.h"

namespace jaxqr {

template <class T>
__device__ __forceinline__ T* matrix(const Arguments& arguments, int slot, int entries) {
  return static_cast<T*>(arguments.data[slot]) + static_cast<long long>(blockIdx.x) * entries;
}

enum Lack { kNothing, kBarrierAfterWriting, kBarrierAfterReading };

// The sums of rows, by warps and then in shared memory, which the next row uses again; wrong if
// there is a lack. data: 0 x (rows, columns), 1 sums (rows). sizes: 0 rows, 1 columns.
template <class R, int LACK>
__device__ void sum_rows(const Arguments& arguments) {
  const int rows = arguments.sizes[0], columns = arguments.sizes[1];
  const R* x = matrix<R>(arguments, 0, rows * columns);
  R* y = matrix<R>(arguments, 1, rows);
  R* const sums = reinterpret_cast<R*>(emulate::shared_memory());
  const int lane = threadIdx.x % 32, warps = blockDim.x / 32;
  for (int row = 0; row < rows; ++row) {
    R sum = 0;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) sum += x[row * columns + i];
    for (int half = 16; half; half /= 2) sum += __shfl_xor_sync(~0u, sum, half);
    if (lane == 0) sums[threadIdx.x / 32] = sum;
    if (LACK != kBarrierAfterWriting) __syncthreads();
    sum = lane < warps ? sums[lane] : R(0);
    for (int half = 16; half; half /= 2) sum += __shfl_xor_sync(~0u, sum, half);
    if (threadIdx.x == blockDim.x - 1) y[row] = sum;
    if (LACK != kBarrierAfterReading) __syncthreads();
  }
}

// Each lane takes the value of the next through shared memory. A shuffle, which comes in any case,
// does not order accesses to memory; without a barrier this is a race, if one that ends well here.
// data: 0 x, 1 y, one for each thread.
template <class R, int LACK>
__device__ void pass_on(const Arguments& arguments) {
  R* const shared = reinterpret_cast<R*>(emulate::shared_memory()) + threadIdx.x / 32 * 32;
  const int lane = threadIdx.x % 32;
  shared[lane] = matrix<R>(arguments, 0, blockDim.x)[threadIdx.x];
  __shfl_sync(~0u, 1, 0);
  if (LACK != kBarrierAfterWriting) __syncwarp();
  matrix<R>(arguments, 1, blockDim.x)[threadIdx.x] = shared[(lane + 1) % 32];
}

// Each block adds its number to one sum, which happens to be right if blocks run one after another.
// data: 0 x (1), 1 the sum, of which there is one.
template <class R>
__device__ void add_blocks(const Arguments& arguments) {
  if (threadIdx.x == 0) *static_cast<R*>(arguments.data[1]) += *matrix<R>(arguments, 0, 1);
}

// Static shared memory. data: 0 x (32, 32), 1 y, its transpose.
template <class R>
__device__ void transpose(const Arguments& arguments) {
  __shared__ R tile[32][33];
  const R* x = matrix<R>(arguments, 0, 1024);
  R* y = matrix<R>(arguments, 1, 1024);
  for (int i = threadIdx.x; i < 1024; i += blockDim.x) tile[i / 32][i % 32] = x[i];
  __syncthreads();
  for (int i = threadIdx.x; i < 1024; i += blockDim.x) y[i] = tile[i % 32][i / 32];
}

// One exchange within the teams of a warp. They come to it one after another, as team t is first t
// times together at another place.
// data: 0 x, 1 y, one for each thread. sizes: 0 the operation, 1 its argument, 2 the width, 3 the
// lanes of a team.
template <class V>
__device__ void exchange(const Arguments& arguments) {
  const int argument = arguments.sizes[1], width = arguments.sizes[2], size = arguments.sizes[3];
  const int lane = threadIdx.x % 32, team = lane / size;
  const unsigned mask = (size == 32 ? ~0u : (1u << size) - 1) << team * size;
  const V x = matrix<V>(arguments, 0, blockDim.x)[threadIdx.x];
  V y = 0;
  for (int i = 0; i < team; ++i) __syncwarp(mask);
  switch (arguments.sizes[0]) {
    case 0:
      y = __shfl_sync(mask, x, argument, width);
      break;
    case 1:
      y = __shfl_up_sync(mask, x, argument, width);
      break;
    case 2:
      y = __shfl_down_sync(mask, x, argument, width);
      break;
    case 3:
      y = __shfl_xor_sync(mask, x, argument, width);
      break;
    case 4:
      y = V(__ballot_sync(mask, x > argument) >> team * size);
      break;
    case 5:
      y = V(__any_sync(mask, x > argument));
      break;
    case 6:
      y = V(__all_sync(mask, x > argument));
      break;
  }
  matrix<V>(arguments, 1, blockDim.x)[threadIdx.x] = y;
}

// What no kernel may do. sizes: 0 which.
template <class R>
__device__ void misuse(const Arguments& arguments) {
  const int lane = threadIdx.x % 32;
  unsigned char* shared = emulate::shared_memory();
  switch (arguments.sizes[0]) {
    case 0:  // a lane that has returned
      if (threadIdx.x) __syncwarp();
      break;
    case 1:  // a lane that waits for all others
      if (lane == 5) __syncthreads();
      __shfl_sync(~0u, 1.0f, 0);
      break;
    case 2:  // not its own lane
      __ballot_sync(1, 1);
      break;
    case 3:  // the value of a lane that does not take part
      if (lane < 16) __shfl_sync(0xffff, 1.0, 16);
      break;
    case 4:  // different functions
      if (lane % 2) {
        __any_sync(~0u, 1);
      } else {
        __all_sync(~0u, 1);
      }
      break;
    case 5:  // different masks
      __syncwarp(lane ? ~0u : 0xffff);
      break;
    case 6:  // different barriers
      if (lane < 7) {
        __syncthreads();
      } else {
        __syncthreads();
      }
      break;
    case 7:
      __shfl_up_sync(~0u, 1, 32);
      break;
    case 8:
      __shfl_down_sync(~0u, 1, 1, 12);
      break;
    case 9:
      shared[64] = 1;
      break;
    case 10:
      shared[-1] = 1;
      break;
    case 11:  // different widths
      __shfl_xor_sync(~0u, 1, 1, lane < 16 ? 16 : 32);
      break;
  }
}

// Dynamic shared memory as it is found. data: 0 nothing, 1 y. sizes: 0 entries.
template <class R>
__device__ void uninitialized(const Arguments& arguments) {
  const R* shared = reinterpret_cast<const R*>(emulate::shared_memory());
  R* y = matrix<R>(arguments, 1, arguments.sizes[0]);
  for (int i = threadIdx.x; i < arguments.sizes[0]; i += blockDim.x) y[i] = shared[i];
  __syncthreads();
  const_cast<R*>(shared)[threadIdx.x] = 1;  // which the next block must not find
}

}  // namespace jaxqr

#define JAXQR_INSTANCE(NAME, THREADS, ...)                                                       \
  extern "C" __global__ void __launch_bounds__(THREADS) NAME(const jaxqr::Arguments arguments) { \
    using namespace jaxqr;                                                                       \
    __VA_ARGS__(arguments);                                                                      \
  }
JAXQR_INSTANCES
