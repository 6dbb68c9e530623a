// The custom calls of XLA's foreign function interface, and the instruction set to choose.
#include "call.h"

namespace jaxqr {
namespace {

// ---------------------------------------------------------------------------- the handlers

ffi::Error qr_handler(ffi::ThreadPool xla_pool, Buffer a, ffi::RemainingRets results,
                      std::string_view outputs, bool pivoting, bool transposed) {
  Call call(a, transposed);
  const long m = call.rows(), n = call.cols(), k = std::min(m, n);
  return for_dtype(call.dtype(), [&](auto scalar) {
    using S = decltype(scalar);
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
      if (name == "q") {
        problem.q = call.matrix<S>("q", *to, m, k);
      } else if (name == "q_full") {
        problem.q_full = call.matrix<S>("q_full", *to, m, m);
      } else if (name == "r") {
        problem.r = call.matrix<S>("r", *to, k, n);
      } else if (name == "h") {
        problem.h = call.matrix<S>("h", *to, m, n);
      } else if (name == "tau") {
        problem.tau = call.data<S>("tau", *to, kDataType<S>, {k});
      } else if (name == "p" && pivoting) {
        problem.p = call.data<int32_t>("p", *to, ffi::S32, {n});
      } else if (name == "scale") {
        problem.scale = call.data<RealOf<S>>("scale", *to, kDataType<RealOf<S>>, {1, 1});
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
  const long m = call.rows(), n = call.cols();
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
  const long m = call.rows(), k = call.cols();
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
  const long m = call.rows(), k = call.cols();
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
  problem.r = call.matrix<S>("r", r, k, n);
  problem.scale = call.data<RealOf<S>>("scale", scale, kDataType<RealOf<S>>, {1, 1});
  return problem;
}

// Q's and R's tangents, or cotangents, among `names`.
template <class S, class Remaining>
void pair(Call& call, const Remaining& buffers, std::string_view names,
          DerivativeProblem<S>& problem) {
  const long m = problem.m, n = problem.n, k = problem.k();
  for_names(names, [&](std::string_view name, size_t i) {
    std::optional<Buffer> storage;
    const Buffer* buffer = at(buffers, i, storage);
    if (!buffer) return call.fail("fewer buffers than names");
    if (name == "q") {
      problem.dq = call.matrix<S>("q's (co)tangent", *buffer, m, k);
    } else if (name == "r") {
      problem.dr = call.matrix<S>("r's (co)tangent", *buffer, k, n);
    } else {
      call.fail("unknown name " + std::string(name));
    }
  });
}

ffi::Error tangent_handler(ffi::ThreadPool xla_pool, Buffer q, Buffer r, Buffer scale, Buffer da,
                           ffi::RemainingRets results, std::string_view outputs, bool pivoted,
                           bool transposed) {
  Call call(q, transposed);
  return for_dtype(call.dtype(), [&](auto scalar) {
    using S = decltype(scalar);
    auto problem = derivative<S>(call, q, r, scale, pivoted, transposed);
    problem.da = call.matrix<S>("da", da, problem.m, problem.n);
    pair(call, results, outputs, problem);
    if (call.failed()) return call.error();
    XlaPool pool(xla_pool);
    jaxqr::tangent(problem, pool);
    return ffi::Error::Success();
  });
}

ffi::Error cotangent_handler(ffi::ThreadPool xla_pool, Buffer q, Buffer r, Buffer scale,
                             ffi::RemainingArgs cotangents, ffi::Result<Buffer> abar,
                             std::string_view inputs, bool pivoted, bool transposed) {
  Call call(q, transposed);
  return for_dtype(call.dtype(), [&](auto scalar) {
    using S = decltype(scalar);
    auto problem = derivative<S>(call, q, r, scale, pivoted, transposed);
    problem.da = call.matrix<S>("abar", *abar, problem.m, problem.n);
    pair(call, cotangents, inputs, problem);
    if (call.failed()) return call.error();
    XlaPool pool(xla_pool);
    jaxqr::cotangent(problem, pool);
    return ffi::Error::Success();
  });
}

// The arrays of a decomposition, which are results or operands, after h: rank() has no matrix behind
// the batch. h1, p and hz may be empty.
template <class S>
CodProblem<S> decomposition(Call& call, bool pivoting, const Buffer& h, const Buffer& tau,
                            const Buffer& h1, const Buffer& tau1, const Buffer& p,
                            const Buffer& rank, const Buffer& hz, const Buffer& tauz) {
  const long m = call.rows(), n = call.cols();
  if (m < n) call.fail("a decomposition needs a deep matrix, got " + describe(h));
  const bool twice = h1.dimensions().size() && h1.dimensions().back() == n && n > 0;
  const long inner = twice ? n : 0, extra = pivoting ? n : 0;
  CodProblem<S> cod{call.batch(), m, n, 0};
  cod.h = call.matrix<S>("h", h, m, n);
  cod.tau = call.data<S>("tau", tau, kDataType<S>, {n});
  S* inner_h = call.matrix<S>("h1", h1, inner, inner);
  S* inner_tau = call.data<S>("tau1", tau1, kDataType<S>, {inner});
  cod.rank = call.data<int32_t>("rank", rank, ffi::S32, {});
  int32_t* order = call.data<int32_t>("p", p, ffi::S32, {extra});
  S* z = call.matrix<S>("hz", hz, extra, extra);
  S* z_tau = call.data<S>("tauz", tauz, kDataType<S>, {extra});
  if (twice) {
    cod.h1 = inner_h;
    cod.tau1 = inner_tau;
  }
  if (pivoting) {
    cod.p = order;
    cod.hz = z;
    cod.tauz = z_tau;
  }
  return cod;
}

ffi::Error decompose_handler(ffi::ThreadPool xla_pool, Buffer a, ffi::Result<Buffer> h,
                             ffi::Result<Buffer> tau, ffi::Result<Buffer> h1,
                             ffi::Result<Buffer> tau1, ffi::Result<Buffer> p,
                             ffi::Result<Buffer> rank, ffi::Result<Buffer> hz,
                             ffi::Result<Buffer> tauz, double rcond, bool pivoting) {
  Call call(a);
  return for_dtype(call.dtype(), [&](auto scalar) {
    using S = decltype(scalar);
    auto cod =
        decomposition<S>(call, pivoting, *h, *tau, *h1, *tau1, *p, *rank, *hz, *tauz);
    if (call.failed()) return call.error();
    cod.rcond = rcond;
    cod.a = static_cast<const S*>(a.untyped_data());
    XlaPool pool(xla_pool);
    jaxqr::decompose(cod, pool);
    return ffi::Error::Success();
  });
}

ffi::Error pseudoinverse_handler(ffi::ThreadPool xla_pool, Buffer a, Buffer h, Buffer tau,
                                 Buffer h1, Buffer tau1, Buffer p, Buffer rank, Buffer hz,
                                 Buffer tauz, Buffer v, ffi::Result<Buffer> out,
                                 std::string_view operation, bool pivoting) {
  Call call(a);
  return for_dtype(call.dtype(), [&](auto scalar) {
    using S = decltype(scalar);
    PseudoinverseProblem<S> problem{
        decomposition<S>(call, pivoting, h, tau, h1, tau1, p, rank, hz, tauz), 0, {}};
    problem.s = v.dimensions().size() ? v.dimensions().back() : 0;
    if (operation == "solve") {
      problem.operation = Operation::kSolve;
    } else if (operation == "solve_adjoint") {
      problem.operation = Operation::kSolveAdjoint;
    } else if (operation == "gram") {
      problem.operation = Operation::kGram;
    } else if (operation == "null") {
      problem.operation = Operation::kNull;
    } else {
      call.fail("unknown operation " + std::string(operation));
    }
    problem.v = call.matrix<S>("v", v, problem.rows_in(), problem.s);
    problem.out = call.matrix<S>("out", *out, problem.rows_out(), problem.s);
    if (call.failed()) return call.error();
    XlaPool pool(xla_pool);
    jaxqr::pseudoinverse(problem, pool);
    return ffi::Error::Success();
  });
}

ffi::Error lstsq_handler(ffi::ThreadPool xla_pool, Buffer a, Buffer b, ffi::Result<Buffer> x,
                         ffi::Result<Buffer> residuals, ffi::Result<Buffer> rank, double rcond,
                         bool pivoting) {
  Call call(a);
  return for_dtype(call.dtype(), [&](auto scalar) {
    using S = decltype(scalar);
    using T = RealOf<S>;
    const long m = call.rows(), n = call.cols();
    const long s = b.dimensions().size() ? b.dimensions().back() : 0;
    if (m < n) call.fail("lstsq needs a deep matrix, got " + describe(a));
    LstsqProblem<S> problem{call.batch(), m, n, s, pivoting, rcond};
    problem.a = static_cast<const S*>(a.untyped_data());
    problem.b = call.matrix<S>("b", b, m, s);
    problem.x = call.matrix<S>("x", *x, n, s);
    problem.residuals = call.data<T>("residuals", *residuals, kDataType<T>, {s});
    problem.rank = call.data<int32_t>("rank", *rank, ffi::S32, {});
    if (call.failed()) return call.error();
    XlaPool pool(xla_pool);
    jaxqr::least_squares(problem, pool);
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

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxqr_cod, jaxqr::decompose_handler,
                              jaxqr::ffi::Ffi::Bind()
                                  .Ctx<jaxqr::ffi::ThreadPool>()
                                  .Arg<jaxqr::Buffer>()
                                  .Ret<jaxqr::Buffer>()
                                  .Ret<jaxqr::Buffer>()
                                  .Ret<jaxqr::Buffer>()
                                  .Ret<jaxqr::Buffer>()
                                  .Ret<jaxqr::Buffer>()
                                  .Ret<jaxqr::Buffer>()
                                  .Ret<jaxqr::Buffer>()
                                  .Ret<jaxqr::Buffer>()
                                  .Attr<double>("rcond")
                                  .Attr<bool>("pivoting"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxqr_pseudoinverse, jaxqr::pseudoinverse_handler,
                              jaxqr::ffi::Ffi::Bind()
                                  .Ctx<jaxqr::ffi::ThreadPool>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .Ret<jaxqr::Buffer>()
                                  .Attr<std::string_view>("operation")
                                  .Attr<bool>("pivoting"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxqr_lstsq, jaxqr::lstsq_handler,
                              jaxqr::ffi::Ffi::Bind()
                                  .Ctx<jaxqr::ffi::ThreadPool>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .Ret<jaxqr::Buffer>()
                                  .Ret<jaxqr::Buffer>()
                                  .Ret<jaxqr::Buffer>()
                                  .Attr<double>("rcond")
                                  .Attr<bool>("pivoting"));

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
