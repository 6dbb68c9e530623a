// The custom calls: what XLA passes is checked here, entry by entry, before a kernel sees it.
#include <initializer_list>
#include <limits>
#include <string>
#include <string_view>

#include "kernels.h"
#include "xla/ffi/api/ffi.h"

namespace jaxqr {
namespace {

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

ffi::Error invalid(const std::string& message) {
  return ffi::Error(ffi::ErrorCode::kInvalidArgument, "jaxqr: " + message);
}

std::string describe(const Buffer& buffer) {
  std::string text = "dtype " + std::to_string(static_cast<int>(buffer.element_type())) + " [";
  for (int64_t size : buffer.dimensions()) text += std::to_string(size) + ",";
  return text + "]";
}

// Checks every buffer of a call against the batch and the dtype of the first.
class Call {
 public:
  explicit Call(const Buffer& first) : first_(first), dtype_(first.element_type()) {
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
  long rows(bool transposed) const { return size(transposed ? rank_ - 1 : rank_ - 2); }
  long cols(bool transposed) const { return rows(!transposed); }

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

  void fail(const std::string& message) {
    if (error_.success()) error_ = invalid(message);
  }
  const ffi::Error& error() const { return error_; }
  bool failed() const { return error_.failure(); }

 private:
  long size(long axis) const { return rank_ < 2 ? 0 : first_.dimensions()[axis]; }

  const Buffer& first_;
  ffi::DataType dtype_;
  long rank_ = 0, batch_ = 1;
  ffi::Error error_ = ffi::Error::Success();
};

template <class S>
constexpr ffi::DataType kDataType =
    std::is_same<S, float>::value                 ? ffi::F32
    : std::is_same<S, double>::value              ? ffi::F64
    : std::is_same<S, std::complex<float>>::value ? ffi::C64
                                                  : ffi::C128;

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

Order order_of(bool transposed) { return transposed ? Order::kColumns : Order::kRows; }

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

// ---------------------------------------------------------------------------- the handlers

ffi::Error qr_handler(ffi::ThreadPool xla_pool, Buffer a, ffi::RemainingRets results,
                      std::string_view outputs, bool pivoting, bool transposed) {
  Call call(a);
  const long m = call.rows(transposed), n = call.cols(transposed), k = std::min(m, n);
  return for_dtype(call.dtype(), [&](auto scalar) {
    using S = decltype(scalar);
    constexpr ffi::DataType type = kDataType<S>, real = kDataType<RealOf<S>>;
    QrProblem<S> problem{};
    problem.batch = call.batch();
    problem.m = m;
    problem.n = n;
    problem.order = order_of(transposed);
    problem.pivoting = pivoting;
    problem.a = static_cast<const S*>(a.untyped_data());
    for_names(outputs, [&](std::string_view name, size_t i) {
      std::optional<Buffer> storage;
      const Buffer* to = at(results, i, storage);
      if (!to) return call.fail("fewer results than outputs");
      const auto matrix = [&](const char* label, long rows, long cols) {
        return call.data<S>(label, *to, type,
                            {transposed ? cols : rows, transposed ? rows : cols});
      };
      if (name == "q") {
        problem.q = matrix("q", m, k);
      } else if (name == "q_full") {
        problem.q_full = matrix("q_full", m, m);
      } else if (name == "r") {
        problem.r = matrix("r", k, n);
      } else if (name == "h") {
        problem.h = matrix("h", m, n);
      } else if (name == "tau") {
        problem.tau = call.data<S>("tau", *to, type, {k});
      } else if (name == "p" && pivoting) {
        problem.p = call.data<int32_t>("p", *to, ffi::S32, {n});
      } else if (name == "scale") {
        problem.scale = call.data<RealOf<S>>("scale", *to, real, {1, 1});
      } else {
        call.fail("unknown output " + std::string(name));
      }
    });
    if (call.failed()) return call.error();
    XlaPool pool(xla_pool);
    jaxqr::factor(problem, pool);
    return ffi::Error::Success();
  });
}

ffi::Error form_handler(ffi::ThreadPool xla_pool, Buffer h, Buffer tau,
                        ffi::Result<Buffer> q) {
  Call call(h);
  const long m = call.rows(false), n = call.cols(false);
  const long k = tau.dimensions().size() ? tau.dimensions().back() : -1;
  if (n > m || k > n) call.fail("form needs k <= n <= m, got h " + describe(h));
  return for_dtype(call.dtype(), [&](auto scalar) {
    using S = decltype(scalar);
    FormProblem<S> problem{call.batch(), m, n, k, Order::kRows};
    problem.h = static_cast<const S*>(h.untyped_data());
    problem.tau = call.data<S>("tau", tau, kDataType<S>, {k});
    problem.q = call.data<S>("q", *q, kDataType<S>, {m, n});
    if (call.failed()) return call.error();
    XlaPool pool(xla_pool);
    jaxqr::form(problem, pool);
    return ffi::Error::Success();
  });
}

ffi::Error apply_handler(ffi::ThreadPool xla_pool, Buffer h, Buffer tau, Buffer c,
                         ffi::Result<Buffer> out, bool left, bool adjoint) {
  Call call(h);
  const long m = call.rows(false), k = call.cols(false);
  const Dimensions dims = c.dimensions();
  if (dims.size() < 2 || dims[dims.size() - (left ? 2 : 1)] != m || k > m) {
    call.fail("apply needs k <= m and c to match, got h " + describe(h) + ", c " + describe(c));
    return call.error();
  }
  const long rows = dims[dims.size() - 2], cols = dims[dims.size() - 1];
  return for_dtype(call.dtype(), [&](auto scalar) {
    using S = decltype(scalar);
    ApplyProblem<S> problem{call.batch(), m, k, rows, cols, Order::kRows, left, adjoint};
    problem.h = static_cast<const S*>(h.untyped_data());
    problem.tau = call.data<S>("tau", tau, kDataType<S>, {k});
    problem.c = call.data<S>("c", c, kDataType<S>, {rows, cols});
    problem.out = call.data<S>("out", *out, kDataType<S>, {rows, cols});
    if (call.failed()) return call.error();
    XlaPool pool(xla_pool);
    jaxqr::apply(problem, pool);
    return ffi::Error::Success();
  });
}

// The problem of both derivatives, but for what goes in and comes out.
template <class S>
DerivativeProblem<S> derivative(Call& call, const Buffer& q, const Buffer& r, const Buffer& scale,
                                bool pivoted, bool transposed) {
  const long m = call.rows(transposed), k = call.cols(transposed);
  const Dimensions dims = r.dimensions();
  const long n = dims.size() < 2 ? -1 : dims[dims.size() - (transposed ? 2 : 1)];
  if (k != std::min(m, n)) call.fail("r does not match q, got " + describe(r));
  DerivativeProblem<S> problem{};
  problem.batch = call.batch();
  problem.m = m;
  problem.n = n;
  problem.order = order_of(transposed);
  problem.pivoted = pivoted;
  problem.q = static_cast<const S*>(q.untyped_data());
  problem.r = call.data<S>("r", r, kDataType<S>, {transposed ? n : k, transposed ? k : n});
  problem.scale = call.data<RealOf<S>>("scale", scale, kDataType<RealOf<S>>, {1, 1});
  return problem;
}

// Q's and R's tangents, or cotangents, among `names`.
template <class S, class Remaining>
void pair(Call& call, const Remaining& buffers, std::string_view names, bool transposed,
          DerivativeProblem<S>& problem) {
  const long m = problem.m, n = problem.n, k = problem.k();
  for_names(names, [&](std::string_view name, size_t i) {
    std::optional<Buffer> storage;
    const Buffer* buffer = at(buffers, i, storage);
    if (!buffer) return call.fail("fewer buffers than names");
    const auto matrix = [&](const char* label, long rows, long cols) {
      return call.data<S>(label, *buffer, kDataType<S>,
                          {transposed ? cols : rows, transposed ? rows : cols});
    };
    if (name == "q") {
      problem.dq = matrix("q's (co)tangent", m, k);
    } else if (name == "r") {
      problem.dr = matrix("r's (co)tangent", k, n);
    } else {
      call.fail("unknown name " + std::string(name));
    }
  });
}

ffi::Error tangent_handler(ffi::ThreadPool xla_pool, Buffer q, Buffer r, Buffer scale, Buffer da,
                           ffi::RemainingRets results, std::string_view outputs, bool pivoted,
                           bool transposed) {
  Call call(q);
  return for_dtype(call.dtype(), [&](auto scalar) {
    using S = decltype(scalar);
    auto problem = derivative<S>(call, q, r, scale, pivoted, transposed);
    const long m = problem.m, n = problem.n;
    problem.da = call.data<S>("da", da, kDataType<S>, {transposed ? n : m, transposed ? m : n});
    pair(call, results, outputs, transposed, problem);
    if (call.failed()) return call.error();
    XlaPool pool(xla_pool);
    jaxqr::tangent(problem, pool);
    return ffi::Error::Success();
  });
}

ffi::Error cotangent_handler(ffi::ThreadPool xla_pool, Buffer q, Buffer r, Buffer scale,
                             ffi::RemainingArgs cotangents, ffi::Result<Buffer> abar,
                             std::string_view inputs, bool pivoted, bool transposed) {
  Call call(q);
  return for_dtype(call.dtype(), [&](auto scalar) {
    using S = decltype(scalar);
    auto problem = derivative<S>(call, q, r, scale, pivoted, transposed);
    const long m = problem.m, n = problem.n;
    problem.da =
        call.data<S>("abar", *abar, kDataType<S>, {transposed ? n : m, transposed ? m : n});
    pair(call, cotangents, inputs, transposed, problem);
    if (call.failed()) return call.error();
    XlaPool pool(xla_pool);
    jaxqr::cotangent(problem, pool);
    return ffi::Error::Success();
  });
}

}  // namespace
}  // namespace jaxqr

// The symbols that Python looks up; everything else in the library is hidden.
#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxqr_qr, jaxqr::qr_handler,
                              jaxqr::ffi::Ffi::Bind()
                                  .Ctx<jaxqr::ffi::ThreadPool>()
                                  .Arg<jaxqr::Buffer>()
                                  .RemainingRets()
                                  .Attr<std::string_view>("outputs")
                                  .Attr<bool>("pivoting")
                                  .Attr<bool>("transposed"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxqr_orgqr, jaxqr::form_handler,
                              jaxqr::ffi::Ffi::Bind()
                                  .Ctx<jaxqr::ffi::ThreadPool>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .Ret<jaxqr::Buffer>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxqr_ormqr, jaxqr::apply_handler,
                              jaxqr::ffi::Ffi::Bind()
                                  .Ctx<jaxqr::ffi::ThreadPool>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .Ret<jaxqr::Buffer>()
                                  .Attr<bool>("left")
                                  .Attr<bool>("adjoint"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxqr_qr_jvp, jaxqr::tangent_handler,
                              jaxqr::ffi::Ffi::Bind()
                                  .Ctx<jaxqr::ffi::ThreadPool>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .RemainingRets()
                                  .Attr<std::string_view>("outputs")
                                  .Attr<bool>("pivoted")
                                  .Attr<bool>("transposed"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxqr_qr_vjp, jaxqr::cotangent_handler,
                              jaxqr::ffi::Ffi::Bind()
                                  .Ctx<jaxqr::ffi::ThreadPool>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .RemainingArgs()
                                  .Ret<jaxqr::Buffer>()
                                  .Attr<std::string_view>("inputs")
                                  .Attr<bool>("pivoted")
                                  .Attr<bool>("transposed"));

// The best instruction set that this processor and this library's build have in common is asked of
// the baseline build, which runs everywhere: 0 baseline, 1 AVX2, 2 AVX-512.
extern "C" int jaxqr_instruction_set() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512cd");
  return avx2 && avx512 ? 2 : avx2 ? 1 : 0;
#else
  return 0;
#endif
}

#pragma GCC visibility pop
