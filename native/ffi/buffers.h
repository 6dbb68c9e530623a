// Buffers that XLA passes, and errors that it gets back: what all handlers share, on CPU and GPU.
#pragma once

#include <exception>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "xla/ffi/api/ffi.h"

namespace jaxqr {

namespace ffi = ::xla::ffi;
using Buffer = ffi::AnyBuffer;
using Dimensions = Buffer::Dimensions;

inline ffi::Error invalid(const std::string& message) {
  return ffi::Error(ffi::ErrorCode::kInvalidArgument, "jaxqr: " + message);
}

inline std::string describe(const Buffer& buffer) {
  std::string text = "dtype " + std::to_string(static_cast<int>(buffer.element_type())) + " [";
  for (int64_t size : buffer.dimensions()) text += std::to_string(size) + ",";
  return text + "]";
}

// The buffer at `index` of the results or operands that follow the fixed ones, if there is one.
template <class Remaining>
const Buffer* find_buffer(const Remaining& buffers, size_t index, std::optional<Buffer>& storage) {
  if constexpr (std::is_same<Remaining, ffi::RemainingRets>::value) {
    auto found = buffers.template get<Buffer>(index);
    if (found.has_value()) storage = **found;
  } else {
    auto found = buffers.template get<Buffer>(index);
    if (found.has_value()) storage = *found;
  }
  return storage ? &*storage : nullptr;
}

// Call body(), and make an error for XLA of what it throws.
template <class Body>
ffi::Error catch_errors(const Body& body) {
  try {
    body();
    return ffi::Error::Success();
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "jaxqr: out of memory for workspace");
  } catch (const std::invalid_argument& error) {  // of values that were given
    return invalid(error.what());
  } catch (const std::exception& error) {
    return ffi::Error(ffi::ErrorCode::kInternal, std::string("jaxqr: ") + error.what());
  }
}

}  // namespace jaxqr
