// XLA's handler that launches the kernels, and what else Python looks up in this library.
//
// Everything but the batch is chosen by Python and comes as attributes of the call. The batch is
// read off the buffers, so that XLA may give the call a part of it.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "ffi/buffers.h"
#include "gpu/driver.h"

#ifndef JAXQR_MOST_BLOCKS  // tests have less, so that they need several launches
#define JAXQR_MOST_BLOCKS 0x7fffffff
#endif

namespace jaxqr::gpu {
namespace {

constexpr int64_t kMostBlocks = JAXQR_MOST_BLOCKS;  // of a grid, by CUDA
constexpr int64_t kMostThreads = 1024;              // of a block, by CUDA

using Integers = ffi::Span<const int64_t>;

void require(bool good, const std::string& message) {
  if (!good) throw std::invalid_argument(message);
}

int to_int(const char* name, int64_t value, int64_t least, int64_t most) {
  require(value >= least && value <= most,
          std::string(name) + " must be from " + std::to_string(least) + " to " +
              std::to_string(most) + ", got " + std::to_string(value));
  return static_cast<int>(value);
}

// The attributes of a call.
struct Attributes {
  std::string_view kernel;
  int64_t threads, per_block, blocks, shared, batch_dimensions;
  Integers slots, sizes;
};

// The buffers of a call, in the slots where the kernel looks for them.
class Slots {
 public:
  Slots(const Attributes& attributes, const Buffer& first)
      : slots_(attributes.slots), first_(first) {
    const size_t rank = first.dimensions().size();
    batch_dimensions_ =
        to_int("batch_dimensions", attributes.batch_dimensions, 0, static_cast<int64_t>(rank));
    for (int i = 0; i < batch_dimensions_; ++i) batch_ *= first.dimensions()[i];
    to_int("the number of sizes", static_cast<int64_t>(attributes.sizes.size()), 0, kMaxSizes);
    constexpr int64_t kMost = std::numeric_limits<int>::max();
    for (size_t i = 0; i < attributes.sizes.size(); ++i) {
      arguments_.sizes[i] = to_int("a size", attributes.sizes[i], -kMost, kMost);
    }
  }

  // Put a buffer into the next of the slots that the attributes name. An operand that a result
  // overwrites has none (-1).
  void add(const Buffer& buffer, bool is_result) {
    require(count_ < slots_.size(),
            "fewer slots than operands and results: " + std::to_string(slots_.size()));
    const int slot = to_int("a slot", slots_[count_++], is_result ? 0 : -1, kMaxData - 1);
    if (slot < 0) {
      check(buffer);
      if (buffer.element_count()) overwritten_.push_back(buffer.untyped_data());
      return;
    }
    require(!taken_[slot], "slot " + std::to_string(slot) + " is named twice");
    check(buffer);
    taken_[slot] = true;
    arguments_.data[slot] = buffer.untyped_data();
    if (batch_) strides_[slot] = buffer.size_bytes() / batch_;
  }

  void check_all() const {
    require(count_ == slots_.size(), "there are " + std::to_string(slots_.size()) + " slots for " +
                                         std::to_string(count_) + " operands and results");
    for (const void* data : overwritten_) {
      require(std::find(arguments_.data, arguments_.data + kMaxData, data) !=
                  arguments_.data + kMaxData,
              "an operand that has no slot is not overwritten by a result");
    }
  }

  int64_t batch() const { return batch_; }

  // The arguments for `count` matrices from `begin` on.
  Arguments part(int64_t begin, int64_t count) const {
    Arguments part = arguments_;
    for (int i = 0; i < kMaxData; ++i) {
      if (taken_[i]) part.data[i] = static_cast<char*>(part.data[i]) + begin * strides_[i];
    }
    part.batch = count;
    return part;
  }

 private:
  // All buffers have the batch of the first, and numbers that kernels compute with.
  void check(const Buffer& buffer) const {
    const Dimensions dims = buffer.dimensions(), wanted = first_.dimensions();
    bool good = dims.size() >= static_cast<size_t>(batch_dimensions_);
    for (int i = 0; good && i < batch_dimensions_; ++i) good = dims[i] == wanted[i];
    switch (buffer.element_type()) {
      case ffi::F32:
      case ffi::F64:
      case ffi::C64:
      case ffi::C128:
      case ffi::S32:
        break;
      default:
        good = false;
    }
    require(good, "operands and results must have floating-point or int32 numbers and the " +
                      std::to_string(batch_dimensions_) + " leading dimensions of " +
                      describe(first_) + ", got " + describe(buffer));
  }

