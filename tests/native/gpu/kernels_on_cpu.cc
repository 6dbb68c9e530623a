// Some of the kernels, compiled for the CPU. Both macros are the compiler's: JAXQR_KERNELS names
// the file, JAXQR_INSTANCES says which of its kernels to make, as for a device.
#include "cuda_on_cpu.h"
// after it, as a file of kernels has no includes but this one
#include JAXQR_KERNELS
#include "instances.h"

#undef JAXQR_INSTANCE
#define JAXQR_INSTANCE(NAME, THREADS, ...) \
  [[maybe_unused]] static const bool added_##NAME = emulate::add_instance(#NAME, {THREADS, NAME});
JAXQR_INSTANCES
