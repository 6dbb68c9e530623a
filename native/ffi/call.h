// What the CPU's handlers share: a call's buffers, checked before a kernel sees them, and the frame
// in which a kernel runs.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/floating_point_mode.h"
#include "common/pool.h"
#include "common/problems.h"
#include "ffi/buffers.h"

namespace jaxqr {

// The last dimension of a buffer; `none` if it is a scalar.
inline long last_dimension(const Buffer& buffer, long none) {
  return buffer.dimensions().size() ? static_cast<long>(buffer.dimensions().back()) : none;
}

class XlaPool : public Pool {
 public:
  explicit XlaPool(ffi::ThreadPool& pool) : pool_(pool), threads_(pool.num_threads()) {}
  long threads() const override { return threads_; }
  void schedule(std::function<void()> task) override { pool_.Schedule(std::move(task)); }

 private:
  ffi::ThreadPool& pool_;
  long threads_;
};

template <class S>
constexpr ffi::DataType kDataType = ffi::DataType::INVALID;
#define DATA_TYPE(S, NAME) \
  template <>              \
  constexpr ffi::DataType kDataType<S> = ffi::NAME;
JAXQR_FOR_SCALARS(DATA_TYPE)
#undef DATA_TYPE

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

  const Buffer& first() const { return first_; }
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

  // The data of the first buffer, whose dtype the kernel is chosen by.
  template <class S>
  S* first_data() const {
    return static_cast<S*>(first_.untyped_data());
  }

  // The data of a buffer that must hold a vector of this length.
  template <class S>
  S* vector(const char* name, const Buffer& buffer, long length) {
    return data<S>(name, buffer, kDataType<S>, {length});
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

// What every handler does: fill(problem) fills in a Problem of the call's scalar type, and lets the
// call fail where a buffer is not as it should be; then compute(problem, pool).
template <template <class> class Problem, class Fill, class Compute>
ffi::Error run(Call& call, ffi::ThreadPool& xla_pool, const Fill& fill, const Compute& compute) {
  const auto run_for = [&](auto problem) {
    fill(problem);
    if (call.failed()) return;
    XlaPool pool(xla_pool);
    compute(problem, pool);
  };
  const ffi::Error thrown = catch_errors([&] {
    ExactDenormals mode;
    switch (call.dtype()) {
#define RUN_FOR(S, NAME) \
  case ffi::NAME:        \
    return run_for(Problem<S>{});
      JAXQR_FOR_SCALARS(RUN_FOR)
#undef RUN_FOR
      default:
        call.fail("no kernel computes with " + describe(call.first()));
    }
  });
  return call.failed() ? call.error() : thrown;
}

// The scalar type of a problem.
template <template <class> class Problem, class S>
S scalar_of(const Problem<S>&);
#define JAXQR_SCALAR_OF(problem) decltype(scalar_of(problem))

inline Order order_of(bool transposed) { return transposed ? Order::kColumns : Order::kRows; }

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
    const Buffer* buffer = find_buffer(buffers, seen.size(), storage);
    if (!buffer) return call.fail("fewer buffers than names: " + std::string(names));
    use(name, *buffer);
    seen.push_back(name);
    begin = end + 1;
  }
  if (buffers.size() > seen.size()) call.fail("more buffers than names: " + std::string(names));
}

}  // namespace jaxqr
