// The custom calls of XLA's foreign function interface.
#include "ffi/call.h"

namespace jaxqr {
namespace {

Pivoting pivoting_of(Call& call, std::string_view name) {
  if (name == "exact") return Pivoting::kExact;
  if (name == "randomized") return Pivoting::kRandomized;
  if (name != "none") call.fail("unknown pivoting " + std::string(name));
  return Pivoting::kNone;
}

// ---------------------------------------------------------------------------- the handlers

ffi::Error qr_handler(ffi::ThreadPool xla_pool, Buffer a, ffi::RemainingRets results,
                      std::string_view outputs, std::string_view pivoting, bool transposed) {
  Call call(a, transposed);
  const long m = call.rows(), n = call.cols(), k = std::min(m, n);
  return for_dtype(call.dtype(), [&](auto scalar) {
    using S = decltype(scalar);
    QrProblem<S> problem{};
    problem.batch = call.batch();
    problem.m = m;
    problem.n = n;
    problem.order = order_of(transposed);
    problem.pivoting = pivoting_of(call, pivoting);
    problem.a = static_cast<const S*>(a.untyped_data());
    for_named(call, results, outputs, [&](std::string_view name, const Buffer& to) {
      if (name == "q") {
        problem.q = call.matrix<S>("q", to, m, k);
      } else if (name == "q_full") {
        problem.q_full = call.matrix<S>("q_full", to, m, m);
      } else if (name == "r") {
        problem.r = call.matrix<S>("r", to, k, n);
      } else if (name == "h") {
        problem.h = call.matrix<S>("h", to, m, n);
      } else if (name == "tau") {
        problem.tau = call.data<S>("tau", to, kDataType<S>, {k});
      } else if (name == "p" && problem.pivoted()) {
        problem.p = call.data<int32_t>("p", to, ffi::S32, {n});
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
DerivativeProblem<S> derivative(Call& call, const Buffer& q, const Buffer& r, bool pivoted,
                                bool transposed) {
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
  return problem;
}

// Q's and R's tangents, or cotangents, among `names`.
template <class S, class Remaining>
void pair(Call& call, const Remaining& buffers, std::string_view names,
          DerivativeProblem<S>& problem) {
  const long m = problem.m, n = problem.n, k = problem.k();
  for_named(call, buffers, names, [&](std::string_view name, const Buffer& buffer) {
    if (name == "q") {
      problem.dq = call.matrix<S>("q's (co)tangent", buffer, m, k);
    } else if (name == "r") {
      problem.dr = call.matrix<S>("r's (co)tangent", buffer, k, n);
    } else {
      call.fail("unknown name " + std::string(name));
    }
  });
}

ffi::Error tangent_handler(ffi::ThreadPool xla_pool, Buffer q, Buffer r, Buffer da,
                           ffi::RemainingRets results, std::string_view outputs, bool pivoted,
                           bool transposed) {
  Call call(q, transposed);
  return for_dtype(call.dtype(), [&](auto scalar) {
    using S = decltype(scalar);
    auto problem = derivative<S>(call, q, r, pivoted, transposed);
    problem.da = call.matrix<S>("da", da, problem.m, problem.n);
    pair(call, results, outputs, problem);
    if (call.failed()) return call.error();
    XlaPool pool(xla_pool);
    jaxqr::tangent(problem, pool);
    return ffi::Error::Success();
  });
}

ffi::Error cotangent_handler(ffi::ThreadPool xla_pool, Buffer q, Buffer r,
                             ffi::RemainingArgs cotangents, ffi::Result<Buffer> abar,
                             std::string_view inputs, bool pivoted, bool transposed) {
  Call call(q, transposed);
  return for_dtype(call.dtype(), [&](auto scalar) {
    using S = decltype(scalar);
    auto problem = derivative<S>(call, q, r, pivoted, transposed);
    problem.da = call.matrix<S>("abar", *abar, problem.m, problem.n);
    pair(call, cotangents, inputs, problem);
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
                                  .Attr<std::string_view>("pivoting")
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
                                  .RemainingRets()
                                  .Attr<std::string_view>("outputs")
                                  .Attr<bool>("pivoted")
                                  .Attr<bool>("transposed"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(jaxqr_qr_vjp, jaxqr::cotangent_handler,
                              jaxqr::ffi::Ffi::Bind()
                                  .Ctx<jaxqr::ffi::ThreadPool>()
                                  .Arg<jaxqr::Buffer>()
                                  .Arg<jaxqr::Buffer>()
                                  .RemainingArgs()
                                  .Ret<jaxqr::Buffer>()
                                  .Attr<std::string_view>("inputs")
                                  .Attr<bool>("pivoted")
                                  .Attr<bool>("transposed"));

#pragma GCC visibility pop
