// NVIDIA's driver: opened when it is first needed, so that nothing of CUDA is needed where there is
// no GPU, neither to build this nor to load it.
#pragma once

#include <string>

#include "gpu/arguments.h"

namespace jaxqr::gpu {

using Stream = void*;  // CUstream

// What the driver says of itself, such as 12020; 0 where there is none.
int driver_version();

// Use the library at `path` as the driver from now on, for tests; null: the system's.
void use_driver(const char* path);

// Where the kernels' PTX files are.
void set_folder(const char* folder);

struct Grid {
  unsigned blocks, threads, shared_bytes;
};

// Launch a kernel on a stream, in the context of the stream. Its file is read, and loaded by the
// driver, once for each context.
//
// Throws std::runtime_error where that fails.
void launch(const std::string& kernel, const Grid& grid, const Arguments& arguments, Stream stream);

}  // namespace jaxqr::gpu