  Integers slots_;
  const Buffer& first_;
  size_t count_ = 0;
  int batch_dimensions_ = 0;
  int64_t batch_ = 1;
  Arguments arguments_{};
  bool taken_[kMaxData] = {};
  std::vector<const void*> overwritten_;
  int64_t strides_[kMaxData] = {};  // in bytes, from one matrix of the batch to the next
};

// The name becomes that of a file.
std::string check_name(std::string_view name) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
  };
  require(!name.empty() && std::all_of(name.begin(), name.end(), plain),
          "\"" + std::string(name) + "\" is no name of a kernel");
  return std::string(name);
}

void launch_batch(Stream stream, const Attributes& attributes, const Slots& slots) {
  const std::string kernel = check_name(attributes.kernel);
  constexpr int64_t kMost = std::numeric_limits<int>::max();
  Grid grid{};
  grid.threads = to_int("threads", attributes.threads, 1, kMostThreads);
  grid.shared_bytes = to_int("shared", attributes.shared, 0, kMost);
  const int64_t per_block = to_int("per_block", attributes.per_block, 1, kMost);
  const int64_t blocks = to_int("blocks", attributes.blocks, 1, kMostBlocks);
  const int64_t most = kMostBlocks / blocks * per_block;
  for (int64_t begin = 0; begin < slots.batch(); begin += most) {
    const int64_t count = std::min(most, slots.batch() - begin);
    grid.blocks = static_cast<unsigned>((count + per_block - 1) / per_block * blocks);
    launch(kernel, grid, slots.part(begin, count), stream);
  }
}

ffi::Error launch_handler(Stream stream, ffi::RemainingArgs operands, ffi::RemainingRets results,
                          std::string_view kernel, int64_t threads, int64_t per_block,
                          int64_t blocks, int64_t shared, int64_t batch_dimensions, Integers slots,
                          Integers sizes) {
  return catch_errors([&] {
    const Attributes attributes{kernel, threads,          per_block, blocks,
                                shared, batch_dimensions, slots,     sizes};
    std::optional<Buffer> storage;
    const Buffer* first = find_buffer(operands, 0, storage);
    require(first, "a kernel needs an operand");
    Slots buffers(attributes, *first);
    const auto add_all = [&](const auto& remaining, bool are_results) {
      for (size_t i = 0; i < remaining.size(); ++i) {
        std::optional<Buffer> buffer;
        require(find_buffer(remaining, i, buffer), "operands and results must be arrays");
        buffers.add(*buffer, are_results);
      }
    };
    add_all(operands, false);
    add_all(results, true);
    buffers.check_all();
    launch_batch(stream, attributes, buffers);
  });
}

#ifdef JAXQR_EMULATED  // registered for XLA's CPU, which has no streams
ffi::Error launch_without_stream(ffi::RemainingArgs operands, ffi::RemainingRets results,
                                 std::string_view kernel, int64_t threads, int64_t per_block,
                                 int64_t blocks, int64_t shared, int64_t batch_dimensions,
                                 Integers slots, Integers sizes) {
  return launch_handler(nullptr, operands, results, kernel, threads, per_block, blocks, shared,
                        batch_dimensions, slots, sizes);
}
#define JAXQR_HANDLER launch_without_stream
#define JAXQR_CONTEXT
#else
#define JAXQR_HANDLER launch_handler
#define JAXQR_CONTEXT .Ctx<PlatformStream<jaxqr::gpu::Stream>>()
#endif

}  // namespace
}  // namespace jaxqr::gpu

using jaxqr::ffi::Ffi;
using jaxqr::ffi::PlatformStream;
using jaxqr::gpu::Integers;

// Everything else in the library is hidden.
#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxqr_launch, jaxqr::gpu::JAXQR_HANDLER,
                              Ffi::Bind() JAXQR_CONTEXT.RemainingArgs()
                                  .RemainingRets()
                                  .Attr<std::string_view>("kernel")
                                  .Attr<int64_t>("threads")
                                  .Attr<int64_t>("per_block")
                                  .Attr<int64_t>("blocks")
                                  .Attr<int64_t>("shared")
                                  .Attr<int64_t>("batch_dimensions")
                                  .Attr<Integers>("slots")
                                  .Attr<Integers>("sizes"),
                              {jaxqr::ffi::Traits::kCmdBufferCompatible});

extern "C" {

int jaxqr_gpu_driver_version() { return jaxqr::gpu::driver_version(); }
void jaxqr_gpu_open_driver(const char* path) { jaxqr::gpu::use_driver(path); }
void jaxqr_gpu_set_folder(const char* folder) { jaxqr::gpu::set_folder(folder); }

}  // extern "C"

#pragma GCC visibility pop
