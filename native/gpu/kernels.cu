// The kernels. The macro JAXQR_INSTANCES, which whoever compiles this defines, says which of them to
// make: JAXQR_INSTANCE(name, the most threads of a block, template with its arguments), one after
// another; JAXQR_ONE_BLOCK(threads) asks for no more than one block on a multiprocessor. Compiled for a
// device, one instance makes one file; for tests, g++ compiles all of them.
#ifndef __CUDACC__
#include "cuda_on_cpu.h"
#endif

#include "gpu/derivatives.cuh"
#include "gpu/lanes.cuh"
#include "gpu/least_squares.cuh"
#include "gpu/pivot_steps.cuh"
#include "gpu/rows.cuh"
#include "gpu/signs.cuh"

#define JAXQR_ONE_BLOCK(THREADS) THREADS, 1
#define JAXQR_INSTANCE(NAME, THREADS, ...)                    \
  extern "C" __global__ void __launch_bounds__(THREADS) NAME( \
      const jaxqr::Arguments arguments) {                     \
    using namespace jaxqr;                                    \
    __VA_ARGS__(arguments);                                   \
  }
JAXQR_INSTANCES
