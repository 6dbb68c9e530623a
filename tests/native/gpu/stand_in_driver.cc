// A stand-in for libcuda.so.1: it runs the kernels of this build on the CPU, at once. It is as
// strict as a driver is that has one stream, on which a graph is being captured: nothing works
// without the stream's context, and nothing can be loaded in a capture mode other than the relaxed
// one.
//
// Tests tell it how to run, let functions fail, and ask how often each was called.
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/floating_point_mode.h"
#include "cuda_on_cpu.h"
#include "instances.h"

namespace {

using Status = int;
enum : Status {  // as in CUDA's documentation
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kInvalidContext = 201,
  kInvalidPtx = 218,
  kUnsupportedPtxVersion = 222,
  kInvalidHandle = 400,
  kNotFound = 500,
  kLaunchFailed = 719,
  kCaptureUnsupported = 900,
};
constexpr int kRelaxed = 2, kVersion = 12020, kMaxDynamicSharedBytes = 8;
constexpr size_t kMostSharedBytes = size_t{227} << 10;  // of an H100

struct Module {
  void* context;
  std::string text;
};
struct Function {
  void* context;
  emulate::Instance instance;
  size_t shared_bytes = emulate::kSharedBytes;
};

struct State {
  std::mutex mutex;
  std::map<std::string, long> calls, failures;  // how often, and with which status
  std::vector<std::unique_ptr<Module>> modules;
  std::map<void*, std::unique_ptr<Function>> functions;
  void* context = reinterpret_cast<void*>(1);  // of the stream
  emulate::Order order = emulate::Order::kForwards;
};
State& state() {
  static State& state = *new State;
  return state;
}

thread_local std::vector<void*> contexts;  // that were pushed
thread_local int capture_mode = 0;
thread_local std::string misuse;  // of the last kernel on this thread

// Counts a call; gives what it is to fail with.
Status enter(const char* function) {
  State& s = state();
  const std::lock_guard<std::mutex> lock(s.mutex);
  ++s.calls[function];
  const auto found = s.failures.find(function);
  return found == s.failures.end() ? kSuccess : static_cast<Status>(found->second);
}
#define JAXQR_ENTER() \
  if (const Status status = enter(__func__)) return status

bool has_context() { return !contexts.empty() && contexts.back(); }

Status run(const emulate::Instance& instance, dim3 grid, dim3 block, size_t shared_bytes,
           size_t most_shared_bytes, emulate::Order order, const jaxqr::Arguments& arguments) {
  try {
    const jaxqr::ExactDenormals mode;  // as on a device; XLA flushes them on the CPU
    emulate::launch([&] { instance.kernel(arguments); }, grid, block, shared_bytes, order,
                    {instance.threads, most_shared_bytes});
    return kSuccess;
  } catch (const std::exception& error) {
    misuse = std::string("unspecified launch failure: ") + error.what();
    return kLaunchFailed;
  }
}

}  // namespace

