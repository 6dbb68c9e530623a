// What the handlers share: a call's buffers, checked before a kernel sees them.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <string_view>

#include "kernels.h"
#include "xla/ffi/api/ffi.h"

namespace jaxqr {

namespace ffi = ::xla::ffi;
using Buffer = ffi::AnyBuffer;
using Dimensions = Buffer::Dimensions;

class XlaPool : public Pool {
 public:
  explicit XlaPool(ffi::ThreadPool& pool) : pool_(pool), threads_(pool.num_threads()) {}
  long threads() const override { return threads_; }
  void schedule(std::function<void()> task) override { pool_.Schedule(std::move(task)); }

 private:
  ffi::ThreadPool& pool_;
  long threads_;
};

inline ffi::Error invalid(const std::string& message) {
  return ffi::Error(ffi::ErrorCode::kInvalidArgument, "jaxqr: " + message);
}

inline std::string describe(const Buffer& buffer) {
  std::string text = "dtype " + std::to_string(static_cast<int>(buffer.element_type())) + " [";
  for (int64_t size : buffer.dimensions()) text += std::to_string(size) + ",";
  return text + "]";
}

template <class S>
constexpr ffi::DataType kDataType =
    std::is_same<S, float>::value                 ? ffi::F32
    : std::is_same<S, double>::value              ? ffi::F64
    : std::is_same<S, std::complex<float>>::value ? ffi::C64
                                                  : ffi::C128;

// Checks every buffer of a call against the batch and the dtype of the first. If `transposed`, the
// buffers hold the transposes of the matrices that are spoken of.
class Call {
 public:
  explicit Call(const Buffer& first, bool transposed = false)
      : first_(first), dtype_(first.element_type()), transposed_(transposed) {
    rank_ = static_cast<long>(first.dimensions().size());
    if (rank_ < 2) {
      fail("an operand must have at least two dimensions, got " + describe(first));
      return;
    }
    for (long i = 0; i < rank_ - 2; ++i) batch_ *= first.dimensions()[i];
    for (long i = 0; i < rank_; ++i) {
      if (first.dimensions()[i] > std::numeric_limits<int>::max() / 2) {
        fail("no dimension may exceed 2^30, got " + describe(first));
      }
    }
  }

  long batch() const { return batch_; }
  ffi::DataType dtype() const { return dtype_; }
  long rows() const { return size(transposed_ ? rank_ - 1 : rank_ - 2); }
  long cols() const { return size(transposed_ ? rank_ - 2 : rank_ - 1); }

  // The data of a buffer that must have the batch of the first and this matrix or vector behind.
  template <class T>
  T* data(const char* name, const Buffer& buffer, ffi::DataType dtype,
          std::initializer_list<long> core) {
    const Dimensions dims = buffer.dimensions();
    bool good = buffer.element_type() == dtype &&
                dims.size() == static_cast<size_t>(rank_ - 2) + core.size();
    for (long i = 0; good && i < rank_ - 2; ++i) good = dims[i] == first_.dimensions()[i];
    size_t axis = rank_ < 2 ? 0 : rank_ - 2;
    for (long wanted : core) good = good && dims[axis++] == wanted;
    if (!good) {
      std::string text;
      for (long wanted : core) text += std::to_string(wanted) + ",";
      fail(std::string(name) + " must have dtype " + std::to_string(static_cast<int>(dtype)) +
           ", the batch of " + describe(first_) + " and then [" + text + "], got " +
           describe(buffer));
    }
    return static_cast<T*>(buffer.untyped_data());
  }

  // The data of a buffer that must hold a matrix of this shape.
  template <class S>
  S* matrix(const char* name, const Buffer& buffer, long rows, long cols) {
    if (transposed_) std::swap(rows, cols);
    return data<S>(name, buffer, kDataType<S>, {rows, cols});
  }

  void fail(const std::string& message) {
    if (error_.success()) error_ = invalid(message);
  }
  const ffi::Error& error() const { return error_; }
  bool failed() const { return error_.failure(); }

 private:
  long size(long axis) const { return rank_ < 2 ? 0 : first_.dimensions()[axis]; }

  const Buffer& first_;
  ffi::DataType dtype_;
  bool transposed_;
  long rank_ = 0, batch_ = 1;
  ffi::Error error_ = ffi::Error::Success();
};

// Call body(S{}) for the scalar type S of `dtype`.
template <class Body>
ffi::Error for_dtype(ffi::DataType dtype, Body body) {
  try {
    ExactDenormals mode;
    switch (dtype) {
      case ffi::F32:
        return body(float{});
      case ffi::F64:
        return body(double{});
      case ffi::C64:
        return body(std::complex<float>{});
      case ffi::C128:
        return body(std::complex<double>{});
      default:
        return invalid("dtype must be F32, F64, C64 or C128, got " +
                       std::to_string(static_cast<int>(dtype)));
    }
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "jaxqr: out of memory for workspace");
  }
}

inline Order order_of(bool transposed) { return transposed ? Order::kColumns : Order::kRows; }

// Call body(name, i) for each of the names that commas separate.
template <class Body>
void for_names(std::string_view names, Body body) {
  for (size_t i = 0, begin = 0; begin < names.size(); ++i) {
    const size_t end = std::min(names.find(',', begin), names.size());
    body(names.substr(begin, end - begin), i);
    begin = end + 1;
  }
}

// The buffer at `index` of the results or operands that follow the fixed ones, if there is one.
template <class Remaining>
const Buffer* at(const Remaining& buffers, size_t index, std::optional<Buffer>& storage) {
  if constexpr (std::is_same<Remaining, ffi::RemainingRets>::value) {
    auto found = buffers.template get<Buffer>(index);
    if (found.has_value()) storage = **found;
  } else {
    auto found = buffers.template get<Buffer>(index);
    if (found.has_value()) storage = *found;
  }
  return storage ? &*storage : nullptr;
}

}  // namespace jaxqr
