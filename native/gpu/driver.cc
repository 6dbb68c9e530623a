#include "gpu/driver.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <utility>

namespace jaxqr::gpu {
namespace {

// The driver's types, as its documentation ("CUDA Driver API") has them.
using Context = void*;
using Module = void*;
using Function = void*;
using Status = int;
constexpr Status kSuccess = 0;
constexpr int kMaxDynamicSharedBytes = 8;     // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
constexpr int kRelaxed = 2;                   // CU_STREAM_CAPTURE_MODE_RELAXED
constexpr unsigned kAlwaysShared = 48 << 10;  // bytes that a kernel has without asking

// Each with its arguments. The version behind some is that of these arguments.
#define JAXQR_DRIVER_FUNCTIONS(F)                                                         \
  F(cuDriverGetVersion, int*)                                                             \
  F(cuGetErrorString, Status, const char**)                                               \
  F(cuStreamGetCtx, Stream, Context*)                                                     \
  F(cuCtxPushCurrent_v2, Context)                                                         \
  F(cuCtxPopCurrent_v2, Context*)                                                         \
  F(cuThreadExchangeStreamCaptureMode, int*)                                              \
  F(cuModuleLoadData, Module*, const void*)                                               \
  F(cuModuleGetFunction, Function*, Module, const char*)                                  \
  F(cuFuncSetAttribute, Function, int, int)                                               \
  F(cuLaunchKernel, Function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, \
    unsigned, Stream, void**, void**)

std::string read_file(const std::string& path) {
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!file) throw std::runtime_error("cannot read the kernel's file " + path);
  std::string text;
  char part[1 << 14];
  while (const size_t count = std::fread(part, 1, sizeof part, file.get())) {
    text.append(part, count);
  }
  return text;
}

class Driver {
 public:
  explicit Driver(const std::string& path) {
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) throw std::runtime_error("the CUDA driver cannot be opened: " + error());
#define JAXQR_FIND(name, ...) find(library, #name, name);
    JAXQR_DRIVER_FUNCTIONS(JAXQR_FIND)
#undef JAXQR_FIND
  }

  int version() const {
    int version = 0;
    check(cuDriverGetVersion(&version), "cuDriverGetVersion");
    return version;
  }

  void launch(const std::string& folder, const std::string& kernel, const Grid& grid,
              const Arguments& arguments, Stream stream) {
    Context context = nullptr;
    check(cuStreamGetCtx(stream, &context), "cuStreamGetCtx");
    const Current current(*this, context);
    Function function = find_function(context, folder, kernel, grid.shared_bytes);
    void* parameters[] = {const_cast<Arguments*>(&arguments)};
    const Status status = cuLaunchKernel(function, grid.blocks, 1, 1, grid.threads, 1, 1,
                                         grid.shared_bytes, stream, parameters, nullptr);
    check(status, "cuLaunchKernel of " + kernel);
  }

 private:
  struct Loaded {
    Function function = nullptr;
    unsigned shared_bytes = kAlwaysShared;  // that it may be launched with
  };

  // While it lives the thread's context is this one.
  class Current {
   public:
    Current(const Driver& driver, Context context) : driver_(driver) {
      driver.check(driver.cuCtxPushCurrent_v2(context), "cuCtxPushCurrent");
    }
    Current(const Current&) = delete;
    Current& operator=(const Current&) = delete;
    ~Current() {
      Context context;
      driver_.cuCtxPopCurrent_v2(&context);
    }

   private:
    const Driver& driver_;
  };

  // XLA may be capturing a graph on this thread, where loading would be an error. While an object
  // of this class lives, what is not put on the stream is done at once.
  class OutsideOfCapture {
   public:
    explicit OutsideOfCapture(const Driver& driver) : driver_(driver) {
      driver.check(driver.cuThreadExchangeStreamCaptureMode(&mode_),
                   "cuThreadExchangeStreamCaptureMode");
    }
    OutsideOfCapture(const OutsideOfCapture&) = delete;
    OutsideOfCapture& operator=(const OutsideOfCapture&) = delete;
    ~OutsideOfCapture() { driver_.cuThreadExchangeStreamCaptureMode(&mode_); }

