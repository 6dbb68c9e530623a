// What the handlers share: a call's buffers, checked before a kernel sees them.
#pragma once

#include <algorithm>
#include <exception>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "common/floating_point_mode.h"
#include "common/pool.h"
#include "common/problems.h"
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
    if (!limit(first)) return;
    for (long i = 0; i < rank_ - 2; ++i) batch_ *= first.dimensions()[i];
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
    if (rank_ < 2 || !limit(buffer)) return nullptr;
    bool good = buffer.element_type() == dtype &&
                dims.size() == static_cast<size_t>(rank_ - 2) + core.size();
    for (long i = 0; good && i < rank_ - 2; ++i) good = dims[i] == first_.dimensions()[i];
    size_t axis = rank_ - 2;
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
  // Whether all sizes and their product can be computed with: BLAS has int for a size, the kernels
  // long for a number of bytes. A product that passes may be of more memory than there is, if an
  // array is empty by another dimension.
  bool limit(const Buffer& buffer) {
    constexpr int64_t most = int64_t{1} << 30, most_entries = int64_t{1} << 50;
    int64_t entries = 1;
    for (int64_t size : buffer.dimensions()) {
      if (size < 0 || size > most) {
        fail("no dimension may exceed 2^30, got " + describe(buffer));
        return false;
      }
      entries *= std::max<int64_t>(size, 1);
      if (entries > most_entries) {
        fail("the dimensions' product may not exceed 2^50, got " + describe(buffer));
        return false;
      }
    }
    return true;
  }

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
  } catch (const std::invalid_argument& error) {  // of values that were given
    return invalid(error.what());
  } catch (const std::exception& error) {
    return ffi::Error(ffi::ErrorCode::kInternal, std::string("jaxqr: ") + error.what());
  }
}

inline Order order_of(bool transposed) { return transposed ? Order::kColumns : Order::kRows; }

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

// Call use(name, buffer) for each of the names that commas separate and the buffer of that place:
// there must be a buffer for every name, a name for every buffer, and no name twice.
template <class Remaining, class Use>
void for_named(Call& call, const Remaining& buffers, std::string_view names, const Use& use) {
  std::vector<std::string_view> seen;
  for (size_t begin = 0; begin < names.size();) {
    const size_t end = std::min(names.find(',', begin), names.size());
    const std::string_view name = names.substr(begin, end - begin);
    if (std::find(seen.begin(), seen.end(), name) != seen.end()) {
      return call.fail("twice the name " + std::string(name));
    }
    std::optional<Buffer> storage;
    const Buffer* buffer = at(buffers, seen.size(), storage);
    if (!buffer) return call.fail("fewer buffers than names: " + std::string(names));
    use(name, *buffer);
    seen.push_back(name);
    begin = end + 1;
  }
  if (buffers.size() > seen.size()) call.fail("more buffers than names: " + std::string(names));
}

}  // namespace jaxqr