#pragma GCC visibility push(default)
extern "C" {

Status cuDriverGetVersion(int* version) {
  JAXQR_ENTER();
  *version = kVersion;
  return kSuccess;
}

Status cuGetErrorString(Status status, const char** text) {
  static const std::map<Status, const char*> texts = {
      {kInvalidValue, "invalid argument"},
      {kOutOfMemory, "out of memory"},
      {kInvalidContext, "invalid device context"},
      {kInvalidPtx, "a PTX JIT compilation failed"},
      {kUnsupportedPtxVersion, "the provided PTX was compiled with an unsupported toolchain."},
      {kInvalidHandle, "invalid resource handle"},
      {kNotFound, "named symbol not found"},
      {kCaptureUnsupported, "operation not permitted when stream is capturing"},
  };
  const auto found = texts.find(status);
  *text = status == kLaunchFailed ? misuse.c_str() : found == texts.end() ? nullptr : found->second;
  return *text ? kSuccess : kInvalidValue;
}

Status cuStreamGetCtx(void*, void** context) {
  JAXQR_ENTER();
  const std::lock_guard<std::mutex> lock(state().mutex);
  *context = state().context;
  return kSuccess;
}

Status cuCtxPushCurrent_v2(void* context) {
  JAXQR_ENTER();
  contexts.push_back(context);
  return kSuccess;
}

Status cuCtxPopCurrent_v2(void** context) {
  JAXQR_ENTER();
  if (contexts.empty()) return kInvalidContext;
  *context = contexts.back();
  contexts.pop_back();
  return kSuccess;
}

Status cuThreadExchangeStreamCaptureMode(int* mode) {
  JAXQR_ENTER();
  std::swap(*mode, capture_mode);
  return kSuccess;
}

Status cuModuleLoadData(void** module, const void* image) {
  JAXQR_ENTER();
  if (!has_context()) return kInvalidContext;
  if (capture_mode != kRelaxed) return kCaptureUnsupported;
  std::string text = static_cast<const char*>(image);
  if (text.find(".entry") == std::string::npos) return kInvalidPtx;
  const std::lock_guard<std::mutex> lock(state().mutex);
  state().modules.push_back(std::make_unique<Module>(Module{contexts.back(), std::move(text)}));
  *module = state().modules.back().get();
  return kSuccess;
}

Status cuModuleGetFunction(void** function, void* module, const char* name) {
  JAXQR_ENTER();
  const Module& from = *static_cast<Module*>(module);
  if (!has_context() || contexts.back() != from.context) return kInvalidContext;
  if (capture_mode != kRelaxed) return kCaptureUnsupported;
  const auto found = emulate::instances().find(name);
  const bool inside = from.text.find(std::string(".entry ") + name + "(") != std::string::npos;
  if (!inside || found == emulate::instances().end()) return kNotFound;
  auto made = std::make_unique<Function>(Function{from.context, found->second});
  *function = made.get();
  const std::lock_guard<std::mutex> lock(state().mutex);
  state().functions[made.get()] = std::move(made);
  return kSuccess;
}

Status cuFuncSetAttribute(void* function, int attribute, int value) {
  JAXQR_ENTER();
  const bool good = value >= 0 && static_cast<size_t>(value) <= kMostSharedBytes;
  if (attribute != kMaxDynamicSharedBytes || !good) return kInvalidValue;
  const std::lock_guard<std::mutex> lock(state().mutex);
  static_cast<Function*>(function)->shared_bytes = value;
  return kSuccess;
}

Status cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                      unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,
                      void* stream, void** parameters, void** extra) {
  JAXQR_ENTER();
  Function launched;
  emulate::Order order;
  {
    const std::lock_guard<std::mutex> lock(state().mutex);
    if (!state().functions.count(function)) return kInvalidHandle;
    launched = *static_cast<Function*>(function);
    order = state().order;
  }
  if (!has_context() || contexts.back() != launched.context) return kInvalidContext;
  if (capture_mode == kRelaxed || stream || extra) return kInvalidValue;
  const auto arguments = *static_cast<const jaxqr::Arguments*>(parameters[0]);
  return run(launched.instance, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes,
             launched.shared_bytes, order, arguments);
}

// ------------------------------------------------------------------------------ for tests

// Whether threads take turns backwards, from the next launch on.
void stand_in_set_order(int backwards) {
  const std::lock_guard<std::mutex> lock(state().mutex);
  state().order = backwards ? emulate::Order::kBackwards : emulate::Order::kForwards;
}

// The context of the stream: any number but 0.
void stand_in_set_context(long context) {
  const std::lock_guard<std::mutex> lock(state().mutex);
  state().context = reinterpret_cast<void*>(context);
}

// Let a function of the driver fail with this status; 0: let it work again.
void stand_in_fail(const char* function, int status) {
  const std::lock_guard<std::mutex> lock(state().mutex);
  if (status) {
    state().failures[function] = status;
  } else {
    state().failures.erase(function);
  }
}

// How often a function of the driver was called.
long stand_in_calls(const char* function) {
  const std::lock_guard<std::mutex> lock(state().mutex);
  return state().calls[function];
}

// Run a kernel without a driver. Gives null, or what was wrong.
const char* stand_in_run(const char* kernel, unsigned blocks, unsigned threads,
                         unsigned shared_bytes, const jaxqr::Arguments* arguments, int backwards) {
  const auto found = emulate::instances().find(kernel);
  if (found == emulate::instances().end()) return "no such kernel is in this build";
  const emulate::Order order = backwards ? emulate::Order::kBackwards : emulate::Order::kForwards;
  const Status status =
      run(found->second, blocks, threads, shared_bytes, kMostSharedBytes, order, *arguments);
  return status == kSuccess ? nullptr : misuse.c_str();
}

}  // extern "C"
#pragma GCC visibility pop