   private:
    const Driver& driver_;
    int mode_ = kRelaxed;  // exchanged: then the mode that was, and at the end that again
  };

  Function find_function(Context context, const std::string& folder, const std::string& kernel,
                         unsigned shared_bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    Loaded& loaded = loaded_[{context, kernel}];
    if (loaded.function && shared_bytes <= loaded.shared_bytes) return loaded.function;
    const OutsideOfCapture outside(*this);
    if (!loaded.function) loaded.function = load(folder, kernel);
    if (shared_bytes > loaded.shared_bytes) {
      const int bytes = static_cast<int>(shared_bytes);
      check(cuFuncSetAttribute(loaded.function, kMaxDynamicSharedBytes, bytes),
            "cuFuncSetAttribute of " + kernel + " to " + std::to_string(bytes) +
                " bytes of shared memory");
      loaded.shared_bytes = shared_bytes;
    }
    return loaded.function;
  }

  Function load(const std::string& folder, const std::string& kernel) const {
    const std::string ptx = read_file(folder + "/" + kernel + ".ptx");
    Module module = nullptr;
    Function function = nullptr;
    check(cuModuleLoadData(&module, ptx.c_str()), "cuModuleLoadData of " + kernel);
    check(cuModuleGetFunction(&function, module, kernel.c_str()),
          "cuModuleGetFunction of " + kernel);
    return function;
  }

  template <class F>
  static void find(void* library, const char* name, F& function) {
    function = reinterpret_cast<F>(dlsym(library, name));
    if (!function) throw std::runtime_error(std::string("the CUDA driver has no ") + name);
  }

  static std::string error() {
    const char* text = dlerror();
    return text ? text : "dlopen failed";
  }

  void check(Status status, const std::string& what) const {
    if (status == kSuccess) return;
    const char* text = nullptr;
    if (cuGetErrorString(status, &text) != kSuccess || !text) text = "an unknown error";
    throw std::runtime_error(what + ": the CUDA driver says: " + text + " (error " +
                             std::to_string(status) + ")");
  }

#define JAXQR_DECLARE(name, ...) Status (*name)(__VA_ARGS__) = nullptr;
  JAXQR_DRIVER_FUNCTIONS(JAXQR_DECLARE)
#undef JAXQR_DECLARE
  std::mutex mutex_;
  std::map<std::pair<Context, std::string>, Loaded> loaded_;
};

// What Python sets, and the driver once it is open.
struct Settings {
  std::mutex mutex;
  std::string path = "libcuda.so.1", folder;
  std::shared_ptr<Driver> driver;  // shared: a launch may still use what was replaced
};

Settings& settings() {
  static Settings& settings = *new Settings;  // never destroyed: launches may outlive main
  return settings;
}

std::pair<std::shared_ptr<Driver>, std::string> driver_and_folder() {
  Settings& s = settings();
  const std::lock_guard<std::mutex> lock(s.mutex);
  if (!s.driver) s.driver = std::make_shared<Driver>(s.path);
  return {s.driver, s.folder};
}

}  // namespace

int driver_version() {
  try {
    return driver_and_folder().first->version();
  } catch (const std::exception&) {
    return 0;
  }
}

void use_driver(const char* path) {
  Settings& s = settings();
  const std::lock_guard<std::mutex> lock(s.mutex);
  s.path = path ? path : "libcuda.so.1";
  s.driver = nullptr;
}

void set_folder(const char* folder) {
  Settings& s = settings();
  const std::lock_guard<std::mutex> lock(s.mutex);
  s.folder = folder;
}

void launch(const std::string& kernel, const Grid& grid, const Arguments& arguments,
            Stream stream) {
  const auto [driver, folder] = driver_and_folder();
  driver->launch(folder, kernel, grid, arguments, stream);
}

}  // namespace jaxqr::gpu
